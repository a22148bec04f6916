"""Dure (두레): one GPU fleet that many organisations own and use together."""

__version__ = "0.1.0"
