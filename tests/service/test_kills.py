"""Real processes killed with -9 at random moments, again and again, while people submit and jobs run."""

from __future__ import annotations

import collections
import os
import random
import signal
import time

import httpx
import pytest
from tests.service.processes import AgentProcess, Customer, Nursery, begin, free_port, kill, leader_of, until

from dure.service.audit import Auditor
from dure.store.store import Store

#: Kills of one test; set it to hundreds for a long night.
KILLS = int(os.environ.get("DURE_KILLS", "100"))


def is_up(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


class Proof:
    """Proves a log as it lies there, with nobody writing: all of it, and after that what has been added."""

    def __init__(self, database: str) -> None:
        self._store = Store(database)
        self._store.open()
        self._auditor = Auditor(self._store)

    def go_on(self) -> int:
        """Its decisions."""
        found = self._auditor.go_on(self._store)
        assert found.mismatches == 0, found.findings
        assert found.verified == found.decisions
        assert found.events == self._store.last()[0], "entries are gone"
        return found.decisions

    def close(self) -> None:
        self._store.close()


def prove(database: str) -> int:
    """The decisions of a log."""
    proof = Proof(database)
    found = proof.go_on()
    proof.close()
    return found


def all_jobs(url: str, token: str) -> list[dict[str, object]]:
    jobs, after = [], None
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=60) as client:
        while True:
            page = client.get("/api/v1/jobs", params={"limit": 1000, **({"after": after} if after else {})}).json()
            jobs += page["jobs"]
            after = page["next"]
            if after is None:
                return jobs


def check_end(url: str, token: str, customers: list[Customer], out) -> list[dict[str, object]]:
    """All that was acknowledged is there and over, and ran once."""

    def rest():
        jobs = all_jobs(url, token)
        return jobs if all(job["state"] == "ENDED" for job in jobs) else None

    jobs = until(rest, 180)
    by_id = {job["job_id"]: job for job in jobs}
    assert len(by_id) == len(jobs)
    for customer in customers:
        assert customer.errors == []
        assert set(customer.acknowledged) <= set(by_id), "an acknowledged job is lost"
    names = collections.Counter(job["name"] for job in jobs)
    assert max(names.values()) == 1, "a submission was taken twice"
    unheard = set().union(*(c.unheard for c in customers))
    known = {by_id[i]["name"] for c in customers for i in c.acknowledged}
    assert set(names) - known <= unheard, "a job from nowhere"
    lines = collections.Counter(out.read_text().split())
    assert not [lease for lease, times in lines.items() if times > 1], "a lease ran twice"
    runs = collections.Counter(lease.rpartition(".")[0] for lease in lines)
    asked_to_cancel = set().union(*(c.cancelled for c in customers))
    for job_id, job in by_id.items():
        if job["outcome"] == "succeeded":
            # Guests may have had to leave for the owner, before or after they were launched.
            assert 1 <= runs[job_id] <= job["attempt"], job
            # An owner's job runs once; an attempt whose agent dies between intent and start is lost and has never run.
            assert runs[job_id] == 1 or job["member"] != "owner", job
        else:
            assert job["outcome"] == "cancelled", job
            assert job_id in asked_to_cancel, job
    return jobs


@pytest.mark.slow
def test_the_service_is_killed_at_random_moments(tmp_path):
    database, port = f"sqlite:///{tmp_path / 'dure.db'}", free_port()
    url, out, chance = f"http://127.0.0.1:{port}", tmp_path / "lines", random.Random(1)
    out.touch()
    operator, agent_token = begin(tmp_path, database)
    nursery = Nursery(tmp_path)
    args = ("--port", str(port), "--data-dir", str(tmp_path))
    pid = nursery.start(*args)
    until(lambda: is_up(url))
    agent = AgentProcess(tmp_path, url, agent_token)
    customers = [Customer(url, operator, out, seed) for seed in range(3)]
    for customer in customers:
        customer.start()
    proof, decisions, began = Proof(database), 0, time.monotonic()
    try:
        for number in range(KILLS):
            time.sleep(chance.uniform(0.0, 0.7))
            kill(pid)
            found = proof.go_on()
            assert found >= decisions, "a decision is lost"
            decisions = found
            if number % 20 == 7:
                agent.kill()
            pid = nursery.start(*args)
            until(lambda: is_up(url))
            if number % 20 == 7:
                agent.start()
        for customer in customers:
            customer.is_over.set()
            customer.join()
        jobs = check_end(url, operator, customers, out)
        proof.close()
        assert prove(database) >= decisions
        heard = httpx.get(f"{url}/api/v1/audit", headers={"Authorization": f"Bearer {operator}"}, timeout=120).json()
        assert heard["mismatches"] == 0
        print(f"{KILLS} kills in {time.monotonic() - began:.0f} s, {len(jobs)} jobs, {heard['events']} entries, {heard['decisions']} decisions")
        assert sum(job["outcome"] == "succeeded" for job in jobs) >= KILLS
    finally:
        agent.kill()
        kill(pid)
        nursery.close()


@pytest.mark.slow
def test_the_leader_is_killed_or_hangs_and_the_other_takes_over(tmp_path, postgres):
    """Clients and the agent know both addresses. A leader that hangs loses its lead, and goes on as one that follows."""
    database = postgres.url(postgres.new_database())
    ports = [free_port(), free_port()]
    out, chance = tmp_path / "lines", random.Random(2)
    out.touch()
    operator, agent_token = begin(tmp_path, database)
    nursery = Nursery(tmp_path)
    url = ",".join(f"http://127.0.0.1:{port}" for port in ports)
    args = {port: ("--port", str(port), "--data-dir", str(tmp_path), "--database", database) for port in ports}
    pids = {port: nursery.start(*args[port]) for port in ports}
    until(lambda: leader_of(ports))
    agent = AgentProcess(tmp_path, url, agent_token)
    customers = [Customer(url, operator, out, seed) for seed in range(3)]
    for customer in customers:
        customer.start()
    gaps: dict[str, list[float]] = {"killed": [], "hung": []}
    num_kills = max(KILLS // 4, 5)
    try:
        for number in range(num_kills):
            time.sleep(chance.uniform(0.2, 1.5))
            leader = until(lambda: leader_of(ports))
            other = ports[1 - ports.index(leader)]
            check_follower(other, operator, f"http://127.0.0.1:{leader}")
            is_hanging = number in (num_kills // 3, 2 * num_kills // 3)
            os.kill(pids[leader], signal.SIGSTOP if is_hanging else signal.SIGKILL)
            began = time.monotonic()
            until(lambda port=other: is_up(f"http://127.0.0.1:{port}"))
            gaps["hung" if is_hanging else "killed"].append(time.monotonic() - began)
            if number % 10 == 4:
                agent.kill()
                agent.start()
            if is_hanging:
                time.sleep(2)
                os.kill(pids[leader], signal.SIGCONT)
                until(lambda port=leader: not is_up(f"http://127.0.0.1:{port}"))
            else:
                pids[leader] = nursery.start(*args[leader])
            until(lambda port=leader: is_alive(port))
        for customer in customers:
            customer.is_over.set()
            customer.join()
        jobs = check_end(f"http://127.0.0.1:{until(lambda: leader_of(ports))}", operator, customers, out)
        for what, found in gaps.items():
            print(f"{len(found)} times {what}: without a leader {sorted(found)[len(found) // 2]:.2f} s in the median, {max(found):.2f} s at most")
        print(f"{len(jobs)} jobs, {sum(len(c.unheard) for c in customers)} calls unheard")
    finally:
        agent.kill()
        for pid in pids.values():
            kill(pid)
        nursery.close()
    assert prove(database) > 0


def is_alive(port: int) -> bool:
    """Whether a service answers, leading or not."""
    try:
        return httpx.get(f"http://127.0.0.1:{port}/healthz", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


def check_follower(port: int, token: str, leader: str) -> None:
    """One that follows takes nothing, and says who leads."""
    job = {"project": "owner/main", "command": ["true"]}
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers={"Authorization": f"Bearer {token}"}, timeout=30) as client:
        until(lambda: client.get("/readyz").headers.get("Dure-Leader") == leader)
        for answer in (client.post("/api/v1/jobs", json=job), client.get("/readyz"), client.get("/api/v1/members")):
            assert answer.status_code == 503
            assert answer.headers["content-type"] == "application/problem+json"
            assert (answer.headers["retry-after"], answer.headers["dure-leader"]) == ("1", leader)
            assert leader in answer.json()["detail"]
