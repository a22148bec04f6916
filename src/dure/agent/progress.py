"""Progress that a job reports by writing a line ``dure-progress: {json object}``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_MARK = b"dure-progress:"
_LINE_MAX = 4_096
_LOOK_MAX = 1 << 20


def progress_of(line: bytes) -> dict[str, Any] | None:
    """The object in a line; None: it has none (or one that is longer than 4 KiB)."""
    if not line.startswith(_MARK) or len(line) > _LINE_MAX:
        return None
    try:
        found = json.loads(line[len(_MARK) :], parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _refuse(word: str) -> None:
    raise ValueError(f"{word} is no JSON")


class ProgressReader:
    """Follows a log, looking at what was added since; of a very fast log only at the last MiB."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._torn = b""
        self.last: dict[str, Any] | None = None

    def look(self) -> bool:
        """Read on; whether there is a newer object."""
        try:
            with self._path.open("rb") as file:
                size = file.seek(0, 2)
                if size <= self._offset:
                    return False
                if size - self._offset > _LOOK_MAX:
                    self._offset, self._torn = size - _LOOK_MAX, b""
                file.seek(self._offset)
                added = file.read(size - self._offset)
        except OSError:
            return False
        self._offset += len(added)
        *lines, torn = (self._torn + added).split(b"\n")
        self._torn = torn[: _LINE_MAX + 1]
        found = [progress for line in lines if _MARK in line[:_LINE_MAX] and (progress := progress_of(line)) is not None]
        if not found:
            return False
        self.last = found[-1]
        return True
