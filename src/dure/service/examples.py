"""Requests as the API's description shows them."""

from __future__ import annotations

from typing import Any

from fastapi.openapi.models import Example


def _one(summary: str, value: Any) -> dict[str, Example]:
    return {"one": Example(summary=summary, value=value)}


JOB = _one(
    "Eight GPUs for at most two hours, saving every ten minutes",
    {
        "name": "train", "project": "kaist/vision", "command": ["python", "train.py"], "resources": {"gpus": 8},
        "time_limit": "2h", "checkpoint": {"every": "10m", "signal": "USR1"},
    },
)  # fmt: skip
BATCH = _one(
    "Two jobs, taken in together",
    {
        "jobs": [
            {"name": f"sweep-{i}", "project": "kaist/vision", "command": ["python", "train.py", "--seed", str(i)]}
            for i in range(2)
        ]
    },
)
PIPELINE = _one(
    "One job after another, with a file handed on",
    {
        "name": "two", "project": "kaist/vision",
        "jobs": {
            "make": {"command": ["sh", "-c", "date > $DURE_OUTPUT_DIR/when"], "outputs": ["when"]},
            "use": {"command": ["sh", "-c", "cat $DURE_INPUT_DIR/make/when"], "needs": ["make"], "inputs": ["make/when"]},
        },
    },
)  # fmt: skip
PROGRESS = _one("How far a training is", {"step": 1200, "loss": 2.31})
PROJECT = _one("A project that counts twice in its member's share", {"name": "vision", "member": "kaist", "weight": 2})
TOKEN = _one(
    "A token for a person of a project, for thirty days",
    {"user": "minji", "role": "user", "project": "kaist/vision", "name": "laptop", "expires_in_s": 2_592_000},
)
SITE = _one(
    "A site of one cluster with sixteen GPUs on two nodes",
    {"file": "name: barn\nclusters:\n  - {name: barn, owner: kaist, gpu_type: H200, gpus: 16, nodes_per_rack: 1}\n"},
)
ENROLMENT = _one(
    "An agent's first key",
    {"agent_id": "8f0c2a52", "key": "dure_MnT4vQ0sYbJ7xWz1rKc8eLh3dUa6gPf9iNo2kEq5tRw"},
)
KEY = _one("Its next key", {"key": "dure_q5tRwMnT4vQ0sYbJ7xWz1rKc8eLh3dUa6gPf9iNo2kE"})
LOGIN = _one(
    "What a sign-in ended with, and what it began with",
    {"code": "kQ3v0mJ2xWc1r8sT", "verifier": "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"},
)
SYNC = _one(
    "An agent with one node, on which one attempt runs",
    {
        "agent_id": "8f0c2a52", "boot": "1f6b", "seq": 7, "nodes": [{"name": "hall-0", "gpus": 8}],
        "runs": [{"lease_id": "34hd08m0n0000.1", "fence": 12, "state": "running", "started_ms": 1_800_000_000_000}],
        "wait_s": 0,
    },
)  # fmt: skip
