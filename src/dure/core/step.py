"""The core, one step at a time: stimuli in, decisions out. What the live service and the audit drive."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import assert_never

from dure.core.build import Built, build_state, too_large
from dure.core.explain import Explainer, Explanation
from dure.core.growth import grown
from dure.model.errors import DureError
from dure.model.fleet import Fleet
from dure.model.jobs import Trace
from dure.model.terms import Terms
from dure.policy.config import Policy
from dure.policy.kernels import layout as k
from dure.policy.kernels.cycle import cycle, next_rerank_ms, on_rerank
from dure.policy.kernels.layout import State
from dure.policy.kernels.leases import (
    fail_job,
    on_cancel,
    on_end,
    on_node_closed,
    on_node_down,
    on_node_drained,
    on_node_silent,
    on_node_up,
    on_vacated,
)
from dure.policy.kernels.quota import look_again
from dure.policy.kernels.reserve import next_due_ms, on_reservation_due, on_submit


@dataclass(frozen=True)
class Submitted:
    """Job `job` (index into the job table) has come."""

    job: int


@dataclass(frozen=True)
class Ended:
    """A running job has ended by itself."""

    job: int


@dataclass(frozen=True)
class Vacated:
    """A revoked job has left its GPUs."""

    job: int


@dataclass(frozen=True)
class Failed:
    """A running job's attempt is gone with what it had not saved; the job starts again, before others (rule 7)."""

    job: int


@dataclass(frozen=True)
class Cancelled:
    """The user has taken a job back."""

    job: int


@dataclass(frozen=True)
class RankDue:
    """A running job has reached the moment that `Core.next_rank_ms` named."""

    job: int


@dataclass(frozen=True)
class ReservationDue:
    """A reserved job has reached the moment that `Core.next_due_ms` named."""

    job: int


@dataclass(frozen=True)
class NodeDown:
    """A node is lost (or taken out of service, with ``is_failure`` False)."""

    node: int
    is_failure: bool = True


@dataclass(frozen=True)
class NodeUp:
    """A node is back, delivered, or released from quarantine (``is_release``)."""

    node: int
    is_release: bool = False


@dataclass(frozen=True)
class NodeSilent:
    """A node is not heard: its jobs go on, nothing new starts there until it is up again."""

    node: int


@dataclass(frozen=True)
class NodeClosed:
    """A node is closed until further notice: its jobs go on, nothing new starts there until it is up again."""

    node: int


@dataclass(frozen=True)
class NodeDrained:
    """What runs on a node must leave it, within `notice_ms`."""

    node: int
    notice_ms: int


@dataclass(frozen=True)
class TermsDue:
    """An agreement has come into force or run out."""


Stimulus = (
    Submitted | Ended | Vacated | Failed | Cancelled | RankDue | ReservationDue
    | NodeDown | NodeUp | NodeSilent | NodeClosed | NodeDrained | TermsDue
)  # fmt: skip


class DecisionKind(IntEnum):
    """What was decided."""

    START = k.START
    VACATE = k.VACATE
    SHRINK = k.SHRINK
    GROW = k.GROW
    QUARANTINE = k.QUARANTINE
    HOLD = k.HOLD


@dataclass(frozen=True)
class Decision:
    """One decision.

    Attributes
    ----------
    job, pool, node : int
        -1 where it concerns none. A start's node is the first of its nodes; ask `Core.leases` for all.
    gpus : int
        Started, taken or given; of a vacated job, all it has.
    at_ms : int
        When it takes effect: now, the deadline of a vacate, the expected start of a hold, a quarantine's end.
    cause : int
        Job for which a victim leaves (-1: its node is drained); kind of a hold; -1.
    """

    kind: DecisionKind
    job: int
    pool: int
    node: int
    gpus: int
    at_ms: int
    cause: int


class IllegalStimulusError(DureError):
    """A stimulus that does not fit the state: an end of a job that does not run, time that goes backwards."""


class Core:
    """State and policy of one alliance, without I/O, clock or randomness.

    Parameters
    ----------
    trace : Trace
        Table of the jobs that may be submitted; their run times are not looked at, except by the clairvoyant
        baselines.
    """

    def __init__(self, fleet: Fleet, terms: Terms | None, trace: Trace, policy: Policy) -> None:
        self._policy = policy
        self.built: Built = build_state(fleet, terms, trace, policy)
        self.never = frozenset(int(j) for j in too_large(self.built, trace))

    @property
    def state(self) -> State:
        """The policy's state; another object after jobs were added."""
        return self.built.state

    def add(self, trace: Trace) -> int:
        """Take in further jobs that may be submitted; the index of the first in the job table."""
        return self.built.register.add(trace)

    def grow(self, fleet: Fleet, terms: Terms, trace: Trace) -> None:
        """Sites have joined: go on with this fleet and these terms, as `core.growth.grown` wants them."""
        self.built = grown(self.built, fleet, terms, trace, self._policy)

    @property
    def now_ms(self) -> int:
        """Time of the last step."""
        return int(self.state.g[0]["now_ms"])

    def step(self, now_ms: int, stimuli: Sequence[Stimulus]) -> list[Decision]:
        """Take in what has happened and decide.

        Raises
        ------
        IllegalStimulusError
            Time runs backwards, or a stimulus does not fit its job's or node's state. The state is unchanged by
            the offending stimulus; those before it stand.
        """
        for stimulus in stimuli:
            self.take(now_ms, stimulus)
        return self.decide(now_ms)

    def take(self, now_ms: int, stimulus: Stimulus) -> None:
        """Take in one thing that has happened, and decide nothing yet.

        Raises
        ------
        IllegalStimulusError
            As of `step`.
        """
        self._move(now_ms)
        self._take(stimulus)

    def _move(self, now_ms: int) -> None:
        g = self.state.g[0]
        if now_ms < g["now_ms"]:
            raise IllegalStimulusError(f"time runs backwards: {now_ms} ms after {g['now_ms']} ms")
        g["now_ms"] = now_ms

    def decide(self, now_ms: int) -> list[Decision]:
        """Decide all that what was taken in allows."""
        self._move(now_ms)
        g = self.state.g[0]
        cycle(self.state)
        if g["status"]:
            raise DureError(f"state table {int(g['status'])} is too small")
        out = [
            Decision(DecisionKind(int(d["kind"])), int(d["job"]), int(d["pool"]), int(d["node"]), int(d["gpus"]),
                     int(d["at_ms"]), int(d["cause"]))
            for d in self.state.dec[: g["num_dec"]]
        ]  # fmt: skip
        g["num_dec"] = 0
        return out

    def _take(self, stimulus: Stimulus) -> None:
        s = self.state
        match stimulus:
            case Submitted(job):
                self._expect(job, k.NEW)
                on_submit(s, job)
            case Ended(job):
                self._expect(job, k.RUNNING, k.REVOKING)
                on_end(s, job)
            case Vacated(job):
                self._expect(job, k.REVOKING)
                on_vacated(s, job)
            case Failed(job):
                self._expect(job, k.RUNNING, k.REVOKING)
                fail_job(s, job)
            case Cancelled(job):
                self._expect(job, k.PENDING, k.RESERVED, k.RUNNING, k.REVOKING)
                on_cancel(s, job)
            case RankDue(job):
                self._expect(job, k.RUNNING)
                on_rerank(s, job)
            case ReservationDue(job):
                self._expect(job, k.RESERVED)
                on_reservation_due(s, job)
            case NodeDown(node, is_failure):
                on_node_down(s, node, int(is_failure))
            case NodeUp(node, is_release):
                on_node_up(s, node, int(is_release))
            case NodeSilent(node):
                on_node_silent(s, node)
            case NodeClosed(node):
                on_node_closed(s, node)
            case NodeDrained(node, notice_ms):
                on_node_drained(s, node, notice_ms)
            case TermsDue():
                look_again(s)
            case _:
                assert_never(stimulus)

    def _expect(self, job: int, *states: int) -> None:
        state = int(self.state.job[job]["state"])
        if state not in states:
            raise IllegalStimulusError(f"job {job} is in state {state}, not one of {states}")

    def explain(self, job: int) -> Explanation:
        """Why a job waits (rule 11).

        Raises
        ------
        NotWaitingError
            It does not wait.
        """
        return Explainer(self.built).explain(job)

    def next_rank_ms(self, job: int) -> int:
        """When the shell should report `RankDue` for a job just started; `NEVER_MS`: not at all."""
        return int(next_rerank_ms(self.state, job))

    def next_due_ms(self, job: int) -> int:
        """When the shell should report `ReservationDue` next for a job just submitted or due; `NEVER_MS`: not at all."""
        return int(next_due_ms(self.state, job))

    def leases(self, job: int) -> list[tuple[int, int, int]]:
        """(node, mask of GPU indices, milli of each) that a job has, in order of node."""
        out, s = [], int(self.state.job[job]["seg"])
        while s >= 0:
            seg = self.state.seg[s]
            out.append((int(seg["node"]), int(seg["mask"]), int(seg["milli"])))
            s = int(seg["next"])
        return sorted(out)
