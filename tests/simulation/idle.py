"""Nothing stands idle that somebody who waits could use: work conservation, by brute force over every domain.

Left idle on purpose, and so no fault here:

- nodes that are held for a job, and what a job could use elsewhere for which nodes are being cleared (rules 1, 5, 6);
- without backfill, what could serve only those who stand behind another job of their member in that pool (rule 3);
- under `fair`, a pool in which the first job of some member does not fit: the member with the least use may be waiting;
- power: a fiftieth of a site's cap for borrowers; all that is left, while it is taken back for a job that still waits
  (rule 8); and what is enough for a start only on nodes that are awake: which nodes a job gets is chosen before their
  power is asked for;
- searches bounded by `scan_max`, which no scene here reaches.
"""

from __future__ import annotations

from collections import defaultdict

from recount import Ground, Recount

from dure.policy.kernels import layout as k


def rank_of(ground: Ground, j: int, order: int):
    """Place of a waiting job in the queue of a baseline, smaller first (rule 3)."""
    asked, done_ms = ground.jobs[j], int(ground.core.state.job[j]["done_ms"])
    gpus = max(asked["num_gpus"], 1)
    left_ms = max(asked["duration_ms"] - done_ms, 0)
    if order == k.LAS:
        g = ground.core.state.g[0]
        level = sum(done_ms // 1000 * gpus >= int(g["las_base"]) << i for i in range(int(g["las_levels"])))
        return level, asked["submit_ms"]
    by_length = {k.SJF: asked["duration_ms"], k.SRTF: left_ms, k.SRSF: left_ms * gpus}
    return by_length.get(order, asked["submit_ms"])


def first_of_shapes(r: Recount) -> dict[int, int]:
    """The first job of each shape that waits with no nodes held, restarts before others."""
    of, g = r.ground, r.ground.core.state.g[0]
    queues = defaultdict(list)
    for j in r.waiting:
        if r.hold[j] < 0:
            queues[of.cls[j]].append(j)
    if g["order"] == k.DURE:
        return {c: min(queue) for c, queue in queues.items()}  # equal shapes fit alike: any of them will do
    is_restart = of.core.state.job["is_restart"]
    return {
        c: min(queue, key=lambda j: (-is_restart[j], rank_of(of, j, g["order"]), j)) for c, queue in queues.items()
    }


def power_is_claimed(r: Recount, p: int) -> bool:
    """Whether power of the pool's site is being taken back for a job that still waits (rule 8)."""
    site, g = r.ground.core.state.site[r.ground.site[p]], r.ground.core.state.g[0]
    return site["claimant"] >= 0 and r.state[site["claimant"]] == k.PENDING and r.now_ms <= site["due_ms"] + g["epoch_ms"]


def could_start(r: Recount, j: int, p: int) -> str | None:
    """How a job could start in a pool right now; None: it could not."""
    of = r.ground
    nodes = [n for n in of.pool_nodes[p] if r.is_up[n] and r.held_for[n] in (-1, j)]
    for gpus in of.sizes(j):
        milli = gpus * of.part_milli(j, p)
        is_own = r.is_own(of.member[j], p, milli)
        if not is_own and (not r.may_borrow(of.member[j], p, milli) or (of.is_shares and power_is_claimed(r, p))):
            continue
        if r.fits(j, p, gpus, nodes) and r.has_power(j, p, gpus, not is_own):
            return f"job {j} waits, and could have {gpus} GPUs of pool {p} {'within its share' if is_own else 'on loan'}"
    return None


def idle(r: Recount) -> list[str]:
    """Who could start right now, by the rules, and waits."""
    of, g = r.ground, r.ground.core.state.g[0]
    heads = first_of_shapes(r)
    holds = of.core.state.hold
    holding = [j for j in r.waiting if r.hold[j] >= 0 and holds[r.hold[j]]["kind"] in (k.HOLD_BACKFILL, k.HOLD_RESERVED)]
    found = [could for j in holding for p in of.pools_of[j] if (could := could_start(r, j, p))]
    for p in range(len(of.pool_nodes)):
        mine = [j for j in heads.values() if p in of.pools_of[j]]
        if g["backfill"] == k.BACKFILL_NONE:
            mine = list(first_of_members(of, mine, int(g["order"])).values())
        could = [could for j in mine if (could := could_start(r, j, p))]
        if g["order"] != k.FAIR or len(could) == len(mine):
            found += could
    return found


def first_of_members(ground: Ground, jobs: list[int], order: int) -> dict[int, int]:
    """Of these jobs, the first of each member."""
    out: dict[int, int] = {}
    for j in sorted(jobs, key=lambda j: (rank_of(ground, j, order), j), reverse=True):
        out[ground.member[j]] = j
    return out
