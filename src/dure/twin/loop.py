"""The twin's compiled loop: virtual time, the truth about run times and faults, and the policy's own kernels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dure.policy.kernels.arrays import ArrayBundle
from dure.policy.kernels.compile import kernel
from dure.policy.kernels.cycle import cycle, next_rerank_ms, on_rerank
from dure.policy.kernels.layout import (
    DOWN,
    GROW,
    HOLD,
    HOLD_RESERVED,
    NEVER_MS,
    OFFLINE,
    PENDING,
    QUARANTINE,
    RESERVED,
    REVOKING,
    RUNNING,
    SHRINK,
    START,
    UNKNOWN,
    UP,
    VACATE,
    State,
)
from dure.policy.kernels.leases import (
    fail_job,
    on_cancel,
    on_end,
    on_node_closed,
    on_node_down,
    on_node_drained,
    on_node_up,
    on_vacated,
)
from dure.policy.kernels.queue import predict_rest_ms, progress_ms
from dure.policy.kernels.quota import look_again, settle
from dure.policy.kernels.reserve import next_due_ms, on_reservation_due, on_submit
from dure.twin.result import PROMISE_DTYPE

# Kinds of timed events; at one moment they are taken in this order.
END, VACATED, RERANK, RELEASE, DUE, FAIL = 0, 1, 2, 3, 4, 5
# Kinds of events of nodes.
FAILURE, REPAIR, DELIVERY = 0, 1, 2

#: Between two looks at what runs at cell sites, ms. It divides an hour.
LOOK_MS = 300_000
#: Columns of `cell_sum`: GPUs of open nodes, in use there.
OPEN, USED = 0, 1

#: Columns of a row of `samples`: time, then fleet totals; power of each site and members' columns follow.
NUM_TOTALS = 7

#: Where a run is, and what it has counted.
COUNTERS = np.dtype(
    [
        ("num_heap", np.int64),
        ("num_samples", np.int64),
        ("num_latencies", np.int64),
        ("next_job", np.int64),
        ("next_fault", np.int64),
        ("next_wake", np.int64),
        ("num_events", np.int64),
        ("num_decisions", np.int64),
        ("num_ended", np.int64),
        ("num_promises", np.int64),
        ("num_unwritten", np.int64),  # promises that found no room
        ("num_own_failures", np.int64),  # of jobs, by themselves
        ("seed", np.int64),  # of failures of jobs
        ("digest", np.int64),  # of decisions
        ("status", np.int64),  # 1: the heap was full
        ("sample_at_ms", np.int64),  # the next sample
        ("sample_step_ms", np.int64),
        ("look_at_ms", np.int64),  # the next look at cell sites
        ("turn_at_ms", np.int64),  # when a radio's word comes or has been true for long enough
        ("next_word", np.int64),
        ("word_period_ms", np.int64),  # after which all words come again
        ("moved_ms", np.int64),  # when a job last came or ended, or a node failed or came
        ("give_up_ms", np.int64),  # how long after that a run with cell sites is given up
        ("is_given_up", np.int64),
    ],
    align=True,
)

#: What the twin alone knows of a kind of work (`WorkProfile`).
KIND_DTYPE = np.dtype(
    [
        ("restart_ms", np.int64),
        ("mean_to_failure_ms", np.float64),  # of the job itself; 0: never
    ],
    align=True,
)

#: What a cell site's radio says (`CellsReleased`): when, of which site, what part is released until when.
WORD_DTYPE = np.dtype([("at_ms", np.int64), ("site", np.int64), ("lent_milli", np.int64), ("until_ms", np.int64)])

#: What a job's restarts have cost, as work at the reference speed.
AGAIN_DTYPE = np.dtype(
    [
        ("begun_ms", np.int64),  # what it had done when its present run began
        ("cost_ms", np.int64),  # of the present run's restart
        ("kept_ms", np.int64),  # of earlier ones; what was lost with other work is not in it
    ],
    align=True,
)


class World(ArrayBundle):
    """What only the twin knows: truth, timers and the recorder.

    Attributes
    ----------
    truth_ms : int64, shape (J,): run time of each job on num_gpus GPUs of speed 1.
    at_ms, what, version : the event heap (4-ary): time, kind × 2^32 + id, version of the job when it was set.
    fault_at_ms, fault_node, fault_kind : sorted events of nodes: FAILURE, REPAIR, DELIVERY.
    wake_ms : sorted moments at which terms change and every pool must be looked at again.
    samples : int64, shape (T, NUM_TOTALS + sites + 5 × members), filled up to `num_samples`.
    latency_ms : int64, demand to GPUs in hand of each completed reclaim, filled up to `num_latencies`.
    promise : PROMISE_DTYPE, starts that were promised or foretold, filled up to `num_promises`.
    last_promise : int64, shape (J,): place in `promise` of the job's latest that has not come to pass; -1: none.
    cell_node : int64, shape (M,): nodes of cell sites, cluster after cluster.
    cell_end : int64, shape (C,): where each such cluster's nodes end.
    cell_site : int64, shape (C,): whose it is.
    cell_vacate_ms, cell_week_ms : int64, shape (C,): as of `CellHours`.
    cell_lent_milli : int64, shape (C, WEEK_HOURS): as of `CellHours`.
    cell_said_milli, cell_until_ms : int64, shape (C,): its radio's last word, and until when that counts in place of the hours.
    word : WORD_DTYPE, by time, what radios will say.
    cell_sum : int64, shape (24, 2): GPUs that were OPEN and USED at cell sites, summed over looks, by hour of the day.
    withheld : uint8, shape (N,): 1 where radio work has the node.
    kind : KIND_DTYPE, shape (P + 1,): as the trace's profiles; the last is of jobs without one.
    kind_of : int32, shape (J,): place in `kind`; empty where no kind starts late or fails by itself.
    again : AGAIN_DTYPE, shape of `kind_of`.
    w : COUNTERS, shape (1,).
    """

    truth_ms: NDArray[Any]
    at_ms: NDArray[Any]
    what: NDArray[Any]
    version: NDArray[Any]
    fault_at_ms: NDArray[Any]
    fault_node: NDArray[Any]
    fault_kind: NDArray[Any]
    wake_ms: NDArray[Any]
    samples: NDArray[Any]
    latency_ms: NDArray[Any]
    promise: NDArray[Any]
    last_promise: NDArray[Any]
    cell_node: NDArray[Any]
    cell_end: NDArray[Any]
    cell_site: NDArray[Any]
    cell_vacate_ms: NDArray[Any]
    cell_week_ms: NDArray[Any]
    cell_lent_milli: NDArray[Any]
    cell_said_milli: NDArray[Any]
    cell_until_ms: NDArray[Any]
    word: NDArray[Any]
    cell_sum: NDArray[Any]
    withheld: NDArray[Any]
    kind: NDArray[Any]
    kind_of: NDArray[Any]
    again: NDArray[Any]
    w: NDArray[Any]

    FIELDS = {
        "truth_ms": (np.int64, 1),
        "at_ms": (np.int64, 1),
        "what": (np.int64, 1),
        "version": (np.int64, 1),
        "fault_at_ms": (np.int64, 1),
        "fault_node": (np.int64, 1),
        "fault_kind": (np.int64, 1),
        "wake_ms": (np.int64, 1),
        "samples": (np.int64, 2),
        "latency_ms": (np.int64, 1),
        "promise": (PROMISE_DTYPE, 1),
        "last_promise": (np.int64, 1),
        "cell_node": (np.int64, 1),
        "cell_end": (np.int64, 1),
        "cell_site": (np.int64, 1),
        "cell_vacate_ms": (np.int64, 1),
        "cell_week_ms": (np.int64, 1),
        "cell_lent_milli": (np.int64, 2),
        "cell_said_milli": (np.int64, 1),
        "cell_until_ms": (np.int64, 1),
        "word": (WORD_DTYPE, 1),
        "cell_sum": (np.int64, 2),
        "withheld": (np.uint8, 1),
        "kind": (KIND_DTYPE, 1),
        "kind_of": (np.int32, 1),
        "again": (AGAIN_DTYPE, 1),
        "w": (COUNTERS, 1),
    }


@kernel
def earlier(W: World, a: int, b: int) -> bool:
    """Order of two heap places: time, then kind, then id."""
    return W.at_ms[a] < W.at_ms[b] or (W.at_ms[a] == W.at_ms[b] and W.what[a] < W.what[b])


@kernel
def swap(W: World, a: int, b: int) -> None:
    """Exchange two heap places."""
    W.at_ms[a], W.at_ms[b] = W.at_ms[b], W.at_ms[a]
    W.what[a], W.what[b] = W.what[b], W.what[a]
    W.version[a], W.version[b] = W.version[b], W.version[a]


@kernel
def schedule(W: World, at: int, kind: int, who: int, version: int) -> None:
    """Put an event on the heap; `status` 1 says that it was full."""
    i = W.w[0].num_heap
    if i >= W.at_ms.shape[0]:
        W.w[0].status = 1
        return
    W.w[0].num_heap += 1
    W.at_ms[i], W.what[i], W.version[i] = at, (kind << 32) + who, version
    while i > 0:
        up = (i - 1) >> 2
        if not earlier(W, i, up):
            break
        swap(W, i, up)
        i = up


@kernel
def drop_first(W: World) -> None:
    """Take the first event off the heap."""
    W.w[0].num_heap -= 1
    last = W.w[0].num_heap
    if last == 0:
        return
    swap(W, 0, last)
    i = 0
    while True:
        first = 4 * i + 1
        if first >= last:
            return
        best = first
        for kid in range(first + 1, min(first + 4, last)):
            if earlier(W, kid, best):
                best = kid
        if not earlier(W, best, i):
            return
        swap(W, i, best)
        i = best


@kernel
def drop_stale(S: State, W: World) -> None:
    """Take out of the heap what preemptions have made void, so that its size is bounded by what runs."""
    num = W.w[0].num_heap
    W.w[0].num_heap = 0
    for i in range(num):
        at, what, version = W.at_ms[i], W.what[i], W.version[i]
        kind, who = what >> 32, what & 0xFFFFFFFF
        if kind == RELEASE or S.job[who].version == version:
            schedule(W, at, kind, who, version)


@kernel
def end_at_ms(S: State, W: World, j: int) -> int:
    """When a running job will end at its present speed."""
    job = S.job[j]
    left = max(W.truth_ms[j] + restarts_ms(W, j) - job.done_ms, 0)
    return job.since_ms + (left * 1000 + job.rate_milli - 1) // job.rate_milli


@kernel
def restarts_ms(W: World, j: int) -> int:
    """What a running job's restarts cost it beside its own work, the present one with them, at the reference speed."""
    if W.again.shape[0] == 0:
        return 0
    return W.again[j].kept_ms + W.again[j].cost_ms


@kernel
def begin_again(S: State, W: World, j: int) -> None:
    """A job starts: of its last restart it keeps what was saved, and this one costs it time if it is not the first."""
    if W.again.shape[0] == 0:
        return
    job, of = S.job[j], W.again[j]
    of.kept_ms += min(of.cost_ms, max(job.done_ms - of.begun_ms, 0))
    of.begun_ms = job.done_ms
    of.cost_ms = W.kind[W.kind_of[j]].restart_ms * job.rate_milli // 1000 if job.attempt > 0 else 0


@kernel
def chance(seed: int, j: int, version: int) -> float:
    """A number above 0, at most 1, that looks drawn by lot: SplitMix64's finaliser (Steele, Lea, Flood, OOPSLA 2014)."""
    x = np.uint64(seed) + np.uint64(j) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(version) * np.uint64(0xD1B54A32D192ED03)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x = x ^ (x >> np.uint64(31))
    return ((x >> np.uint64(11)) + np.uint64(1)) * (1.0 / 9007199254740992.0)


@kernel
def schedule_failure(S: State, W: World, j: int, end_ms: int) -> None:
    """Set when a running job will fail by itself, if that is before its end: at a constant rate, so anew with each change."""
    if W.kind_of.shape[0] == 0:
        return
    mean_ms = W.kind[W.kind_of[j]].mean_to_failure_ms
    if mean_ms <= 0.0:
        return
    wait_ms = -np.log(chance(W.w[0].seed, j, S.job[j].version)) * mean_ms
    if wait_ms < end_ms - S.g[0].now_ms:
        schedule(W, S.g[0].now_ms + np.int64(wait_ms) + 1, FAIL, j, S.job[j].version)


@kernel
def schedule_end(S: State, W: World, j: int) -> None:
    """Set when a job that has just started, or changed its speed, will end or fail."""
    at = end_at_ms(S, W, j)
    schedule(W, at, END, j, S.job[j].version)
    schedule_failure(S, W, j, at)


@kernel
def mix(W: World, x: int) -> None:
    """Add a number to the digest of decisions (FNV-1a over 64-bit words)."""
    W.w[0].digest = (W.w[0].digest ^ x) * 1099511628211


@kernel
def note_promise(W: World, j: int, kind: int, made_ms: int, promised_ms: int) -> None:
    """Write down that a start was promised to job j, or foretold; `num_unwritten` counts those for which there is no room."""
    i = W.w[0].num_promises
    if i >= W.promise.shape[0]:
        W.w[0].num_unwritten += 1
        return
    W.w[0].num_promises += 1
    row = W.promise[i]
    row.job, row.kind, row.made_ms, row.promised_ms, row.start_ms = j, kind, made_ms, promised_ms, -1
    row.before = W.last_promise[j]
    W.last_promise[j] = i


@kernel
def keep_promises(W: World, j: int, start_ms: int) -> None:
    """Job j starts: whatever was promised for this start has come to pass."""
    i = W.last_promise[j]
    while i >= 0:
        W.promise[i].start_ms = start_ms
        i = W.promise[i].before
    W.last_promise[j] = -1


@kernel
def carry_out(S: State, W: World) -> None:
    """Do what the cycle decided, as an executor would."""
    g = S.g[0]
    for i in range(g.num_dec):
        d = S.dec[i]
        j = d.job
        mix(W, g.now_ms)
        mix(W, (np.int64(d.kind) << 56) ^ (np.int64(j) << 20) ^ d.gpus)
        mix(W, (np.int64(d.pool) << 32) ^ d.node)
        mix(W, d.at_ms)
        if d.kind == START:
            job = S.job[j]
            if job.claim_from_ms >= 0:
                if W.w[0].num_latencies < W.latency_ms.shape[0]:
                    W.latency_ms[W.w[0].num_latencies] = g.now_ms - job.claim_from_ms
                    W.w[0].num_latencies += 1
                job.claim_from_ms = -1
            keep_promises(W, j, g.now_ms)
            begin_again(S, W, j)
            schedule_end(S, W, j)
            at = next_rerank_ms(S, j)
            if at < NEVER_MS:
                schedule(W, at, RERANK, j, job.version)
        elif d.kind == HOLD:
            if d.cause != HOLD_RESERVED:
                note_promise(W, j, d.cause, g.now_ms, d.at_ms)
        elif d.kind == VACATE:
            schedule(W, d.at_ms, VACATED, j, S.job[j].version)
        elif d.kind == SHRINK or d.kind == GROW:
            schedule_end(S, W, j)
        elif d.kind == QUARANTINE:
            schedule(W, d.at_ms, RELEASE, d.node, 0)
    W.w[0].num_decisions += g.num_dec
    g.num_dec = 0


@kernel
def sample(S: State, W: World) -> None:
    """Record the state in one row of the series."""
    if W.w[0].num_samples >= W.samples.shape[0]:
        return
    g = S.g[0]
    row = W.samples[W.w[0].num_samples]
    W.w[0].num_samples += 1
    row[0], row[1], row[2], row[3] = g.now_ms, g.online_milli, g.used_milli, g.queue_jobs
    row[4], row[5], row[6] = g.queue_milli, g.frag_gpus, g.whole_free
    k = NUM_TOTALS
    for i in range(S.site.shape[0]):
        row[k + i] = S.site[i].power_w
    k += S.site.shape[0]
    for m in range(S.member.shape[0]):
        settle(S, m)
        row[k] = S.member[m].used_milli
        row[k + 1] = S.member[m].borrowed_milli
        row[k + 2] = S.member[m].lent_milli
        row[k + 3] = S.member[m].queued_milli
        row[k + 4] = S.member[m].credit_milli_ms // 3600000
        k += 5


@kernel
def next_time_ms(S: State, W: World) -> int:
    """The next moment at which something happens by itself; NEVER_MS: nothing will."""
    t = NEVER_MS
    if W.w[0].next_job < S.g[0].num_jobs:
        t = S.job[W.w[0].next_job].submit_ms
    if W.w[0].num_heap > 0 and W.at_ms[0] < t:
        t = W.at_ms[0]
    return t


@kernel
def schedule_due(S: State, W: World, j: int) -> None:
    """Set the next timer of a reserved job."""
    at = next_due_ms(S, j)
    if at < NEVER_MS:
        schedule(W, at, DUE, j, S.job[j].version)


@kernel
def node_up(S: State, W: World, n: int, is_release: int) -> None:
    """A node is back, unless radio work has it."""
    on_node_up(S, n, is_release)
    if W.withheld[n]:
        on_node_closed(S, n)


@kernel
def count_cells(S: State, W: World) -> None:
    """Count what runs at cell sites."""
    now, first = S.g[0].now_ms, 0
    for c in range(W.cell_end.shape[0]):
        before = (now - 1 + W.cell_week_ms[c]) // 3600000 % 24
        for i in range(first, W.cell_end[c]):
            n = W.cell_node[i]
            if S.node[n].state == UP and not W.withheld[n]:
                W.cell_sum[before, OPEN] += S.node[n].num
                W.cell_sum[before, USED] += S.node[n].used_milli
        first = W.cell_end[c]


@kernel
def next_word_ms(W: World) -> int:
    """When a radio speaks next."""
    if W.word.shape[0] == 0:
        return NEVER_MS
    i = W.w[0].next_word
    return W.word[i % W.word.shape[0]].at_ms + i // W.word.shape[0] * W.w[0].word_period_ms


@kernel
def hear_cells(S: State, W: World) -> None:
    """Take what radios have said by now, and find when that will be another."""
    now, at = S.g[0].now_ms, next_word_ms(W)
    while at <= now:
        word = W.word[W.w[0].next_word % W.word.shape[0]]
        for c in range(W.cell_end.shape[0]):
            if W.cell_site[c] == word.site:
                W.cell_said_milli[c] = word.lent_milli
                W.cell_until_ms[c] = at + word.until_ms - word.at_ms
        W.w[0].next_word += 1
        at = next_word_ms(W)
    W.w[0].turn_at_ms = at
    for c in range(W.cell_end.shape[0]):
        if W.cell_until_ms[c] > now:
            W.w[0].turn_at_ms = min(W.w[0].turn_at_ms, W.cell_until_ms[c])


@kernel
def turn_cells(S: State, W: World) -> None:
    """Open and close the nodes of cell sites as their radios' words want, or the hour (rule 10).

    Nodes that are not delivered yet do not count; of the others of a cluster the first are open.
    """
    now, first = S.g[0].now_ms, 0
    for c in range(W.cell_end.shape[0]):
        hour = (now + W.cell_week_ms[c]) // 3600000 % 168
        lent_milli = W.cell_said_milli[c] if now < W.cell_until_ms[c] else W.cell_lent_milli[c, hour]
        online = 0
        for i in range(first, W.cell_end[c]):
            online += S.node[W.cell_node[i]].state != OFFLINE
        opened = online * lent_milli // 1000
        for i in range(first, W.cell_end[c]):
            n = W.cell_node[i]
            is_withheld = opened <= 0
            opened -= S.node[n].state != OFFLINE
            if is_withheld and not W.withheld[n]:
                W.withheld[n] = 1
                on_node_closed(S, n)
                on_node_drained(S, n, W.cell_vacate_ms[c])
            elif not is_withheld and W.withheld[n]:
                W.withheld[n] = 0
                # One that has failed in the meantime comes with its repair.
                if S.node[n].state == UNKNOWN:
                    on_node_up(S, n, 0)
        first = W.cell_end[c]


@kernel
def happen(S: State, W: World, t: int) -> None:
    """Let everything that happens at moment t happen, before the policy decides."""
    while W.w[0].num_heap > 0 and W.at_ms[0] == t:
        what, version = W.what[0], W.version[0]
        drop_first(W)
        W.w[0].num_events += 1
        kind, who = what >> 32, what & 0xFFFFFFFF
        if kind == RELEASE:
            node_up(S, W, who, 1)
            continue
        job = S.job[who]
        if job.version != version:
            continue
        if kind == END and (job.state == RUNNING or job.state == REVOKING):
            on_end(S, who)
            W.w[0].num_ended += 1
            W.w[0].moved_ms = t
        elif kind == VACATED and job.state == REVOKING:
            on_vacated(S, who)
        elif kind == FAIL and (job.state == RUNNING or job.state == REVOKING):
            W.w[0].num_own_failures += 1
            fail_job(S, who)
        elif kind == RERANK and job.state == RUNNING:
            on_rerank(S, who)
            at = next_rerank_ms(S, who)
            if at < NEVER_MS:
                schedule(W, at, RERANK, who, version)
        elif kind == DUE and job.state == RESERVED:
            on_reservation_due(S, who)
            schedule_due(S, W, who)
    while W.w[0].next_fault < W.fault_at_ms.shape[0] and W.fault_at_ms[W.w[0].next_fault] == t:
        n, kind = W.fault_node[W.w[0].next_fault], W.fault_kind[W.w[0].next_fault]
        W.w[0].next_fault += 1
        W.w[0].num_events += 1
        W.w[0].moved_ms = t
        if kind == FAILURE:
            on_node_down(S, n, 1)
        elif S.node[n].state == DOWN or kind == DELIVERY:
            node_up(S, W, n, 0)
    while W.w[0].next_wake < W.wake_ms.shape[0] and W.wake_ms[W.w[0].next_wake] == t:
        W.w[0].next_wake += 1
        look_again(S)
    while W.w[0].next_job < S.g[0].num_jobs and S.job[W.w[0].next_job].submit_ms == t:
        if W.truth_ms[W.w[0].next_job] >= 0:
            on_submit(S, W.w[0].next_job)
            if S.job[W.w[0].next_job].state == RESERVED:
                note_promise(W, W.w[0].next_job, HOLD_RESERVED, t, S.job[W.w[0].next_job].begin_ms)
            schedule_due(S, W, W.w[0].next_job)
        W.w[0].next_job += 1
        W.w[0].num_events += 1
        W.w[0].moved_ms = t


@kernel
def run_until(S: State, W: World, stop_ms: int, sample_ms: int, events_max: int) -> int:
    """Run until `stop_ms`, until nothing happens any more, or for about `events_max` events.

    Returns 0 when done, 1 when there is more to do. Faults and terms alone do not keep a run going.
    """
    g = S.g[0]
    goal = W.w[0].num_events + events_max
    while W.w[0].num_events < goal:
        t = next_time_ms(S, W)
        if t >= NEVER_MS and g.queue_jobs == 0:
            return 0
        if W.w[0].next_fault < W.fault_at_ms.shape[0] and W.fault_at_ms[W.w[0].next_fault] < t:
            t = W.fault_at_ms[W.w[0].next_fault]
        if W.w[0].next_wake < W.wake_ms.shape[0] and W.wake_ms[W.w[0].next_wake] < t:
            t = W.wake_ms[W.w[0].next_wake]
        t = min(t, W.w[0].look_at_ms, W.w[0].turn_at_ms)
        if W.w[0].look_at_ms < NEVER_MS and t - W.w[0].moved_ms > W.w[0].give_up_ms:
            # What needs longer than its nodes are ever open would start again and again.
            W.w[0].is_given_up = 1
            return 0
        if t >= NEVER_MS:
            return 0
        while W.w[0].sample_at_ms <= t and W.w[0].sample_at_ms <= stop_ms:
            g.now_ms = W.w[0].sample_at_ms
            sample(S, W)
            W.w[0].sample_at_ms += sample_ms
        if t > stop_ms:
            g.now_ms = stop_ms
            return 0
        if W.w[0].num_heap * 4 > W.at_ms.shape[0] * 3:
            drop_stale(S, W)
        g.now_ms = t
        if t == W.w[0].look_at_ms or t == W.w[0].turn_at_ms:
            if t == W.w[0].turn_at_ms:
                hear_cells(S, W)
            if t == W.w[0].look_at_ms:
                if W.w[0].num_events > 0:
                    count_cells(S, W)
                W.w[0].look_at_ms += LOOK_MS
            turn_cells(S, W)
            W.w[0].num_events += 1
        happen(S, W, t)
        cycle(S)
        carry_out(S, W)
        if g.status != 0 or W.w[0].status != 0:
            return 0
    return 1


@kernel
def expect(S: State, W: World) -> None:
    """Give every job that runs or waits the run time that the policy predicts for it now, never its true one."""
    g = S.g[0]
    for j in range(g.num_jobs):
        job = S.job[j]
        is_running = job.state == RUNNING or job.state == REVOKING
        if not is_running and job.state != PENDING and job.state != RESERVED:
            continue
        banked = job.done_ms
        if is_running:
            job.done_ms += progress_ms(S, j)
        W.truth_ms[j] = job.done_ms + predict_rest_ms(S, j) - restarts_ms(W, j)
        job.done_ms = banked
        if is_running:
            retime(S, W, j)
    # What the true run times had set would still wake the policy.
    drop_stale(S, W)


@kernel
def retime(S: State, W: World, j: int) -> None:
    """Set the timers of a running job anew after its truth was changed."""
    job = S.job[j]
    job.version += 1
    schedule(W, max(end_at_ms(S, W, j), S.g[0].now_ms), END, j, job.version)
    if job.state == REVOKING:
        schedule(W, job.vacate_ms, VACATED, j, job.version)
    at = next_rerank_ms(S, j)
    if at < NEVER_MS:
        schedule(W, at, RERANK, j, job.version)


@kernel
def one_by_one(S: State, chosen: NDArray[np.int64]) -> None:
    """Submit the jobs one after another; who does not start at once is gone. Fills the first node of each, or -1."""
    g = S.g[0]
    for j in range(g.num_jobs):
        g.now_ms = S.job[j].submit_ms
        on_submit(S, j)
        cycle(S)
        g.num_dec = 0
        if S.job[j].state == RUNNING:
            chosen[j] = S.seg[S.job[j].seg].node
        else:
            on_cancel(S, j)
