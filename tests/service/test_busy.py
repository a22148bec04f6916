"""A service that is behind says when to come again; clients and agents do, and nothing is lost or done twice."""

from __future__ import annotations

import threading
import time

import pytest
from tests.service.processes import until

from dure.client import ApiError, Client
from dure.model.job_file import JobSpec
from dure.service import commands, writer
from dure.service.schemas import Sync

JOB = {"project": "owner/main", "command": ["true"]}


@pytest.fixture
def behind(running, monkeypatch):
    """A service whose writer stands still, with as many commands waiting as may."""
    monkeypatch.setattr(writer, "WAITING_MAX", 3)
    of = running.service.writer
    of.lock.acquire()
    futures = [of.do(commands.expire_silent(10**9, 10**9, 10**9), "user:t")]
    # The first is taken at once; the writer then waits for its lock.
    until(lambda: of.num_waiting() == 0)
    futures += [of.do(commands.expire_silent(10**9, 10**9, 10**9), "user:t") for _ in range(3)]
    is_free = threading.Event()

    def let_go() -> None:
        if not is_free.is_set():
            is_free.set()
            of.lock.release()

    yield running, let_go
    let_go()
    assert [future.result(30) for future in futures] == [None] * 4


def test_what_is_too_much_is_refused_at_once_with_when_to_come_again(behind):
    running, let_go = behind
    for who, path, body in (
        ("operator", "jobs", JOB), ("agent", "agents/hall/sync", {"agent_id": "a", "boot": "b", "seq": 1, "nodes": [], "runs": []}),
    ):  # fmt: skip
        # One that were not refused would wait for `let_go`.
        answer = running.client(who).post(f"/api/v1/{path}", json=body)
        assert answer.status_code == 503
        assert answer.headers["content-type"] == "application/problem+json"
        assert 1 <= int(answer.headers["Retry-After"]) <= writer.LATER_S_MAX
        assert answer.headers["Dure-Busy"] == "1"
    # The service's own work is not put off.
    own = running.service.writer.do(commands.expire_silent(10**9, 10**9, 10**9), writer.SERVICE)
    assert running.service.writer.num_waiting() >= 4
    let_go()
    own.result(30)
    until(lambda: running.client("operator").post("/api/v1/jobs", json=JOB).status_code == 201)


def test_a_client_comes_again_when_it_was_told_to_and_its_job_is_taken_once(behind):
    running, let_go = behind
    threading.Timer(0.5, let_go).start()
    began = time.monotonic()
    with Client(running.url, running.tokens["operator"], retry_s=20) as dure:
        dure.submit(JobSpec(name="once", project="owner/main", command=("true",)))
        assert time.monotonic() - began >= 1
        assert [job.name for job in dure.all_jobs()] == ["once"]


def test_a_client_that_may_not_wait_tells_why(behind):
    running, _ = behind
    with Client(running.url, running.tokens["operator"], retry_s=0) as dure, pytest.raises(ApiError, match="come again in"):
        dure.submit(JobSpec(project="owner/main", command=("true",)))


def test_how_long_it_takes_is_measured(running):
    of = running.service.writer
    before = of._pace_s
    form = {"agent_id": "a", "boot": "b", "seq": 1, "nodes": [], "runs": []}

    def slow(of):
        time.sleep(0.2)
        return commands.take_sync("hall", Sync.model_validate(form))(of)

    running.do(slow)
    assert of._pace_s >= before * 0.8 + 0.2 * 0.2
