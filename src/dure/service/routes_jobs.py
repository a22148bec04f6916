"""Routes of jobs and pipelines."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, Path, Query, Response

from dure.model.job_file import check_pipeline
from dure.service import commands, examples
from dure.service.access import Caller, KnownQuery, Running, carry_out, need_state
from dure.service.app import described
from dure.service.errors import Problem, invalid, not_found
from dure.service.identity import Principal
from dure.service.logs import LOG_MAX
from dure.service.projection import lease_id_of
from dure.service.schemas import (
    Batch,
    BatchSubmitted,
    Endpoint,
    ExplanationForm,
    JobBody,
    JobDetail,
    JobList,
    JobView,
    PipelineBody,
    PipelineSubmitted,
    Progress,
    Submitted,
)

router = APIRouter(prefix="/api/v1", tags=["jobs"], dependencies=[KnownQuery])

State = Literal["PENDING", "ADMITTED", "RUNNING", "SUSPENDED", "COMPLETING", "ENDED"]
_TEXT = r"^[^\x00-\x1f]*$"
JobName = Annotated[str, Path(min_length=1, max_length=64, pattern=r"^[0-9a-z_]+$", examples=["34hd08m0n0000"])]

def _row(service: Any, who: Principal, job_id: str) -> dict[str, Any]:
    """A job's row, if the caller may see it."""
    row = service.store.row("job", job_id)
    if row is None or not who.may_see(row["project"], row["member"]):
        raise not_found("job", job_id)
    found: dict[str, Any] = row
    return found


@router.post("/jobs", status_code=201, responses=described(401, 403, 413, 422, 503))
async def submit_job(
    service: Running, who: Caller, spec: Annotated[JobBody, Body(openapi_examples=examples.JOB)]
) -> Submitted:
    """Submit a job, or an array of jobs."""
    ids = await carry_out(service, commands.submit([spec], who), who)
    return Submitted(job_id=ids[0][0], job_ids=ids[0][1])


@router.post("/jobs/batch", status_code=201, responses=described(401, 403, 413, 422, 503))
async def submit_batch(service: Running, who: Caller, batch: Annotated[Batch, Body(openapi_examples=examples.BATCH)]) -> BatchSubmitted:
    """Submit many jobs at once: all are taken in, or none."""
    ids = await carry_out(service, commands.submit(batch.jobs, who), who)
    return BatchSubmitted(job_ids=[job_id for job_id, _ in ids])


@router.get("/jobs", responses=described(401, 422, 503))
def list_jobs(
    service: Running, who: Caller,
    state: Annotated[list[State] | None, Query(description="Only jobs in one of these states.")] = None,
    member: Annotated[str | None, Query(max_length=64, pattern=_TEXT)] = None,
    project: Annotated[str | None, Query(max_length=129, pattern=_TEXT)] = None,
    user: Annotated[str | None, Query(max_length=200, pattern=_TEXT)] = None,
    array: Annotated[str | None, Query(max_length=64, pattern=_TEXT)] = None,
    name: Annotated[str | None, Query(max_length=200, pattern=_TEXT)] = None,
    text: Annotated[str | None, Query(max_length=200, pattern=_TEXT, description="A part of the name, the id or the user.")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    after: Annotated[str | None, Query(max_length=64, pattern=_TEXT, description="`next` of the page before.")] = None,
) -> JobList:  # fmt: skip
    """Jobs that the caller may see, newest first."""
    need_state(service)
    where: dict[str, Any] = {
        key: value
        for key, value in (("state", state), ("member", member), ("project", project), ("user", user),
                           ("array_id", array), ("name", name))
        if value is not None
    }  # fmt: skip
    return service.views.jobs(who, limit, after, where, text)


@router.get("/jobs/{job_id}", responses=described(401, 404, 422, 503))
def get_job(service: Running, who: Caller, job_id: JobName) -> JobDetail:
    """A job with its file, attempts and timeline."""
    need_state(service)
    return service.views.detail(_row(service, who, job_id), who)


@router.post("/jobs/{job_id}/cancel", responses=described(401, 403, 404, 422, 503))
async def cancel_job(service: Running, who: Caller, job_id: JobName) -> JobView:
    """Take a job back (or all jobs of an array; the answer is the first one's)."""
    names = await carry_out(service, commands.cancel(job_id, who), who)
    return await asyncio.to_thread(lambda: service.views.job(_row(service, who, names[0])))


@router.get("/jobs/{job_id}/explain", responses=described(401, 404, 422, 503))
def explain_job(service: Running, who: Caller, job_id: JobName) -> ExplanationForm:
    """Why a job waits, who holds what it needs, when it is to start, what would make it start sooner."""
    need_state(service)
    return service.views.explanation(_row(service, who, job_id), who)


@router.post("/jobs/{job_id}/progress", status_code=204, responses=described(401, 403, 404, 413, 422, 503))
async def report_progress(
    service: Running, who: Caller, job_id: JobName, progress: Annotated[Progress, Body(openapi_examples=examples.PROGRESS)]
) -> None:
    """Keep what a job says of itself; the last word counts."""
    if len(str(progress)) > 10_000:
        raise invalid("progress has at most 10,000 characters", "progress")
    await carry_out(service, commands.report_progress(job_id, progress, who), who)


#: So long after an attempt's end what is missing of its log is waited for.
LOG_LATE_MS = 600_000
_LOG_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Bytes of the output. `Dure-Next-Offset`: where to go on; `Dure-Log-Ended: 1`: no more will come.",
        "content": {"text/plain": {"schema": {"type": "string"}}},
    }
}


@router.get("/jobs/{job_id}/logs", response_class=Response, responses={**_LOG_RESPONSES, **described(401, 404, 422, 503)})
async def read_log(
    service: Running, who: Caller, job_id: JobName,
    attempt: Annotated[int | None, Query(ge=1, le=10**9, description="Default: the last.")] = None,
    rank: Annotated[int, Query(ge=0, le=131_072)] = 0,
    offset: Annotated[int, Query(ge=0, le=2**53)] = 0,
    wait_s: Annotated[float, Query(ge=0, le=30, allow_inf_nan=False, description="Wait so long for more.")] = 0,
) -> Response:  # fmt: skip
    """A job's output from an offset on."""
    deadline = time.monotonic() + wait_s
    while True:
        data, is_ended = await asyncio.to_thread(log_part, service, who, job_id, attempt, rank, offset)
        if data or is_ended or time.monotonic() >= deadline:
            headers = {"Dure-Next-Offset": str(offset + len(data)), "Dure-Log-Ended": "1" if is_ended else "0"}
            return Response(data, media_type="text/plain; charset=utf-8", headers=headers)
        await asyncio.sleep(0.2)


def log_part(
    service: Any, who: Principal, job_id: str, attempt: int | None, rank: int, offset: int
) -> tuple[bytes, bool]:
    """Bytes of an attempt's output from an offset on, if the caller may see the job; whether no more will come."""
    row = _row(service, who, job_id)
    number = attempt if attempt is not None else row["attempt"]
    if number == 0:
        return b"", row["state"] == "ENDED"
    lease = service.store.row("attempt", lease_id_of(job_id, number))
    if lease is None:
        raise not_found("attempt", str(number))
    data = service.logs.read(lease["lease_id"], rank, offset)
    return data, not data and _is_whole(service, lease, rank, offset) and (attempt is not None or row["state"] == "ENDED")


def _is_whole(service: Any, attempt: dict[str, Any], rank: int, offset: int) -> bool:
    """Whether a log that has come up to an offset will not grow: its attempt is over, and its agent has sent as much as
    it said that there is, or is not to be waited for any more.
    """
    if attempt["ended_ms"] is None:
        return False
    sizes = json.loads(attempt["log_bytes"] or "[]")
    is_short = rank < len(sizes) and offset < min(sizes[rank], LOG_MAX)
    return not is_short or service.writer.now_ms() - attempt["ended_ms"] > LOG_LATE_MS


@router.get("/services/{name}", responses=described(401, 404, 422, 503))
def find_service(
    service: Running, who: Caller, name: Annotated[str, Path(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._-]+$", examples=["planner"])],
    area: Annotated[str | None, Query(max_length=64, pattern=_TEXT, description="Only sites that reach devices there, the nearest first.")] = None,
    within_ms: Annotated[float | None, Query(gt=0, le=10_000, allow_inf_nan=False, description="With `area`: the round trip at most.")] = None,
) -> list[Endpoint]:  # fmt: skip
    """Where a service is running now, of those that the caller may see; empty: nowhere."""
    need_state(service)
    if within_ms is not None and area is None:
        raise invalid("goes with `area`", "within_ms")
    return service.views.endpoints(who, name, area, within_ms)


@router.post("/pipelines", status_code=201, responses=described(401, 403, 413, 422, 503))
async def submit_pipeline(
    service: Running, who: Caller, pipeline: Annotated[PipelineBody, Body(openapi_examples=examples.PIPELINE)]
) -> PipelineSubmitted:
    """Submit jobs that follow one another."""
    errors = [{"field": ".".join(map(str, loc)), "message": words} for loc, words in check_pipeline(pipeline)]
    if errors:
        raise Problem(422, "Invalid request", errors[0]["message"], errors)
    pipeline_id, ids = await carry_out(service, commands.submit_pipeline(pipeline, who), who)
    return PipelineSubmitted(pipeline_id=pipeline_id, job_ids=ids)
