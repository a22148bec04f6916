"""Carries out over a node's tenants what the guard keeps: each has cores of its own, and stands while the radio keeps one of them.

It has no clock: it is told which slot it is and what time. The radio has the node's first cores, tenants the last ones, the oldest
lease the very last: so the youngest is the first to be stopped.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Protocol

#: So many slots after it was told to stop a tenant that still runs is evicted: as long as the guard keeps everything for it.
EVICT_SLOTS = 20


class Tenant(Protocol):
    """What is governed of a lease; see `dure.executors.tenants.Tenant`."""

    lease_id: str
    gpu_milli: int

    def stop(self) -> None:
        """Stop all of it; may be said again."""
        ...

    def resume(self) -> None:
        """Let it go on."""
        ...

    def is_standing(self) -> bool:
        """Whether none of it runs, nor will before `resume`."""
        ...

    def evict(self) -> None:
        """SIGKILL to all of it."""
        ...

    def pin(self, cores: Collection[int]) -> None:
        """Hold it to some cores."""
        ...


def deal_cores(weights: Sequence[int], cores: Sequence[int]) -> list[Sequence[int]]:
    """Cores of each tenant, the oldest first, who has the last ones: in proportion to weights, one at least; shared where they are few."""
    total = sum(weights) or 1
    dealt: list[Sequence[int]] = []
    above = 0.0
    for weight in weights:
        end = len(cores) - min(round(above), len(cores) - 1)
        above += weight * len(cores) / total
        begin = min(len(cores) - round(above), end - 1)
        dealt.append(cores[max(begin, 0) : end])
    return dealt


@dataclass
class _Held:
    """One tenant. ``told_slot``: when it was told to stop; None: it may run."""

    tenant: Tenant
    cores: Sequence[int] = ()
    told_slot: int | None = None
    told_ns: int = 0
    is_standing: bool = False
    is_late: bool = False
    is_evicted: bool = False


@dataclass
class Governor:
    """See the module.

    Attributes
    ----------
    cores : sequence of int
        The node's, as the operating system numbers them; the radio has the first.
    num_floor : int
        Of these, never lent.
    vacate_slots : int
        v: a tenant that still runs so many slots after it was told is late (G5).
    stop_ns : list of int
        From the first word to the moment when nothing of the tenant was seen to run, of each stop so far.
    """

    cores: Sequence[int]
    num_floor: int
    vacate_slots: int
    stop_ns: list[int] = field(default_factory=list)
    num_stops: int = 0
    num_late: int = 0
    num_evicted: int = 0
    _held: dict[str, _Held] = field(default_factory=dict)

    def apply(self, tenants: Sequence[Tenant], num_kept: int, slot: int, now_ns: int) -> None:
        """Stop and continue them so that the radio keeps its first ``num_kept`` cores.

        Parameters
        ----------
        tenants : sequence of Tenant
            Those there are now, the oldest first.
        """
        ids = [tenant.lease_id for tenant in tenants]
        lendable = self.cores[self.num_floor :]
        if ids != list(self._held):
            self._held = {tenant.lease_id: self._held.get(tenant.lease_id, _Held(tenant)) for tenant in tenants}
            if lendable:
                dealt = deal_cores([tenant.gpu_milli for tenant in tenants], lendable)
                for held, cores in zip(self._held.values(), dealt, strict=True):
                    held.cores = cores
        kept = set(self.cores[:num_kept])
        for held in self._held.values():
            if held.cores and kept.isdisjoint(held.cores):
                self._lend_to(held)
            else:
                self._stop(held, slot, now_ns)

    def _lend_to(self, held: _Held) -> None:
        held.tenant.pin(held.cores)
        # Also one that was not told: whoever was here before may have left it standing.
        if held.told_slot is not None or held.tenant.is_standing():
            held.tenant.resume()
        held.told_slot, held.is_standing = None, False

    def _stop(self, held: _Held, slot: int, now_ns: int) -> None:
        if held.told_slot is None:
            held.told_slot, held.told_ns, held.is_late = slot, now_ns, False
            self.num_stops += 1
            held.tenant.stop()
            return
        if held.is_standing and held.tenant.is_standing():
            return
        held.is_standing = False
        held.tenant.stop()
        if slot - held.told_slot >= self.vacate_slots and not held.is_late:
            held.is_late = True
            self.num_late += 1
        if slot - held.told_slot >= EVICT_SLOTS:
            self.num_evicted += not held.is_evicted
            held.is_evicted = True
            held.tenant.evict()

    def settle(self, now_ns: int) -> bool:
        """See which of those told to stop stand by now; whether all do. What has been started meanwhile is told again."""
        is_settled = True
        for held in self._held.values():
            if held.told_slot is None or held.is_standing:
                continue
            if held.tenant.is_standing():
                held.is_standing = True
                self.stop_ns.append(now_ns - held.told_ns)
            else:
                held.tenant.stop()
                is_settled = False
        return is_settled

    def num_in_hand(self) -> int:
        """How many of the node's first cores no tenant runs on."""
        taken = {core for held in self._held.values() if not held.is_standing for core in held.cores}
        return next((num for num, core in enumerate(self.cores) if core in taken), len(self.cores))

    def release(self, tenants: Sequence[Tenant]) -> None:
        """Hand the node back: every tenant goes on, on all cores."""
        for tenant in tenants:
            tenant.pin(self.cores)
            tenant.resume()
        self._held = {}
