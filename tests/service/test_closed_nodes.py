"""A node may be offered closed: what runs there goes on, and nothing new comes."""

from __future__ import annotations

from dure.service import commands
from dure.service.schemas import Sync


def tell(running, seq: int, *closed: str, runs=(), offered=("hall-0", "hall-1")):
    nodes = [{"name": name, "gpus": 8, "is_open": name not in closed} for name in offered]
    form = {"agent_id": "a", "boot": "b", "seq": seq, "nodes": nodes, "runs": list(runs)}
    running.do(commands.take_sync("hall", Sync.model_validate(form)))
    return {lease.job_id: lease for lease in running.service.writer.leases_at("hall")}


def submit(running) -> str:
    answer = running.client("operator").post(
        "/api/v1/jobs", json={"project": "owner/main", "command": ["true"], "resources": {"gpus": 8}}
    )
    assert answer.status_code == 201, answer.text
    return answer.json()["job_id"]


def test_a_closed_node_keeps_what_runs_and_takes_nothing_new(running):
    tell(running, 1)
    first = submit(running)
    lease = tell(running, 2)[first]
    there = lease.placements[0].node
    (other,) = {"hall-0", "hall-1"} - {there}
    run = {"lease_id": lease.lease_id, "fence": lease.fence, "state": "running", "started_ms": 1}
    second, third = submit(running), submit(running)
    found = tell(running, 3, there, runs=[run])
    assert set(found) == {first, second}
    assert found[first].action == "run"
    # The one that runs has ended: its node is free, and closed.
    found = tell(running, 4, there, runs=[{**run, "state": "exited", "exit_code": 0}])
    assert set(found) == {second}
    assert found[second].placements[0].node == other
    found = tell(running, 5)
    assert set(found) == {second, third}
    assert found[third].placements[0].node == there


def test_a_node_that_comes_closed_waits_until_it_is_open(running):
    tell(running, 1, "hall-0", "hall-1")
    job = submit(running)
    assert [node["state"] for node in running.client("operator").get("/api/v1/nodes").json()] == ["closed", "closed"]
    assert tell(running, 2, "hall-0", "hall-1") == {}
    assert tell(running, 3, "hall-1")[job].placements[0].node == "hall-0"
    assert [node["state"] for node in running.client("operator").get("/api/v1/nodes").json()] == ["up", "closed"]
