"""A full disk under the running service, and a log that somebody has changed."""

from __future__ import annotations

import pytest
from sqlalchemy import event

from dure.service import commands
from dure.service.audit import audit
from dure.service.schemas import Sync

GOOD = {"command": ["true"], "project": "guest/main", "resources": {"gpus": 1}}


def submit(running, **more):
    return running.client("operator").post("/api/v1/jobs", json={**GOOD, **more})


def agent_comes(running) -> None:
    form = {"agent_id": "a", "boot": "b", "seq": 1, "nodes": [{"name": f"hall-{i}", "gpus": 8} for i in range(2)], "runs": []}
    running.do(commands.take_sync("hall", Sync.model_validate(form)))


def test_a_full_disk_refuses_and_recovers(running):
    agent_comes(running)
    assert submit(running).status_code == 201
    pages = {"most": 1 << 30}

    @event.listens_for(running.service.store.engine, "checkout")
    def bound(raw, *_):
        raw.execute(f"PRAGMA max_page_count = {pages['most']}")

    with running.service.store.engine.connect() as connection:
        pages["most"] = connection.exec_driver_sql("PRAGMA page_count").scalar() + 2
    seen = [submit(running, setup="x" * 50_000, name=f"big-{i}") for i in range(5)]
    seen += [submit(running) for _ in range(30)]
    refused = [answer for answer in seen if answer.status_code != 201]
    assert len(refused) >= 5
    for answer in refused:
        assert answer.status_code == 503
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.headers["retry-after"] == "1"
    kept = {answer.json()["job_id"] for answer in seen if answer.status_code == 201}
    # Reading goes on, and shows only what is in the log.
    listed = running.client("operator").get("/api/v1/jobs", params={"limit": 1000}).json()["jobs"]
    assert {job["job_id"] for job in listed} >= kept
    assert len(listed) == len(kept) + 1
    assert set(running.service.writer.alliance.jobs) == {job["job_id"] for job in listed}
    pages["most"] = 1 << 30
    assert submit(running).status_code == 201
    found = running.client("auditor").get("/api/v1/audit").json()
    assert found["mismatches"] == 0
    assert found["decisions"] == found["verified"] >= 4


@pytest.mark.parametrize(
    ("statement", "what"),
    [
        ("UPDATE event SET body = replace(body, '\"gpus\":[0]', '\"gpus\":[7]') WHERE body LIKE '%\"gpus\":[0]%'", "another decision"),
        ("UPDATE event SET body = replace(body, 'guest/main', 'other/main') WHERE body LIKE '%Submit%'", "its body was changed"),
        ("UPDATE event SET body = '{' WHERE seq = 9", "cannot be replayed"),
        ("DELETE FROM event WHERE seq = (SELECT max(seq) - 1 FROM event)", "is missing"),
        ("UPDATE fact SET value = replace(value, 'limit_gpus: 16', 'limit_gpus: 99') WHERE key = 'document'", "does not follow"),
    ],
    ids=["decision", "submission", "torn", "deleted", "document"],
)
def test_a_changed_log_is_found(running, statement, what):
    agent_comes(running)
    for _ in range(3):
        assert submit(running).status_code == 201
    assert audit(running.service.store).mismatches == 0
    with running.service.store.engine.begin() as connection:
        assert connection.exec_driver_sql(statement).rowcount >= 1
    found = running.client("auditor").get("/api/v1/audit").json()
    assert found["mismatches"] >= 1
    assert any(what in finding["what"] for finding in found["findings"]), found["findings"]
