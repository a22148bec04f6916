"""Placement: which nodes a gang stands on (rule 4). Fills `State.pick` with (node, GPUs) and says how many."""

from __future__ import annotations

import numpy as np

from dure.policy.kernels.bits import next_bit
from dure.policy.kernels.compile import kernel
from dure.policy.kernels.expected import is_scored, score_on
from dure.policy.kernels.layout import (
    BLOCK_ROWS,
    GPUS_MAX,
    HOLD_BACKFILL,
    HOLD_RESERVED,
    RACK_ROWS,
    ROW_PARTIAL,
    UP,
    State,
)
from dure.policy.kernels.nodes import fits, gpu_milli_on

#: Nodes of one free count that are looked at before the next count is tried: for CPU and memory, and to be scored.
LOOK_MAX, SCORED_MAX = 64, 256
#: No score is as low where the job fits.
NO_STEP = -(10**8)


@kernel
def shape_on(S: State, c: int, p: int, gpus: int) -> tuple[int, int, int]:
    """(parts, GPUs a part, rest) of a gang of `gpus` on a pool's nodes; parts == 0: it cannot stand there."""
    per_node = S.cls[c].per_node
    size = S.pool[p].per_node
    if per_node == 0:
        per_node = gpus if gpus <= size else size
    if per_node > size or per_node == 0:
        return 0, 0, 0
    # An elastic job at its least may be smaller than what it wants on each node.
    per_node = min(per_node, gpus)
    return gpus // per_node, per_node, gpus % per_node


@kernel
def least_part(S: State, c: int, p: int) -> int:
    """Fewest GPUs that a class wants on one node of a pool, at its full size or its least; 0 for less than a GPU."""
    cls = S.cls[c]
    least = GPUS_MAX if cls.num_gpus > 0 and cls.gpu_milli >= 1000 else 0
    for gpus in (cls.num_gpus, cls.min_gpus):
        if least > 0:
            _, per_node, rest = shape_on(S, c, p, gpus)
            least = min(least, per_node)
            if rest > 0:
                least = min(least, rest)
    return least


@kernel
def find_node(S: State, n0: int, n1: int, c: int, gpus: int) -> int:
    """Best fit: a node of [n0, n1) with the fewest free GPUs that suffice, lowest id; -1: none."""
    for row in range(gpus, GPUS_MAX + 1):
        n = next_bit(S.bits, row, n0, n1)
        looked = 0
        while n >= 0 and looked < LOOK_MAX:
            if fits(S, n, c, gpus):
                return n
            looked += 1
            n = next_bit(S.bits, row, n + 1, n1)
    return -1


@kernel
def find_fraction(S: State, p: int, c: int, milli: int) -> int:
    """Best fit of a part of one GPU: the partly used GPU with the smallest rest, else a fresh GPU; -1: none."""
    pool = S.pool[p]
    for row in range(milli // 125, 8):
        best, best_rest = -1, 1001
        n = next_bit(S.bits, ROW_PARTIAL + row, pool.node0, pool.node1)
        looked = 0
        while n >= 0 and looked < LOOK_MAX:
            node = S.node[n]
            if fits(S, n, c, 1):
                for i in range(node.num):
                    rest = S.gfree[n, i]
                    if not (node.free_mask >> i) & 1 and milli <= rest < best_rest:
                        best, best_rest = n, rest
            looked += 1
            n = next_bit(S.bits, ROW_PARTIAL + row, n + 1, pool.node1)
        if best >= 0:
            return best
    return find_node(S, pool.node0, pool.node1, c, 1)


@kernel
def better_in_row(S: State, p: int, c: int, gpus: int, milli: int, row: int, best: int) -> int:
    """Of `best` (-1: none) and the nodes of one row of the bitmap, the one that loses least; the first of equals."""
    pool = S.pool[p]
    n = next_bit(S.bits, row, pool.node0, pool.node1)
    scored = looked = 0
    while n >= 0 and scored < SCORED_MAX and looked < LOOK_MAX * SCORED_MAX:
        looked += 1
        if fits(S, n, c, gpus):
            scored += 1
            step = score_on(S, c, n, milli)
            if step > NO_STEP:
                kept = score_on(S, c, best, milli) if best >= 0 else NO_STEP
                if step > kept or (step == kept and n < best):
                    best = n
        n = next_bit(S.bits, row, n + 1, pool.node1)
    return best


@kernel
def find_scored(S: State, p: int, c: int, gpus: int, milli: int) -> int:
    """The node on which a job loses least of what the load expected could use (`placement_dure`); -1: none fits.

    Looks at up to `SCORED_MAX` nodes that fit of each count of free GPUs, and of each largest rest of a shared GPU.
    """
    best = -1
    if milli < 1000:
        for row in range(milli // 125, 8):
            best = better_in_row(S, p, c, gpus, milli, ROW_PARTIAL + row, best)
    for row in range(gpus, GPUS_MAX + 1):
        best = better_in_row(S, p, c, gpus, milli, row, best)
    return best


@kernel
def domain_count(S: State, n0: int, n1: int, c: int, parts: int, per_node: int, rest: int) -> int:
    """Nodes of [n0, n1) with `per_node` GPUs free, and what stands beside them; 0 if the gang does not fit there."""
    count = others = 0
    for n in range(n0, n1):
        node = S.node[n]
        if not node.is_indexed:
            continue
        if node.free >= per_node and fits(S, n, c, per_node):
            count += 1
        elif rest > 0 and node.free >= rest and fits(S, n, c, rest):
            others += 1
    return count if count >= parts and (rest == 0 or count + others > parts) else 0


@kernel
def take_from(S: State, n0: int, n1: int, c: int, per_node: int, want: int, num: int) -> int:
    """Append up to `want` nodes of [n0, n1) to the pick, the fullest that suffice first; the new length."""
    got = 0
    for row in range(per_node, GPUS_MAX + 1):
        n = next_bit(S.bits, row, n0, n1)
        while n >= 0 and got < want:
            if fits(S, n, c, per_node):
                S.pick[num + got, 0] = n
                S.pick[num + got, 1] = per_node
                got += 1
            n = next_bit(S.bits, row, n + 1, n1)
    return num + got


@kernel
def take_block(S: State, b: int, c: int, per_node: int, want: int, num: int, is_plain: bool) -> int:
    """Append `want` nodes of a block, whole free racks first, then the rack that fits best; the new length."""
    block = S.block[b]
    first, goal = num, num + want
    if not is_plain:
        return take_from(S, block.node0, block.node1, c, per_node, want, num)
    for r in range(block.child0, block.child1):
        rack = S.rack[r]
        size = rack.node1 - rack.node0
        if rack.whole == size and goal - num >= size:
            num = take_from(S, rack.node0, rack.node1, c, per_node, size, num)
    while num < goal:
        best = -1
        for r in range(block.child0, block.child1):
            rack = S.rack[r]
            left = rack.whole
            if left == 0 or (num > 0 and is_picked(S, r, num, want)):
                continue
            if best < 0 or better_rest(left, S.rack[best].whole, goal - num):
                best = r
        if best < 0:
            break
        rack = S.rack[best]
        wanted = num + min(goal - num, rack.whole)
        num = take_from(S, rack.node0, rack.node1, c, per_node, goal - num, num)
        if num < wanted:
            # Free GPUs without what is wanted beside them: the racks' counts do not help, look at each node.
            return take_from(S, block.node0, block.node1, c, per_node, want, first)
    return num


@kernel
def is_picked(S: State, r: int, num: int, want: int) -> bool:
    """Whether nodes of rack r are already in the pick."""
    for i in range(max(0, num - want), num):
        if S.node[S.pick[i, 0]].rack == r:
            return True
    return False


@kernel
def better_rest(left: int, best: int, want: int) -> bool:
    """Best fit among racks: the smallest that suffices, else the largest."""
    if left >= want:
        return best < want or left < best
    return best < want and left > best


@kernel
def place(S: State, c: int, p: int, gpus: int) -> int:
    """Choose nodes of pool p for `gpus` GPUs of a job of class c, in the smallest domain that fits.

    Returns the length of the pick; 0: it does not fit now. Held and downed nodes are not looked at.
    """
    cls = S.cls[c]
    pool = S.pool[p]
    if gpus == 0:
        if is_scored(S, c, p, 0):
            n = find_scored(S, p, c, 0, 1000)
            S.pick[0, 0], S.pick[0, 1] = n, 0
            return 1 if n >= 0 else 0
        for row in range(0, GPUS_MAX + 1):
            n = next_bit(S.bits, row, pool.node0, pool.node1)
            while n >= 0:
                if fits(S, n, c, 0):
                    S.pick[0, 0], S.pick[0, 1] = n, 0
                    return 1
                n = next_bit(S.bits, row, n + 1, pool.node1)
        return 0
    if cls.gpu_milli < 1000:
        milli = gpu_milli_on(S, c, p)
        if pool.free_milli < milli:
            return 0
        n = find_scored(S, p, c, 1, milli) if is_scored(S, c, p, 1) else find_fraction(S, p, c, milli)
        if n < 0:
            return 0
        S.pick[0, 0], S.pick[0, 1] = n, 1
        return 1
    if pool.free_milli < gpus * 1000:
        return 0
    parts, per_node, rest = shape_on(S, c, p, gpus)
    if parts == 0:
        return 0
    if parts == 1 and rest == 0:
        if is_scored(S, c, p, per_node):
            n = find_scored(S, p, c, per_node, 1000)
        else:
            n = find_node(S, pool.node0, pool.node1, c, per_node)
        if n < 0:
            return 0
        S.pick[0, 0], S.pick[0, 1] = n, per_node
        return 1
    if cls.topology == 1:
        return 0
    is_plain = per_node == pool.per_node and pool.is_plain == 1 and rest == 0
    num = place_gang(S, c, p, parts, per_node, rest, is_plain)
    if num < 0:
        num = place_gang(S, c, p, parts, per_node, rest, False)
    return max(num, 0)


@kernel
def best_block(S: State, p: int, want: int) -> int:
    """Best fit among blocks: the one with the fewest wholly free nodes that suffice, lowest id; -1: none."""
    pool = S.pool[p]
    for row in range(min(want, BLOCK_ROWS - 1), BLOCK_ROWS):
        b = best = next_bit(S.block_bits, row, pool.block0, pool.block1)
        if row == BLOCK_ROWS - 1:
            best = -1
            while b >= 0:
                if S.block[b].whole >= want and (best < 0 or S.block[b].whole < S.block[best].whole):
                    best = b
                b = next_bit(S.block_bits, row, b + 1, pool.block1)
        if best >= 0:
            return best
    return -1


@kernel
def most_whole(S: State, p: int, limit: int) -> int:
    """Most wholly free nodes in a block of a pool, of the counts below a limit; 0: none."""
    pool = S.pool[p]
    most = 0
    if limit >= BLOCK_ROWS:
        b = next_bit(S.block_bits, BLOCK_ROWS - 1, pool.block0, pool.block1)
        while b >= 0:
            if most < S.block[b].whole < limit:
                most = S.block[b].whole
            b = next_bit(S.block_bits, BLOCK_ROWS - 1, b + 1, pool.block1)
    row = min(limit, BLOCK_ROWS - 1) - 1
    while most == 0 and row > 0:
        if next_bit(S.block_bits, row, pool.block0, pool.block1) >= 0:
            most = row
        row -= 1
    return most


@kernel
def place_gang(S: State, c: int, p: int, parts: int, per_node: int, rest: int, is_plain: bool) -> int:
    """Nodes for a gang of several: one rack, else one block, else the pool, as its topology allows.

    `is_plain`: whole nodes of one size, found by the counts of free nodes in racks and blocks. -1: the counts
    promised a domain in which nodes then lacked CPU, memory or network.
    """
    topology = S.cls[c].topology
    pool = S.pool[p]
    is_short = False
    need = parts + (1 if rest > 0 else 0)
    if is_plain and pool.whole < need:
        return 0
    num = 0
    lo, hi = pool.node0, pool.node1
    if is_plain:
        for row in range(min(need, RACK_ROWS - 1), RACK_ROWS):
            r = next_bit(S.rack_bits, row, pool.rack0, pool.rack1)
            while r >= 0 and S.rack[r].whole < need:
                r = next_bit(S.rack_bits, row, r + 1, pool.rack1)
            if r >= 0:
                lo, hi = S.rack[r].node0, S.rack[r].node1
                num = take_from(S, lo, hi, c, per_node, parts, 0)
                is_short = num < parts
                break
    else:
        best, best_count = -1, 1 << 30
        for r in range(pool.rack0, pool.rack1):
            if S.rack[r].node1 - S.rack[r].node0 >= need:
                count = domain_count(S, S.rack[r].node0, S.rack[r].node1, c, parts, per_node, rest)
                if parts <= count < best_count:
                    best, best_count = r, count
        if best >= 0:
            lo, hi = S.rack[best].node0, S.rack[best].node1
            num = take_from(S, lo, hi, c, per_node, parts, 0)
    if num < parts and topology != 2:
        best, best_count = -1, 1 << 30
        if is_plain:
            best = best_block(S, p, parts)
        else:
            for b in range(pool.block0, pool.block1):
                count = domain_count(S, S.block[b].node0, S.block[b].node1, c, parts, per_node, rest)
                if parts <= count < best_count:
                    best, best_count = b, count
        if best >= 0:
            lo, hi = S.block[best].node0, S.block[best].node1
            num = take_block(S, best, c, per_node, parts, 0, is_plain)
            is_short = is_short or num < parts
        elif topology != 3:
            num = place_wide(S, p, c, parts, per_node, is_plain)
    if num < parts:
        return -1 if is_short and is_plain else 0
    if rest > 0:
        n = find_rest(S, lo, hi, c, rest, num)
        if n < 0:
            return 0
        S.pick[num, 0], S.pick[num, 1] = n, rest
        num += 1
    return num


@kernel
def place_wide(S: State, p: int, c: int, parts: int, per_node: int, is_plain: bool) -> int:
    """Nodes over several blocks, the emptiest blocks first so that few are touched."""
    pool = S.pool[p]
    num = 0
    if not is_plain:
        num = take_from(S, pool.node0, pool.node1, c, per_node, parts, 0)
        return num if num == parts else 0
    limit = 1 << 30
    while num < parts:
        # The next fullest count of free nodes; blocks with equal counts go in order of id.
        most = most_whole(S, p, limit)
        if most == 0:
            return 0
        row = min(most, BLOCK_ROWS - 1)
        b = next_bit(S.block_bits, row, pool.block0, pool.block1)
        while b >= 0 and num < parts:
            if S.block[b].whole == most:
                num = take_block(S, b, c, per_node, min(most, parts - num), num, True)
            b = next_bit(S.block_bits, row, b + 1, pool.block1)
        limit = most
    return num


@kernel
def find_rest(S: State, n0: int, n1: int, c: int, gpus: int, num: int) -> int:
    """Best-fit node for a gang's last, smaller part, not among the nodes already picked."""
    for row in range(gpus, GPUS_MAX + 1):
        n = next_bit(S.bits, row, n0, n1)
        while n >= 0:
            if fits(S, n, c, gpus):
                is_free = True
                for i in range(num):
                    if S.pick[i, 0] == n:
                        is_free = False
                        break
                if is_free:
                    return n
            n = next_bit(S.bits, row, n + 1, n1)
    return -1


@kernel
def will_leave(S: State, c: int, p: int, at_ms: int) -> bool:
    """Whether the head of a class is sure to be gone by then: at its time limit, or because it can be sent away."""
    job = S.job[S.cls[c].root]
    if job.ckpt_ms > 0:
        return True
    speed = max(S.speed[S.cls[c].speed, S.pool[p].gpu_type], 1)
    return job.limit_ms >= 0 and S.g[0].now_ms + (job.limit_ms - job.done_ms) * 1000 // speed <= at_ms


@kernel
def is_waited_for(S: State, h: int) -> bool:
    """Whether the nodes of a hold are waited for, not cleared; in a pool's list these holds stand first."""
    return S.hold[h].kind == HOLD_BACKFILL or S.hold[h].kind == HOLD_RESERVED


@kernel
def place_on_holds(S: State, c: int, p: int, gpus: int, end_ms: int) -> int:
    """Backfill (rule 5): one node held or reserved for a later gang, for a job predicted to be gone by then."""
    cls = S.cls[c]
    parts, per_node, rest = shape_on(S, c, p, gpus)
    if parts != 1 or rest != 0 or cls.gpu_milli < 1000:
        return 0
    h = S.pool[p].hold
    while h >= 0 and is_waited_for(S, h):
        hold = S.hold[h]
        if hold.start_ms >= end_ms and (hold.kind == HOLD_BACKFILL or will_leave(S, c, p, hold.start_ms)):
            n = hold.head
            looked = 0
            while n >= 0 and looked < LOOK_MAX:
                if S.node[n].state == UP and S.node[n].free >= per_node and fits(S, n, c, per_node):
                    S.pick[0, 0], S.pick[0, 1] = n, per_node
                    return 1
                looked += 1
                n = S.node[n].hold_next
        h = hold.next
    return 0


@kernel
def power_needed_w(S: State, num: int) -> int:
    """What the picked nodes would draw more than now."""
    total = np.int64(0)
    for i in range(num):
        n = S.pick[i, 0]
        node = S.node[n]
        pool = S.pool[node.pool]
        total += (pool.busy_w - pool.idle_w) * S.pick[i, 1]
        if S.g[0].is_sleep and node.used_milli == 0:
            total += (pool.idle_w - pool.sleep_w) * node.num
    return total
