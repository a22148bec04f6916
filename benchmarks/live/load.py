"""How fast the live service is: submissions in batches and one by one, 200 people at once, and a cycle of the largest alliance.

    python benchmarks/live/load.py [batch|people|cycle …]

Each part prints one JSON line. The service is a process of its own with SQLite in a temporary folder.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np

IDLE_S = 4.0
PEOPLE, WARM_S, SECONDS, CALLS_PER_S = 200, 5, 20, 0.5
BATCH, BATCHES = 1_000, 20
WAITING, CYCLES = 100_000, 300


def quantile_ms(found: list[float], q: float) -> float:
    return round(float(np.quantile(found, q)) * 1e3, 2)


@contextlib.contextmanager
def service(folder: Path, gpus: int = 8, alliance: Path | None = None):
    """`dure up` with some stand-in GPUs; of an alliance file, `dure serve`, whose agents are others."""
    words = ["up", "--gpus", str(gpus)] if alliance is None else ["serve", "--alliance", str(alliance)]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "dure.cli.main", *words, "--port", str(port), "--data-dir", str(folder / "data")],
            stdout=subprocess.PIPE, stderr=log, text=True, env={**os.environ, "XDG_CONFIG_HOME": str(folder)},
        )  # fmt: skip
    assert process.stdout is not None
    token = process.stdout.readline().strip().rpartition(" ")[2]
    url = process.stdout.readline().strip().rpartition(" ")[2]
    try:
        yield url, token, process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def job(project: str, gpus: int = 8) -> dict[str, object]:
    return {"name": "train", "project": project, "command": ["python", "train.py"], "resources": {"gpus": gpus}, "time_limit": "2h"}


def projects(client: httpx.Client) -> list[str]:
    return [row["name"] for row in client.get("/api/v1/projects").json()]


def batch(url: str, token: str, folder: Path) -> dict[str, object]:
    """Jobs a second in batches of 1,000, and bytes of log for each."""
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=120) as client:
        names = projects(client)
        bodies = [json.dumps({"jobs": [job(names[i % len(names)]) for i in range(BATCH)]}) for _ in range(BATCHES)]
        took = []
        for body in bodies:
            began = time.perf_counter()
            client.post("/api/v1/jobs/batch", content=body, headers={"Content-Type": "application/json"}).raise_for_status()
            took.append(time.perf_counter() - began)
    import sqlite3

    with contextlib.closing(sqlite3.connect(folder / "data" / "dure.db")) as database:
        size, rows = database.execute("SELECT sum(length(body)), count(*) FROM event").fetchone()
        spec = database.execute("SELECT sum(length(spec)) FROM job").fetchone()[0]
    return {
        "jobs_per_s": round(BATCH * BATCHES / sum(took)), "best_jobs_per_s": round(BATCH / min(took)), "p99_batch_ms": quantile_ms(took, 0.99),
        "log_bytes_per_job": round(size / BATCH / BATCHES), "spec_bytes_per_job": round(spec / BATCH / BATCHES), "entries": rows,
    }  # fmt: skip


class Line:
    """One person's connection; next to nothing is spent on this side of it, as both share the machine."""

    def __init__(self, url: str, token: str) -> None:
        self._host, _, self._port = url.removeprefix("http://").partition(":")
        self._head = f" HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json\r\nContent-Length: "
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._used = 0.0

    async def ask(self, method: str, path: str, body: object = None) -> Any:
        """The answer's JSON."""
        # The service ends a connection after 5 s of silence; as a browser would, a new one is taken before that can cross a request.
        if self._streams is None or time.perf_counter() - self._used > IDLE_S:
            self.close()
            self._streams = await asyncio.open_connection(self._host, int(self._port))
        reader, writer = self._streams
        content = b"" if body is None else json.dumps(body).encode()
        writer.write(f"{method} {path}{self._head}{len(content)}\r\n\r\n".encode() + content)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.partition(b"content-length: ")[2].partition(b"\r")[0])
        data = await reader.readexactly(length)
        self._used = time.perf_counter()
        assert head[9:10] == b"2", data
        return json.loads(data)

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()


async def person(line: Line, names: list[str], chance: random.Random, until: float, took: dict[str, list[float]]) -> None:
    """Looks at the queue, at a job, at why it waits; submits and cancels: about a call every two seconds."""
    mine: list[str] = []
    while True:
        await asyncio.sleep(chance.expovariate(CALLS_PER_S))
        if time.perf_counter() >= until:
            break
        kind = chance.choices(("list", "job", "explain", "members", "submit", "cancel"), (30, 25, 15, 10, 15, 5))[0]
        if kind in ("job", "explain", "cancel") and not mine:
            kind = "submit"
        name = chance.choice(mine) if mine else ""
        began = time.perf_counter()
        match kind:
            case "list":
                await line.ask("GET", "/api/v1/jobs?limit=20")
            case "job":
                await line.ask("GET", f"/api/v1/jobs/{name}")
            case "explain":
                await line.ask("GET", f"/api/v1/jobs/{name}/explain")
            case "members":
                await line.ask("GET", "/api/v1/members")
            case "submit":
                mine.append((await line.ask("POST", "/api/v1/jobs", job(chance.choice(names))))["job_id"])
            case _:
                await line.ask("POST", f"/api/v1/jobs/{name}/cancel")
                mine.remove(name)
        took.setdefault(kind, []).append(time.perf_counter() - began)
    line.close()


async def people(url: str, token: str) -> dict[str, object]:
    """Times of answers under 200 people at once."""
    took: dict[str, list[float]] = {}
    line = Line(url, token)
    names = [row["name"] for row in await line.ask("GET", "/api/v1/projects")]
    line.close()
    for seconds in (WARM_S, SECONDS):
        # What was measured while the service loaded its kernels is thrown away.
        took.clear()
        until = time.perf_counter() + seconds
        await asyncio.gather(*(person(Line(url, token), names, random.Random(i), until, took) for i in range(PEOPLE)))
    every = [t for found in took.values() for t in found]
    return {
        "people": PEOPLE, "calls_per_s": round(len(every) / SECONDS), "median_ms": quantile_ms(every, 0.5),
        "p99_ms": quantile_ms(every, 0.99), **{f"p99_{kind}_ms": quantile_ms(found, 0.99) for kind, found in sorted(took.items())},
    }  # fmt: skip


def cycle() -> dict[str, object]:
    """One step of the core on 260,000 GPUs, all in use, while 100,000 jobs wait: an end, a submission and what follows."""
    from datetime import date

    from dure.core.live import Alliance
    from dure.examples import example_path
    from dure.model.alliance import load_alliance
    from dure.model.alliance_build import build_fleet
    from dure.model.events import Exited, JobRequest, NodeUp, Start, Submit
    from dure.policy.config import named_policy

    path = example_path("alliance")
    fleet, terms = build_fleet(load_alliance(Path(path).read_text(encoding="utf-8"), str(path)), date(2027, 1, 1))
    alliance = Alliance(fleet, terms, named_policy("dure"), 0)
    members, chance, at = [m.name for m in terms.members], random.Random(1), 1_000
    alliance.apply(at, [NodeUp(alliance.node_name(i)) for i in range(len(fleet.nodes))])
    running: list[tuple[str, int]] = []
    number = 0

    def request() -> Submit:
        nonlocal number
        number += 1
        member = chance.choice(members)
        gpus = chance.choice((1, 1, 1, 2, 4, 8, 8, 16, 32, 64))
        return Submit(JobRequest(f"j{number}", member, f"{member}/p{chance.randrange(4)}", f"u{chance.randrange(20)}", gpus=gpus,
                                 limit_ms=7_200_000, checkpoint_ms=600_000))  # fmt: skip

    while int(alliance.policy_core.state.g[0]["queue_jobs"]) < WAITING:
        at += 1_000
        effects = alliance.apply(at, [request() for _ in range(5_000)])
        running += [(e.job_id, e.attempt) for e in effects if isinstance(e, Start)]
    took = []
    for _ in range(CYCLES):
        at += 100
        i = chance.randrange(len(running))
        running[i], running[-1] = running[-1], running[i]
        job_id, attempt = running.pop()
        began = time.perf_counter()
        effects = alliance.apply(at, [Exited(job_id, attempt, 0), request()])
        took.append(time.perf_counter() - began)
        running += [(e.job_id, e.attempt) for e in effects if isinstance(e, Start)]
    g = alliance.policy_core.state.g[0]
    return {
        "gpus": int(fleet.num_gpus), "used_gpus": int(g["used_milli"]) // 1000, "waiting": int(g["queue_jobs"]), "jobs": number,
        "median_ms": quantile_ms(took, 0.5), "p99_ms": quantile_ms(took, 0.99), "worst_ms": round(max(took) * 1e3, 2),
        "mean_ms": round(statistics.mean(took) * 1e3, 2),
    }  # fmt: skip


def main(parts: list[str]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if {"batch", "people"} & set(parts):
            with service(folder) as (url, token, _):
                if "people" in parts:
                    print(json.dumps({"part": "people", **asyncio.run(people(url, token))}), flush=True)
                if "batch" in parts:
                    print(json.dumps({"part": "batch", **batch(url, token, folder)}), flush=True)
    if "cycle" in parts:
        print(json.dumps({"part": "cycle", **cycle()}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:] or ["people", "batch", "cycle"])
