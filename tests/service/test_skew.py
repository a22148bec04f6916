"""Agents and services of two versions that follow one another understand each other; others are told so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dure.agent import wire
from dure.service.schemas import PROTOCOLS, SyncAnswer

DATA = Path(__file__).parent.parent / "agent" / "data"
PROBLEM = "application/problem+json"


def recorded(name: str) -> dict:
    """What real processes of the previous version have said to each other."""
    found: dict = json.loads((DATA / name).read_text())
    return found


def post(running, message: dict):
    return running.client("agent").post("/api/v1/agents/hall/sync", json={**message, "wait_s": 0})


def test_this_agent_speaks_what_this_service_understands_and_one_before():
    assert PROTOCOLS == (wire.PROTOCOL - 1, wire.PROTOCOL)


def test_a_message_of_the_previous_version_is_taken(running):
    old = recorded("sync-1.json")
    assert "protocol" not in old
    answer = post(running, old)
    assert answer.status_code == 200, answer.text
    assert answer.json()["seq"] == old["seq"]
    nodes = running.client("operator").get("/api/v1/nodes").json()
    assert {n["name"]: n["state"] for n in nodes} == {"hall-0": "up", "hall-1": "up"}


def test_an_answer_of_the_previous_version_is_understood():
    old = recorded("answer-1.json")
    found = wire.Answer.model_validate(old)
    assert [lease.lease_id for lease in found.leases] == [lease["lease_id"] for lease in old["leases"]]
    assert found.leases[0].launch.argv == tuple(old["leases"][0]["launch"]["argv"])
    # And what this service says has all that the previous agent needs.
    SyncAnswer.model_validate(old)


def test_what_only_a_later_version_knows_is_passed_over(running):
    def with_more(value):
        if isinstance(value, dict):
            # What jobs have in these is theirs.
            more = {key: part if key in ("env", "progress") else with_more(part) for key, part in value.items()}
            return more | {"of_a_later_version": [1, {"x": None}]}
        return [with_more(part) for part in value] if isinstance(value, list) else value

    old = recorded("sync-1.json")
    answer = post(running, with_more({**old, "protocol": wire.PROTOCOL}))
    assert answer.status_code == 200, answer.text
    answer = wire.Answer.model_validate(with_more(recorded("answer-1.json")))
    assert answer == wire.Answer.model_validate(recorded("answer-1.json"))


def test_how_to_launch_is_not_said_again_of_what_the_agent_has_but_to_an_old_agent(running):
    node = {"name": "hall-0", "gpus": 8, "is_open": True}
    message = {"agent_id": "a", "boot": "b", "nodes": [node], "protocol": wire.PROTOCOL}
    post(running, {**message, "seq": 1, "runs": []})
    job = {"project": "owner/main", "command": ["true"], "resources": {"gpus": 2}}
    ids = [running.client("operator").post("/api/v1/jobs", json=job).raise_for_status().json()["job_id"] for _ in range(2)]
    full = {lease.job_id: lease for lease in wire.Answer.model_validate(post(running, {**message, "seq": 2, "runs": []}).json()).leases}
    assert [full[job].launch.argv for job in ids] == [("true",), ("true",)]
    run = {"lease_id": full[ids[0]].lease_id, "fence": full[ids[0]].fence, "state": "running", "started_ms": 1}
    found = wire.Answer.model_validate(post(running, {**message, "seq": 3, "runs": [run]}).json())
    assert {lease.job_id: lease.launch for lease in found.leases} == {ids[0]: None, ids[1]: full[ids[1]].launch}
    # What it is to stop it hears in full, and so does an agent that has forgotten, or is of the version before.
    for seq, other in enumerate(({"runs": []}, {"runs": [run], "protocol": wire.PROTOCOL - 1}), 4):
        answer = wire.Answer.model_validate(post(running, {**message, "seq": seq, **other}).json())
        assert {lease.job_id: lease.launch for lease in answer.leases} == {job: full[job].launch for job in ids}
    running.client("operator").post(f"/api/v1/jobs/{ids[0]}/cancel").raise_for_status()
    answer = wire.Answer.model_validate(post(running, {**message, "seq": 6, "runs": [run]}).json())
    (stopped,) = [lease for lease in answer.leases if lease.job_id == ids[0]]
    assert (stopped.action, stopped.signal, stopped.launch) == ("stop", full[ids[0]].signal, full[ids[0]].launch)


@pytest.mark.parametrize("protocol", [PROTOCOLS[-1] + 1, 99])
def test_a_version_too_far_ahead_is_told_who_is_to_be_upgraded(running, protocol):
    for message in ({**recorded("sync-1.json"), "protocol": protocol}, {"protocol": protocol, "all": "else is another"}):
        answer = post(running, message)
        assert answer.status_code == 400
        assert answer.headers["content-type"] == PROBLEM
        assert answer.json()["title"] == "Unknown protocol"
        assert answer.json()["detail"] == f"the agent speaks protocol {protocol}, this service 1 and 2: upgrade this service first"
    assert running.client("operator").get("/api/v1/agents").json() == []


def test_a_version_that_is_none_is_a_wrong_message(running):
    for protocol in (0, -1, "2", None, 1.5):
        answer = post(running, {**recorded("sync-1.json"), "protocol": protocol})
        assert answer.status_code == (200 if protocol == "2" else 422)
