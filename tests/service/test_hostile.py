"""Hostile requests: every one is refused with a problem document, and the service goes on."""

from __future__ import annotations

import json
import socket
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dure.service.front import BODY_MAX, Front

PROBLEM = "application/problem+json"


def is_refused(answer, *statuses: int) -> None:
    assert answer.status_code in statuses, (answer.status_code, answer.text[:300])
    assert answer.headers["content-type"] == PROBLEM
    document = answer.json()
    assert document["status"] == answer.status_code
    assert document["title"]


def raw(port: int, head: str, *parts: bytes) -> tuple[int, bytes]:
    """Send bytes as they are; the status and the rest."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(head.replace("\n", "\r\n").encode())
        try:
            for part in parts:
                connection.sendall(part)
        except OSError:
            pass  # it was cut off, as it should be
        data = b""
        try:
            while more := connection.recv(65536):
                data += more
                if b"\r\n\r\n" in data and data.rstrip().endswith(b"}"):
                    break
        except OSError:
            pass
    return int(data.split()[1]) if data else 0, data


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404), ("GET", "/api/v1/nothing", 404), ("GET", "/api/v1/jobs/", 404), ("POST", "/api/v1/jobs//cancel", 404),
        ("PUT", "/api/v1/jobs", 405), ("DELETE", "/healthz", 405), ("PATCH", "/api/v1/jobs/x", 405),
        ("GET", "/api/v1/jobs/..%2f..%2fetc", 404), ("GET", "/api/v1/jobs/%00", 422), ("GET", "/api/v1/jobs/%ff%fe", 422),
        ("GET", "/api/v1/jobs?name=%00", 422), ("GET", "/api/v1/jobs?after=%00", 422), ("GET", "/api/v1/jobs?limit=1e9", 422),
        ("GET", "/api/v1/jobs?limit=" + "9" * 5000, 422), ("GET", "/api/v1/jobs?stat=RUNNING", 422),
        ("GET", "/api/v1/usage?month=2026-13", 422), ("GET", "/api/v1/usage?month=0000-01", 422),
        ("GET", "/api/v1/events?after=-1", 422), ("GET", "/api/v1/jobs/x/logs?wait_s=nan", 422),
        ("DELETE", "/api/v1/tokens/%00", 422), ("DELETE", "/api/v1/tokens/none", 404),
    ],
)  # fmt: skip
def test_odd_addresses(shared, method, path, status):
    is_refused(shared.client("operator").request(method, path), status)


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


GOOD = {"command": ["true"], "project": "guest/main"}
BODIES = {
    "empty": b"", "no json": b"{", "no object": b"[1]", "text": b'"x"', "null": b"null", "latin": b'{"name": "\xff"}',
    "utf16": '{"command": ["true"]}'.encode("utf-16"), "deep": f'{{"command": {nested(400)}}}'.encode(),
    "deeper": f'{{"command": {nested(200_000)}}}'.encode(), "long number": b'{"retries": ' + b"9" * 10_000 + b"}",
    "nan": json.dumps({**GOOD, "resources": {"mem_gib": float("nan")}}).encode(),
    "infinity": json.dumps({**GOOD, "resources": {"cpus": float("inf")}}).encode(),
    "nul": json.dumps({**GOOD, "command": ["a\0b"]}).encode(), "nul in a key": json.dumps({**GOOD, "env": {"a\0": "b"}}).encode(),
    "nul in a name": json.dumps({**GOOD, "name": "a\0"}).encode(), "half a character": b'{"command": ["\\ud800"], "project": "guest/main"}',
    "half in a name": b'{"command": ["x"], "name": "\\udfff", "project": "guest/main"}',
    "half in an unknown key": b'{"command": ["x"], "\\udfff": 1, "project": "guest/main"}',
    "many": json.dumps({**GOOD, "command": ["x"] * 1001}).encode(), "huge gpus": json.dumps({**GOOD, "resources": {"gpus": 10**30}}).encode(),
    "unknown": json.dumps({**GOOD, "comand": 1}).encode(), "year": json.dumps({**GOOD, "begin": "99999-01-01T00:00:00Z"}).encode(),
    "far": json.dumps({**GOOD, "begin": "0001-01-01T00:00:00+23:59"}).encode(),
    "array times file": json.dumps({**GOOD, "setup": "x" * 90_000, "array": {"indices": list(range(10_000))}}).encode(),
    "index": json.dumps({**GOOD, "array": {"indices": [10**40]}}).encode(), "negative": json.dumps({**GOOD, "array": {"indices": [-1]}}).encode(),
    "long time": json.dumps({**GOOD, "time_limit": "9" * 400 + "w"}).encode(),
}  # fmt: skip


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("path", ["/api/v1/jobs", "/api/v1/jobs/batch", "/api/v1/pipelines"])
def test_bad_bodies(shared, name, path):
    body = BODIES[name]
    if path.endswith("batch") and name not in ("empty", "no json", "latin", "utf16"):
        body = b'{"jobs": [' + body + b"]}"
    if path.endswith("pipelines") and name not in ("empty", "no json", "latin", "utf16"):
        body = b'{"jobs": {"a": ' + body + b"}}"
    answer = shared.client("operator").post(path, content=body, headers={"Content-Type": "application/json"})
    is_refused(answer, 400, 422)
    assert shared.client("operator").get("/readyz").status_code == 200


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "application/xml", "", "a" * 5000])
def test_wrong_content_types(shared, kind):
    content = json.dumps(GOOD).encode()
    is_refused(shared.client("operator").post("/api/v1/jobs", content=content, headers={"Content-Type": kind}), 400, 415, 422)


@pytest.mark.parametrize("progress", [b'{"a": NaN}', b'{"a": 1e999}', b'{"a": "\\ud800"}', f'{{"a": {nested(40)}}}'.encode(), b'{"a": "' + b"x" * 20_000 + b'"}'])
def test_bad_progress(shared, progress):
    job_id = shared.client("operator").post("/api/v1/jobs", json=GOOD).json()["job_id"]
    path = f"/api/v1/jobs/{job_id}/progress"
    is_refused(shared.client("operator").post(path, content=progress, headers={"Content-Type": "application/json"}), 422)
    assert shared.client("operator").post(path, json={"a": "\0", "b": [1, {"c": 10**300}]}).status_code == 204
    assert shared.client("operator").get(f"/api/v1/jobs/{job_id}").json()["progress"]["a"] == "\0"


def head_of(shared, *lines: str, path: str = "/api/v1/jobs") -> str:
    token = shared.tokens["operator"]
    return "\n".join([f"POST {path} HTTP/1.1", "Host: x", f"Authorization: Bearer {token}", "Content-Type: application/json", *lines, "", ""])


def test_a_body_that_says_it_is_too_large(shared):
    status, data = raw(shared.port, head_of(shared, f"Content-Length: {BODY_MAX + 1}"))
    assert status == 413
    assert PROBLEM.encode() in data


def test_a_body_that_does_not_say_how_large_it_is(shared):
    chunk = b"100000\r\n" + b" " * 0x100000 + b"\r\n"
    status, data = raw(shared.port, head_of(shared, "Transfer-Encoding: chunked"), *[chunk] * (BODY_MAX // 0x100000 + 2))
    assert status == 413
    assert PROBLEM.encode() in data
    status, data = raw(shared.port, head_of(shared, "Transfer-Encoding: chunked", path="/api/v1/agents/hall/logs/a.1/0"), *[chunk] * 40)
    assert status in (403, 413)


@pytest.mark.parametrize("length", ["-1", "x", "1e3", "9" * 30, "9" * 6000])
def test_a_length_that_is_none(shared, length):
    status, _ = raw(shared.port, head_of(shared, f"Content-Length: {length}"))
    assert status in (400, 413, 431)
    assert shared.client("operator").get("/readyz").status_code == 200


def test_a_body_that_stops_coming(shared, monkeypatch):
    before = Front.__init__.__defaults__
    monkeypatch.setattr(Front.__init__, "__defaults__", (before[0], 0.3))
    from tests.service.running import Served

    with Served(shared.service) as served:
        began = time.monotonic()
        status, data = raw(served.port, head_of(shared, "Content-Length: 100"), b"{")
        assert status == 408
        assert PROBLEM.encode() in data
        assert time.monotonic() - began < 10


def test_a_caller_that_goes_away_does_no_harm(shared):
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", shared.port)) as connection:
            body = json.dumps(GOOD).encode()
            connection.sendall(head_of(shared, f"Content-Length: {len(body)}").replace("\n", "\r\n").encode() + body)
    assert shared.client("operator").post("/api/v1/jobs", json=GOOD).status_code == 201
    assert shared.service.writer.is_leading


def test_odd_tokens(shared):
    client = shared.client("nobody")
    for value in (b"Bearer \xff\xfe", b"Bearer " + b"x" * 10_000, b"bearer", b"Bearer a b c", "Bearer dure_é".encode()):
        is_refused(client.get("/api/v1/jobs", headers={"Authorization": value}), 401)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**40), 10**40) | st.floats() | st.text(st.characters(exclude_categories=())),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4), max_leaves=12,
)  # fmt: skip
FIELDS = ("name", "project", "command", "setup", "env", "workdir", "resources", "tasks_per_node", "time_limit", "priority",
          "checkpoint", "retries", "depends_on", "array", "begin", "reserve", "inputs", "outputs")  # fmt: skip


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=3))
def test_any_value_in_any_field(shared, change):
    answer = shared.client("operator").post(
        "/api/v1/jobs", content=json.dumps({**GOOD, **change}), headers={"Content-Type": "application/json"}
    )
    if answer.status_code != 201:
        is_refused(answer, 400, 422, 403)
