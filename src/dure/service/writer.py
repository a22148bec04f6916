"""The single writer: takes commands one after another, asks the core, makes the answer durable, then lets it be seen.

Nothing leaves the writer before its step is in the log. If the log cannot be written, the core has gone ahead of it and
is built anew from the log; what was asked for is refused and nothing of it remains. Where a commit's end was not heard
(the connection broke), the log is asked whether it has the step.
"""

from __future__ import annotations

import json
import math
import os
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import structlog

from dure.core.live import Alliance, UnknownJobError
from dure.core.snapshot import SnapshotError, expand, pack, squeeze, unpack
from dure.model.alliance import load_alliance
from dure.model.alliance_build import build_fleet
from dure.model.alliance_growth import with_sites
from dure.model.errors import DureError, InputError
from dure.model.events import Start, Step, Stimulus, Tick
from dure.model.fleet import Fleet
from dure.model.terms import Terms
from dure.policy.config import named_policy
from dure.ports.event_log import LogConflictError, LogUnwritableError
from dure.service.clock import ForwardClock
from dure.service.errors import Problem, busy, following, internal, refused_input, unavailable
from dure.service.projection import Desk, Lease, lease_of_row, project_step
from dure.store.store import Changes, Entry, Store, StoreError, sealed

#: What the log calls the service itself.
SERVICE = "service"
_ID_DIGITS = "0123456789abcdefghjkmnpqrstvwxyz"
#: Commands that share one transaction at most.
BATCH_MAX = 256
#: Commands that may wait; beyond, who asks is told to come later, after at most so many seconds.
WAITING_MAX, LATER_S_MAX = 2_048, 30
#: Part of a new measurement in the running mean of what a command takes.
_PACE_PART = 0.2
#: A snapshot of the state is kept after so many steps; at a start already where it had so many to replay.
SNAPSHOT_STEPS, SNAPSHOT_START_STEPS = 100_000, 2_000

log = structlog.get_logger("dure.writer")


@dataclass
class Plan:
    """What a command wants written.

    Attributes
    ----------
    result : object
        The command's answer, once it is durable.
    is_quiet : bool
        Only read models change (an agent was seen): no entry of the log.
    """

    stimuli: Sequence[Stimulus] = ()
    facts: Sequence[dict[str, Any]] = ()
    changes: Changes = field(default_factory=Changes)
    result: Any = None
    is_quiet: bool = False


@dataclass(frozen=True)
class Heard:
    """An agent's last picture: whose, and when, in ms of a clock that nobody sets."""

    agent_id: str
    boot: str
    seq: int
    elapsed_ms: int


#: A command: given the writer (its clock, ids and state), says what it wants.
Command = Callable[["Writer"], Plan]


def alliance_of(document: dict[str, Any]) -> Alliance:
    """The alliance with which a log began, as nothing had happened yet."""
    from datetime import date

    spec = load_alliance(document["alliance"], document.get("path", ""))
    at = date.fromisoformat(document["at"])

    def with_more(texts: Sequence[str]) -> tuple[Fleet, Terms]:
        return build_fleet(with_sites(spec, texts), at, is_utc=True)

    return Alliance(*build_fleet(spec, at, is_utc=True), named_policy(document["policy"]), int(document["start_ms"]), with_more)


@dataclass
class Asked:
    """A command that waits for its turn."""

    command: Command
    actor: str
    future: Future[Any]


@dataclass
class Batch:
    """What commands taken together have come to, before it is written."""

    entries: list[Entry] = field(default_factory=list)
    changes: Changes = field(default_factory=Changes)
    answers: list[tuple[Future[Any], Any]] = field(default_factory=list)


class StateBrokenError(DureError):
    """The core refused a step midway: its state is no longer the log's."""


class Writer:
    """The thread that owns the core.

    Parameters
    ----------
    store : Store
        Open; this service leads it.
    wake : callable
        Called, from the writer's thread, after steps became durable, with the sites whose leases changed.
    """

    def __init__(self, store: Store, wake: Callable[[set[str]], None], clock: ForwardClock | None = None) -> None:
        self.store = store
        self.clock = clock or ForwardClock()
        self.alliance: Alliance = None  # type: ignore[assignment]  # made by `load`
        self.desk = Desk()
        self.seq, self.hash, self.at_ms = 0, "", 0
        self.projects: dict[str, str] = {}
        self.member_names: set[str] = set()
        #: Nodes that each site's agent offered last.
        self.offered: dict[str, set[str]] = {}
        #: Which agent was heard last at each site, and when by the clock that nobody sets.
        self.heard: dict[str, Heard] = {}
        #: Rows of keys that commands of the batch being planned have made.
        self.keys_made: list[dict[str, Any]] = []
        self.cycle_s: list[float] = []
        #: (site, by the engine's "record" of a job or its "database", whether they differ) → attempts compared.
        self.accounts: Counter[tuple[str, str, bool]] = Counter()
        #: Grows whenever tokens have changed durably.
        self.tokens_version = 0
        self._wake = wake
        self._queue: queue.SimpleQueue[Asked | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._id_last = 0
        self._kept_seq = 0
        #: Running mean of what a command takes, s.
        self._pace_s = 0.001
        self._leases: dict[str, tuple[Lease, ...]] = {}
        self.is_leading = False
        #: Where the service is that leads, while this one does not; empty: not known.
        self.leader = ""
        self._is_stopping = threading.Event()
        self._is_doubtful = False
        self._gate = threading.Lock()
        self.lock = threading.Lock()

    # --- life

    def load(self) -> None:
        """Build the state from the log.

        Raises
        ------
        DureError
            The log has not begun, cannot be read, or is not this version's.
        """
        document = self.store.document()
        if document is None:
            raise DureError("the log has not begun: there is no alliance")
        alliance, seq = self._from_snapshot(document)
        self._kept_seq = seq
        for step in self.store.read(seq):
            if step.stimuli:
                alliance.apply(step.at_ms, step.stimuli)
            seq = step.seq
        last_seq, self.hash, self.at_ms = self.store.last()
        if last_seq != seq:
            raise LogConflictError("the log grew while it was read")
        self.clock.pass_by(self.at_ms)
        self.alliance, self.seq = alliance, seq
        opened = self.store.rows("attempt", limit=10**9, where={"state": ["leased", "running", "vacating", "stopping"]})
        self.desk = Desk(lease_of_row(row) for row in opened)
        self._leases = self.desk.take_changed()
        self.projects = {row["project"]: row["member"] for row in self.store.rows("project", limit=10**9)}
        self.member_names = {m.name for m in alliance.policy_core.built.terms.members}
        agents = self.store.rows("agent", limit=10**9)
        self.offered = {row["site"]: {n["name"] for n in json.loads(row["nodes"])} for row in agents}
        elapsed = self.clock.elapsed_ms()
        self.heard = {row["site"]: Heard(row["agent_id"], row["boot"], 0, elapsed) for row in agents} | {
            site: heard for site, heard in self.heard.items() if site in self.offered
        }
        newest = [rows[0][key] for name, key in (("job", "job_id"), ("token", "token_id"))
                  if (rows := self.store.rows(name, limit=1, descending=True))]  # fmt: skip
        self._id_last = max([self._id_last, *(_number_of(name) for name in newest)])
        self.tokens_version += 1

    def _from_snapshot(self, document: dict[str, Any]) -> tuple[Alliance, int]:
        """The state to go on from, and the step that it is after: the log's beginning, where no snapshot fits."""
        kept = self.store.snapshot()
        if kept is not None:
            alliance = alliance_of(document)
            try:
                unpack(alliance, expand(kept[1]))
            except SnapshotError as error:
                log.warning("snapshot not used", seq=kept[0], error=str(error))
            else:
                return alliance, kept[0]
        return alliance_of(document), 0

    def keep_snapshot(self) -> None:
        """Keep the state as it is after the last step, if there were any since the last time."""
        if self.seq == self._kept_seq or self._is_doubtful:
            return
        began = time.perf_counter()
        try:
            self.store.keep_snapshot(self.seq, self.hash, squeeze(pack(self.alliance)))
        except (LogConflictError, LogUnwritableError) as error:
            log.warning("snapshot not kept", error=str(error))
        else:
            log.info("snapshot kept", seq=self.seq, took_s=round(time.perf_counter() - began, 3))
        # Where it could not be kept the next one is tried after as many steps more.
        self._kept_seq = self.seq

    def start(self) -> None:
        """Begin to take commands; the store must be led by this service."""
        self.load()
        self._is_stopping.clear()
        self._queue = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="dure-writer", daemon=True)
        self.is_leading = True
        self._keep_snapshot_after(SNAPSHOT_START_STEPS)
        self._thread.start()

    def stop(self) -> None:
        """Finish what is queued and end."""
        self._is_stopping.set()
        if self._thread is not None:
            with self._gate:
                self.is_leading = False
                self._queue.put(None)
            self._thread.join()
            self._thread = None
            self._keep_snapshot_after(SNAPSHOT_START_STEPS)

    def _keep_snapshot_after(self, num_steps: int) -> None:
        with self.lock:
            if self.seq - self._kept_seq >= num_steps:
                self.keep_snapshot()

    def do(self, command: Command, actor: str) -> Future[Any]:
        """Queue a command; its future gives the plan's result once that is durable, or raises a Problem."""
        future: Future[Any] = Future()
        with self._gate:
            if not self.is_leading:
                future.set_exception(following(self.leader))
            elif actor != SERVICE and self.num_waiting() >= WAITING_MAX:
                future.set_exception(busy(min(math.ceil(self.num_waiting() * self._pace_s) or 1, LATER_S_MAX)))
            else:
                self._queue.put(Asked(command, actor, future))
        return future

    def num_waiting(self) -> int:
        """Commands that wait for their turn."""
        return self._queue.qsize()

    # --- what commands use

    def now_ms(self) -> int:
        """Epoch ms for the step being planned: never before the last one, whatever the clock does."""
        return max(self.clock.now_ms(), self.at_ms)

    def new_id(self) -> str:
        """An id never given before, sortable by the moment it was made."""
        self._id_last = max(self.now_ms() << 16, self._id_last + 1)
        value, out = self._id_last, ""
        while value:
            out = _ID_DIGITS[value & 31] + out
            value >>= 5
        return out

    # --- what others read

    def leases_at(self, site: str) -> tuple[Lease, ...]:
        """The leases that a site's agent should have, as they are in the log."""
        return self._leases.get(site, ())

    # --- the loop

    def _run(self) -> None:
        while self.is_leading or not self._queue.empty():
            batch = self._gather()
            if batch is None:
                break
            try:
                self._work(batch)
            except Exception:
                log.exception("writer failed")
                os._exit(70)  # the log is whole; a service in an unknown state must not go on
        self._refuse_queued()

    def _refuse_queued(self) -> None:
        with self._gate:
            self.is_leading = False
        while not self._queue.empty():
            asked = self._queue.get()
            if asked is not None and asked.future.set_running_or_notify_cancel():
                asked.future.set_exception(following(self.leader))

    def _gather(self) -> list[Asked] | None:
        """The commands that wait, as soon as there are some or a timer is due; None: it is time to end."""
        due = self.alliance.next_due_ms()
        timeout = 5.0 if due is None else min(max((due - self.now_ms()) / 1000, 0.0), 5.0)
        batch: list[Asked] = []
        with suppress(queue.Empty):
            asked = self._queue.get(timeout=max(timeout, 0.001))
            while True:
                if asked is None:
                    self._queue.put(None)
                    return batch or None
                if asked.future.set_running_or_notify_cancel():
                    batch.append(asked)
                if len(batch) >= BATCH_MAX:
                    break
                asked = self._queue.get_nowait()
        return batch

    def _work(self, asked: list[Asked]) -> None:
        if self._is_doubtful and not self._is_writable():
            for one in asked:
                one.future.set_exception(unavailable("the log cannot be written now"))
            return
        batch, began = Batch(), time.perf_counter()
        broken: StateBrokenError | None = None
        # Readers of the state wait while it changes, not while the disk does: a reason may be that of a step still being written.
        with self.lock:
            self.keys_made.clear()
            try:
                self._tick(batch)
                for one in asked:
                    self._plan(one, batch)
            except StateBrokenError as error:
                broken = error
        if broken is not None:
            # What was planned before is whole and written; the rest is refused.
            log.error("the core refused a step", error=str(broken), exc_info=broken)
            self._write(batch)
            self._restore()
            for one in asked:
                if not one.future.done():
                    one.future.set_exception(internal())
            return
        self._write(batch)
        if asked:
            self._pace_s += _PACE_PART * ((time.perf_counter() - began) / len(asked) - self._pace_s)
        self._keep_snapshot_after(SNAPSHOT_STEPS)

    def _tick(self, batch: Batch) -> None:
        due = self.alliance.next_due_ms()
        if due is not None and due <= self.now_ms():
            self._step(SERVICE, Plan([Tick()]), batch)

    def _plan(self, one: Asked, batch: Batch) -> None:
        try:
            plan = self._asked_for(one)
            if plan.is_quiet:
                batch.changes.extend(plan.changes)
            elif plan.stimuli or plan.facts:
                self._step(one.actor, plan, batch)
        except (Problem, UnknownJobError, InputError, StoreError) as error:
            one.future.set_exception(_as_problem(error))
        else:
            batch.answers.append((one.future, plan.result))

    def _asked_for(self, one: Asked) -> Plan:
        """What a command wants; a fault in it is its caller's alone, as the core has not been told of it."""
        try:
            return one.command(self)
        except DureError:
            raise
        except Exception as error:
            log.exception("command failed", actor=one.actor)
            raise internal() from error

    def _step(self, actor: str, plan: Plan, batch: Batch) -> None:
        at_ms = self.now_ms()
        began = time.perf_counter()
        try:
            effects = self.alliance.apply(at_ms, plan.stimuli) if plan.stimuli else []
        except (UnknownJobError, InputError):
            raise
        except Exception as error:
            raise StateBrokenError(str(error)) from error
        self.cycle_s.append(time.perf_counter() - began)
        if len(self.cycle_s) > 4096:
            del self.cycle_s[:2048]
        jobs = self.alliance.jobs
        who = {e.job_id: jobs[e.job_id].request for e in effects if isinstance(e, Start)}
        project_step(self.desk, at_ms, plan.stimuli, effects, plan.changes, who)
        entry = sealed(Step(self.seq + 1, at_ms, actor, tuple(plan.stimuli), tuple(effects), tuple(plan.facts), self.hash))
        self.seq, self.hash, self.at_ms = entry.step.seq, entry.step.hash, at_ms
        batch.entries.append(entry)
        batch.changes.extend(plan.changes)

    def _write(self, batch: Batch) -> None:
        """Make a batch durable, and only then let it be seen."""
        if batch.entries or not batch.changes.is_empty():
            try:
                self.store.append_all(batch.entries, batch.changes)
            except Exception as error:
                if isinstance(error, LogConflictError | LogUnwritableError):
                    log.error("log not written", error=str(error))
                    problem = unavailable(str(error))
                else:
                    log.exception("log not written")
                    problem = internal()
                if not self._is_there_after_all(batch):
                    for future, _ in batch.answers:
                        future.set_exception(problem)
                    batch.answers.clear()
                    return
        changed = self.desk.take_changed()
        self._leases = self._leases | changed
        if "token" in batch.changes.new or "token" in batch.changes.changed:
            self.tokens_version += 1
        for future, result in batch.answers:
            future.set_result(result)
        if changed:
            self._wake(set(changed))

    def _is_there_after_all(self, batch: Batch) -> bool:
        """Go back to the log, or give up the lead; whether the batch, whose end was not heard, is in the log."""
        self._restore()
        try:
            return bool(batch.entries) and self.store.has(batch.entries[-1].step)
        except StoreError:
            return False

    def _is_writable(self) -> bool:
        try:
            self.store.probe()
        except (LogConflictError, LogUnwritableError):
            if not self.store.still_leads():
                self._restore()
            return False
        self._is_doubtful = False
        return True

    def _restore(self) -> None:
        """The core is ahead of the log: build it again from the log; without the lead, end."""
        self._is_doubtful = True
        while not self._is_stopping.is_set():
            if not self.store.lead():
                log.error("the lead is lost")
                with self._gate:
                    self.is_leading = False
                return
            try:
                self.load()
                self._wake(set(self._leases))
            except DureError as error:
                log.error("log not read", error=str(error))
                self._is_stopping.wait(0.5)
            else:
                return


def _number_of(name: str) -> int:
    """The number of which an id is the text; an array's tasks have their array's."""
    value = 0
    for digit in name.partition("_")[0]:
        value = value * 32 + _ID_DIGITS.index(digit)
    return value


def _as_problem(error: DureError) -> Problem:
    if isinstance(error, Problem):
        return error
    if isinstance(error, StoreError):
        return unavailable(str(error))
    if isinstance(error, UnknownJobError):
        return Problem(404, "Not found", str(error))
    return refused_input(error) if isinstance(error, InputError) else Problem(422, "Invalid request", str(error))
