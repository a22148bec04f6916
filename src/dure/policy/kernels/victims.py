"""Who may be made to leave a node, in what order, and what those who leave give back (rules 1, 6)."""

from __future__ import annotations

import numpy as np

from dure.policy.kernels.bits import gpus_in
from dure.policy.kernels.compile import inlined_kernel, kernel
from dure.policy.kernels.layout import DURE, HOLD_RANK, HOLD_RECLAIM, NEVER_MS, REVOKING, RUNNING, State
from dure.policy.kernels.leases import unsaved_ms
from dure.policy.kernels.nodes import ALLOC_BITS, cpu_for, fits_with, gpu_milli_on, mem_for, net_for, seg_gpus
from dure.policy.kernels.queue import progress_ms, rank_of

NO_COST = np.int64(-1)
#: All GPUs of a node, and what stands there without one.
WHOLE_NODE = np.int64(-1)
#: Bits of lost work, in GPU-ms, below the priority class in a victim's cost.
LOST_BITS = 44
#: Time between two exact counts of the bound on ranks.
LAST_RANK_EVERY_MS = 3_600_000
#: Cost of a victim by rank that stands 1 ms behind the claimant; it falls with the distance.
RANK_COST = np.int64(1 << 46)


@inlined_kernel
def current_rank(S: State, v: int) -> int:
    """Rank of a running job as of now; the default's is kept up to date by `on_rerank`."""
    if S.g[0].order == DURE:
        return S.job[v].run_rank
    return rank_of(S, v, S.job[v].done_ms + progress_ms(S, v))


@inlined_kernel
def was_sent_away(S: State, v: int, claimant: int) -> bool:
    """Whether a job has been stopped for the claimant's present claim: since it began to wait, or a node fell that it held."""
    return S.job[v].cause == claimant and S.job[v].cause_no == S.job[claimant].claim_no


@inlined_kernel
def is_victim(S: State, v: int, kind: int, claimant: int) -> bool:
    """Whether a running job may be made to leave for the claimant (rule 6).

    Reclaim takes what runs above its member's guarantee; rank takes the same member's jobs that stand behind the
    claimant by more than the margin, have had their minimum run, write checkpoints, and were not stopped for it before.
    """
    job = S.job[v]
    if job.state != RUNNING:
        return False
    if kind == HOLD_RECLAIM:
        return job.is_borrowed == 1 and not was_sent_away(S, v, claimant)
    if kind == HOLD_RANK:
        g = S.g[0]
        head = S.job[claimant]
        if S.cls[job.cls].member != S.cls[head.cls].member or job.cause == claimant:
            return False
        if g.order == DURE and head.rank_claim_ms >= 0 and job.vacate_ms >= head.rank_claim_ms:
            # It was stopped since the claimant first made others leave, for it or for another; never twice for one claim.
            return False
        if S.cls[job.cls].priority > S.cls[head.cls].priority or g.now_ms - job.start_ms < g.min_run_ms:
            return False
        if job.ckpt_ms <= 0:
            # It would start anew with its first rank, and two such jobs would stop each other for ever.
            return False
        return current_rank(S, v) > head.rank + g.margin_ms
    return False


@kernel
def last_rank_of(S: State, m: int, p: int) -> int:
    """Rank that none of those of a member's jobs in a pool stands behind that rank may stop; counted anew now and then."""
    g = S.g[0]
    cell = S.mp[m, p]
    if g.now_ms - cell.last_rank_at_ms < LAST_RANK_EVERY_MS:
        return cell.last_rank
    last = np.int64(0)
    for n in range(S.pool[p].node0, S.pool[p].node1):
        s = S.node[n].seg if S.node[n].last_rank > last else -1
        while s >= 0:
            v = S.seg[s].job
            if S.job[v].run_rank > last and S.job[v].ckpt_ms > 0 and S.cls[S.job[v].cls].member == m:
                last = S.job[v].run_rank
            s = S.seg[s].node_next
    cell.last_rank, cell.last_rank_at_ms = last, g.now_ms
    return last


@inlined_kernel
def lost_work(S: State, v: int) -> int:
    """What stopping a job throws away, in GPU-ms: time since its last checkpoint × GPUs, plus its restart."""
    job = S.job[v]
    if job.ckpt_ms > 0:
        return (min(unsaved_ms(S, v), S.g[0].save_ms) + S.g[0].save_ms) * max(job.alloc, 1)
    return (S.g[0].now_ms - job.start_ms + S.g[0].save_ms) * max(job.alloc, 1)


@inlined_kernel
def spare_gpus(S: State, s: int, v: int) -> int:
    """GPUs of its segment s that an elastic job can go on without."""
    cls = S.cls[S.job[v].cls]
    if cls.min_gpus == 0:
        return 0
    return max(min(seg_gpus(S, s), S.job[v].alloc - cls.min_gpus), 0)


@inlined_kernel
def victim_cost(S: State, s: int, v: int, kind: int, is_shrinking: bool) -> int:
    """Order of victims: elastic jobs that only shrink, then lowest class, then least lost work."""
    job = S.job[v]
    cls = S.cls[job.cls]
    if kind == HOLD_RANK:
        return NEVER_MS // 2 - current_rank(S, v)
    if is_shrinking and spare_gpus(S, s, v) > 0:
        return np.int64(0)
    return (np.int64(cls.priority) << LOST_BITS) + min(lost_work(S, v), (1 << LOST_BITS) - 1)


@kernel
def cheapest_victim(
    S: State, n: int, gpus: int, kind: int, claimant: int, above: int, above_v: int, is_shrinking: bool
) -> int:
    """The segment on some GPUs of node n (a mask) whose job loses least, after (`above`, `above_v`) in that order; -1."""
    best, best_cost, best_v = -1, NEVER_MS, -1
    s = S.node[n].seg
    while s >= 0:
        v = S.seg[s].job
        if (gpus == WHOLE_NODE or S.seg[s].mask & gpus) and is_victim(S, v, kind, claimant):
            cost = victim_cost(S, s, v, kind, is_shrinking)
            if (cost > above or (cost == above and v > above_v)) and (
                cost < best_cost or (cost == best_cost and v < best_v)
            ):
                best, best_cost, best_v = s, cost, v
        s = S.seg[s].node_next
    return best


@inlined_kernel
def is_whole_victim(S: State, n: int, kind: int, claimant: int) -> bool:
    """Whether all jobs on a node may be victims, from what the node keeps of them; cheap."""
    node = S.node[n]
    if kind == HOLD_RECLAIM:
        return node.is_clear == 1
    if S.g[0].order != DURE:
        return True
    head = S.job[claimant]
    return node.owner == S.cls[head.cls].member and node.first_rank > head.rank + S.g[0].margin_ms


@inlined_kernel
def has_rank_victim(S: State, n: int, claimant: int) -> bool:
    """Whether rank may stop anybody on a node, from what the node keeps of its jobs; cheap."""
    node = S.node[n]
    head = S.job[claimant]
    if not (node.tenants >> (S.cls[head.cls].member & 63)) & 1:
        return False
    return S.g[0].order != DURE or node.last_rank > head.rank + S.g[0].margin_ms


@inlined_kernel
def least_cost(S: State, n: int, need: int, kind: int, claimant: int) -> int:
    """Less than which no victims on a node cost, from what the node keeps of its jobs; cheap."""
    node = S.node[n]
    if node.leaving > 0:
        return np.int64(0)
    if kind == HOLD_RANK:
        return RANK_COST // max(node.last_rank - S.job[claimant].rank, 1) if S.g[0].order == DURE else np.int64(0)
    if S.pool[node.pool].num_elastic > 0 or S.cls[S.job[claimant].cls].gpu_milli < 1000:
        return np.int64(0)
    # `lost_work` is at least what a checkpoint takes, on all of a victim's GPUs; and together they give what is wanted.
    least = np.int64(node.least_lent)
    gpus = max(least & ((1 << ALLOC_BITS) - 1), need - node.free, 1)
    return ((least >> ALLOC_BITS) << LOST_BITS) + S.g[0].save_ms * gpus


@kernel
def gpus_on(S: State, n: int, v: int) -> tuple[int, int]:
    """(whole GPUs, mask of all GPUs of which it has any) of a job on node n; one that has grown has several segments."""
    whole, mask = np.int64(0), np.int64(0)
    s = S.node[n].seg
    while s >= 0:
        if S.seg[s].job == v:
            whole += seg_gpus(S, s)
            mask |= S.seg[s].mask
        s = S.seg[s].node_next
    return whole, mask


@kernel
def revoked_gpu(S: State, n: int, s: int) -> int:
    """1 if segment s is the first of a shared GPU on which every job is leaving, else 0."""
    mask = S.seg[s].mask
    if mask == 0:
        return 0
    t = S.node[n].seg
    first = True
    while t >= 0:
        if S.seg[t].mask & mask:
            if S.job[S.seg[t].job].state != REVOKING:
                return 0
            if t < s:
                first = False
        t = S.seg[t].node_next
    return 1 if first else 0


@kernel
def leaving_on(S: State, n: int) -> tuple[int, int, int, int]:
    """What those who have been told to leave a node will give back: whole GPUs, CPU, memory, network."""
    free = cpu = mem = net = np.int64(0)
    s = S.node[n].seg if S.node[n].leaving > 0 else -1
    while s >= 0:
        v = S.seg[s].job
        if S.job[v].state == REVOKING:
            c, count = S.job[v].cls, gpus_in(S.seg[s].mask)
            got = seg_gpus(S, s)
            free += got if got > 0 else revoked_gpu(S, n, s)
            cpu += cpu_for(S, c, count)
            mem += mem_for(S, c, count)
            net += net_for(S, c, count)
        s = S.seg[s].node_next
    return free, cpu, mem, net


@kernel
def frees_gpu(S: State, n: int, s: int, kind: int, claimant: int) -> int:
    """1 if segment s is the last victim on its shared GPU and nobody stays there but victims and who leaves, else 0."""
    mask = S.seg[s].mask
    if mask == 0:
        return 0
    v = S.seg[s].job
    cost = victim_cost(S, s, v, kind, False)
    t = S.node[n].seg
    while t >= 0:
        u = S.seg[t].job
        if t != s and S.seg[t].mask & mask and S.job[u].state != REVOKING:
            if not is_victim(S, u, kind, claimant):
                return 0
            other = victim_cost(S, t, u, kind, False)
            if other > cost or (other == cost and u > v):
                return 0
        t = S.seg[t].node_next
    return 1


@kernel
def victims_cost(S: State, n: int, need: int, kind: int, claimant: int, is_shrinking: bool) -> int:
    """Cost of the cheapest victims on a node that give `need` GPUs and what is wanted beside them; NO_COST: too few.

    `is_shrinking`: elastic jobs give what they can spare, first of all, and are not stopped; else they are as others.
    """
    c = S.job[claimant].cls
    free, cpu, mem, net = leaving_on(S, n)
    free += S.node[n].free
    total = np.int64(0)
    above, above_v = np.int64(-1), -1
    while free < need or not fits_with(S, n, c, need, cpu, mem, net):
        s = cheapest_victim(S, n, WHOLE_NODE, kind, claimant, above, above_v, is_shrinking)
        if s < 0:
            return NO_COST
        v = S.seg[s].job
        above, above_v = victim_cost(S, s, v, kind, is_shrinking), v
        got, mask = gpus_on(S, n, v)
        touched = gpus_in(mask)
        if is_shrinking and spare_gpus(S, s, v) > 0:
            got = touched = min(got, S.job[v].alloc - S.cls[S.job[v].cls].min_gpus)
        free += got
        if S.seg[s].milli < 1000:
            free += frees_gpu(S, n, s, kind, claimant)
        cpu += cpu_for(S, S.job[v].cls, touched)
        mem += mem_for(S, S.job[v].cls, touched)
        net += net_for(S, S.job[v].cls, touched)
        if kind == HOLD_RANK:
            # The further behind the claimant it stands, the less a victim costs.
            total += RANK_COST // max(current_rank(S, v) - S.job[claimant].rank, 1)
        else:
            total += above
    return total


@kernel
def rest_on(S: State, n: int, i: int) -> int:
    """What is free of GPU i of a node, in 1/1000, once those have left who have been told to."""
    rest = np.int64(1000)
    s = S.node[n].seg
    while s >= 0:
        if (S.seg[s].mask >> i) & 1 and S.job[S.seg[s].job].state != REVOKING:
            rest -= min(S.seg[s].milli, 1000)
        s = S.seg[s].node_next
    return rest


@kernel
def has_rest(S: State, n: int, milli: int) -> bool:
    """Whether some GPU of a node has so much free once those have left who have been told to."""
    for i in range(S.node[n].num):
        if rest_on(S, n, i) >= milli:
            return True
    return False


@kernel
def part_cost_on(S: State, n: int, i: int, claimant: int, is_shrinking: bool) -> int:
    """Cost of the cheapest borrowers who leave GPU i of a node, and then others, for a claimant's part of a GPU; NO_COST."""
    c = S.job[claimant].cls
    milli = gpu_milli_on(S, c, S.node[n].pool)
    _, cpu, mem, net = leaving_on(S, n)
    rest = rest_on(S, n, i)
    gpus = np.int64(1) << i
    total = np.int64(0)
    above, above_v = np.int64(-1), -1
    last, last_v = np.int64(-1), -1
    while rest < milli or not fits_with(S, n, c, 1, cpu, mem, net):
        if rest >= milli and gpus != WHOLE_NODE:
            # The GPU has room; what is wanted beside it may be had from all who stand on the node.
            last, last_v = above, above_v
            above, above_v, gpus = np.int64(-1), -1, WHOLE_NODE
        s = cheapest_victim(S, n, gpus, HOLD_RECLAIM, claimant, above, above_v, is_shrinking)
        if s < 0:
            return NO_COST
        v = S.seg[s].job
        above, above_v = victim_cost(S, s, v, HOLD_RECLAIM, is_shrinking), v
        _, mask = gpus_on(S, n, v)
        if gpus == WHOLE_NODE and (mask >> i) & 1 and (above < last or (above == last and v <= last_v)):
            continue  # counted already
        rest += min(S.seg[s].milli, 1000)
        touched = 1 if is_shrinking and spare_gpus(S, s, v) > 0 else gpus_in(mask)
        cpu += cpu_for(S, S.job[v].cls, touched)
        mem += mem_for(S, S.job[v].cls, touched)
        net += net_for(S, S.job[v].cls, touched)
        total += above
    return total


@kernel
def part_cost(S: State, n: int, claimant: int) -> tuple[int, int, bool]:
    """(cost, GPU, whether elastic jobs only shrink) of the cheapest way to a part of a GPU on a node; NO_COST: none."""
    best, best_gpu = NO_COST, -1
    for is_shrinking in (True, False):
        for i in range(S.node[n].num):
            cost = part_cost_on(S, n, i, claimant, is_shrinking)
            if cost >= 0 and (best < 0 or cost < best):
                best, best_gpu = cost, i
        if best >= 0:
            return best, best_gpu, is_shrinking
    return best, best_gpu, False
