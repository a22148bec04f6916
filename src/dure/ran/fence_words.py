"""What a cell site tells its alliance of the fence that stands for the next ten minutes, and when."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from dure.model.errors import InputError
from dure.ran.csv_file import read_rows
from dure.ran.forecast import HOLD_WINDOWS, LEAD_WINDOWS, FenceForecast
from dure.ran.loads import WINDOW_S, CellLoads
from dure.ran.site import SiteModel
from dure.whole_file import whole_file

#: From one decision to the next.
ROUND_S = HOLD_WINDOWS * WINDOW_S
#: From a decision to its fence: what has to leave is told at once, what may come comes then.
DRAIN_S = (LEAD_WINDOWS - 1) * WINDOW_S
#: A word counts for the fence's time and a window more, in which the next one may be late.
_COUNTS_S = DRAIN_S + ROUND_S + WINDOW_S
#: Columns of a file of words, and the most that each may say: some ten years, all of a site, a day.
_COLUMNS = {"at_s": 3.2e8, "part": 1.0, "for_s": 86_400.0}


@dataclass(frozen=True)
class Word:
    """To be said so long after the decision: the part of the site's GPUs that is released, and for how long that counts."""

    after_s: float
    part: float
    for_s: float


@dataclass(frozen=True)
class Decision:
    """One round's.

    Attributes
    ----------
    windows, new_windows : int
        Two-minute loads that were known; those that have come since the last decision.
    expected_load : float
        Mean over the fence's time, in cells.
    sms_kept : float
        The fence.
    words : tuple of Word
        By when they are due.
    """

    windows: int
    new_windows: int
    expected_load: float
    sms_kept: float
    words: tuple[Word, ...]

    @property
    def part(self) -> float:
        """What is released while the fence stands, 0..1."""
        return self.words[-1].part


class FenceTeller:
    """Decides every `ROUND_S`.

    Parameters
    ----------
    released : float
        The part of the site that is released when it begins.
    """

    def __init__(self, learnt: FenceForecast, model: SiteModel, released: float) -> None:
        self._learnt, self._model = learnt, model
        self._released, self._windows = released, 0

    def decide(self, loads: CellLoads, start_window: int) -> Decision:
        """The next fence, from the loads measured until now. Where none has come since the last decision, all is kept."""
        num = len(loads.hour)
        kept, expected = self._learnt.ahead(loads, start_window, self._model)
        new, self._windows = num - self._windows, num
        if new <= 0:
            kept = float(self._model.num_sms)
        before, self._released = self._released, 1 - kept / self._model.num_sms
        return Decision(num, new, expected, kept, tuple(_words(before, self._released)))


def _words(before: float, part: float) -> Iterator[Word]:
    """Of a decision after which another part is released."""
    yield Word(0.0, min(part, before), _COUNTS_S)
    if part > before:
        yield Word(DRAIN_S, part, _COUNTS_S - DRAIN_S)


def words_over(learnt: FenceForecast, loads: CellLoads, start_window: int, model: SiteModel) -> list[Word]:
    """What a teller would have said over recorded loads, ``after_s`` from midnight before them; nothing before its first decision."""
    parts = 1 - learnt.fences(loads, model)[HOLD_WINDOWS::HOLD_WINDOWS] / model.num_sms
    said, before = [], 0.0
    for number, part in enumerate(parts.tolist(), 1):
        decided_s = (start_window + number * HOLD_WINDOWS) * WINDOW_S - DRAIN_S
        said += [replace(word, after_s=decided_s + word.after_s) for word in _words(before, part)]
        before = part
    return said


def write_words(path: str, words: Sequence[Word]) -> None:
    """A row a word: ``at_s``, ``part``, ``for_s``.

    Raises
    ------
    InputError
        The file cannot be written.
    """
    try:
        with whole_file(path) as draft:
            rows = (f"{word.after_s:.0f},{word.part:.6g},{word.for_s:.0f}\n" for word in words)
            draft.write_text(",".join(_COLUMNS) + "\n" + "".join(rows), encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot be written: {error.strerror or error}", path) from None


def read_words(path: str) -> list[Word]:
    """The inverse of `write_words`.

    Raises
    ------
    InputError
        The file cannot be read, or a word is none or comes before the one before it; names file, line and field.
    """
    words: list[Word] = []
    for line, row in read_rows(path, _COLUMNS):
        at_s, part, for_s = (_number(path, line, name, row[name], most) for name, most in _COLUMNS.items())
        if words and at_s < words[-1].after_s:
            raise InputError("is before the word above it", path, line, "at_s")
        words.append(Word(at_s, part, for_s))
    if not words:
        raise InputError("has no word", path)
    return words


def _number(path: str, line: int, name: str, text: str, most: float) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= most:
        raise InputError(f"must be a number from 0 to {most:g}, not {text!r}", path, line, name)
    return value
