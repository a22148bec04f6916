"""Invented load with the statistics of real traces."""

from dure.twin.generate.scale import scale_load

__all__ = ["scale_load"]
