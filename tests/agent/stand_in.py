"""A small real service for the agent's tests: it keeps leases in memory and speaks the agents' protocol over HTTP."""

import asyncio
import socket
import threading
import time
from collections import defaultdict
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

TOKEN = "token-of-the-agent"
OVER = ("exited", "lost")


class StandIn:
    """Gives each submitted job a lease while fewer than ``num_slots`` are out; a lost one gets another attempt."""

    def __init__(self, num_slots=1_000_000, ttl_ms=3_600_000, margin_ms=500, nodes=("n0",)):
        self.num_slots, self.ttl_ms, self.margin_ms, self.nodes = num_slots, ttl_ms, margin_ms, nodes
        self.app = FastAPI()
        self.app.post("/api/v1/agents/{site}/sync")(self._sync)
        self.app.post("/api/v1/agents/{site}/logs/{lease_id}/{rank}")(self._logs)
        self.waiting, self.leases, self.ends, self.progress, self.started = [], {}, {}, {}, {}
        self.lost, self.syncs, self.attempts = [], [], defaultdict(int)
        self.logs = defaultdict(bytes)
        self.log_posts = defaultdict(int)
        self.fence = 0
        self.version = 0
        self.clock_skew_ms = 0
        self.heard_s = None
        self.bend = lambda report, answer: answer
        self.refuse_logs = None
        #: Refuse reports, to be sent again after so many seconds; when they came.
        self.later_s, self.put_off = None, []
        #: What exits with one of these when it had to leave goes on in another attempt.
        self.left_codes = ()
        self._loop = None
        self._moved = None
        self._answered_version = -1

    # What tests do.

    def submit(self, job_id, script="true", **launch):
        self.waiting.append((job_id, {"argv": ["sh", "-c", script], **launch}))
        self._move()

    def order(self, lease_id, action, grace_ms=30_000, signal="TERM"):
        self.leases[lease_id] |= {
            "action": action, "deadline_ms": self._now_ms() + grace_ms, "grace_ms": grace_ms, "signal": signal,
        }  # fmt: skip
        self._move()

    def drop(self, lease_id):
        del self.leases[lease_id]
        self._move()

    def give(self, job_id, attempt, fence, launch, action="run"):
        lease_id = f"{job_id}.{attempt}"
        self.leases[lease_id] = {
            "lease_id": lease_id, "fence": fence, "job_id": job_id, "attempt": attempt, "action": action,
            "deadline_ms": -1, "signal": "TERM", "grace_ms": 30_000, "launch": launch,
            "placements": [{"node": node, "gpus": [0], "gpu_milli": 1000} for node in self.nodes],
        }  # fmt: skip
        self._move()
        return lease_id

    def until(self, is_so, wait_s=60.0):
        until = time.monotonic() + wait_s
        while time.monotonic() < until:
            if found := is_so():
                return found
            time.sleep(0.01)
        raise AssertionError(f"it did not happen in time; {len(self.leases)} leases, {len(self.ends)} ends")

    def until_ended(self, lease_id, wait_s=60.0):
        return self.until(lambda: self.ends.get(lease_id), wait_s)

    @contextmanager
    def serving(self, port=0):
        """Over HTTP, from a thread; the address."""
        # Named as TCP, or asyncio leaves Nagle's algorithm on and each answer waits 40 ms for an acknowledgement.
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", port))
            server = uvicorn.Server(uvicorn.Config(self.app, log_level="critical", timeout_graceful_shutdown=1))
            thread = threading.Thread(target=lambda: asyncio.run(self._serve(server, listener)))
            thread.start()
            try:
                self.until(lambda: server.started)
                yield f"http://127.0.0.1:{listener.getsockname()[1]}"
            finally:
                server.should_exit = True
                self._move()
                thread.join()

    # What the service does.

    async def _serve(self, server, listener):
        self._loop, self._moved = asyncio.get_running_loop(), asyncio.Event()
        await server.serve(sockets=[listener])
        self._loop = None

    def _move(self):
        self.version += 1
        loop = self._loop
        if loop is not None:
            loop.call_soon_threadsafe(self._moved.set)

    def _now_ms(self):
        return int(time.time() * 1000) + self.clock_skew_ms

    def _schedule(self):
        while self.waiting and len(self.leases) < self.num_slots:
            job_id, launch = self.waiting.pop(0)
            self.attempts[job_id] += 1
            self.fence += 1
            self.give(job_id, self.attempts[job_id], self.fence, launch)

    def _retry(self, lease_id):
        lease = self.leases.pop(lease_id)
        self.lost.append(lease_id)
        self.waiting.insert(0, (lease["job_id"], lease["launch"]))

    def _expire(self):
        now_s = time.monotonic()
        if self.heard_s is not None and (now_s - self.heard_s) * 1000 > self.ttl_ms + self.margin_ms:
            for lease_id in list(self.leases):
                self._retry(lease_id)
        self.heard_s = now_s

    def _take_in(self, report):
        for run in report["runs"]:
            lease_id = run["lease_id"]
            if run["progress"] is not None:
                self.progress[lease_id] = run["progress"]
            if run["state"] == "running" and lease_id not in self.started:
                self.started[lease_id] = time.monotonic()
            if run["state"] not in OVER or lease_id not in self.leases:
                continue
            has_left = self.leases[lease_id]["action"] == "vacate" and run["exit_code"] in self.left_codes
            if run["state"] == "lost" or has_left:
                self._retry(lease_id)
            else:
                del self.leases[lease_id]
                self.ends[lease_id] = run
            self._move()

    def _differs(self, report):
        """As the service does: also when another question, of an agent that is dead by now, has had the answer."""
        states = {run["lease_id"]: run["state"] for run in report["runs"]}
        if set(states) != set(self.leases):
            return True
        return any(lease["action"] != "run" and states[lease_id] in ("starting", "running") for lease_id, lease in self.leases.items())

    async def _sync(self, site: str, request: Request):
        if request.headers.get("authorization") != f"Bearer {TOKEN}":
            return JSONResponse({"title": "no such token", "status": 401}, 401)
        if self.later_s is not None:
            self.put_off.append(time.monotonic())
            return JSONResponse({"title": "busy", "status": 503}, 503, {"Retry-After": str(self.later_s), "Dure-Busy": "1"})
        report = await request.json()
        self.syncs.append(report)
        self._expire()
        self._take_in(report)
        until = time.monotonic() + report["wait_s"]
        while True:
            self._schedule()
            left_s = until - time.monotonic()
            if left_s <= 0 or self._differs(report) or self.version != self._answered_version:
                break
            self._moved.clear()
            try:
                await asyncio.wait_for(self._moved.wait(), left_s)
            except TimeoutError:
                continue
        self._answered_version = self.version
        answer = {
            "now_ms": self._now_ms(), "ttl_ms": self.ttl_ms, "seq": report["seq"], "leases": list(self.leases.values()),
        }  # fmt: skip
        return JSONResponse(self.bend(report, answer))

    async def _logs(self, site: str, lease_id: str, rank: int, offset: int, request: Request):
        if self.refuse_logs is not None:
            return Response(status_code=self.refuse_logs)
        piece = await request.body()
        key = (lease_id, rank)
        self.log_posts[key] += 1
        stored = len(self.logs[key])
        if offset > stored:
            return Response(status_code=409, headers={"Dure-Next-Offset": str(stored)})
        self.logs[key] += piece[stored - offset :]
        return Response(status_code=204)
