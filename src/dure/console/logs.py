"""A job's output as text that arrives in parts, and the progress that is said in it."""

from __future__ import annotations

import codecs
import re

from dure.agent.progress import progress_of

#: Terminals' control sequences; a page shows none of them.
_CONTROL = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)|[@-Z\\-_])|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
#: A longer line is shown in pieces.
LINE_MAX = 4_000


class LogText:
    """Bytes in, whole lines out; what overwrites its line (as progress bars do) is shown as it was last."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest = ""

    def add(self, data: bytes, *, is_last: bool = False) -> list[str]:
        """Lines that are whole now; with `is_last` also the one that is not."""
        text = self._rest + self._decoder.decode(data, is_last)
        *lines, self._rest = text.split("\n")
        if is_last or len(self._rest) > LINE_MAX:
            lines, self._rest = [*lines, self._rest], ""
            if not lines[-1]:
                lines.pop()
        out: list[str] = []
        for line in lines:
            shown = _CONTROL.sub("", line.rstrip("\r").rpartition("\r")[2])
            out += [shown[at : at + LINE_MAX] for at in range(0, len(shown), LINE_MAX)] or [""]
        return out


def progress_in(lines: list[str]) -> list[dict[str, object]]:
    """What a job says of its progress in these lines."""
    return [found for line in lines if (found := progress_of(line.encode())) is not None]
