"""A small alliance with its writer, an agent that is told and tells, and a power cut wherever the test wants one."""

from __future__ import annotations

import json
import random
from concurrent.futures import Future
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import event

from dure.agent.reconcile import Forget, Launch, Refuse, Seen, Stop, reconcile
from dure.agent.wire import LeaseOrder
from dure.model.job_file import JobSpec
from dure.ports.event_log import LogUnwritableError
from dure.ports.executor import Run, RunState
from dure.service import commands
from dure.service.audit import audit
from dure.service.clock import ForwardClock
from dure.service.errors import Problem
from dure.service.identity import Grant, Principal
from dure.service.projection import lease_of_row
from dure.service.schemas import NewProject, NewToken, Sync
from dure.service.writer import Asked, Writer
from dure.store.store import Store

ALLIANCE = """
name: Small
start: 2026-01-01
own_notice: 60s
gpu_types:
  - {name: H200, speed_milli: 1000, idle_w: 280, busy_w: 1275, sleep_w: 40, mem_gib: 140}
members:
  - {name: owner, kind: public}
  - {name: guest, kind: company}
  - {name: other, kind: company}
sites:
  - name: hall
    clusters:
      - {name: hall, owner: owner, gpu_type: H200, gpus: 16, gpus_per_node: 8, nodes_per_rack: 2}
agreements:
  - {name: to-guest, lenders: [owner], borrowers: [guest, other], kind: LEND, limit_gpus: 16, notice: 2m, start: 2026-01-01}
"""
T0 = 1_800_000_000_000
DOCUMENT = {"alliance": ALLIANCE, "path": "small.yaml", "policy": "dure", "at": "2027-01-15", "start_ms": T0, "format": 1}


def document_of_today() -> dict[str, Any]:
    """The same alliance for services that run by the real clock."""
    midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return DOCUMENT | {"at": midnight.date().isoformat(), "start_ms": int(midnight.timestamp() * 1000)}


OPERATOR = Principal("root", (Grant("operator"),))
NODES = ("hall-0", "hall-1")
TTL_MS, SILENT_MS, MARGIN_MS = 600_000, 60_000, 60_000


class PowerCut(BaseException):
    """The service's process is gone."""


class CutStore(Store):
    """A store in which the power goes, or the database refuses, at a chosen moment of the next writing."""

    moment = ""

    def open(self):
        super().open()
        if self.is_sqlite:
            # The disk itself is not cut off here, so it need not be waited for.
            self.engine.dispose()
            event.listen(self.engine, "connect", lambda raw, _: raw.execute("PRAGMA synchronous = OFF"))

    def append_all(self, entries, changes):
        moment, self.moment = self.moment, ""
        if moment == "before":
            raise PowerCut
        if moment == "refused":
            raise LogUnwritableError("no space left")
        self._within = moment == "within"
        super().append_all(entries, changes)
        if moment == "after":
            raise PowerCut
        if moment == "unheard":
            raise LogUnwritableError("the connection was lost while it committed")

    def _write(self, connection, changes):
        if self._within:
            raise PowerCut
        super()._write(connection, changes)

    def probe(self):
        if self.moment == "full":
            raise LogUnwritableError("no space left")
        super().probe()


@dataclass
class Wall:
    """Clocks that the test turns: the wall's may be set back, the other one only goes on."""

    wall: int = T0
    elapsed: int = 0

    def advance(self, ms: int) -> None:
        self.wall += ms
        self.elapsed += ms


class SmallAgent:
    """What a site's agent does, by the real rules of reconciling; it survives every cut of the service."""

    def __init__(self, chance: random.Random) -> None:
        self.chance, self.runs, self.seen = chance, {}, {}
        self.launched: list[str] = []
        self.exit_code: dict[str, int] = {}
        self.boot, self.seq = 0, 0
        self.offered = set(NODES)
        #: Part of the launches that it refuses.
        self.refusing = 0.0

    def restart(self) -> None:
        self.boot += 1
        self.seq = 0

    def report(self, wall: Wall) -> Sync:
        self.seq += 1
        runs = [
            {"lease_id": r.lease_id, "fence": r.fence, "state": r.state.value, "exit_code": r.exit_code,
             "started_ms": wall.wall if r.state is not RunState.LOST else -1, "refused": r.refused}
            for r in self.runs.values()
        ]  # fmt: skip
        return Sync.model_validate(
            {"agent_id": "a", "boot": str(self.boot), "seq": self.seq, "runs": runs,
             "nodes": [{"name": name, "gpus": 8} for name in sorted(self.offered)]}
        )  # fmt: skip

    def hear(self, leases, now_ms: int) -> None:
        orders = [
            LeaseOrder.model_construct(lease_id=x.lease_id, fence=x.fence, job_id=x.job_id, attempt=x.attempt, action=x.action,
                                       deadline_ms=x.deadline_ms, signal="TERM", grace_ms=0)
            for x in leases
        ]  # fmt: skip
        for action in reconcile(orders, list(self.runs.values()), self.seen, now_ms):
            match action:
                case Launch(lease):
                    self.launch(lease)
                case Refuse(lease):
                    self.runs[lease.lease_id] = Run(lease.lease_id, lease.fence, RunState.LOST)
                case Stop(lease_id):
                    self.runs[lease_id] = replace(self.runs[lease_id], state=RunState.EXITED, exit_code=143)
                case Forget(lease_id):
                    del self.runs[lease_id]

    def launch(self, lease) -> None:
        assert lease.lease_id not in self.launched, f"{lease.lease_id} is launched twice"
        living = [r.lease_id for r in self.runs.values() if r.state is RunState.RUNNING]
        assert lease.job_id not in {name.rpartition(".")[0] for name in living}, f"{lease.job_id} runs twice"
        if self.chance.random() < self.refusing:
            self.seen[lease.job_id] = Seen(lease.fence, lease.lease_id)
            self.runs[lease.lease_id] = Run(lease.lease_id, lease.fence, RunState.LOST, refused="no space left")
            return
        self.launched.append(lease.lease_id)
        self.seen[lease.job_id] = Seen(lease.fence, lease.lease_id)
        self.runs[lease.lease_id] = Run(lease.lease_id, lease.fence, RunState.RUNNING)

    def finish(self, how_many: int, codes=(0, 0, 0, 1)) -> None:
        running = sorted(r.lease_id for r in self.runs.values() if r.state is RunState.RUNNING)
        for lease_id in self.chance.sample(running, min(how_many, len(running))):
            code = self.chance.choice(codes)
            self.runs[lease_id] = replace(self.runs[lease_id], state=RunState.EXITED, exit_code=code)
            self.exit_code[lease_id] = code


class World:
    """Service, agent and clients; `url`: where the log is."""

    def __init__(self, url: str, seed: int, wall: Wall | None = None) -> None:
        self.url, self.chance, self.wall = url, random.Random(seed), wall or Wall()
        self.agent = SmallAgent(self.chance)
        self.acknowledged: list[str] = []
        self.cancelled: set[str] = set()
        self.refused = self.cuts = 0
        self.ids: set[str] = set()
        self.service_up()
        if self.store.document() is None:
            self.store.begin(DOCUMENT)
        self.writer.load()
        for member in ("owner", "guest", "other"):
            self.do(commands.make_project(NewProject(name="main", member=member), OPERATOR))

    def service_up(self) -> None:
        self.store = CutStore(self.url)
        self.store.open()
        assert self.store.lead()
        self.writer = Writer(self.store, lambda _: None, ForwardClock(lambda: self.wall.wall, lambda: self.wall.elapsed))
        self.writer.is_leading = True
        if self.store.document() is not None:
            self.writer.load()

    def service_down(self) -> None:
        self.store.close()

    def batch(self, *asked: Any) -> list[Any]:
        """Let commands be carried out together; for each its result or its Problem. A cut brings the service up anew."""
        futures: list[Future[Any]] = [Future() for _ in asked]
        for future in futures:
            future.set_running_or_notify_cancel()
        try:
            self.writer._work([Asked(c, "user:t", f) for c, f in zip(asked, futures, strict=True)])
        except PowerCut:
            self.cuts += 1
            self.service_down()
            self.service_up()
        out: list[Any] = []
        for future in futures:
            if not future.done():
                out.append(None)
            else:
                error = future.exception()
                out.append(future.result() if error is None else error)
        return out

    def do(self, command: Any) -> Any:
        (found,) = self.batch(command)
        if isinstance(found, BaseException):
            raise found
        return found

    def sync(self) -> None:
        answer = self.batch(commands.take_sync("hall", self.agent.report(self.wall)))
        if isinstance(answer[0], Problem) and answer[0].status == 503:
            self.refused += 1
            return
        if self.chance.random() < 0.2:
            return  # the answer is lost on its way
        self.agent.hear(self.writer.leases_at("hall"), self.writer.now_ms())

    def submit(self, how_many: int) -> None:
        asked = []
        for _ in range(how_many):
            member = self.chance.choice(("owner", "guest", "other"))
            spec = {
                "project": f"{member}/main", "command": ["true"], "retries": self.chance.choice((0, 1)),
                "resources": {"gpus": self.chance.choice((0, 1, 2, 8, 16))},
            }  # fmt: skip
            if self.acknowledged and self.chance.random() < 0.2:
                spec["depends_on"] = [{"job": self.chance.choice(self.acknowledged), "when": "afterany"}]
            if self.chance.random() < 0.2:
                spec["array"] = {"indices": [1, 2, 3], "limit": 2}
            asked.append(commands.submit([JobSpec.model_validate_json(json.dumps(spec))], OPERATOR))
        for found in self.batch(*asked):
            if isinstance(found, list):
                for _, names in found:
                    assert not self.ids & set(names), "an id was given twice"
                    self.ids |= set(names)
                    self.acknowledged += names
            else:
                self.refused += found is not None

    def cancel(self) -> None:
        if self.acknowledged:
            name = self.chance.choice(self.acknowledged)
            if isinstance(self.batch(commands.cancel(name, OPERATOR))[0], list):
                self.cancelled.add(name)

    def token(self) -> None:
        self.batch(commands.make_token(NewToken(user="u", role="user", member="guest"), OPERATOR))

    def watch(self) -> None:
        self.batch(commands.expire_silent(SILENT_MS, TTL_MS, MARGIN_MS))

    def settle(self) -> None:
        """No more faults: until all work is done."""
        self.store.moment = ""
        self.agent.offered, self.agent.refusing = set(NODES), 0.0
        for _ in range(4 * len(self.acknowledged) + 50):
            self.sync()
            self.agent.finish(16, (0,))
            self.wall.advance(120_000)
            self.watch()
            if all(job.state == "ENDED" for job in self.writer.alliance.jobs.values()) and not self.agent.runs:
                return
        raise AssertionError("work is left over")

    def check(self) -> None:
        """Nothing lost, nothing doubled, all proved."""
        jobs = self.writer.alliance.jobs
        assert set(self.acknowledged) <= set(jobs), "an acknowledged job is lost"
        rows = {row["job_id"]: row for row in self.store.rows("job", limit=10**6)}
        assert set(rows) == set(jobs)
        for name, job in jobs.items():
            row = rows[name]
            state = "ADMITTED" if row["state"] == "RUNNING" else row["state"]
            assert (state, row["outcome"], row["attempt"]) == (job.state, job.outcome, job.attempt), name
        attempts = self.store.rows("attempt", limit=10**6)
        assert {a["lease_id"] for a in attempts} == {f"{n}.{i}" for n, j in jobs.items() for i in range(1, j.attempt + 1)}
        opened = {lease_of_row(a) for a in attempts if a["ended_ms"] is None}
        assert opened == set(self.writer.desk.leases.values()), "after a restart the agent would be told something else"
        found = audit(self.store)
        assert found.mismatches == 0, found.findings
        assert found.verified == found.decisions
        assert found.events == self.writer.seq

    def close(self) -> None:
        self.service_down()


def on_disk(folder: Path) -> str:
    """Where a world's log is."""
    return f"sqlite:///{folder / 'dure.db'}"
