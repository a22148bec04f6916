"""Where a program goes on: what it saved, if it was saved under the same settings."""

from __future__ import annotations

import hashlib
import json
import pickle
import time
from pathlib import Path
from typing import Any

from dure.model.errors import InputError
from dure.whole_file import whole_file


class Saved:
    """A checkpoint that appears whole and knows which settings it belongs to.

    Parameters
    ----------
    settings : dict
        All that changes what is computed.
    every_s : float
        `save_if_due` saves when so much time has passed since it was saved last.
    """

    def __init__(self, path: Path, settings: dict[str, Any], every_s: float) -> None:
        self.path, self.every_s = path, every_s
        self.digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
        self.saved_at_s = time.monotonic()

    def load(self) -> dict[str, Any] | None:
        """What was saved; None at the first attempt.

        Raises
        ------
        InputError
            It was saved under other settings.
        """
        if not self.path.exists():
            return None
        content = pickle.loads(self.path.read_bytes())
        if content["digest"] != self.digest:
            raise InputError("was saved under other settings: use them again, or another folder", str(self.path))
        return content["state"]

    def save(self, state: dict[str, Any]) -> None:
        """Put this in the place of what was saved before."""
        with whole_file(self.path) as draft:
            draft.write_bytes(pickle.dumps({"digest": self.digest, "state": state}))
        self.saved_at_s = time.monotonic()

    def save_if_due(self, state: dict[str, Any]) -> None:
        """Save if it is time to."""
        if time.monotonic() - self.saved_at_s >= self.every_s:
            self.save(state)
