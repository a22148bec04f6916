"""What to do so that what runs becomes what should run: no I/O, no clock."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from dure.agent.wire import LeaseOrder
from dure.ports.executor import Run, RunState

#: From SIGTERM to SIGKILL for what the service has given up.
STOP_GRACE_MS = 5_000
#: Why what the service names no longer is stopped.
GIVEN_UP = "given up by the service"


@dataclass(frozen=True)
class Seen:
    """The highest fence that a job has ever come with, and the lease that it came with."""

    fence: int
    lease_id: str


@dataclass(frozen=True)
class Launch:
    """Start an attempt."""

    lease: LeaseOrder


@dataclass(frozen=True)
class Refuse:
    """Report a lease as lost: it will never run here."""

    lease: LeaseOrder
    why: str


@dataclass(frozen=True)
class Stop:
    """Make an attempt leave."""

    lease_id: str
    signal: str
    grace_ms: int
    why: str


@dataclass(frozen=True)
class Forget:
    """The service knows of its end."""

    lease_id: str


Action = Launch | Refuse | Stop | Forget

_OVER = (RunState.EXITED, RunState.LOST)


def job_of(lease_id: str) -> str:
    """The job of a lease, ``<job id>.<attempt>``."""
    return lease_id.rpartition(".")[0]


def reconcile(
    leases: Iterable[LeaseOrder], runs: Iterable[Run], seen: Mapping[str, Seen], now_ms: int
) -> list[Action]:
    """The actions that bring ``runs`` to ``leases``; none where they agree.

    Parameters
    ----------
    leases : iterable of LeaseOrder
        All that this agent should have.
    runs : iterable of Run
        All that its executor has.
    seen : mapping
        Job → the highest fence it ever came with.
    now_ms : int
        The service's clock when it spoke: deadlines are measured from there.
    """
    wanted = {lease.lease_id: lease for lease in leases}
    there = {run.lease_id: run for run in runs}
    living = {job_of(run.lease_id) for run in there.values() if run.state not in _OVER}
    actions: list[Action] = [
        Forget(run.lease_id) if run.state in _OVER else Stop(run.lease_id, "TERM", STOP_GRACE_MS, GIVEN_UP)
        for run in there.values() if run.lease_id not in wanted
    ]  # fmt: skip
    for lease in sorted(wanted.values(), key=lambda lease: lease.fence):
        run = there.get(lease.lease_id)
        actions += _absent(lease, seen, living) if run is None else _present(lease, run, now_ms)
    return actions


def _absent(lease: LeaseOrder, seen: Mapping[str, Seen], living: set[str]) -> Iterator[Action]:
    if lease.action != "run":
        yield Refuse(lease, "it does not run here")
    elif _is_stale(lease, seen.get(lease.job_id)):
        yield Refuse(lease, "its fence is not above the highest seen for its job")
    elif lease.job_id not in living:
        # An earlier attempt that still leaves is waited for: both would write the same checkpoint.
        yield Launch(lease)


def _is_stale(lease: LeaseOrder, seen: Seen | None) -> bool:
    """A lease whose own fence was noted before the agent died is not stale: whether it started, the executor knows."""
    return seen is not None and (lease.fence, lease.lease_id) != (seen.fence, seen.lease_id) and lease.fence <= seen.fence


def _present(lease: LeaseOrder, run: Run, now_ms: int) -> Iterator[Action]:
    if run.state in _OVER or lease.action == "run":
        return
    if lease.action == "stop":
        yield Stop(lease.lease_id, "TERM", min(lease.grace_ms, STOP_GRACE_MS), "stopped by the service")
    else:
        grace_ms = lease.grace_ms if lease.deadline_ms < 0 else max(lease.deadline_ms - now_ms, 0)
        yield Stop(lease.lease_id, lease.signal, grace_ms, "must leave")
