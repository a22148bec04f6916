"""What load a member of the alliance can bring: its part of the fleet, and how large its jobs may be."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dure.model.errors import InputError
from dure.model.fleet import Fleet
from dure.model.jobs import make_jobs
from dure.model.terms import NO_AGREEMENT, Terms

#: Largest job of a member that only borrows.
BORROWER_GPUS_MAX = 8
#: What all members that only borrow bring together, as a part of the fleet, where others have guarantees.
BORROWERS_PART = 0.005


@dataclass(frozen=True)
class Demand:
    """A member's part of the fleet.

    Attributes
    ----------
    pool_part : ndarray of float64, shape (num_pools,)
        Part of each pool's GPU time that counts as the member's, 0..1; over the members a column sums to at
        most 1.
    gpus_max : int
        Largest job, at most the smallest pool in which the member has a guarantee; a member that only borrows
        stays at BORROWER_GPUS_MAX.
    """

    name: str
    pool_part: NDArray[np.float64]
    gpus_max: int


def demands(fleet: Fleet, terms: Terms) -> list[Demand]:
    """Each member's part: what it is guaranteed, and for those who only borrow a little of all they may use.

    Where nobody has a guarantee, the members share all pools equally.

    Raises
    ------
    InputError
        A member may use no pool at all, or the fleet has no GPU.
    """
    pool_gpus = np.bincount(fleet.nodes["pool"], fleet.nodes["num_gpus"], len(terms.pools))
    if not pool_gpus.sum():
        raise InputError("a fleet without GPUs has no load", field="fleet")
    guarantee = np.minimum(terms.guarantee_gpus, pool_gpus)
    may_use = ((guarantee > 0) | (terms.agreement != NO_AGREEMENT)) & (pool_gpus > 0)
    borrows = ~(guarantee > 0).any(axis=1)
    for member, is_able in zip(terms.members, may_use.any(axis=1), strict=True):
        if not is_able:
            raise InputError(f"member {member.name!r} may use no pool", field="terms")
    whole = np.maximum(pool_gpus, 1)
    if borrows.all():
        part = may_use / np.maximum(may_use.sum(axis=0), 1)
    else:
        part = guarantee / whole
        part[borrows] = may_use[borrows] * BORROWERS_PART / max(int(borrows.sum()), 1)
        part /= np.maximum(part.sum(axis=0), 1.0)
    made = []
    for idx, member in enumerate(terms.members):
        own = pool_gpus[may_use[idx]] if borrows[idx] else pool_gpus[guarantee[idx] > 0]
        gpus_max = int(own.min())
        if borrows[idx] and not borrows.all():
            gpus_max = min(gpus_max, BORROWER_GPUS_MAX)
        made.append(Demand(member.name, part[idx].astype(np.float64), gpus_max))
    return made


def speed_gpus(fleet: Fleet, num_pools: int, at_ms: int | None = None) -> NDArray[np.float64]:
    """GPUs of each pool, counted in GPUs of speed 1.0; with ``at_ms`` only those delivered by then."""
    nodes = fleet.nodes
    speed = np.array([gpu_type.speed_milli for gpu_type in fleet.gpu_types] + [0]) / 1000
    gpus = nodes["num_gpus"] * speed[nodes["gpu_type"]]
    if at_ms is not None:
        gpus = gpus * (nodes["online_ms"] <= at_ms)
    total: NDArray[np.float64] = np.bincount(nodes["pool"], gpus, num_pools).astype(np.float64)
    return total


def per_gpu(fleet: Fleet) -> tuple[int, int]:
    """CPU (1/1000 cores) and memory (MiB) that a job asks for beside each GPU: half of the leanest node's.

    Nodes with more than 2**39 of either (no limit) do not count.
    """
    nodes: NDArray[Any] = fleet.nodes[fleet.nodes["num_gpus"] > 0]
    lean = []
    for name in ("cpu_milli", "mem_mib"):
        each = nodes[name][nodes[name] < 1 << 39] // nodes["num_gpus"][nodes[name] < 1 << 39]
        lean.append(int(each.min()) // 2 if len(each) else 0)
    return lean[0], lean[1]


def stream(seed: int, name: str) -> np.random.Generator:
    """A member's own random stream: Philox, keyed by seed and name, so that nobody else's load changes it.

    Raises
    ------
    InputError
        ``seed`` negative or at least 2**64.
    """
    if not 0 <= seed < 1 << 64:
        raise InputError(f"a seed is 0 to 2**64 - 1, not {seed}", field="seed")
    word = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    return np.random.Generator(np.random.Philox(key=np.array([seed, word], np.uint64)))


def in_order(jobs: NDArray[Any], order: NDArray[np.int64]) -> NDArray[Any]:
    """The rows in another order, with the padding of the records zero: equal jobs are equal bytes."""
    out = make_jobs(len(order))
    for name in jobs.dtype.names or ():
        out[name] = jobs[name][order]
    return out


def zipf_cdf(num_items: int, exponent: float) -> NDArray[np.float64]:
    """Cumulative weights of a finite Zipf law, last one 1."""
    weight = np.arange(1, num_items + 1, dtype=np.float64) ** -exponent
    cdf: NDArray[np.float64] = np.cumsum(weight)
    cdf /= cdf[-1]
    return cdf
