"""Routes of agents: their picture of a site, and jobs' output."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Body, Path, Query, Request, Response

from dure.model.job_file import JobSpec
from dure.service import commands, examples
from dure.service.access import Caller, KnownQuery, Running, TokenRow, carry_out
from dure.service.app import Service, described
from dure.service.errors import Problem, forbidden, not_found
from dure.service.identity import Principal, enrolling_of
from dure.service.projection import RUN, Lease
from dure.service.schemas import (
    BRIEF_FROM,
    Enrolment,
    InputForm,
    KeyKept,
    LaunchForm,
    LeaseForm,
    NewKey,
    Sync,
    SyncAnswer,
)
from dure.service.views import iso

router = APIRouter(prefix="/api/v1/agents", tags=["agents"], dependencies=[KnownQuery])

#: Largest part of a log in one request.
LOG_PART_MAX = 4 * 1024 * 1024
SiteName = Annotated[str, Path(min_length=1, max_length=64)]


def _check_site(who: Principal, site: str) -> None:
    if not any(g.role == "agent" and g.site == site for g in who.grants):
        raise forbidden(f"this needs the token of {site}'s agent")


@router.post("/{site}/sync", responses=described(400, 401, 403, 404, 409, 413, 422, 503))
async def sync_agent(
    service: Running, who: Caller, site: SiteName, sync: Annotated[Sync, Body(openapi_examples=examples.SYNC)]
) -> SyncAnswer:
    """Take an agent's whole picture; answer with all leases that it should have, at once if they differ from it."""
    _check_site(who, site)
    await carry_out(service, commands.take_sync(site, sync), who)
    known: dict[str, str] = {run.lease_id: run.state for run in sync.runs}
    if sync.wait_s > 0 and not _has_news(service, site, known):
        changed = service.change_of(site)
        if not _has_news(service, site, known):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(changed.wait(), sync.wait_s)
    leases = await asyncio.to_thread(_forms, service, site, known if sync.protocol >= BRIEF_FROM else ())
    return SyncAnswer(now_ms=service.writer.now_ms(), ttl_ms=service.settings.ttl_ms, seq=sync.seq, leases=leases)


@router.post("/{site}/enrol", status_code=201, responses=described(401, 403, 409, 413, 422, 503))
async def enrol_agent(
    service: Running, row: TokenRow, site: SiteName, given: Annotated[Enrolment, Body(openapi_examples=examples.ENROLMENT)]
) -> KeyKept:
    """Give the one-time token of a site for a key of the agent's own; the same again gets the same answer."""
    who = enrolling_of(row, service.writer.now_ms(), site)
    token_id, expires_ms = await carry_out(service, commands.enrol(site, given.agent_id, given.key, who), who)
    return KeyKept(token_id=token_id, expires_at=iso(expires_ms) or "")


@router.post("/{site}/renew", status_code=201, responses=described(401, 403, 409, 413, 422, 503))
async def renew_key(
    service: Running, who: Caller, site: SiteName, given: Annotated[NewKey, Body(openapi_examples=examples.KEY)]
) -> KeyKept:
    """Replace an agent's key by another; the old one is good for a day more."""
    _check_site(who, site)
    token_id, expires_ms = await carry_out(service, commands.renew_key(site, given.key, who), who)
    return KeyKept(token_id=token_id, expires_at=iso(expires_ms) or "")


def _has_news(service: Service, site: str, known: dict[str, str]) -> bool:
    """Whether the agent lacks a lease, has one too many, or has not heard what one should do now."""
    leases = {lease.lease_id: lease for lease in service.writer.leases_at(site)}
    if set(leases) != set(known):
        return True
    return any(lease.action != RUN and known[lease_id] in ("starting", "running") for lease_id, lease in leases.items())


def _forms(service: Service, site: str, known: Collection[str]) -> list[LeaseForm]:
    """All leases of a site; how to launch stands with those that its agent does not have yet."""
    leases = service.writer.leases_at(site)
    brief = {lease.lease_id for lease in leases if lease.action == RUN and lease.lease_id in known}
    job_ids = sorted({lease.job_id for lease in leases if lease.lease_id not in brief})
    rows: dict[str, dict[str, Any]] = {}
    for i in range(0, len(job_ids), 500):
        rows |= {row["job_id"]: row for row in service.store.rows("job", where={"job_id": job_ids[i : i + 500]})}
    return [
        _brief(lease) if lease.lease_id in brief else _form(service, lease, rows[lease.job_id])
        for lease in leases if lease.lease_id in brief or lease.job_id in rows
    ]  # fmt: skip


def _inputs(service: Service, row: dict[str, Any], spec: JobSpec) -> list[InputForm]:
    """The files of a pipeline's earlier jobs that a job reads, by the ids of the jobs that made them."""
    found = []
    for given in spec.inputs:
        name, _, path = given.partition("/")
        where = {"pipeline_id": row["pipeline_id"], "pipeline_job": name}
        found += [InputForm(job_id=made["job_id"], name=name, path=path) for made in service.store.rows("job", where=where)]
    return found


def _brief(lease: Lease) -> LeaseForm:
    """Of one that the agent has, and is to leave as it is."""
    return LeaseForm(
        lease_id=lease.lease_id, fence=lease.fence, job_id=lease.job_id, attempt=lease.attempt, action="run",
        deadline_ms=-1, signal="TERM", grace_ms=0, launch=None, placements=[],
    )  # fmt: skip


def _form(service: Service, lease: Lease, row: dict[str, Any]) -> LeaseForm:
    spec = JobSpec.model_validate_json(row["spec"])
    r = spec.resources
    launch = LaunchForm(
        argv=list(spec.command), env=dict(spec.env), setup=spec.setup, cwd=spec.workdir, tasks_per_node=spec.tasks_per_node,
        limit_ms=-1 if spec.time_limit is None else spec.time_limit, cpu_milli=round(r.cpus * 1000),
        mem_mib=round(r.mem_gib * 1024), array_index=row["array_index"],
        inputs=_inputs(service, row, spec) if spec.inputs and row["pipeline_id"] else [], outputs=list(spec.outputs), cache=list(spec.cache),
        roles=list(spec.roles),
        project=row["project"],
    )  # fmt: skip
    return LeaseForm(
        lease_id=lease.lease_id, fence=lease.fence, job_id=lease.job_id, attempt=lease.attempt, action=lease.action,  # type: ignore[arg-type]
        deadline_ms=lease.deadline_ms if lease.action != RUN else -1, signal=spec.checkpoint.signal, grace_ms=spec.checkpoint.grace, launch=launch,
        placements=[asdict(part) for part in lease.placements],
    )  # fmt: skip


@router.post(
    "/{site}/logs/{lease_id}/{rank}", status_code=204, responses=described(401, 403, 404, 409, 413, 422, 503, 507),
    openapi_extra={"requestBody": {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}},
)  # fmt: skip
async def keep_log(
    service: Running, who: Caller, request: Request, site: SiteName,
    lease_id: Annotated[str, Path(max_length=80, pattern=r"^[0-9a-z_]+\.[0-9]+$")],
    rank: Annotated[int, Path(ge=0, le=131_072)], offset: Annotated[int, Query(ge=0, le=2**53)] = 0,
) -> Response:  # fmt: skip
    """Keep a part of a rank's output; `Dure-Next-Offset` says where to go on."""
    _check_site(who, site)
    data = await request.body()
    if len(data) > LOG_PART_MAX:
        raise Problem(413, "Content too large", f"a part of a log has at most {LOG_PART_MAX} bytes")
    row = await asyncio.to_thread(service.store.row, "attempt", lease_id)
    if row is None or row["site"] != site:
        raise not_found("lease", lease_id)
    size = await asyncio.to_thread(service.logs.append, lease_id, rank, offset, data)
    return Response(status_code=204, headers={"Dure-Next-Offset": str(size)})
