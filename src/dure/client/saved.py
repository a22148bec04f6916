"""For programs that run as a job of Dure: what they go on from belongs to the settings that they are given."""

from __future__ import annotations

import hashlib
import json
import pickle
import time
from pathlib import Path
from typing import Any

from dure.client import job
from dure.model.errors import InputError
from dure.whole_file import whole_file


class Saved:
    """A checkpoint that appears whole and knows which settings it belongs to.

    Parameters
    ----------
    settings : dict
        All that changes what is computed.
    every_s : float
        `after_step` saves when so much time has passed since it was saved last.
    """

    def __init__(self, path: Path, settings: dict[str, Any], every_s: float) -> None:
        self.path, self.every_s = path, every_s
        self.digest = _digest(settings)
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
        content: dict[str, Any] = pickle.loads(self.path.read_bytes())
        if content["digest"] != self.digest:
            raise InputError("was saved under other settings: use them again, or another folder", str(self.path))
        state: dict[str, Any] = content["state"]
        return state

    def save(self, state: dict[str, Any]) -> None:
        """Put this in the place of what was saved before."""
        with whole_file(self.path) as draft:
            draft.write_bytes(pickle.dumps({"digest": self.digest, "state": state}))
        self.saved_at_s = time.monotonic()

    def leave_if_told(self, state: dict[str, Any]) -> None:
        """Save and end the attempt if the job was told to leave."""
        if job.should_stop():
            self.save(state)
            job.leave()

    def after_step(self, state: dict[str, Any]) -> None:
        """`leave_if_told`; otherwise save if it is time to."""
        self.leave_if_told(state)
        if time.monotonic() - self.saved_at_s >= self.every_s:
            self.save(state)


def claim(folder: Path, settings: dict[str, Any], what: str) -> None:
    """Mark a folder of many parts as that of these settings: parts of others must not be mixed with them.

    Parameters
    ----------
    what : str
        The parts, for people.

    Raises
    ------
    InputError
        It is of other settings.
    """
    digest, mark = _digest(settings), folder / "parameters.sha256"
    if not mark.exists():
        with whole_file(mark) as draft:
            draft.write_text(digest, encoding="utf-8")
    elif mark.read_text(encoding="utf-8") != digest:
        raise InputError(f"holds {what} of other parameters: take another folder or remove it", path=str(folder))


def _digest(settings: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
