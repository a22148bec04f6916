"""What the radios of an alliance's cell sites say during a run: a file of words, said day after day."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dure.model.errors import InputError
from dure.model.fleet import HOUR_MS, Fleet
from dure.ran.fence_words import read_words
from dure.twin.loop import WORD_DTYPE

_DAY_MS = 24 * HOUR_MS


@dataclass(frozen=True)
class Words:
    """``words``: WORD_DTYPE, by time from the run's midnight; they come again each ``period_ms``, whole days."""

    words: NDArray[Any]
    period_ms: int


def words_of(path: str, fleet: Fleet) -> Words:
    """The words of a file of `dure ran fence --out`, said by every cell site of a fleet, each by its own midnight.

    Raises
    ------
    InputError
        See `dure.ran.fence_words.read_words`; or the fleet has no cell site with hours.
    """
    read = read_words(path)
    rows = np.array([(word.after_s, word.for_s, word.part) for word in read])
    after_ms, for_ms, lent_milli = np.rint(1000 * rows.T).astype(np.int64)
    period_ms = (int(after_ms.max()) // _DAY_MS + 1) * _DAY_MS
    parts = []
    for number, site in enumerate(fleet.sites):
        if site.cells is None:
            continue
        said = np.zeros(len(read), WORD_DTYPE)
        # A week that begins so long before the run: so far into it is the site's midnight.
        said["at_ms"] = (after_ms - site.cells.week_ms % _DAY_MS) % period_ms
        said["site"], said["lent_milli"] = number, lent_milli
        said["until_ms"] = said["at_ms"] + for_ms
        parts.append(said)
    if not parts:
        raise InputError("no site of the alliance is a cell site with hours, of whose radio this could be", path)
    words = np.concatenate(parts)
    # Of two at one moment a site's later one counts.
    return Words(words[np.argsort(words["at_ms"], kind="stable")], period_ms)
