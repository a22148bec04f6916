"""The terms that members share a fleet on: guarantees, agreements, notice. Plain arrays for the policy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: No agreement.
NO_AGREEMENT = -1


@dataclass(frozen=True)
class Member:
    """An organisation. ``weight_milli`` counts in credits ÷ share where a member has no share of its own."""

    name: str
    kind: str = "company"
    country: str = "KR"
    weight_milli: int = 1000


@dataclass(frozen=True)
class Pool:
    """Nodes of one owner, cluster and GPU type: the unit of guarantees and lending.

    ``home`` is the member in whose name its idle GPUs are lent: the owner, or the member for whom whole
    racks or blocks are set apart (a topology-guaranteed share is a pool of its own).
    """

    name: str
    owner: int
    home: int
    cluster: int
    gpu_type: int


@dataclass(frozen=True)
class AgreementTerms:
    """A LEND agreement in force, as the policy sees it: one limit over all borrowers and pools it names.

    Attributes
    ----------
    limit_gpus : int
        Most GPUs out under it at one time.
    notice_ms : int
        Time from reclaim to the GPUs being free.
    start_ms, end_ms : int
        In force from (inclusive) to (exclusive), from the start of the run.
    """

    name: str
    lender: int
    limit_gpus: int
    notice_ms: int
    start_ms: int = 0
    end_ms: int = 1 << 60


@dataclass(frozen=True)
class Terms:
    """Who may use what.

    Attributes
    ----------
    guarantee_gpus : ndarray of int64, shape (num_members, num_pools)
        GPUs of the pool that the member is guaranteed; columns sum to at most the pool's GPUs.
    agreement : ndarray of int32, shape (num_members, num_pools)
        Agreement under which the member may borrow in the pool, or NO_AGREEMENT. A member with a guarantee in a
        pool may always use more of that pool while it is idle (its own notice is ``own_notice_ms``).
    own_notice_ms : int
        Notice for use above the guarantee inside a pool in which one has a guarantee.
    """

    members: list[Member]
    pools: list[Pool]
    guarantee_gpus: NDArray[Any]
    agreements: list[AgreementTerms]
    agreement: NDArray[Any]
    own_notice_ms: int = 60_000


def single_member_terms(num_gpus: int | Sequence[int], member_names: list[str] | None = None) -> Terms:
    """One agreement-free world: the first member owns all; every member shares it by weight alone.

    Parameters
    ----------
    num_gpus : int or sequence of int
        GPUs of the one pool, or of each pool.
    """
    names = member_names or ["default"]
    sizes = [num_gpus] if isinstance(num_gpus, int) else list(num_gpus)
    guarantee = np.zeros((len(names), len(sizes)), np.int64)
    if len(names) == 1:
        guarantee[0] = sizes
    agreement = np.zeros((len(names), len(sizes)), np.int32)
    lend = AgreementTerms("common", 0, sum(sizes), 60_000)
    pools = [Pool("pool" if len(sizes) == 1 else f"pool{p}", 0, 0, 0, p) for p in range(len(sizes))]
    return Terms([Member(n) for n in names], pools, guarantee, [lend], agreement)
