"""Waiting jobs: one heap for each shape (class) of a member, ordered by rank (rule 3)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dure.policy.kernels.compile import kernel
from dure.policy.kernels.layout import (
    DURE,
    ENDED,
    LAS,
    NEVER_MS,
    NEWEST,
    NOT_CHAINED,
    NUM_BUCKETS,
    NUM_WAITS,
    PENDING,
    REVOKING,
    RUNNING,
    SJF,
    SRSF,
    SRTF,
    State,
)

#: Neighbours on each side that tell of a job's length; all of history counts as a third of a one.
LIKE_MAX = 8
LIKE_WEIGHT = 3
#: One job in so many may wait without end for the sake of the others, until it is overdue; how far back it stands, in
#: 1/1000 of a doubling.
LONG_ONE_IN = 100
PAST_MILLI = 64_000


@kernel
def bucket_of(ms: int) -> int:
    """Half-octave bucket of a duration: two for each doubling of its seconds, 0 for 1 s and less."""
    s = max(ms // 1000, 1)
    octave = 0
    while s >> (octave + 1):
        octave += 1
    half = 1 if 2 * s >= 3 << octave else 0
    return min(2 * octave + half, NUM_BUCKETS - 1)


@kernel
def bucket_mid_ms(b: int) -> int:
    """A duration in the middle of a bucket."""
    low = 1000 << (b // 2)
    return low * 5 // 4 if b % 2 == 0 else low * 7 // 4


@kernel
def history_row(S: State, j: int) -> int:
    """The narrowest history with enough ended jobs: same user and size, same member and size, all. -1: none."""
    job = S.job[j]
    least = S.g[0].history_min
    if S.hist[job.key1, NUM_BUCKETS] >= least:
        return job.key1
    if S.hist[job.key2, NUM_BUCKETS] >= least:
        return job.key2
    if S.hist[0, NUM_BUCKETS] >= least:
        return 0
    return -1


@kernel
def learn(S: State, j: int, duration_ms: int) -> None:
    """Count the length of an ended job; only ended jobs are ever counted."""
    b = bucket_of(duration_ms)
    job = S.job[j]
    S.hist[0, b] += 1
    S.hist[0, NUM_BUCKETS] += 1
    if job.key1 > 0:
        S.hist[job.key1, b] += 1
        S.hist[job.key1, NUM_BUCKETS] += 1
    if job.key2 > 0 and job.key2 != job.key1:
        S.hist[job.key2, b] += 1
        S.hist[job.key2, NUM_BUCKETS] += 1


@kernel
def join_likes(S: State, j: int) -> None:
    """Put a job that comes for the first time behind the last of its user (or member) and size."""
    job = S.job[j]
    if job.like_prev != NOT_CHAINED:
        return
    job.like_prev = S.hist[job.key1, NEWEST] - 1
    if job.like_prev >= 0:
        S.job[job.like_prev].like_next = j
    S.hist[job.key1, NEWEST] = j + 1
    S.g[0].num_news += 1


@kernel
def learn_wait(S: State, j: int) -> None:
    """Count the wait of an ended job among its member's."""
    S.waits[S.cls[S.job[j].cls].member, wait_bucket(waited_ms(S, j))] += 1
    S.g[0].num_news += 1


@kernel
def predict_rest_ms(S: State, j: int) -> int:
    """Mean time still to run, given what has run, from the history of like jobs; bounded by the time limit."""
    job = S.job[j]
    row = history_row(S, j)
    done = job.done_ms
    rest = S.g[0].default_ms
    if row >= 0:
        count = np.int64(0)
        total = np.int64(0)
        for b in range(NUM_BUCKETS):
            mid = bucket_mid_ms(b)
            if mid > done:
                count += S.hist[row, b]
                total += S.hist[row, b] * ((mid - done) // 1000)
        rest = total * 1000 // count if count > 0 else done
    if job.limit_ms >= 0 and rest > job.limit_ms - done:
        rest = job.limit_ms - done
    return max(rest, 1000)


@kernel
def index_rest_ms(S: State, j: int, done: int) -> int:
    """Gittins' index of a job as a time: the least expected time of service per completion (Gittins 1979).

    Small for a job that is likely to end soon. Grows with what has run when long jobs have heavy tails.
    """
    row = history_row(S, j)
    if row < 0:
        return max(S.g[0].default_ms, done)
    alive = np.int64(0)
    for b in range(NUM_BUCKETS):
        if bucket_mid_ms(b) > done:
            alive += S.hist[row, b]
    if alive == 0:
        return max(done, 1000)
    best = NEVER_MS
    ended = np.int64(0)
    spent_s = np.int64(0)
    last = done
    for b in range(NUM_BUCKETS):
        mid = bucket_mid_ms(b)
        if mid <= done:
            continue
        spent_s += (alive - ended) * ((mid - last) // 1000)
        last = mid
        ended += S.hist[row, b]
        if ended > 0:
            index = spent_s * 1000 // ended
            if index < best:
                best = index
    return max(best, 1000)


@kernel
def progress_ms(S: State, j: int) -> int:
    """Work done in the present run, at the reference speed, since the last change of rate."""
    job = S.job[j]
    return (S.g[0].now_ms - job.since_ms) * job.rate_milli // 1000


@kernel
def attained_ms(S: State, j: int) -> int:
    """What a job has run until now, at the reference speed."""
    job = S.job[j]
    is_on = job.state == RUNNING or job.state == REVOKING
    return job.done_ms + (progress_ms(S, j) if is_on else 0)


@kernel
def waited_ms(S: State, j: int) -> int:
    """How long a job has waited in all, after its stops too."""
    job = S.job[j]
    return job.wait_ms + (S.g[0].now_ms - job.queued_ms if job.state == PENDING else 0)


@kernel
def expected_rest_ms(S: State, j: int, done: int) -> int:
    """Time that a job is expected to run still, from the jobs of its user and size that came just before and after it.

    People submit the same work many times over, so a neighbour's length tells more than any history. Time that
    neighbours ran beyond `done`, divided by how many of them ended there: the estimate of an exponential rest from
    lengths some of which are not known yet (those still to end count with what they have run). History counts as
    a third of a neighbour that ended after its index. No job runs longer than its time limit.
    """
    spent_s = index_rest_ms(S, j, done) // 1000
    ended = np.int64(1)
    # Both ways at once: a neighbour is a cache miss, and the two do not wait for each other.
    a, b = S.job[j].like_prev, S.job[j].like_next
    for _ in range(LIKE_MAX):
        if a < 0 and b < 0:
            break
        if a >= 0:
            beyond = attained_ms(S, a) - done
            if beyond > 0:
                spent_s += LIKE_WEIGHT * (beyond // 1000)
                ended += LIKE_WEIGHT if S.job[a].state == ENDED else 0
            a = S.job[a].like_prev
        if b >= 0:
            beyond = attained_ms(S, b) - done
            if beyond > 0:
                spent_s += LIKE_WEIGHT * (beyond // 1000)
                ended += LIKE_WEIGHT if S.job[b].state == ENDED else 0
            b = S.job[b].like_next
    rest_ms: int = spent_s // ended * 1000
    if S.job[j].limit_ms >= 0:
        rest_ms = min(rest_ms, S.job[j].limit_ms - done)
    return max(rest_ms, 1000)


@kernel
def wait_bucket(ms: int) -> int:
    """Bucket of a wait: eight for each doubling of its seconds."""
    s = max(ms // 1000, 1)
    octave = 0
    while s >> (octave + 1):
        octave += 1
    return min(8 * octave + (((s << 3) >> octave) & 7), NUM_WAITS - 1)


@kernel
def long_wait_of(waits: NDArray[Any]) -> int:
    """The wait that one in LONG_ONE_IN of a member's jobs has exceeded, linear inside its bucket."""
    num = int(waits.sum())
    above = 0
    b = NUM_WAITS - 1
    while b > 0 and (above + waits[b]) * LONG_ONE_IN < num:
        above += waits[b]
        b -= 1
    low = ((8 + b % 8) * 1000 << (b // 8)) >> 3
    width = (1000 << (b // 8)) >> 3
    if waits[b] == 0:
        return low
    return low + width - width * (num - above * LONG_ONE_IN) // (waits[b] * LONG_ONE_IN)


@kernel
def log2_milli(x: int) -> int:
    """Base-2 logarithm in 1/1000, linear between powers of two; 0 for 1 and less."""
    octave = 0
    while x >> (octave + 1):
        octave += 1
    return octave * 1000 + (x - (1 << octave)) * 1000 // (1 << octave) if x > 1 else 0


@kernel
def level_of(S: State, attained: int) -> int:
    """Queue of least attained service (Tiresias, NSDI'19): thresholds double from `las_base`."""
    level = 0
    limit = S.g[0].las_base
    while attained >= limit and level < S.g[0].las_levels:
        level += 1
        limit *= 2
    return level


@kernel
def rank_of(S: State, j: int, done: int) -> int:
    """Place in the queue, smaller first, of a job that has run `done` ms (rule 3).

    fifo, fair: age. sjf: the known length. srtf: the known rest. srsf: the known rest × GPUs. las: level of
    GPU-time attained, then age. dure: `rank_step_ms` for each doubling of the GPU-time that it is expected to want
    still, less half a step for each halving of what is left of the longest wait but for one job in a hundred (seven
    at most). Who has waited longer goes last: a hundredth pays for all others, who would wait for it.
    """
    g = S.g[0]
    job = S.job[j]
    cls = S.cls[job.cls]
    order = g.order
    if order == SJF:
        return job.oracle_ms
    if order == SRTF:
        return max(job.oracle_ms - done, 0)
    if order == SRSF:
        return max(job.oracle_ms - done, 0) * max(cls.num_gpus, 1)
    if order == LAS:
        return (level_of(S, done // 1000 * max(cls.num_gpus, 1)) << 50) + job.submit_ms
    if order == DURE:
        work = log2_milli(expected_rest_ms(S, j, done) // 1000 * max(cls.num_gpus, 1))
        longest_s = max(S.member[cls.member].long_wait_ms, g.default_ms) // 1000
        left_s = longest_s - waited_ms(S, j) // 1000
        if left_s < 0:
            return g.rank_step_ms * (work + PAST_MILLI) // 1000
        urgency = log2_milli(longest_s) - log2_milli(max(left_s, longest_s // 100))
        # Four steps more keep it above 0.
        return g.rank_step_ms * (work - urgency // 2 + 4000) // 1000
    return job.submit_ms


@kernel
def before(S: State, a: int, b: int) -> bool:
    """Whether job a stands before job b of the same class; restarts first, then the overdue by age, ties by id."""
    x, y = S.job[a], S.job[b]
    if x.is_restart != y.is_restart:
        return x.is_restart > y.is_restart
    if x.is_overdue != y.is_overdue:
        return x.is_overdue > y.is_overdue
    if x.is_overdue and x.queued_ms != y.queued_ms:
        return x.queued_ms < y.queued_ms
    return x.rank < y.rank or (x.rank == y.rank and a < b)


@kernel
def meld(S: State, a: int, b: int) -> int:
    """Join two pairing heaps (Fredman et al. 1986); either may be -1."""
    if a < 0:
        return b
    if b < 0:
        return a
    if before(S, b, a):
        a, b = b, a
    S.job[b].sibling = S.job[a].child
    S.job[a].child = b
    return a


@kernel
def push(S: State, j: int) -> None:
    """Put a pending job into its class's heap."""
    job = S.job[j]
    c = job.cls
    cls = S.cls[c]
    m = S.member[cls.member]
    job.child = job.sibling = -1
    if cls.count == 0:
        cls.oldest_ms = job.queued_ms
        cls.prev = -1
        cls.next = m.head
        if m.head >= 0:
            S.cls[m.head].prev = c
        m.head = c
    cls.oldest_ms = min(cls.oldest_ms, job.queued_ms)
    cls.root = meld(S, cls.root, j)
    if cls.root == j:
        cls.preempt_at_ms = 0
        cls.head_ms = job.queued_ms
    cls.count += 1


@kernel
def pop(S: State, c: int) -> int:
    """Take the first job out of a class's heap."""
    cls = S.cls[c]
    cls.preempt_at_ms = 0
    j = cls.root
    first = S.job[j].child
    # Two passes: pair from the left, then join from the right, through a reversed list.
    pairs = -1
    while first >= 0:
        second = S.job[first].sibling
        if second < 0:
            S.job[first].sibling = pairs
            pairs = first
            break
        rest = S.job[second].sibling
        S.job[first].sibling = S.job[second].sibling = -1
        first = meld(S, first, second)
        S.job[first].sibling = pairs
        pairs = first
        first = rest
    root = -1
    while pairs >= 0:
        rest = S.job[pairs].sibling
        S.job[pairs].sibling = -1
        root = meld(S, root, pairs)
        pairs = rest
    cls.root = root
    cls.count -= 1
    if cls.count > 0:
        cls.head_ms = S.job[root].queued_ms
    else:
        m = S.member[cls.member]
        if cls.prev >= 0:
            S.cls[cls.prev].next = cls.next
        else:
            m.head = cls.next
        if cls.next >= 0:
            S.cls[cls.next].prev = cls.prev
    S.job[j].child = S.job[j].sibling = -1
    return j


@kernel
def order_anew(S: State, c: int, is_rerank: bool) -> None:
    """Build the heap of a class anew where jobs have waited longer than `overdue_ms`, or all ranks are due (rule 3)."""
    g = S.g[0]
    cls = S.cls[c]
    if not is_rerank and g.now_ms - cls.oldest_ms <= g.overdue_ms:
        return
    first = cls.root
    left, cls.root, cls.oldest_ms = cls.root, -1, NEVER_MS
    while left >= 0:
        j = left
        job = S.job[j]
        left = job.sibling
        if job.child >= 0:
            last = job.child
            while S.job[last].sibling >= 0:
                last = S.job[last].sibling
            S.job[last].sibling = left
            left = job.child
        job.child = job.sibling = -1
        job.is_overdue = 1 if g.now_ms - job.queued_ms > g.overdue_ms else 0
        if is_rerank:
            job.rank = rank_of(S, j, job.done_ms)
        if not job.is_overdue:
            cls.oldest_ms = min(cls.oldest_ms, job.queued_ms)
        cls.root = meld(S, cls.root, j)
    if cls.root != first:
        cls.preempt_at_ms = 0
    cls.head_ms = S.job[cls.root].queued_ms
    drop_ended(S, c)


@kernel
def drop_ended(S: State, c: int) -> None:
    """Take cancelled jobs off the top of a heap."""
    while S.cls[c].count > 0 and S.job[S.cls[c].root].state != PENDING:
        pop(S, c)


@kernel
def milli_of(S: State, c: int) -> int:
    """GPUs that a job of a class needs to start, in 1/1000."""
    cls = S.cls[c]
    if cls.num_gpus == 1 and cls.gpu_milli < 1000:
        return cls.gpu_milli
    return cls.min_gpus * 1000


@kernel
def class_before(S: State, a: int, b: int) -> bool:
    """Whether the head of class a goes before the head of class b of the same member (rule 3).

    Restarts after a failure, jobs that waited longer than `overdue_ms`, priority class, the project's decayed
    use, rank, id. The baselines know rank and id alone.
    """
    g = S.g[0]
    x, y = S.job[S.cls[a].root], S.job[S.cls[b].root]
    if g.order == DURE:
        if x.is_restart != y.is_restart:
            return x.is_restart > y.is_restart
        x_due = g.now_ms - x.queued_ms > g.overdue_ms
        y_due = g.now_ms - y.queued_ms > g.overdue_ms
        if x_due != y_due:
            return x_due
        if x_due and x.queued_ms != y.queued_ms:
            return x.queued_ms < y.queued_ms
        if S.cls[a].priority != S.cls[b].priority:
            return S.cls[a].priority > S.cls[b].priority
        p, q = S.project[S.cls[a].project].level, S.project[S.cls[b].project].level
        if p != q:
            return p < q
    if x.rank != y.rank:
        return x.rank < y.rank
    return S.cls[a].root < S.cls[b].root
