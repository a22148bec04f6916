"""Where the data sets of tests and benchmarks stand."""

from __future__ import annotations

import os
from pathlib import Path


def data_dir() -> Path | None:
    """The folder named by ``DURE_DATA`` (default ``../shared/data`` beside the checkout), or None if absent."""
    default = Path(__file__).resolve().parents[4] / "shared" / "data"
    path = Path(os.environ.get("DURE_DATA", default))
    return path if path.is_dir() else None
