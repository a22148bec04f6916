"""From a step to what it changes in the read models and in the agents' leases. No I/O."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from dure.model.events import (
    Changed,
    Effect,
    Exited,
    Held,
    LeaseLost,
    Placement,
    Quarantined,
    Released,
    Resize,
    Start,
    Stimulus,
    Stop,
    Vacate,
)
from dure.model.job_file import JobSpec
from dure.store.store import Changes

RUN, VACATE, STOP = "run", "vacate", "stop"
#: Characters of the cause of an attempt's end that are kept.
CAUSE_MAX = 80


@dataclass(frozen=True)
class Lease:
    """A lease that an agent should have now.

    Attributes
    ----------
    action : str
        run, vacate (save and leave by ``deadline_ms``) or stop.
    engine_gpus : str
        The GPUs that the site's engine has chosen, as JSON; empty: none that are known.
    """

    lease_id: str
    job_id: str
    attempt: int
    fence: int
    site: str
    placements: tuple[Placement, ...]
    action: str = RUN
    deadline_ms: int = 0
    cause: str = ""
    is_started: bool = False
    engine_gpus: str = ""


def lease_id_of(job_id: str, attempt: int) -> str:
    """The name of an attempt's lease."""
    return f"{job_id}.{attempt}"


class Desk:
    """The open leases by site, as the writer has them: ahead of the log until its step is written."""

    def __init__(self, leases: Iterable[Lease] = ()) -> None:
        self.leases: dict[str, Lease] = {}
        self._by_site: dict[str, dict[str, Lease]] = {}
        self._changed: set[str] = set()
        for lease in leases:
            self.put(lease)

    def put(self, lease: Lease) -> None:
        """A new lease, or another word on an open one."""
        self.leases[lease.lease_id] = lease
        self._by_site.setdefault(lease.site, {})[lease.lease_id] = lease
        self._changed.add(lease.site)

    def drop(self, lease_id: str) -> None:
        """A lease is over."""
        lease = self.leases.pop(lease_id, None)
        if lease is not None:
            del self._by_site[lease.site][lease_id]
            self._changed.add(lease.site)

    def ask(self, lease_id: str, action: str, deadline_ms: int, cause: str) -> None:
        """Another action for an open lease."""
        lease = self.leases.get(lease_id)
        if lease is not None:
            self.put(replace(lease, action=action, deadline_ms=deadline_ms, cause=cause))

    def has_at(self, site: str) -> bool:
        """Whether a site has open leases."""
        return bool(self._by_site.get(site))

    def take_changed(self) -> dict[str, tuple[Lease, ...]]:
        """The leases of each site where they have changed since this was asked last."""
        changed, self._changed = self._changed, set()
        return {site: tuple(self._by_site.get(site, {}).values()) for site in changed}


def new_job_row(job_id: str, spec: JobSpec, text: str, member: str, project: str, user: str, at_ms: int, array_id: str = "",
                array_index: int | None = None, pipeline_id: str = "", pipeline_job: str = "") -> dict[str, Any]:  # fmt: skip
    """Row of a job that has just been submitted; `text`: its file as JSON."""
    return {
        "job_id": job_id, "name": spec.name, "project": project, "member": member, "user": user, "state": "PENDING",
        "outcome": "", "attempt": 0, "gpus": spec.resources.gpus, "gpu_type": "", "site": "", "exit_code": None,
        "submitted_ms": at_ms, "started_ms": None, "ended_ms": None, "promised_ms": None, "array_id": array_id,
        "array_index": array_index, "pipeline_id": pipeline_id, "pipeline_job": pipeline_job, "progress": "", "nodes": "[]",
        "limit_s": None if spec.time_limit is None else spec.time_limit / 1000,
        "spec": text, "service": spec.service,
    }  # fmt: skip


def project_step(
    desk: Desk, at_ms: int, stimuli: Sequence[Stimulus], effects: Sequence[Effect], changes: Changes, who: dict[str, Any],
) -> None:  # fmt: skip
    """Write what a step has decided into the changes and the desk.

    Parameters
    ----------
    who : dict
        Job id to its request, for the columns that a usage record keeps.
    """
    exits = {(s.job_id, s.attempt): s.exit_code for s in stimuli if isinstance(s, Exited)}
    refusals = {(s.job_id, s.attempt): s.refused for s in stimuli if isinstance(s, LeaseLost)}
    for effect in effects:
        match effect:
            case Start():
                _start(desk, at_ms, effect, changes, who[effect.job_id])
            case Vacate(job_id, attempt, deadline_ms, cause):
                lease_id = lease_id_of(job_id, attempt)
                desk.ask(lease_id, VACATE, deadline_ms, cause)
                changes.change("attempt", lease_id, state="vacating", deadline_ms=deadline_ms, cause=cause)
            case Stop(job_id, attempt, cause):
                lease_id = lease_id_of(job_id, attempt)
                if lease_id in desk.leases:
                    desk.ask(lease_id, STOP, at_ms, cause)
                    changes.change("attempt", lease_id, state="stopping", deadline_ms=at_ms, cause=cause)
            case Released(job_id, attempt, run_ms, borrowed_ms, cause):
                lease_id = lease_id_of(job_id, attempt)
                desk.drop(lease_id)
                code = exits.get((job_id, attempt))
                changes.change("attempt", lease_id, state=cause, ended_ms=at_ms, run_ms=run_ms, borrowed_ms=borrowed_ms,
                               exit_code=code)  # fmt: skip
                changes.change("job", job_id, exit_code=code)
                if cause == "refused":
                    changes.change("attempt", lease_id, cause=refusals[job_id, attempt][:CAUSE_MAX])
            case Changed(job_id, state, attempt, outcome):
                columns: dict[str, Any] = {"state": state, "attempt": attempt, "outcome": outcome}
                if state == "ENDED":
                    columns["ended_ms"] = at_ms
                changes.change("job", job_id, **columns)
            case Held(job_id, promised_ms):
                changes.change("job", job_id, promised_ms=promised_ms)
            case Resize() | Quarantined():
                pass


def _start(desk: Desk, at_ms: int, s: Start, changes: Changes, request: Any) -> None:
    lease_id = lease_id_of(s.job_id, s.attempt)
    desk.put(Lease(lease_id, s.job_id, s.attempt, s.fence, s.site, s.placements))
    milli = sum(len(part.gpus) * part.gpu_milli for part in s.placements)
    changes.add(
        "attempt",
        {
            "lease_id": lease_id, "job_id": s.job_id, "attempt": s.attempt, "fence": s.fence, "project": request.project,
            "member": request.member, "user": request.user, "site": s.site, "pool": s.pool, "owner": s.owner,
            "agreement": s.agreement, "gpu_type": s.gpu_type, "gpu_milli": milli,
            "placements": json.dumps([asdict(part) for part in s.placements]), "state": "leased", "cause": "",
            "deadline_ms": None, "leased_ms": at_ms, "started_ms": None, "ended_ms": None, "run_ms": None,
            "borrowed_ms": None, "exit_code": None, "energy_mj": None, "engine_gpus": "",
            "engine_gpu_ms": None, "log_bytes": None,
        },
    )  # fmt: skip
    nodes = json.dumps([part.node for part in s.placements])
    changes.change("job", s.job_id, gpu_type=s.gpu_type, site=s.site, promised_ms=None, nodes=nodes)


def lease_of_row(row: dict[str, Any]) -> Lease:
    """An open lease from its row in the read model."""
    parts = tuple(Placement(p["node"], tuple(p["gpus"]), p["gpu_milli"]) for p in json.loads(row["placements"]))
    action = {"vacating": VACATE, "stopping": STOP}.get(row["state"], RUN)
    return Lease(
        row["lease_id"], row["job_id"], row["attempt"], row["fence"], row["site"], parts, action,
        row["deadline_ms"] or 0, row["cause"], row["started_ms"] is not None, row["engine_gpus"],
    )  # fmt: skip
