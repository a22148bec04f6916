"""Nodes: what is free on them, the indexes that find it, and the segments of jobs that stand there."""

from __future__ import annotations

import numpy as np

from dure.policy.kernels.bits import clear_bit, gpus_in, set_bit
from dure.policy.kernels.compile import kernel
from dure.policy.kernels.expected import gpu_chosen
from dure.policy.kernels.layout import BLOCK_ROWS, GPUS_MAX, NEVER_MS, RACK_ROWS, ROW_OVER, ROW_PARTIAL, UP, State

#: Slices of a GPU that follows NVIDIA's profiles, and what 1 to 7 of them take: 1g, 2g, 3g, 4g, and the whole.
MIG_SLICES = 7
MIG_MILLI = (126, 252, 480, 520, 1000, 1000, 1000)
#: Bits of a job's GPUs below its priority class in `NODE.least_lent`; its value where no borrower stands.
ALLOC_BITS, NO_LENT = 24, (1 << 31) - 1


@kernel
def node_power_w(S: State, n: int) -> int:
    """Electric power of a node as it is now (rule 8); one still to be delivered has its standby power set aside."""
    node = S.node[n]
    pool = S.pool[node.pool]
    if node.used_milli == 0:
        per_gpu = pool.sleep_w if S.g[0].is_sleep else pool.idle_w
        return per_gpu * node.num
    return pool.idle_w * node.num + (pool.busy_w - pool.idle_w) * node.used_milli // 1000


@kernel
def cpu_for(S: State, c: int, count: int) -> int:
    """CPU beside `count` GPUs of a job (all of the job's, where it has no GPU)."""
    return S.cls[c].cpu_base + S.cls[c].cpu_each * count


@kernel
def mem_for(S: State, c: int, count: int) -> int:
    """Memory beside `count` GPUs of a job (all of the job's, where it has no GPU)."""
    return S.cls[c].mem_base + S.cls[c].mem_each * count


@kernel
def net_for(S: State, c: int, count: int) -> int:
    """Network bandwidth beside `count` GPUs of a job (all of the job's, where it has no GPU)."""
    return S.cls[c].net_base + S.cls[c].net_each * count


@kernel
def fits_with(S: State, n: int, c: int, count: int, cpu: int, mem: int, net: int) -> bool:
    """`fits`, were so much CPU, memory and network given back as well."""
    node = S.node[n]
    return (
        node.cpu_free + cpu >= cpu_for(S, c, count)
        and node.mem_free + mem >= mem_for(S, c, count)
        and node.net_free + net >= net_for(S, c, count)
    )


@kernel
def fits(S: State, n: int, c: int, count: int) -> bool:
    """Whether a node has free what a job of class c wants beside `count` GPUs: CPU, memory, network."""
    return fits_with(S, n, c, count, 0, 0, 0)


@kernel
def may_ever_fit(S: State, n: int, c: int, count: int) -> bool:
    """`fits`, were the node empty."""
    node = S.node[n]
    return (
        node.cpu_all >= cpu_for(S, c, count)
        and node.mem_all >= mem_for(S, c, count)
        and node.net_all >= net_for(S, c, count)
    )


@kernel
def give_beside(S: State, n: int, c: int, count: int, sign: int) -> None:
    """Give a node back what stood beside `count` GPUs of a job of class c (`sign` -1: take it)."""
    node = S.node[n]
    node.cpu_free += sign * cpu_for(S, c, count)
    node.mem_free += sign * mem_for(S, c, count)
    node.net_free += sign * net_for(S, c, count)


@kernel
def gpu_milli_on(S: State, c: int, p: int) -> int:
    """What each GPU of a class takes in a pool, in 1/1000: a part is a whole MIG slice where the GPUs are cut.

    Of seven slices (A100, H100 and later) a part takes the profile 1g, 2g, 3g, 4g or 7g, which differ in slices of
    compute (7) and of memory (8): `MIG_MILLI` are sums that fit into a GPU just when both do (NVIDIA MIG user guide,
    supported profiles).
    """
    milli = S.cls[c].gpu_milli
    slices = S.pool[p].slices
    if milli >= 1000 or slices <= 1:
        return milli
    need = (milli * slices + 999) // 1000
    if slices != MIG_SLICES:
        return 1000 * need // slices
    return MIG_MILLI[need - 1]


@kernel
def milli_in(S: State, j: int) -> int:
    """`gpu_milli_on` of a job that runs, where it runs."""
    return gpu_milli_on(S, S.job[j].cls, S.job[j].pool)


@kernel
def site_add_power(S: State, site: int, delta_w: int) -> None:
    """Change a site's power, after adding up the energy used until now."""
    s = S.site[site]
    now = S.g[0].now_ms
    s.energy_wms += s.power_w * (now - s.at_ms)
    s.at_ms = now
    s.power_w += delta_w


@kernel
def unindex(S: State, n: int) -> None:
    """Take a node out of the free indexes, before it changes."""
    node = S.node[n]
    if not node.is_indexed:
        return
    node.is_indexed = 0
    node.stamp += 1
    clear_bit(S.bits, node.free, n)
    if node.partial > 0:
        clear_bit(S.bits, ROW_PARTIAL + node.partial - 1, n)
    S.pool[node.pool].free_milli -= node.num * 1000 - node.used_milli
    S.g[0].frag_gpus -= node.free if node.free < node.num else 0
    if node.free == node.num and node.num > 0:
        rack_add(S, node.rack, -1)


@kernel
def rack_add(S: State, r: int, delta: int) -> None:
    """Count a wholly free node into (or out of) its rack, block and pool."""
    rack = S.rack[r]
    if rack.whole > 0:
        clear_bit(S.rack_bits, min(rack.whole, RACK_ROWS - 1), r)
    rack.whole += delta
    if rack.whole > 0:
        set_bit(S.rack_bits, min(rack.whole, RACK_ROWS - 1), r)
    b = S.node[rack.node0].block
    block = S.block[b]
    if block.whole > 0:
        clear_bit(S.block_bits, min(block.whole, BLOCK_ROWS - 1), b)
    block.whole += delta
    if block.whole > 0:
        set_bit(S.block_bits, min(block.whole, BLOCK_ROWS - 1), b)
    S.pool[S.node[rack.node0].pool].whole += delta
    S.g[0].whole_free += delta


@kernel
def index(S: State, n: int) -> None:
    """Put a node into the free indexes, unless it is down or held for somebody."""
    node = S.node[n]
    if node.is_indexed or node.state != UP or node.hold >= 0:
        return
    node.is_indexed = 1
    best = 0
    if node.used_milli < node.num * 1000 - node.free * 1000:
        # Some GPU is partly free: keep the largest rest in eighths, rounded down, for the bitmap.
        for i in range(node.num):
            if not (node.free_mask >> i) & 1 and S.gfree[n, i] > best:
                best = S.gfree[n, i]
    node.partial = min(best // 125 + 1, 8) if best > 0 else 0
    set_bit(S.bits, node.free, n)
    if node.partial > 0:
        set_bit(S.bits, ROW_PARTIAL + node.partial - 1, n)
    S.pool[node.pool].free_milli += node.num * 1000 - node.used_milli
    S.g[0].frag_gpus += node.free if node.free < node.num else 0
    if node.free == node.num and node.num > 0:
        rack_add(S, node.rack, 1)


@kernel
def note_gain(S: State, n: int) -> None:
    """Remember, for the next look at the pool, how many GPUs are free on a node that has become freer."""
    node = S.node[n]
    pool = S.pool[node.pool]
    if (node.is_indexed or pool.holds > 0) and node.free > pool.gain:
        pool.gain = node.free


@kernel
def index_claim(S: State, n: int) -> None:
    """Keep the bitmaps of how many GPUs a claim may find on a node up to date; in none while nothing there is lent.

    An upper bound: a GPU that several parts share counts once for each that is lent or leaving.
    """
    node = S.node[n]
    rows = 0
    if node.over_segs > 0 and node.state == UP and node.hold < 0:
        rows = 1 + min(node.free + node.lent_gpus, GPUS_MAX)
    while node.claim_rows < rows:
        set_bit(S.bits, ROW_OVER + node.claim_rows, n)
        node.claim_rows += 1
    while node.claim_rows > rows:
        node.claim_rows -= 1
        clear_bit(S.bits, ROW_OVER + node.claim_rows, n)


@kernel
def count_clear(S: State, n: int) -> None:
    """Keep count, by rack, block and pool, of the nodes on which nothing stands but what is above a guarantee."""
    node = S.node[n]
    index_claim(S, n)
    is_clear = node.state == UP and node.hold < 0 and node.num > 0 and node.used_milli == node.over_milli
    if is_clear == (node.is_clear == 1):
        return
    delta = 1 if is_clear else -1
    node.is_clear = 1 if is_clear else 0
    S.rack[node.rack].clear += delta
    S.block[node.block].clear += delta
    S.pool[node.pool].clear += delta


@kernel
def lowest_gpus(mask: int, count: int) -> int:
    """The `count` lowest set bits of a mask."""
    out = 0
    for _ in range(count):
        bit = mask & -mask
        out |= bit
        mask ^= bit
    return out


@kernel
def count_tenant(S: State, n: int, j: int) -> None:
    """Count a job in what a node keeps of its jobs.

    When the last ends; the first rank and the last, of those that rank may stop: one without checkpoints stands before
    all others; whose they are, if one member's, and a set of the members, of which two may share a bit; the lowest class
    and, of it, the fewest GPUs in all of one that came as a borrower.
    """
    node = S.node[n]
    job = S.job[j]
    m = S.cls[job.cls].member
    if node.free_at_ms == 0:
        node.first_rank, node.last_rank = NEVER_MS, -NEVER_MS
        node.owner, node.tenants = m, 0
        node.least_lent = NO_LENT
    elif node.owner != m:
        node.owner = -1
    rank = job.run_rank if job.ckpt_ms > 0 else -NEVER_MS
    node.first_rank = min(node.first_rank, rank)
    node.last_rank = max(node.last_rank, rank)
    node.tenants |= np.int64(1) << (m & 63)
    node.free_at_ms = max(node.free_at_ms, job.pred_end_ms, 1)
    if job.is_borrowed:
        node.least_lent = min(node.least_lent, (np.int64(S.cls[job.cls].priority) << ALLOC_BITS) + job.alloc)


@kernel
def recount_tenants(S: State, n: int) -> None:
    """Count a node's jobs anew, after one has left or changed its rank."""
    S.node[n].free_at_ms = 0
    s = S.node[n].seg
    while s >= 0:
        count_tenant(S, n, S.seg[s].job)
        s = S.seg[s].node_next


@kernel
def tightest_gpu(S: State, n: int, milli: int) -> int:
    """The partly used GPU of a node with the least rest that suffices, else the first free one."""
    node = S.node[n]
    best = -1
    for i in range(node.num):
        if not (node.free_mask >> i) & 1 and S.gfree[n, i] >= milli and (best < 0 or S.gfree[n, i] < S.gfree[n, best]):
            best = i
    if best < 0:
        best = 0
        while not (node.free_mask >> best) & 1:
            best += 1
    return best


@kernel
def add_segment(S: State, j: int, n: int, count: int, milli: int) -> None:
    """Give `count` GPUs (or `milli` of one) of node n, which must be free, to job j, and what it wants beside them."""
    g = S.g[0]
    job = S.job[j]
    node = S.node[n]
    before_w = node_power_w(S, n)
    best = gpu_chosen(S, job.cls, n)
    unindex(S, n)
    s = g.free_seg
    seg = S.seg[s]
    g.free_seg = seg.next
    seg.job, seg.node = j, n
    seg.milli = milli
    if milli >= 1000 or count == 0:
        seg.mask = lowest_gpus(node.free_mask, count)
        node.free_mask &= ~seg.mask
        node.free -= count
        node.used_milli += count * 1000
    else:
        if best < 0:
            best = tightest_gpu(S, n, milli)
        if (node.free_mask >> best) & 1:
            node.free_mask ^= 1 << best
            node.free -= 1
            S.gfree[n, best] = 1000
        S.gfree[n, best] -= milli
        seg.mask = 1 << best
        node.used_milli += milli
    give_beside(S, n, job.cls, count, -1)
    count_tenant(S, n, j)
    seg.next = job.seg
    job.seg = s
    seg.node_prev = -1
    seg.node_next = node.seg
    if node.seg >= 0:
        S.seg[node.seg].node_prev = s
    node.seg = s
    index(S, n)
    count_clear(S, n)
    site_add_power(S, S.pool[node.pool].site, node_power_w(S, n) - before_w)


@kernel
def seg_gpus(S: State, s: int) -> int:
    """Whole GPUs of a segment; 0 for a fraction."""
    seg = S.seg[s]
    return gpus_in(seg.mask) if seg.milli >= 1000 else 0


@kernel
def free_gpus_of(S: State, n: int, s: int, mask: int) -> None:
    """Return GPUs of a segment, and what stands beside them, to their node; the segment stays if it keeps any."""
    seg = S.seg[s]
    node = S.node[n]
    before_w = node_power_w(S, n)
    unindex(S, n)
    if seg.milli >= 1000 or mask == 0:
        node.free_mask |= mask
        node.free += gpus_in(mask)
        node.used_milli -= gpus_in(mask) * 1000
    else:
        i = 0
        while not (mask >> i) & 1:
            i += 1
        S.gfree[n, i] += seg.milli
        node.used_milli -= seg.milli
        if S.gfree[n, i] >= 1000:
            S.gfree[n, i] = 0
            node.free_mask |= mask
            node.free += 1
    seg.mask &= ~mask
    give_beside(S, n, S.job[seg.job].cls, gpus_in(mask), 1)
    index(S, n)
    note_gain(S, n)
    count_clear(S, n)
    site_add_power(S, S.pool[node.pool].site, node_power_w(S, n) - before_w)


@kernel
def unlink_segment(S: State, s: int) -> None:
    """Take a segment out of its node's list and give it back to the free list."""
    seg = S.seg[s]
    node = S.node[seg.node]
    if seg.node_prev >= 0:
        S.seg[seg.node_prev].node_next = seg.node_next
    else:
        node.seg = seg.node_next
    if seg.node_next >= 0:
        S.seg[seg.node_next].node_prev = seg.node_prev
    recount_tenants(S, seg.node)
    seg.next = S.g[0].free_seg
    S.g[0].free_seg = s
