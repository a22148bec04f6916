"""A start from a snapshot is a start from the log; what is no snapshot of the log is not used, or found by the audit."""

from __future__ import annotations

import pytest
from sqlalchemy import update

from dure.core.snapshot import FORMAT, expand, pack, squeeze
from dure.service import commands, writer
from dure.service.audit import audit
from dure.service.schemas import Sync
from dure.service.writer import Writer
from dure.store import tables
from dure.store.store import _digest


def work(running, num: int, seq: int = 1) -> None:
    form = {"agent_id": "a", "boot": "b", "seq": seq, "nodes": [{"name": f"hall-{i}", "gpus": 8} for i in range(2)], "runs": []}
    running.do(commands.take_sync("hall", Sync.model_validate(form)))
    for _ in range(num):
        job = {"command": ["true"], "project": "guest/main", "resources": {"gpus": 3}}
        assert running.client("operator").post("/api/v1/jobs", json=job).status_code == 201


def started_anew(running) -> Writer:
    found = Writer(running.service.store, lambda sites: None)
    found.load()
    return found


@pytest.fixture
def kept(running):
    """A service with a snapshot after some steps, and more steps after that."""
    work(running, 6)
    with running.service.writer.lock:
        running.service.writer.keep_snapshot()
    seq = running.service.writer.seq
    work(running, 3, 2)
    assert running.service.store.snapshot()[0] == seq < running.service.writer.seq
    return running


def test_a_start_from_a_snapshot_and_the_log_s_rest(kept):
    again = started_anew(kept)
    now = kept.service.writer
    assert again._kept_seq == kept.service.store.snapshot()[0]
    assert (again.seq, again.hash, again.at_ms) == (now.seq, now.hash, now.at_ms)
    assert pack(again.alliance) == pack(now.alliance)
    found = audit(kept.service.store)
    assert (found.mismatches, found.events) == (0, now.seq)


def test_snapshots_come_by_themselves_and_only_the_last_is_kept(running, monkeypatch):
    monkeypatch.setattr(writer, "SNAPSHOT_STEPS", 5)
    work(running, 12)
    with running.service.store.engine.connect() as connection:
        (count,) = connection.exec_driver_sql("SELECT count(*) FROM snapshot").first()
    assert count == 1
    assert running.service.writer.seq - running.service.store.snapshot()[0] < 5 + 256
    assert audit(running.service.store).mismatches == 0


def change(running, **columns) -> None:
    with running.service.store.engine.begin() as connection:
        assert connection.execute(update(tables.snapshot).values(**columns)).rowcount == 1


@pytest.mark.parametrize("harm", ["torn", "another log", "no form", "another layout"])
def test_what_is_no_snapshot_of_this_log_is_passed_over(kept, harm):
    store = kept.service.store
    seq, body = store.snapshot()
    log_hash = next(store.entries(seq - 1, 1))["hash"]
    match harm:
        case "torn":
            change(kept, body=body[:-5])
        case "another log":
            change(kept, hash="0" * 64, digest=_digest(seq, "0" * 64, body))
        case "no form":
            change(kept, body=b"x", digest=_digest(seq, log_hash, b"x"))
        case "another layout":
            other = squeeze(expand(body).replace(f'"format":{FORMAT}'.encode(), b'"format":9'))
            change(kept, body=other, digest=_digest(seq, log_hash, other))
    again = started_anew(kept)
    assert again._kept_seq == 0
    assert pack(again.alliance) == pack(kept.service.writer.alliance)
    # What is whole and of this log, and yet not its state, is told.
    assert audit(store).mismatches == (1 if harm in ("no form", "another layout") else 0)


def test_a_snapshot_that_was_made_up_is_found_by_the_audit(kept):
    store = kept.service.store
    seq, body = store.snapshot()
    log_hash = next(store.entries(seq - 1, 1))["hash"]
    other = squeeze(expand(body).replace(b"guest/main", b"other/main", 1))
    change(kept, body=other, digest=_digest(seq, log_hash, other))
    found = kept.client("auditor").get("/api/v1/audit").json()
    assert found["mismatches"] == 1
    assert found["findings"][0]["seq"] == seq
    assert "another state" in found["findings"][0]["what"]
