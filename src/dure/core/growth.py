"""A state of a larger fleet from that of a smaller one: sites have joined, all that was goes on as it was."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dure.core.build import Built, build_state
from dure.core.register import GROWING
from dure.model.errors import InputError
from dure.model.fleet import Fleet
from dure.model.jobs import Trace
from dure.model.terms import Terms
from dure.policy.config import Policy

#: Tables of which the larger state's own hold: what they say follows from fleet and terms alone, or from nothing.
_FRESH = frozenset({"guar", "ag_pool", "cls_pool", "dec"})
#: Bitmaps, whose summaries stand backwards at the end of each row.
_BITS = frozenset({"bits", "rack_bits", "block_bits"})


def grown(built: Built, fleet: Fleet, terms: Terms, trace: Trace, policy: Policy) -> Built:
    """The state after sites have joined.

    Parameters
    ----------
    built : Built
        At rest; not to be used any more.
    fleet, terms : Fleet, Terms
        The larger ones: sites, clusters, pools and nodes that were there stand first and are what they were, members and
        GPU types are the same, and so are the agreements, by their names (`check_terms`).
    trace : Trace
        Without jobs; with the fleet's GPU types.
    """
    fresh = build_state(fleet, terms, trace, policy)
    registers, old = built.register.kept()
    _, new = fresh.register.kept()
    arrays = {name: _widened(name, old[name], new[name]) for name in new}
    place = {a.name: i for i, a in enumerate(terms.agreements)}
    if policy.is_shares:
        arrays["ag"] = new["ag"].copy()
        for i, agreement in enumerate(built.terms.agreements):
            for name in ("used", "short_milli", "opened"):
                arrays["ag"][place[agreement.name]][name] = old["ag"][i][name]
    arrays["mp"]["agreement"] = new["mp"]["agreement"]
    arrays["member"]["share_milli"] = new["member"]["share_milli"]
    arrays["g"]["notice_max_ms"] = new["g"]["notice_max_ms"]
    _append_free_holds(arrays, len(old["hold"]))
    fresh.register.put_back(registers, arrays)
    fresh.register.look_at_pools_anew(trace)
    return Built(fresh.register, terms, built.member_of, built.notes)


def check_terms(before: Terms, terms: Terms) -> None:
    """Whether terms are the same as before but for what has joined.

    Raises
    ------
    InputError
        They are not.
    """
    num = len(before.pools)
    if terms.members != before.members or terms.pools[:num] != before.pools:
        raise InputError("members or pools that were there are others")
    after = {a.name: a for a in terms.agreements}
    for m, p in zip(*np.nonzero(before.agreement >= 0), strict=True):
        one, other = int(before.agreement[m, p]), int(terms.agreement[m, p])
        if other < 0 or terms.agreements[other] != before.agreements[one]:
            raise InputError(f"agreement {before.agreements[one].name!r} is another in pool {before.pools[p].name!r}")
    if any(after.get(a.name) != a for a in before.agreements):
        raise InputError("an agreement that was there is another")
    if not np.array_equal(terms.guarantee_gpus[:, :num], before.guarantee_gpus):
        raise InputError("guarantees that were there are others")


def _widened(name: str, old: NDArray[Any], new: NDArray[Any]) -> NDArray[Any]:
    """A table of the larger state with what the smaller one's says, beside what is new."""
    if name in _FRESH:
        return new
    if name in _BITS:
        return _widened_bits(old, new)
    size = old.shape[:1] + new.shape[1:] if name in GROWING else new.shape
    out = np.zeros(size, old.dtype)
    if name not in GROWING:
        out[...] = new
    out[tuple(slice(0, n) for n in old.shape)] = old
    return out


def _widened_bits(old: NDArray[Any], new: NDArray[Any]) -> NDArray[Any]:
    """Bitmaps with room for more bits; the new ones are clear."""
    out = np.zeros_like(new)
    # Of w words and their summary w + ceil(w / 64) are a row.
    num_words = max(w for w in range(old.shape[1] + 1) if w + (w + 63) // 64 == old.shape[1])
    out[:, :num_words] = old[:, :num_words]
    num_summary = old.shape[1] - num_words
    if num_summary:
        out[:, -num_summary:] = old[:, num_words:]
    return out


def _append_free_holds(arrays: dict[str, NDArray[Any]], num_old: int) -> None:
    """Put the new records of holds at the end of the list of free ones."""
    hold, g = arrays["hold"], arrays["g"][0]
    last = np.flatnonzero((hold["job"][:num_old] < 0) & (hold["next"][:num_old] < 0))
    if len(last):
        hold[last[-1]]["next"] = num_old
    else:
        g["free_hold"] = num_old
