"""Making room: nodes held for a gang, and the victims that must leave them (rules 1, 5, 6)."""

from __future__ import annotations

from typing import Any

import numpy as np

from dure.policy.kernels.bits import next_bit
from dure.policy.kernels.compile import inlined_kernel, kernel
from dure.policy.kernels.layout import (
    HOLD,
    HOLD_BACKFILL,
    HOLD_RANK,
    HOLD_RECLAIM,
    HOLD_RESERVED,
    NEVER_MS,
    REVOKING,
    ROW_OVER,
    RUNNING,
    UP,
    State,
)
from dure.policy.kernels.leases import check_hold, count_hold, decide, link_hold, revoke, shrink
from dure.policy.kernels.nodes import count_clear, fits, fits_with, gpu_milli_on, may_ever_fit, milli_in, unindex
from dure.policy.kernels.place import shape_on
from dure.policy.kernels.prefetch import FETCHED, fetch_tenants, prefetch
from dure.policy.kernels.quota import notice_ms
from dure.policy.kernels.victims import (
    NO_COST,
    WHOLE_NODE,
    cheapest_victim,
    has_rank_victim,
    has_rest,
    is_whole_victim,
    least_cost,
    leaving_on,
    part_cost,
    spare_gpus,
    victims_cost,
    was_sent_away,
)

#: In place of the cost of a node: picked already; to be found out; sure to be above the best that was found.
IS_PICKED, BY_VICTIMS, IS_DEARER = np.int64(-2), np.int64(-3), np.int64(-4)


@kernel
def free_from_ms(S: State, n: int) -> int:
    """When the last job on a node is predicted to be gone; who has been told to leave goes when it must."""
    node = S.node[n]
    if node.leaving == 0:
        return node.free_at_ms
    last = np.int64(0)
    s = node.seg
    while s >= 0:
        job = S.job[S.seg[s].job]
        last = max(last, job.vacate_ms if job.state == REVOKING else job.pred_end_ms)
        s = S.seg[s].node_next
    return last


@inlined_kernel
def cost_at_sight(S: State, n: int, need: int, kind: int, claimant: int) -> int:
    """`node_cost` where the node's own record tells it; BY_VICTIMS where it is that of those who stand there."""
    node = S.node[n]
    c = S.job[claimant].cls
    if node.state != UP or node.hold >= 0 or node.num < need or not may_ever_fit(S, n, c, need):
        return NO_COST
    if kind == HOLD_RESERVED:
        if node.free >= need and fits(S, n, c, need):
            return np.int64(0)
        return max(max(free_from_ms(S, n), S.g[0].now_ms) - S.job[claimant].begin_ms, 0) + 1
    if kind != HOLD_RECLAIM and kind != HOLD_RANK:
        return max(node.free_at_ms - S.g[0].now_ms, 0)
    if S.cls[c].gpu_milli < 1000:
        return BY_VICTIMS
    if kind == HOLD_RANK and S.g[0].is_swapping:
        if node.free > 0 or node.leaving > 0:
            return NO_COST
    elif node.free >= need and fits(S, n, c, need):
        return np.int64(0)
    if kind == HOLD_RECLAIM and node.over_segs == 0:
        return NO_COST
    if need == node.num and not is_whole_victim(S, n, kind, claimant):
        return NO_COST
    if kind == HOLD_RANK and not has_rank_victim(S, n, claimant):
        return NO_COST
    return BY_VICTIMS


@kernel
def cost_by_victims(S: State, n: int, need: int, kind: int, claimant: int) -> int:
    """`node_cost` where somebody has to leave for it."""
    if S.cls[S.job[claimant].cls].gpu_milli < 1000:
        return part_cost(S, n, claimant)[0]
    cost = NO_COST
    if kind == HOLD_RECLAIM and S.pool[S.node[n].pool].num_elastic > 0:
        cost = victims_cost(S, n, need, kind, claimant, True)
    return cost if cost != NO_COST else victims_cost(S, n, need, kind, claimant, False)


@kernel
def node_cost(S: State, n: int, need: int, kind: int, claimant: int) -> int:
    """Cost of having `need` free GPUs on node n, or NO_COST where victims do not suffice.

    Backfill holds: ms until the node is predicted free; reservations: ms after they begin; else GPU-ms of work lost.
    """
    cost = cost_at_sight(S, n, need, kind, claimant)
    return cost if cost != BY_VICTIMS else cost_by_victims(S, n, need, kind, claimant)


@kernel
def find_by_victims(S: State, nodes: Any, num: int, need: int, kind: int, claimant: int) -> None:
    """Put `node_cost` into `S.cost` of those of nodes[:num], at most FETCHED, that have BY_VICTIMS there."""
    segments = np.empty(FETCHED, np.int64)
    left = 0
    for i in range(num):
        s = S.node[nodes[i]].seg if S.cost[nodes[i]] == BY_VICTIMS else -1
        if s >= 0:
            segments[left] = s
            prefetch(S.seg[s])
            left += 1
    fetch_tenants(S, segments, left)
    for i in range(num):
        n = nodes[i]
        if S.cost[n] == BY_VICTIMS:
            S.cost[n] = cost_by_victims(S, n, need, kind, claimant)


@kernel
def log2_of(x: int) -> int:
    """Whole part of the base-2 logarithm; 0 for 0."""
    out = 0
    while x > 1:
        x >>= 1
        out += 1
    return out


@kernel
def domain_cost(S: State, n0: int, n1: int, count: int, is_sum: bool) -> tuple[int, int]:
    """(cost / 16, threshold) of the `count` cheapest nodes of [n0, n1), by their costs' powers of two; -1: too few."""
    num = np.zeros(64, np.int64)
    total = np.zeros(64, np.int64)
    feasible = 0
    for n in range(n0, n1):
        cost = S.cost[n]
        if cost >= 0:
            b = log2_of(cost + 1)
            num[b] += 1
            # Sixteenths: the sum over a pool of 60,000 nodes stays in 63 bits.
            total[b] += cost >> 4
            feasible += 1
    if feasible < count:
        return np.int64(-1), 0
    left, cost = count, np.int64(0)
    for b in range(64):
        if num[b] == 0:
            continue
        if num[b] >= left:
            mean = total[b] // num[b]
            return (cost + mean * left if is_sum else mean), b
        left -= num[b]
        cost += total[b]
    return cost, 63


@kernel
def plan(S: State, c: int, p: int, gpus: int, kind: int, claimant: int) -> int:
    """Pick the cheapest nodes of the smallest domain that can hold the gang; the length of the pick, 0: none."""
    if gpus == 0:
        return plan_one(S, p, 0, kind, claimant)
    parts, per_node, rest = shape_on(S, c, p, gpus)
    if parts == 0:
        return 0
    need = parts + (1 if rest > 0 else 0)
    pool = S.pool[p]
    if need == 1:
        return plan_one(S, p, per_node, kind, claimant)
    if S.cls[c].topology == 1:
        return 0
    r, cut = best_domain(S, p, True, parts, per_node, rest, kind, claimant)
    if r >= 0:
        return pick_gang(S, S.rack[r].node0, S.rack[r].node1, parts, cut, per_node, rest, kind, claimant)
    if S.cls[c].topology == 2:
        return 0
    b, cut = best_domain(S, p, False, parts, per_node, rest, kind, claimant)
    if b >= 0:
        return pick_gang(S, S.block[b].node0, S.block[b].node1, parts, cut, per_node, rest, kind, claimant)
    if S.cls[c].topology == 3 or (is_whole_reclaim(S, p, per_node, kind) and pool.clear < parts):
        return 0
    if kind == HOLD_RANK and need <= pool.block_nodes and pool.node1 - pool.node0 > 4 * S.g[0].scan_max:
        # One's own jobs are not stopped all over a large pool for a gang that a block could hold.
        return 0
    n0, n1 = pool.node0, pool.node1
    if kind == HOLD_RANK:
        # A part of the pool from where the last search ended: as much as the gang is wide, four times.
        size = min(4 * max(need, S.g[0].scan_max), n1 - n0)
        n0 = min(n0 + pool.cursor, n1 - size)
        n1 = n0 + size
        pool.cursor = n1 - pool.node0 if n1 < pool.node1 else 0
    cost, cut = gang_cost(S, n0, n1, parts, per_node, rest, kind, claimant, NEVER_MS)
    if cost < 0:
        return 0
    return pick_gang(S, n0, n1, parts, cut, per_node, rest, kind, claimant)


@kernel
def gang_cost(
    S: State, n0: int, n1: int, parts: int, per_node: int, rest: int, kind: int, claimant: int, most: int
) -> tuple[int, int]:
    """`domain_cost` of a gang's full nodes in [n0, n1), whose costs are left in `S.cost`.

    -1 also if its rest has no room, or where the cost is sure to be above `most`.
    """
    is_sum = kind == HOLD_RECLAIM or kind == HOLD_RANK
    if least_domain_cost(S, n0, n1, parts, per_node, kind, claimant) > (most if is_sum else NEVER_MS):
        return np.int64(-1), 0
    near = np.empty(FETCHED, np.int64)
    others = 0
    for first in range(n0, n1, FETCHED):
        num = min(FETCHED, n1 - first)
        for i in range(num):
            near[i] = first + i
        find_by_victims(S, near, num, per_node, kind, claimant)
        if rest > 0:
            for n in range(first, first + num):
                if S.cost[n] >= 0 or node_cost(S, n, rest, kind, claimant) >= 0:
                    others += 1
    cost, cut = domain_cost(S, n0, n1, parts, is_sum)
    if rest > 0 and others <= parts:
        return np.int64(-1), 0
    return cost, cut


@kernel
def least_domain_cost(S: State, n0: int, n1: int, parts: int, per_node: int, kind: int, claimant: int) -> int:
    """Less than which the `parts` cheapest nodes of [n0, n1) do not cost by `domain_cost`; NEVER_MS + 1: there are too few.

    Leaves in `S.cost` what is told at sight.
    """
    num = np.int64(0)
    total, least, most = np.int64(0), NEVER_MS, np.int64(0)
    for n in range(n0, n1):
        # A search mostly goes on with the nodes behind.
        prefetch(S.node[min(n + FETCHED, S.node.shape[0] - 1)])
        cost = cost_at_sight(S, n, per_node, kind, claimant)
        S.cost[n] = cost
        if cost == BY_VICTIMS:
            cost = least_cost(S, n, per_node, kind, claimant)
        if cost >= 0:
            num += 1
            total += cost >> 4
            least, most = min(least, cost >> 4), max(most, cost >> 4)
    if num < parts:
        return NEVER_MS + 1
    return max(parts * least, total - (num - parts) * most)


@kernel
def pick_gang(
    S: State, n0: int, n1: int, parts: int, cut: int, per_node: int, rest: int, kind: int, claimant: int
) -> int:
    """`pick_cheapest` for a gang's full nodes, and for its smaller last part the cheapest other node."""
    num = pick_cheapest(S, n0, n1, parts, cut, per_node)
    if rest == 0:
        return num
    for i in range(num):
        S.cost[S.pick[i, 0]] = IS_PICKED
    best, best_cost = -1, NEVER_MS
    for n in range(n0, n1):
        cost = node_cost(S, n, rest, kind, claimant) if S.cost[n] != IS_PICKED else NO_COST
        if cost >= 0 and cost < best_cost:
            best, best_cost = n, cost
    S.pick[num, 0], S.pick[num, 1] = best, rest
    return num + 1


@kernel
def is_whole_reclaim(S: State, p: int, per_node: int, kind: int) -> bool:
    """Whether a search is for whole nodes of a reclaim, so that the counts of clear nodes bound what it can find."""
    return kind == HOLD_RECLAIM and S.pool[p].is_plain == 1 and per_node == S.pool[p].per_node


@kernel
def best_domain(
    S: State,
    p: int,
    is_rack: bool,
    parts: int,
    per_node: int,
    rest: int,
    kind: int,
    claimant: int,
) -> tuple[int, int]:
    """(rack or block, threshold of its node costs) whose `parts` cheapest nodes cost least; (-1, 0): none.

    Looks on from where the last search ended, until a domain was found and 4 × `scan_max` nodes were seen (by rank,
    `scan_max`, also when none was): the work of a decision does not grow with the fleet.
    """
    pool = S.pool[p]
    first = pool.rack0 if is_rack else pool.block0
    num = (pool.rack1 if is_rack else pool.block1) - first
    best, best_cost, best_cut = -1, NEVER_MS, 0
    need = parts + (1 if rest > 0 else 0)
    if need > (pool.rack_nodes if is_rack else pool.block_nodes):
        return best, best_cut
    looked = 0
    is_whole = is_whole_reclaim(S, p, per_node, kind)
    limit = (1 if kind == HOLD_RANK else 4) * S.g[0].scan_max
    at = pool.node0 + pool.cursor
    start = 0
    if pool.node1 - pool.node0 > limit and at < pool.node1:
        start = (S.node[at].rack if is_rack else S.node[at].block) - first
    for i in range(num):
        d = first + (start + i) % num
        dom = S.rack[d] if is_rack else S.block[d]
        if dom.node1 - dom.node0 < need or (is_whole and dom.clear < parts):
            continue
        cost, cut = gang_cost(S, dom.node0, dom.node1, parts, per_node, rest, kind, claimant, best_cost)
        looked += dom.node1 - dom.node0
        if cost >= 0 and (cost < best_cost or (cost == best_cost and d < best)):
            best, best_cost, best_cut = d, cost, cut
        if (best >= 0 or kind == HOLD_RANK) and looked >= limit:
            pool.cursor = dom.node1 - pool.node0 if dom.node1 < pool.node1 else 0
            break
    return best, best_cut


@kernel
def plan_one(S: State, p: int, need: int, kind: int, claimant: int) -> int:
    """The cheapest single node of the first `scan_max` that will do, from where the last search ended.

    By rank, of the first `scan_max` at all: one's own jobs may all stand before the claimant.
    """
    pool = S.pool[p]
    size = pool.node1 - pool.node0
    best, best_cost = -1, NEVER_MS
    looked = 0
    start = pool.cursor if size > S.g[0].scan_max else 0
    # A part of a GPU may be found beside what stays on it.
    row = ROW_OVER + (0 if S.cls[S.job[claimant].cls].gpu_milli < 1000 else need)
    near = np.empty(FETCHED, np.int64)
    # Once round the pool: from its cursor to its end, then from its beginning to the cursor.
    n, stop = pool.node0 + start, pool.node1
    is_over = False
    while not is_over:
        num = 0
        while num < FETCHED:
            if kind == HOLD_RECLAIM and n < stop:
                # On to the next node on which enough may be reclaimed.
                over = next_bit(S.bits, row, n, stop)
                n = over if over >= 0 else stop
            if n == stop:
                if stop < pool.node1 or start == 0:
                    break
                n, stop = pool.node0, pool.node0 + start
                continue
            near[num] = n
            prefetch(S.node[n])
            num += 1
            n += 1
        if num == 0:
            break
        for i in range(num):
            cost = cost_at_sight(S, near[i], need, kind, claimant)
            if cost == BY_VICTIMS and least_cost(S, near[i], need, kind, claimant) > best_cost:
                cost = IS_DEARER
            S.cost[near[i]] = cost
        find_by_victims(S, near, num, need, kind, claimant)
        for i in range(num):
            cost = S.cost[near[i]]
            if cost >= 0 or cost == IS_DEARER:
                looked += 1
            if cost >= 0 and (cost < best_cost or (cost == best_cost and near[i] < best)):
                best, best_cost = near[i], cost
            passed = near[i] - pool.node0 - start
            passed += 1 if passed >= 0 else size + 1
            if looked >= S.g[0].scan_max or (kind == HOLD_RANK and passed >= S.g[0].scan_max):
                pool.cursor = near[i] + 1 - pool.node0 if near[i] + 1 < pool.node1 else 0
                is_over = True
                break
    if best < 0:
        return 0
    S.pick[0, 0], S.pick[0, 1] = best, need
    return 1


@kernel
def kth_cost(S: State, n0: int, n1: int, need: int, cut: int) -> int:
    """Cost of the `need`-th cheapest node of [n0, n1), by six bits at a time from the highest of bucket `cut`."""
    found, left = np.int64(0), need
    for shift in range((cut + 1) // 6 * 6, -1, -6):
        num = np.zeros(64, np.int64)
        for n in range(n0, n1):
            if S.cost[n] >= 0 and S.cost[n] >> (shift + 6) == found:
                num[(S.cost[n] >> shift) & 63] += 1
        digit = 0
        while digit < 63 and num[digit] < left:
            left -= num[digit]
            digit += 1
        found = (found << 6) + digit
    return found


@kernel
def pick_cheapest(S: State, n0: int, n1: int, need: int, cut: int, per_node: int) -> int:
    """The `need` cheapest nodes of [n0, n1), ties in order of id; `cut` is the bucket of the dearest."""
    limit = kth_cost(S, n0, n1, need, cut)
    num = 0
    for is_at_limit in range(2):
        for n in range(n0, n1):
            cost = S.cost[n]
            if num < need and cost >= 0 and (cost == limit if is_at_limit else cost < limit):
                S.pick[num, 0], S.pick[num, 1] = n, per_node
                num += 1
    return num


@kernel
def hold_pick(S: State, j: int, p: int, num: int, kind: int, gpus: int) -> int:
    """Hold the picked nodes for job j and send their victims away; the hold's index.

    The job must be in no heap. A reclaim's start is the latest deadline of its victims; it is promised to the
    claimant, and a later start is a breach of its guarantee.
    """
    g = S.g[0]
    h = g.free_hold
    if h < 0:
        g.status = 2
        return -1
    hold = S.hold[h]
    g.free_hold = hold.next
    hold.job, hold.pool, hold.kind, hold.milli = j, p, kind, gpus * gpu_milli_on(S, S.job[j].cls, p)
    hold.num, hold.missing, hold.head, hold.rem = num, num, -1, gpus
    hold.start_ms = S.job[j].begin_ms if kind == HOLD_RESERVED else g.now_ms
    link_hold(S, h)
    count_hold(S, h, 1)
    S.job[j].hold = h
    g.holds += 1
    for i in range(num - 1, -1, -1):
        n = S.pick[i, 0]
        unindex(S, n)
        node = S.node[n]
        node.hold = h
        node.hold_next = hold.head
        node.hold_need = S.pick[i, 1]
        node.is_ready = 0
        if kind == HOLD_RESERVED and (node.reserved_for != j or node.reserved_to_ms != g.now_ms):
            node.reserved_ms, node.reserved_for = g.now_ms, j
        count_clear(S, n)
        hold.head = n
        if kind == HOLD_BACKFILL and node.free_at_ms > hold.start_ms:
            hold.start_ms = node.free_at_ms
    if kind == HOLD_RECLAIM or kind == HOLD_RANK:
        g.reclaims += 1 if kind == HOLD_RECLAIM else 0
        n = hold.head
        while n >= 0:
            clear_node(S, n, S.node[n].hold_need, kind, j, h)
            n = S.node[n].hold_next
    n = hold.head
    while n >= 0:
        check_hold(S, n)
        n = S.node[n].hold_next
    decide(S, HOLD, j, p, S.pick[0, 0], gpus, hold.start_ms, kind)
    return h


@kernel
def clear_node(S: State, n: int, need: int, kind: int, claimant: int, h: int) -> None:
    """Send away the cheapest victims of a node until `need` GPUs (or a part of one) are free or about to be."""
    c = S.job[claimant].cls
    milli = gpu_milli_on(S, c, S.node[n].pool)
    is_part = S.cls[c].gpu_milli < 1000
    gpus = WHOLE_NODE
    if is_part:
        _, i, is_shrinking = part_cost(S, n, claimant)
        gpus = np.int64(1) << max(i, 0)
    else:
        is_shrinking = kind == HOLD_RECLAIM and victims_cost(S, n, need, kind, claimant, True) != NO_COST
    while True:
        s = S.node[n].seg
        while s >= 0:
            if S.job[S.seg[s].job].state == REVOKING:
                S.hold[h].start_ms = max(S.hold[h].start_ms, S.job[S.seg[s].job].vacate_ms)
            s = S.seg[s].node_next
        free, cpu, mem, net = leaving_on(S, n)
        free += S.node[n].free
        has_gpus = has_rest(S, n, milli) if is_part else free >= need
        if has_gpus and fits_with(S, n, c, need, cpu, mem, net):
            return
        within = WHOLE_NODE if has_gpus else gpus
        s = cheapest_victim(S, n, within, kind, claimant, np.int64(-1), -1, is_shrinking)
        if s < 0:
            return
        v = S.seg[s].job
        cls = S.cls[S.job[v].cls]
        spare = spare_gpus(S, s, v) if is_shrinking else np.int64(0)
        if spare > 0:
            shrink(S, v, s, min(spare, max(need - free, 1)), claimant)
        else:
            # For its own member's sake a job gets the time that a checkpoint takes, and no notice.
            notice = S.g[0].save_ms if S.job[v].ckpt_ms > 0 else np.int64(0)
            if kind == HOLD_RECLAIM:
                notice = notice_ms(S, cls.member, S.job[v].pool)
            revoke(S, v, notice, claimant)


@kernel
def lent_power_w(S: State, site_idx: int, claimant: int) -> int:
    """Power that borrowers of a site would give back if all that may be sent away for the claimant left."""
    total = np.int64(0)
    for q in range(S.pool.shape[0]):
        pool = S.pool[q]
        if pool.site != site_idx or pool.over_milli == 0:
            continue
        for m in range(S.member.shape[0]):
            v = S.mp[m, q].over_last
            while v >= 0:
                job = S.job[v]
                if job.state == RUNNING and not was_sent_away(S, v, claimant):
                    total += (pool.busy_w - pool.idle_w) * job.alloc * milli_in(S, v) // 1000
                v = job.over_prev
    return total


@kernel
def reclaim_power(S: State, p: int, need_w: int, claimant: int) -> None:
    """Rules 1 and 8: a share comes with its power; borrowers at the site leave, latest first, until it suffices."""
    g = S.g[0]
    site_idx = S.pool[p].site
    site = S.site[site_idx]
    if g.now_ms < site.due_ms or lent_power_w(S, site_idx, claimant) < need_w:
        return
    site.claimant = claimant
    for q in range(S.pool.shape[0]):
        pool = S.pool[q]
        if pool.site != site_idx or pool.over_milli == 0:
            continue
        for m in range(S.member.shape[0] - 1, -1, -1):
            v = S.mp[m, q].over_last
            while v >= 0 and need_w > 0:
                job = S.job[v]
                before = job.over_prev
                gives_w = (pool.busy_w - pool.idle_w) * job.alloc * milli_in(S, v) // 1000
                if gives_w > 0 and job.state == RUNNING and not was_sent_away(S, v, claimant):
                    need_w -= gives_w
                    revoke(S, v, notice_ms(S, m, q), claimant)
                    site.due_ms = max(site.due_ms, job.vacate_ms)
                v = before
