"""A small service behind real HTTP that keeps jobs in memory and runs their commands here, for the client and the commands.

It has the routes and answers of the API's contract and none of the policy: what fits on its eight GPUs starts at once.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import uvicorn
from fastapi import FastAPI, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import ValidationError

from dure.model.job_file import JobSpec, Pipeline, pipeline_order

GPUS = 8
TOKEN = "stand-in-token"


class Problem(Exception):
    def __init__(self, status: int, title: str, detail: str = "", errors: list[dict[str, str]] | None = None) -> None:
        super().__init__(title)
        self.body = {"type": "about:blank", "status": status, "title": title, "detail": detail}
        if errors is not None:
            self.body["errors"] = errors


@dataclass
class Job:
    job_id: str
    spec: JobSpec
    raw: dict[str, Any]
    array_id: str | None = None
    array_index: int | None = None
    pipeline_id: str | None = None
    state: str = "PENDING"
    reason: str = ""
    outcome: str | None = None
    exit_code: int | None = None
    attempt: int = 0
    progress: dict[str, Any] | None = None
    times: dict[str, str] = field(default_factory=dict)
    logs: dict[tuple[int, int], Path] = field(default_factory=dict)
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def view(self) -> dict[str, Any]:
        return {
            "job_id": self.job_id, "name": self.spec.name, "project": self.spec.project or "forge/default",
            "member": (self.spec.project or "forge/default").partition("/")[0], "user": "alice", "state": self.state,
            "reason": self.reason, "expected_start": "2031-01-02T03:04:05Z" if self.reason == "gpus_busy" else None,
            "attempt": self.attempt, "gpus": self.spec.resources.gpus,
            "gpu_type": "H200", "site": "seoul" if self.attempt else None, "submitted_at": self.times["submitted"],
            "started_at": self.times.get("started"), "ended_at": self.times.get("ended"), "exit_code": self.exit_code,
            "outcome": self.outcome, "array_id": self.array_id, "array_index": self.array_index,
            "pipeline_id": self.pipeline_id, "progress": self.progress, "a_key_of_tomorrow": 1,
        }  # fmt: skip


class StandIn:
    """The service: its jobs, and switches with which a test makes it behave badly."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.jobs: dict[str, Job] = {}
        self.tokens: dict[str, dict[str, Any]] = {}
        self.projects = [{"name": "forge/default", "member": "forge", "weight": 1}]
        self.audit = {"events": 12, "decisions": 7, "verified": 7, "mismatches": 0, "findings": []}
        self.busy_answers = 0  # so many answers are 503 from now on
        self.log_bytes_max = 1 << 20
        self.requests: list[str] = []
        self.lock = threading.RLock()
        self.url = ""
        self.app = make_app(self)

    @contextlib.contextmanager
    def serving(self) -> Iterator[StandIn]:
        with socket.create_server(("127.0.0.1", 0)) as sock:
            self.url = f"http://127.0.0.1:{sock.getsockname()[1]}"
            server = uvicorn.Server(uvicorn.Config(self.app, log_level="warning", lifespan="off"))
            thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]})
            thread.start()
            try:
                while not server.started:
                    time.sleep(0.005)
                yield self
            finally:
                for job in self.jobs.values():
                    self.kill(job, signal.SIGKILL)
                server.should_exit = True
                thread.join()

    def take(self, raw: dict[str, Any], **more: Any) -> list[Job]:
        spec = parsed(JobSpec, raw)
        if spec.project.startswith("nobody/"):
            raise Problem(403, "forbidden", f"alice may not submit to {spec.project}")
        with self.lock:
            number = len(self.jobs) + 1
            indices = spec.array.indices if spec.array else (None,)
            made = []
            for index in indices:
                array_id = f"job-{number}" if index is not None else None
                job_id = f"job-{number}_{index}" if index is not None else f"job-{number}"
                job = Job(job_id, spec, raw, array_id, index, **more)
                job.times["submitted"] = now()
                job.reason = "gpus_busy" if spec.resources.gpus > GPUS else ""
                self.jobs[job_id] = job
                made.append(job)
        self.start_ready()
        return made

    def start_ready(self) -> None:
        with self.lock:
            for job in [job for job in self.jobs.values() if job.state == "PENDING" and not job.reason]:
                before = [self.jobs[part.job] for part in job.spec.depends_on]
                if any(other.state != "ENDED" for other in before):
                    continue
                pairs = zip(job.spec.depends_on, before, strict=True)
                if any(
                    part.when != "afterany" and (part.when == "afterok") != (other.outcome == "succeeded")
                    for part, other in pairs
                ):
                    self.end(job, "dependency", None)
                else:
                    threading.Thread(target=self.run, args=(job,), daemon=True).start()
                    job.state, job.attempt = "RUNNING", job.attempt + 1
                    job.times["started"] = now()

    def run(self, job: Job) -> None:
        r = job.spec.resources
        nodes = max(1, r.gpus // r.gpus_per_node) if r.gpus_per_node else 1
        tasks = job.spec.tasks_per_node or max(r.gpus_per_node, 1)
        with self.lock:
            for rank in range(nodes * tasks):
                path = self.folder / f"{job.job_id}.{job.attempt}.{rank}.log"
                path.touch()  # it may be read before the task has begun
                job.logs[job.attempt, rank] = path
                env = {
                    "PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), **job.spec.env,
                    "DURE_JOB_ID": job.job_id, "DURE_ATTEMPT": str(job.attempt), "RANK": str(rank),
                    "DURE_PROJECT": job.view()["project"],
                    "WORLD_SIZE": str(nodes * tasks), "LOCAL_RANK": str(rank % tasks), "LOCAL_WORLD_SIZE": str(tasks),
                    "NODE_RANK": str(rank // tasks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500",
                    "CUDA_VISIBLE_DEVICES": ",".join(str(i) for i in range(r.gpus_per_node or r.gpus)),
                }  # fmt: skip
                if job.array_index is not None:
                    env["DURE_ARRAY_INDEX"] = str(job.array_index)
                with path.open("wb") as log:
                    process = subprocess.Popen(
                        job.spec.command, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                        start_new_session=True, cwd=job.spec.workdir or self.folder,
                    )  # fmt: skip
                    job.processes.append(process)
        codes = [process.wait() for process in job.processes]
        with self.lock:
            if job.state != "ENDED":
                code = max((128 - code if code < 0 else code) for code in codes)
                self.end(job, "failed" if code else "succeeded", code)
        self.start_ready()

    def end(self, job: Job, outcome: str, exit_code: int | None) -> None:
        job.state, job.outcome, job.exit_code = "ENDED", outcome, exit_code
        job.times["ended"] = now()

    def kill(self, job: Job, number: signal.Signals) -> None:
        for process in job.processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)

    def cancel(self, name: str) -> dict[str, Any]:
        with self.lock:
            jobs = [job for job in self.jobs.values() if name in (job.job_id, job.array_id)]
            if not jobs:
                raise Problem(404, "not found", f"no job {name}")
            for job in jobs:
                if job.state != "ENDED":
                    self.kill(job, signal.SIGTERM)
                    self.end(job, "cancelled", 143 if job.processes else None)
        self.start_ready()
        return jobs[0].view()

    def job(self, job_id: str) -> Job:
        if job_id not in self.jobs:
            raise Problem(404, "not found", f"no job {job_id}")
        return self.jobs[job_id]


def now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


def parsed(model: Any, raw: Any) -> Any:
    import json

    try:
        return model.model_validate_json(json.dumps(raw))
    except ValidationError as error:
        found = [{"field": ".".join(str(p) for p in e["loc"]), "message": e["msg"]} for e in error.errors()]
        raise Problem(422, "the request is not valid", "", found) from None


def make_app(service: StandIn) -> FastAPI:
    app = FastAPI()
    api = "/api/v1"

    @app.exception_handler(Problem)
    async def problem(request: Request, error: Problem) -> Response:
        return JSONResponse(error.body, error.body["status"], media_type="application/problem+json")

    @app.middleware("http")
    async def guard(request: Request, call_next: Any) -> Response:
        service.requests.append(f"{request.method} {request.url.path.removeprefix(api)}")
        if service.busy_answers > 0:
            service.busy_answers -= 1
            return Response("changing over", 503)
        if request.headers.get("authorization") != f"Bearer {TOKEN}":
            return await problem(request, Problem(401, "not signed in", "no token, or one that is not known"))
        return await call_next(request)

    @app.get(api + "/whoami")
    def whoami() -> Any:
        role = {"role": "operator", "member": None, "project": None}
        return {"user": "alice", "roles": [role], "default_project": "forge/default", "expires_at": None}

    @app.post(api + "/jobs", status_code=201)
    async def submit(request: Request) -> Any:
        made = service.take(await request.json())
        return {"job_id": made[0].array_id or made[0].job_id, "job_ids": [job.job_id for job in made]}

    @app.post(api + "/jobs/batch", status_code=201)
    async def batch(request: Request) -> Any:
        raws = (await request.json())["jobs"]
        for raw in raws:
            parsed(JobSpec, raw)
        return {"job_ids": [job.job_id for raw in raws for job in service.take(raw)]}

    @app.get(api + "/jobs")
    def jobs(state: Annotated[list[str] | None, Query()] = None, limit: int = 100, after: str = "", member: str = "",
             project: str = "", user: str = "", array: str = "", name: str = "") -> Any:  # fmt: skip
        wanted = {"member": member, "project": project, "user": user, "array_id": array, "name": name}
        views = [job.view() for job in reversed(service.jobs.values())]
        views = [view for view in views if not state or view["state"] in state]
        views = [view for view in views if all(not value or view[key] == value for key, value in wanted.items())]
        at = int(after or 0)
        return {"jobs": views[at : at + limit], "next": str(at + limit) if at + limit < len(views) else None}

    @app.get(api + "/jobs/{job_id}")
    def one(job_id: str) -> Any:
        job = service.job(job_id)
        attempts = [{"attempt": n + 1, "nodes": ["n1"], "site": "seoul"} for n in range(job.attempt)]
        return {**job.view(), "spec": job.raw, "attempts": attempts, "timeline": [{"at_ms": 1, "what": "submitted", "detail": ""}]}

    @app.post(api + "/jobs/{job_id}/cancel")
    def cancel(job_id: str) -> Any:
        return service.cancel(job_id)

    @app.get(api + "/jobs/{job_id}/explain")
    def explain(job_id: str) -> Any:
        job = service.job(job_id)
        return {
            "state": job.state, "rule": 1, "missing": {"needed_milli": job.spec.resources.gpus * 1000, "free_milli": 0},
            "held_by": [{"member": "mill", "gpus": 6.0, "borrowed_gpus": 2.0}], "expected_start": "2031-01-02T03:04:05Z",
            "would_start_if": [{"kind": "fewer_gpus", "pool": "p", "amount": 8, "message": "with 8 GPUs it would start"}],
            "message": "its member's share is in use",
            "pools": [{"pool": f"p{i}", "reason": "gpus_busy", "message": "busy"} for i in range(20)],
        }  # fmt: skip

    @app.get(api + "/jobs/{job_id}/logs")
    def logs(job_id: str, attempt: int | None = None, rank: int = 0, offset: int = 0, wait_s: int = 0) -> Response:
        job, until = service.job(job_id), time.monotonic() + min(wait_s, 30)
        while True:
            ended = job.state == "ENDED"
            path = job.logs.get((attempt if attempt is not None else job.attempt, rank))  # made just after it has begun
            data = path.read_bytes()[offset:] if path else b""
            if data or ended or time.monotonic() > until:
                break
            time.sleep(0.01)
        part = data[: service.log_bytes_max]
        headers = {"Dure-Next-Offset": str(offset + len(part)), "Dure-Log-Ended": str(int(ended and part == data))}
        return Response(part, media_type="text/plain", headers=headers)

    @app.post(api + "/jobs/{job_id}/progress", status_code=204)
    async def progress(job_id: str, request: Request) -> None:
        service.job(job_id).progress = await request.json()

    @app.post(api + "/pipelines", status_code=201)
    async def pipelines(request: Request) -> Any:
        raw = await request.json()
        pipeline: Pipeline = parsed(Pipeline, raw)
        pipeline_id, ids = f"pipe-{len(service.jobs) + 1}", {}
        for name in pipeline_order(pipeline):
            body = {key: value for key, value in raw["jobs"][name].items() if key not in ("needs", "inputs")}
            body["depends_on"] = [{"job": ids[before]} for before in pipeline.jobs[name].needs]
            body.setdefault("name", name)
            ids[name] = service.take(body, pipeline_id=pipeline_id)[0].job_id
        return {"pipeline_id": pipeline_id, "job_ids": ids}

    @app.get(api + "/usage")
    def usage(by: str = "member", month: str = "2031-01") -> Any:
        row = {"gpu_type": "H200", "gpu_seconds": 7200, "own_gpu_seconds": 3600, "borrowed_gpu_seconds": 3600,
               "lent_gpu_seconds": 0, "energy_kwh": 1.25, "attempts": 3}  # fmt: skip
        return {"month": month, "rows": [{"key": f"{by}-one", **row}, {"key": f"{by}-two", **row, "energy_kwh": None}]}

    @app.get(api + "/members")
    def members() -> Any:
        forge = {"name": "forge", "kind": "company", "guarantee_gpus": 6, "used_gpus": 2, "borrowed_gpus": 0,
                 "lent_gpus": 1, "waiting_jobs": 0, "credits": None}  # fmt: skip
        return [forge, {**forge, "name": "두레마을", "guarantee_gpus": 2, "borrowed_gpus": 1, "lent_gpus": 0}]

    @app.get(api + "/sites")
    def sites() -> Any:
        return [{"name": "seoul", "gpus": GPUS, "used_gpus": 2, "nodes": 2, "nodes_up": 1}]

    @app.get(api + "/nodes")
    def nodes() -> Any:
        node = {"name": "n1", "site": "seoul", "gpu_type": "H200", "gpus": 4, "used_gpus": 2, "state": "up"}
        return [node, {**node, "name": "n2", "used_gpus": 0, "state": "down"}]

    @app.get(api + "/agents")
    def agents() -> Any:
        return [{"site": "seoul", "agent_id": "a", "state": "up", "seen_at": now(), "nodes": 2, "runs": 1}]

    @app.get(api + "/projects")
    def projects() -> Any:
        return service.projects

    @app.post(api + "/projects", status_code=201)
    async def create_project(request: Request) -> Any:
        made = await request.json()
        service.projects.append({"weight": 1, **made, "name": f"{made['member']}/{made['name']}"})
        return service.projects[-1]

    @app.get(api + "/tokens")
    def tokens() -> Any:
        return [
            {"token_id": t["token_id"], "user": t["user"], "roles": [{k: t.get(k, "") for k in ("role", "member", "project", "site")}]}
            for t in service.tokens.values()
        ]

    @app.post(api + "/tokens", status_code=201)
    async def create_token(request: Request) -> Any:
        token_id = f"t{len(service.tokens) + 1}"
        service.tokens[token_id] = {"token_id": token_id, **await request.json()}
        return {"token_id": token_id, "token": f"secret-{token_id}", "expires_at": "2031-01-02T03:04:05Z"}

    @app.delete(api + "/tokens/{token_id}", status_code=204)
    def revoke(token_id: str) -> None:
        if service.tokens.pop(token_id, None) is None:
            raise Problem(404, "not found", f"no token {token_id}")

    @app.get(api + "/events")
    def events(after: int = 0, limit: int = 100) -> Any:
        found = [{"seq": n, "at": now(), "actor": "service", "hash": "", "body": {}} for n in range(1, 6)][after : after + limit]
        return {"events": found, "next": found[-1]["seq"] if found else after}

    @app.get(api + "/audit")
    def audit() -> Any:
        return service.audit

    return app


@contextlib.contextmanager
def stand_in() -> Iterator[StandIn]:
    with tempfile.TemporaryDirectory() as folder, StandIn(Path(folder)).serving() as service:
        yield service
