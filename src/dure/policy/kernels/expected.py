"""The load expected (rule 4): what jobs have asked of a node until now, and how well a node's rest would serve it.

Nothing is known of jobs still to come: a shape counts once its job has been submitted, and old counts fade.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dure.policy.kernels.compile import kernel
from dure.policy.kernels.layout import NEVER_MS, SCORED_ALL, SCORED_SHARING, State
from dure.policy.kernels.placement import FULL_MILLI
from dure.policy.kernels.placement_dure import outlook_of
from dure.policy.kernels.placement_run import DURE, score_descent

#: The most frequent shapes that make up this part of the jobs are the load expected (as FGD, ATC'23, has it).
POPULAR_PERCENT = 95
#: Jobs seen before anything is expected of the next; from so many on, old ones fade by half each time.
SEEN_MIN, SEEN_MAX = 64, 1 << 17
#: A node's stamp stays below it, the load's comes above.
STAMP_BITS = 40


@kernel
def note_submitted(S: State, c: int) -> None:
    """Count what a job that has come asks of a node; the load expected is worked out anew for each quarter more."""
    g = S.g[0]
    if S.score.shape[0] == 0:
        return
    see_class(S, c)
    S.shape[S.cls[c].shape].seen += 1
    g.num_seen += 1
    if g.num_seen >= g.learn_at:
        if g.num_seen >= SEEN_MAX:
            g.num_seen = 0
            for i in range(S.shape.shape[0]):
                S.shape[i].seen >>= 1
                g.num_seen += S.shape[i].seen
        g.learn_at = g.num_seen + max(g.num_seen // 4, SEEN_MIN)
        expect(S)


@kernel
def see_class(S: State, c: int) -> None:
    """Mark the pools in which a class that has come makes scores worth their while; give its shape a row of them.

    Scored are the places of jobs that share GPUs or need none; and of all jobs where some want more CPU for each GPU
    than a node has. Elsewhere best fit by free GPUs loses nothing.
    """
    g = S.g[0]
    cls = S.cls[c]
    shape = S.shape[cls.shape]
    kind = SCORED_SHARING if shape.milli < FULL_MILLI else 0
    if not cls.is_seen:
        cls.is_seen = 1
        for i in range(cls.pool0, cls.pool0 + cls.num_pools):
            pool = S.pool[S.cls_pool[i]]
            pool.scored = max(pool.scored, SCORED_ALL if cls.cpu_each > pool.even_cpu else kind)
    if shape.row >= 0 or cls.num_gpus != shape.gpus or g.num_rows >= S.score.shape[0]:
        return
    for i in range(cls.pool0, cls.pool0 + cls.num_pools):
        scored = S.pool[S.cls_pool[i]].scored
        if scored == SCORED_ALL or scored & kind:
            shape.row = g.num_rows
            g.num_rows += 1
            return


@kernel
def expect(S: State) -> None:
    """Work out `target` and `outlook` from the jobs counted: the most frequent shapes first, ties in order of id."""
    g = S.g[0]
    wanted = g.num_seen * POPULAR_PERCENT
    is_taken = np.zeros(S.shape.shape[0], np.bool_)
    reached, num = np.int64(0), 0
    while num < S.target.shape[0] and reached * 100 < wanted:
        best = -1
        for i in range(S.shape.shape[0]):
            if not is_taken[i] and S.shape[i].seen > 0 and (best < 0 or S.shape[i].seen > S.shape[best].seen):
                best = i
        if best < 0:
            break
        is_taken[best] = True
        shape = S.shape[best]
        reached += shape.seen
        S.target[num, 0], S.target[num, 1], S.target[num, 2] = shape.cpu, shape.gpus, shape.milli
        S.target[num, 3], S.target[num, 4] = shape.mask, shape.seen
        num += 1
    for i in range(num):
        S.target[i, 4] /= reached
    g.num_target = num
    S.outlook[:] = outlook_of(S.target[:num])
    g.outlook_stamp += 1


@kernel
def told(S: State, target: NDArray[np.float64]) -> None:
    """Expect this load, rows as in `placement.fragmentation`, whatever jobs come: for who knows it better."""
    g = S.g[0]
    S.target[: target.shape[0]] = target
    g.num_target = target.shape[0]
    g.learn_at = NEVER_MS
    S.outlook[:] = outlook_of(target)
    g.outlook_stamp += 1


@kernel
def is_scored(S: State, c: int, p: int, gpus: int) -> bool:
    """Whether a class's place on one node of the pool is chosen by what it loses of the load expected."""
    shape = S.shape[S.cls[c].shape]
    if shape.row < 0 or shape.gpus != gpus or S.g[0].num_target == 0:
        return False
    return S.pool[p].scored >= SCORED_ALL or (S.pool[p].scored == SCORED_SHARING and shape.milli < FULL_MILLI)


@kernel
def score_on(S: State, c: int, n: int, milli: int) -> int:
    """How well a class's place on node n keeps the rest usable, in steps of `dure_step`; higher is better.

    Kept until the node or the load expected changes. `milli`: of one GPU (`gpu_milli_on`). Very low where the
    GPUs do not suffice.
    """
    shape = S.shape[S.cls[c].shape]
    kept = S.score[shape.row, n]
    node = S.node[n]
    stamp = (S.g[0].outlook_stamp << STAMP_BITS) + node.stamp
    if kept.stamp != stamp:
        free = S.gpu_free[0]
        for i in range(node.num):
            free[i] = FULL_MILLI if (node.free_mask >> i) & 1 else S.gfree[n, i]
        step, mask = score_descent(
            DURE, node.cpu_free, free, node.num, S.pool[node.pool].gpu_type, shape.cpu, shape.gpus, milli,
            S.target[: S.g[0].num_target], S.outlook, S.gpu_free[1],
        )  # fmt: skip
        kept.stamp = stamp
        kept.step = np.int32(max(step, -1e9))
        gpu = 0
        while mask >> gpu > 1:
            gpu += 1
        kept.gpu = np.int32(gpu)
    return np.int64(kept.step)


@kernel
def gpu_chosen(S: State, c: int, n: int) -> int:
    """The GPU on which a part of one goes by the score kept for the node as it is; -1: none is kept."""
    shape = S.shape[S.cls[c].shape]
    if not is_scored(S, c, S.node[n].pool, shape.gpus):
        return -1
    kept = S.score[shape.row, n]
    if kept.stamp != (S.g[0].outlook_stamp << STAMP_BITS) + S.node[n].stamp:
        return -1
    return np.int64(kept.gpu)
