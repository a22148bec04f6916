"""The single writer: takes commands one after another, asks the core, makes the answer durable, then lets it be seen.

Nothing leaves the writer before its step is in the log. If the log cannot be written, the core has gone ahead of it and
is built anew from the log; what was asked for is refused and nothing of it remains.
"""

from __future__ import annotations

import json
import os
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import structlog

from dure.core.live import Alliance, UnknownJobError
from dure.model.alliance import load_alliance
from dure.model.alliance_build import build_fleet
from dure.model.errors import DureError
from dure.model.events import Start, Step, Stimulus, Tick
from dure.policy.config import named_policy
from dure.ports.event_log import LogConflictError, LogUnwritableError
from dure.service.errors import Problem, unavailable
from dure.service.projection import Desk, lease_of_row, project_step
from dure.store.store import Changes, Store

_ID_DIGITS = "0123456789abcdefghjkmnpqrstvwxyz"
#: Commands that share one transaction at most.
BATCH_MAX = 256

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


#: A command: given the writer (its clock, ids and state), says what it wants.
Command = Callable[["Writer"], Plan]


def alliance_of(document: dict[str, Any]) -> Alliance:
    """The alliance with which a log began, as nothing had happened yet."""
    from datetime import date

    spec = load_alliance(document["alliance"], document.get("path", ""))
    fleet, terms = build_fleet(spec, date.fromisoformat(document["at"]))
    return Alliance(fleet, terms, named_policy(document["policy"]), int(document["start_ms"]))


class Writer:
    """The thread that owns the core.

    Parameters
    ----------
    store : Store
        Open; this service leads it.
    wake : callable
        Called, from the writer's thread, after steps became durable, with the sites whose leases changed.
    """

    def __init__(self, store: Store, wake: Callable[[set[str]], None], clock_ms: Callable[[], int] | None = None) -> None:
        self.store = store
        self.alliance: Alliance = None  # type: ignore[assignment]  # made by `load`
        self.desk = Desk()
        self.seq, self.hash, self.at_ms = 0, "", 0
        self.num_decisions = 0
        self.projects: dict[str, str] = {}
        self.member_names: set[str] = set()
        #: Nodes that each site's agent offered last.
        self.offered: dict[str, set[str]] = {}
        self.cycle_s: list[float] = []
        self._wake = wake
        self._clock_ms = clock_ms or (lambda: time.time_ns() // 1_000_000)
        self._queue: queue.SimpleQueue[tuple[Command, str, Future[Any]] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._id_last = 0
        self.is_leading = False
        self.lock = threading.Lock()

    # --- life

    def load(self) -> None:
        """Build the state from the log."""
        document = self.store.document()
        if document is None:
            raise DureError("the log has not begun: there is no alliance")
        alliance, seq = alliance_of(document), 0
        _, self.hash, _ = 0, "", 0
        for step in self.store.read():
            effects = alliance.apply(step.at_ms, step.stimuli) if step.stimuli else []
            self.num_decisions += len(effects)
            seq = step.seq
        last_seq, self.hash, self.at_ms = self.store.last()
        if last_seq != seq:
            raise LogConflictError("the log grew while it was read")
        self.alliance, self.seq = alliance, seq
        desk = Desk()
        for row in self.store.rows("attempt", limit=10**9, where={"state": ["leased", "running", "vacating", "stopping"]}):
            desk.put(lease_of_row(row))
        for site in self.desk.by_site:
            desk.version[site] = self.desk.version.get(site, 0) + 1
        self.desk = desk
        self.projects = {row["project"]: row["member"] for row in self.store.rows("project", limit=10**9)}
        self.member_names = {m.name for m in alliance.policy_core.built.terms.members}
        self.offered = {
            row["site"]: {n["name"] for n in json.loads(row["nodes"])} for row in self.store.rows("agent", limit=10**9)
        }

    def start(self) -> None:
        """Begin to take commands; the store must be led by this service."""
        self.load()
        self.is_leading = True
        self._thread = threading.Thread(target=self._run, name="dure-writer", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Finish what is queued and end."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
            self._thread = None
        self.is_leading = False

    def do(self, command: Command, actor: str) -> Future[Any]:
        """Queue a command; its future gives the plan's result once that is durable, or raises a Problem."""
        future: Future[Any] = Future()
        if not self.is_leading:
            future.set_exception(unavailable("this service does not lead; ask again"))
        else:
            self._queue.put((command, actor, future))
        return future

    # --- what commands use

    def now_ms(self) -> int:
        """Epoch ms for the step being planned: never before the last one, whatever the clock does."""
        return max(self._clock_ms(), self.at_ms)

    def new_id(self) -> str:
        """An id never given before, sortable by the moment it was made."""
        self._id_last = max(self.now_ms() << 16, self._id_last + 1)
        value, out = self._id_last, ""
        while value:
            out = _ID_DIGITS[value & 31] + out
            value >>= 5
        return out

    # --- the loop

    def _run(self) -> None:
        while True:
            batch = self._gather()
            if batch is None:
                return
            try:
                self._work(batch)
            except Exception as error:  # a bug must not leave callers waiting
                log.exception("writer failed")
                for _, _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                os._exit(70)  # the log is whole; a service in an unknown state must not go on

    def _gather(self) -> list[tuple[Command, str, Future[Any]]] | None:
        due = self.alliance.next_due_ms()
        timeout = 5.0 if due is None else min(max((due - self._clock_ms()) / 1000, 0.0), 5.0)
        batch: list[tuple[Command, str, Future[Any]]] = []
        try:
            item = self._queue.get(timeout=max(timeout, 0.001))
            while True:
                if item is None:
                    self._queue.put(None)
                    return batch or None
                batch.append(item)
                if len(batch) >= BATCH_MAX:
                    break
                item = self._queue.get_nowait()
        except queue.Empty:
            pass
        return batch

    def _work(self, batch: list[tuple[Command, str, Future[Any]]]) -> None:
        steps: list[tuple[Step, Changes]] = []
        answers: list[tuple[Future[Any], Any]] = []
        touched = dict(self.desk.version)
        with self.lock:
            due = self.alliance.next_due_ms()
            if due is not None and due <= self.now_ms():
                steps.append(self._step("service", Plan([Tick()])))
            for command, actor, future in batch:
                try:
                    plan = command(self)
                    if plan.is_quiet:
                        steps.append((Step(0, 0, actor, ()), plan.changes))
                    elif plan.stimuli or plan.facts:
                        steps.append(self._step(actor, plan))
                    answers.append((future, plan.result))
                except (Problem, DureError) as error:
                    future.set_exception(_as_problem(error))
            try:
                self.store.append_all(steps)
            except (LogConflictError, LogUnwritableError) as error:
                self._recover(error)
                for future, _ in answers:
                    future.set_exception(unavailable(str(error)))
                return
        changed = {site for site, version in self.desk.version.items() if touched.get(site) != version}
        for future, result in answers:
            future.set_result(result)
        if changed:
            self._wake(changed)

    def _step(self, actor: str, plan: Plan) -> tuple[Step, Changes]:
        at_ms = self.now_ms()
        began = time.perf_counter()
        effects = self.alliance.apply(at_ms, plan.stimuli) if plan.stimuli else []
        self.cycle_s.append(time.perf_counter() - began)
        if len(self.cycle_s) > 4096:
            del self.cycle_s[:2048]
        jobs = self.alliance.jobs
        who = {e.job_id: jobs[e.job_id].request for e in effects if isinstance(e, Start)}
        project_step(self.desk, at_ms, plan.stimuli, effects, plan.changes, who)
        step = self.store.sealed(
            Step(self.seq + 1, at_ms, actor, tuple(plan.stimuli), tuple(effects), tuple(plan.facts), self.hash)
        )
        self.seq, self.hash, self.at_ms = step.seq, step.hash, at_ms
        self.num_decisions += len(effects)
        return step, plan.changes

    def _recover(self, error: DureError) -> None:
        """The core is ahead of the log: go back to the log, or give up the lead."""
        log.error("log not written", error=str(error))
        if isinstance(error, LogConflictError):
            self.is_leading = False
            return
        while True:
            try:
                self.num_decisions = 0
                self.load()
            except DureError as again:
                log.error("log not read", error=str(again))
                time.sleep(0.5)
            else:
                return


def _as_problem(error: DureError) -> Problem:
    if isinstance(error, Problem):
        return error
    if isinstance(error, UnknownJobError):
        return Problem(404, "Not found", str(error))
    return Problem(422, "Invalid request", str(error))
