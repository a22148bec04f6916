"""Invented load with the statistics of real traces."""

from dure.twin.generate.classes import CLASS_NAMES
from dure.twin.generate.load import LoadSpec, generate
from dure.twin.generate.scale import scale_load

__all__ = ["CLASS_NAMES", "LoadSpec", "generate", "scale_load"]
