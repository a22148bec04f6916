"""How much of the time on its GPUs a run has spent on steps that count, over all its attempts."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from dure.whole_file import whole_file


class Attempts:
    """The time of all attempts, also of those that were killed: a file's moment of change says until when each one lived.

    Parameters
    ----------
    began : float
        When this attempt began, in seconds since 1970.
    """

    def __init__(self, folder: Path, began: float) -> None:
        self.path, self.began = folder / "attempts.json", began
        self.earlier_s = 0.0
        if self.path.exists():
            said = json.loads(self.path.read_text(encoding="utf-8"))
            self.earlier_s = said["earlier_s"] + max(0.0, self.path.stat().st_mtime - said["began"])
        with whole_file(self.path) as draft:
            draft.write_text(json.dumps({"earlier_s": self.earlier_s, "began": began}), encoding="utf-8")

    def note_alive(self) -> None:
        """Say that this attempt lives."""
        os.utime(self.path)

    def spent_s(self) -> float:
        """The time of all attempts until now, without that between them."""
        return self.earlier_s + time.time() - self.began
