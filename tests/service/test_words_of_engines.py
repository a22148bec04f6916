"""What a site's engine says of an attempt is kept beside what Dure knows of it."""

from __future__ import annotations

from dure.service import commands
from dure.service.schemas import Sync


def tell(running, seq: int, **more):
    nodes = [{"name": name, "gpus": 8} for name in ("hall-0", "hall-1")]
    form = {"agent_id": "a", "boot": "b", "seq": seq, "nodes": nodes, "runs": [], **more}
    running.do(commands.take_sync("hall", Sync.model_validate(form)))
    return {lease.job_id: lease for lease in running.service.writer.leases_at("hall")}


def submit(running, gpus: int) -> str:
    form = {"project": "owner/main", "command": ["true"], "resources": {"gpus": gpus}}
    answer = running.client("operator").post("/api/v1/jobs", json=form)
    assert answer.status_code == 201, answer.text
    return answer.json()["job_id"]


def attempt(running, job_id: str):
    (found,) = running.client("operator").get(f"/api/v1/jobs/{job_id}").json()["attempts"]
    return found


def test_the_gpus_that_an_engine_has_chosen_are_shown(running):
    tell(running, 1)
    job = submit(running, 2)
    lease = tell(running, 2)[job]
    run = {"lease_id": lease.lease_id, "fence": lease.fence, "state": "running", "started_ms": 1}
    tell(running, 3, runs=[run])
    assert attempt(running, job)["engine_gpus"] is None
    there = {lease.placements[0].node: [5, 7]}
    tell(running, 4, runs=[{**run, "gpu_idxs": there}])
    assert attempt(running, job)["engine_gpus"] == there
    # The same again changes nothing, and an end without it takes nothing back.
    tell(running, 5, runs=[{**run, "gpu_idxs": there}])
    assert tell(running, 6, runs=[{**run, "state": "exited", "exit_code": 0}]) == {}
    found = attempt(running, job)
    assert (found["engine_gpus"], found["exit_code"], found["placements"][0]["gpus"]) == (there, 0, list(lease.placements[0].gpus))


def counted(running):
    lines = running.client("operator").get("/metrics").text.splitlines()
    return {name: float(num) for name, num in (line.rsplit(" ", 1) for line in lines if line.startswith("dure_engine_account"))}


def test_what_an_engine_has_accounted_for_is_kept_and_compared(running):
    tell(running, 1)
    job = submit(running, 2)
    lease = tell(running, 2)[job]
    run = {"lease_id": lease.lease_id, "fence": lease.fence, "state": "running", "started_ms": 1_000}
    tell(running, 3, runs=[run])
    tell(running, 4, runs=[{**run, "state": "exited", "exit_code": 0, "ended_ms": 101_000, "engine_gpu_ms": 199_000}])
    assert attempt(running, job)["engine_gpu_seconds"] == 199.0
    assert counted(running) == {
        'dure_engine_accounts_total{by="record",site="hall"}': 1.0,
        'dure_engine_account_differences_total{by="record",site="hall"}': 0.0,
    }
    # The database says otherwise, later: what it says counts, and that it differs from what was metered.
    tell(running, 5, accounts=[{"lease_id": lease.lease_id, "engine_gpu_ms": 250_000}, {"lease_id": "nobody.1", "engine_gpu_ms": 1}])
    assert attempt(running, job)["engine_gpu_seconds"] == 250.0
    assert {name: num for name, num in counted(running).items() if "database" in name} == {
        'dure_engine_accounts_total{by="database",site="hall"}': 1.0,
        'dure_engine_account_differences_total{by="database",site="hall"}': 1.0,
    }
