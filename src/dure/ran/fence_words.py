"""What a cell site tells its alliance of the fence that stands for the next ten minutes, and when."""

from __future__ import annotations

from dataclasses import dataclass

from dure.ran.forecast import HOLD_WINDOWS, LEAD_WINDOWS, FenceForecast
from dure.ran.loads import WINDOW_S, CellLoads
from dure.ran.site import SiteModel

#: From one decision to the next.
ROUND_S = HOLD_WINDOWS * WINDOW_S
#: From a decision to its fence: what has to leave is told at once, what may come comes then.
DRAIN_S = (LEAD_WINDOWS - 1) * WINDOW_S
#: A word counts for the fence's time and a window more, in which the next one may be late.
_COUNTS_S = DRAIN_S + ROUND_S + WINDOW_S


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
        before, part = self._released, 1 - kept / self._model.num_sms
        self._released = part
        words = [Word(0.0, min(part, before), _COUNTS_S)]
        if part > before:
            words.append(Word(DRAIN_S, part, _COUNTS_S - DRAIN_S))
        return Decision(num, new, expected, kept, tuple(words))
