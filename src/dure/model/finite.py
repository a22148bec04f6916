"""What is no number (nan, infinite), for JSON, which has no word for it."""

from __future__ import annotations

import math
from typing import Any


def finite(value: Any) -> Any:
    """A value, or the same of plain dicts, lists and tuples, in which None stands for each float that is no finite number."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [finite(part) for part in value]
    return value
