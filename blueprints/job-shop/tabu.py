"""Tabu search for plain job shops: short schedules in seconds, which CP-SAT then proves or shortens.

Moves within blocks of a critical path by E. Balas and A. Vazacopoulos, Management Science 44(2), 1998, with the ends of blocks moved inside
as C. Zhang, P. Li, Z. Guan and Y. Rao have it (Computers and Operations Research 34(11), 2007); tabu are orders of pairs, for as long as
there. After a calm it goes on from one of the shortest schedules found, disturbed.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray
from shop import Placed, Shop

#: Moves without a shorter schedule before it goes on elsewhere; swaps that disturb; schedules that are kept for it.
CALM, SWAPS_MAX, KEPT = 12_000, 24, 8
_NONE = -1


def search(shop: Shop, schedule: list[list[Placed]], moves: int, seed: int, stop: NDArray[np.uint8]) -> list[list[Placed]]:
    """The shortest schedule found in so many moves; the same each time unless it was stopped.

    Parameters
    ----------
    shop : Shop
        A plain one.
    schedule : list
        To begin with; empty: jobs in turn.
    stop : ndarray of uint8, shape (1,)
        Above 0: it ends at once.
    """
    first = np.cumsum([0, *map(len, shop.jobs)])
    machine = np.array([operation[0][0] for job in shop.jobs for operation in job])
    duration = np.array([operation[0][1] for job in shop.jobs for operation in job])
    before, after = np.arange(len(machine)) - 1, np.arange(len(machine)) + 1
    before[first[:-1]] = _NONE
    after[first[1:] - 1] = _NONE
    if schedule:
        starts = np.array([start for job in schedule for _, start, _ in job])
    else:  # the first operation of each job, then the second…
        starts = np.array([i * len(shop.jobs) + j for j, job in enumerate(shop.jobs) for i in range(len(job))])
    on_machine = np.full(len(machine), _NONE), np.full(len(machine), _NONE)
    # Where operations last no time, several begin at once: then the order within their jobs keeps them acyclic.
    within = np.concatenate([np.arange(len(job)) for job in shop.jobs])
    for each in range(shop.num_machines):
        order = np.flatnonzero(machine == each)
        order = order[np.lexsort((order, within[order], starts[order]))]
        on_machine[0][order[1:]], on_machine[1][order[:-1]] = order[:-1], order[1:]
    tenure = 10 + len(shop.jobs) / shop.num_machines
    most = (1.4 if len(shop.jobs) <= 2 * shop.num_machines else 1.5) * tenure
    heads = _search(duration, before, after, *on_machine, moves, round(tenure), round(most), seed, stop)
    return [
        [(int(machine[o]), int(heads[o]), int(heads[o] + duration[o])) for o in range(first[j], first[j + 1])] for j in range(len(shop.jobs))
    ]


@njit(cache=True, nogil=True)
def _lengths(duration, before, after, left, right, order, heads, tails):
    """Longest ways to and from each operation, and the longest of all; -1: the orders contradict each other."""
    n = len(duration)
    num = 0
    missing = np.empty(n, np.int64)
    for o in range(n):
        missing[o] = (before[o] >= 0) + (left[o] >= 0)
        if missing[o] == 0:
            order[num] = o
            num += 1
    at = 0
    while at < num:
        o = order[at]
        at += 1
        head = 0
        if before[o] >= 0:
            head = heads[before[o]] + duration[before[o]]
        if left[o] >= 0:
            head = max(head, heads[left[o]] + duration[left[o]])
        heads[o] = head
        for other in (after[o], right[o]):
            if other >= 0:
                missing[other] -= 1
                if missing[other] == 0:
                    order[num] = other
                    num += 1
    if num < n:
        return -1
    longest = 0
    for at in range(n - 1, -1, -1):
        o = order[at]
        tail = 0
        if after[o] >= 0:
            tail = tails[after[o]] + duration[after[o]]
        if right[o] >= 0:
            tail = max(tail, tails[right[o]] + duration[right[o]])
        tails[o] = tail
        longest = max(longest, heads[o] + duration[o] + tail)
    return longest


@njit(cache=True, nogil=True)
def _critical(duration, after, right, heads, tails, longest, path):
    """A longest way through the orders, chosen at random where it parts; its length."""
    n = len(duration)
    at, num_seen = -1, 0
    for o in range(n):
        if heads[o] == 0 and duration[o] + tails[o] == longest:
            num_seen += 1
            if np.random.randint(num_seen) == 0:
                at = o
    num = 0
    while at >= 0:
        path[num] = at
        num += 1
        end = heads[at] + duration[at]
        by_job, by_machine = after[at], right[at]
        is_job = by_job >= 0 and heads[by_job] == end and end + duration[by_job] + tails[by_job] == longest
        is_machine = by_machine >= 0 and heads[by_machine] == end and end + duration[by_machine] + tails[by_machine] == longest
        if is_job and is_machine:
            at = by_machine if np.random.random() < 0.5 else by_job
        elif is_machine:
            at = by_machine
        else:
            at = by_job if is_job else -1
    return num


@njit(cache=True, nogil=True)
def _estimate(duration, before, after, left, right, heads, tails, block, i, j, is_forward, new_heads):
    """The longest way through the operations i … j of a block, once i stands behind j (forward), or j before i."""
    num = j - i + 1
    ready = heads[left[block[i]]] + duration[left[block[i]]] if left[block[i]] >= 0 else 0
    for place in range(num):
        o = block[_moved(i, j, place, is_forward)]
        head = ready
        if before[o] >= 0:
            head = max(head, heads[before[o]] + duration[before[o]])
        new_heads[place] = head
        ready = head + duration[o]
    longest = 0
    rest = tails[right[block[j]]] + duration[right[block[j]]] if right[block[j]] >= 0 else 0
    for place in range(num - 1, -1, -1):
        o = block[_moved(i, j, place, is_forward)]
        tail = rest
        if after[o] >= 0:
            tail = max(tail, tails[after[o]] + duration[after[o]])
        longest = max(longest, new_heads[place] + duration[o] + tail)
        rest = tail + duration[o]
    return longest


@njit(cache=True, nogil=True)
def _moved(i, j, place, is_forward):
    """Which operation of the block stands at a place of i … j after the move."""
    if is_forward:
        return i if place == j - i else i + 1 + place
    return j if place == 0 else i + place - 1


@njit(cache=True, nogil=True)
def _move(left, right, block, i, j, is_forward):
    """Carry it out."""
    o = block[i] if is_forward else block[j]
    if left[o] >= 0:
        right[left[o]] = right[o]
    if right[o] >= 0:
        left[right[o]] = left[o]
    if is_forward:
        to = block[j]
        left[o], right[o] = to, right[to]
        if right[to] >= 0:
            left[right[to]] = o
        right[to] = o
    else:
        to = block[i]
        left[o], right[o] = left[to], to
        if left[to] >= 0:
            right[left[to]] = o
        left[to] = o


@njit(cache=True, nogil=True)
def _keeps(duration, before, after, heads, tails, block, i, j, is_forward):
    """Whether the move surely contradicts no other order (Balas and Vazacopoulos, propositions 2.2 and 2.3).

    Theirs have durations above 0: an operation that lasts no time may stand on a way without lengthening it, so there the ways must differ. And
    no job of theirs comes to a machine twice, here its operations may stand in one block.
    """
    if is_forward:
        then = after[block[i]]
        if then == block[j]:
            return False
        return then < 0 or tails[block[j]] + duration[block[j]] + (duration[then] > 0) > tails[then] + duration[then]
    earlier = before[block[j]]
    if earlier == block[i]:
        return False
    return earlier < 0 or heads[block[i]] + duration[block[i]] + (duration[earlier] > 0) > heads[earlier] + duration[earlier]


@njit(cache=True, nogil=True)
def _search(duration, before, after, left, right, moves, tenure, most, seed, stop):
    np.random.seed(seed)
    n = len(duration)
    heads, tails, order = np.zeros(n, np.int64), np.zeros(n, np.int64), np.empty(n, np.int64)
    path, new_heads = np.empty(n, np.int64), np.empty(n, np.int64)
    tabu = np.zeros((n, n), np.int64)
    kept_left, kept_right, kept_length = np.empty((KEPT, n), np.int64), np.empty((KEPT, n), np.int64), np.full(KEPT, 1 << 60)
    longest = _lengths(duration, before, after, left, right, order, heads, tails)
    best, best_heads = longest, heads.copy()
    nearest, since = longest, 0  # of this start: its shortest, and moves since
    kept_left[0], kept_right[0], kept_length[0] = left, right, longest
    for number in range(1, moves + 1):
        if stop[0]:
            break
        num = _critical(duration, after, right, heads, tails, longest, path)
        chosen_value, num_equal, num_any = 1 << 60, 0, 0
        chosen = (0, 0, 0, True)
        fallback = (0, 0, 0, True)
        begin = 0
        while begin < num:
            end = begin
            while end + 1 < num and right[path[end]] == path[end + 1]:
                end += 1
            block, size = path[begin : end + 1], end - begin + 1
            for i in range(size - 1):
                for j in range(i + 1, size):
                    if i > 0 and j < size - 1:
                        continue
                    for is_forward in (True, False):
                        if j == i + 1 and not is_forward:
                            continue  # the same swap
                        # At the ends of the way nothing comes before or after: moves there shorten nothing.
                        if size > 2 and ((begin == 0 and j < size - 1) or (end == num - 1 and i > 0)):
                            continue
                        if not _keeps(duration, before, after, heads, tails, block, i, j, is_forward):
                            continue
                        value = _estimate(duration, before, after, left, right, heads, tails, block, i, j, is_forward, new_heads)
                        is_tabu = False
                        for w in range(i, j + 1):
                            if is_forward and w > i and tabu[block[w], block[i]] > number:
                                is_tabu = True
                            if not is_forward and w < j and tabu[block[j], block[w]] > number:
                                is_tabu = True
                        num_any += 1
                        if np.random.randint(num_any) == 0:
                            fallback = (begin, i, j, is_forward)
                        if is_tabu and value >= best:
                            continue
                        if value < chosen_value:
                            chosen_value, num_equal = value, 0
                        if value == chosen_value:
                            num_equal += 1
                            if np.random.randint(num_equal) == 0:
                                chosen = (begin, i, j, is_forward)
            begin = end + 1
        if num_any == 0:
            break  # one block, or none to be changed: it is the shortest
        begin, i, j, is_forward = chosen if num_equal else fallback
        block = path[begin:num]
        until = number + np.random.randint(tenure, most + 1)
        for w in range(i, j + 1):
            if is_forward and w > i:
                tabu[block[i], block[w]] = until
            if not is_forward and w < j:
                tabu[block[w], block[j]] = until
        _move(left, right, block, i, j, is_forward)
        longest = _lengths(duration, before, after, left, right, order, heads, tails)
        since += 1
        if longest < nearest:
            nearest, since = longest, 0
            if longest < best:
                best = longest
                best_heads[:] = heads
            worst = np.argmax(kept_length)
            if longest < kept_length[worst] and not (kept_length == longest).any():
                kept_left[worst], kept_right[worst], kept_length[worst] = left, right, longest
        if since > CALM:
            which = np.random.randint(KEPT)
            while kept_length[which] == 1 << 60:
                which = np.random.randint(KEPT)
            left[:], right[:] = kept_left[which], kept_right[which]
            tabu[:] = 0
            longest = _lengths(duration, before, after, left, right, order, heads, tails)
            for _ in range(np.random.randint(4, SWAPS_MAX + 1)):
                num = _critical(duration, after, right, heads, tails, longest, path)
                num_swaps = 0
                for place in range(num - 1):
                    if right[path[place]] == path[place + 1]:
                        num_swaps += 1
                        if np.random.randint(num_swaps) == 0:
                            begin = place
                if num_swaps == 0:
                    break
                _move(left, right, path[begin : begin + 2], 0, 1, True)
                longest = _lengths(duration, before, after, left, right, order, heads, tails)
            nearest, since = longest, 0
    return best_heads
