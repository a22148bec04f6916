"""Real processes of service and agent over a bad network: nothing is lost, nothing runs twice, and what ran is what is billed."""

from __future__ import annotations

import collections
import functools
import itertools
import os
import random
import time
from datetime import datetime
from pathlib import Path

import pytest
from tests.service.faulty_proxy import Faults, FaultyProxy
from tests.service.processes import AgentProcess, Customer, Nursery, begin, free_port, kill, leader_of, until
from tests.service.running import Running
from tests.service.test_kills import all_jobs, prove

from dure.client import Client
from dure.model.job_file import Checkpoint, JobSpec, Resources

#: So long the network is bad in one test, s.
BAD_S = float(os.environ.get("DURE_BAD_S", "45"))
#: So long a site is cut off in another, s: an hour is tried by hand (docs/validation.md).
CUT_S = int(os.environ.get("DURE_CUT_S", "20"))
BAD = {"loss": 0.12, "delay_s": 1.0, "doubled": 0.2, "late": 0.2}


#: Says when it begins and ends, also when it is told to leave.
WORK = """
trap 'echo "$DURE_LEASE_ID end $(date +%s.%N)" >> {out}; exit 75' TERM USR1
echo "$DURE_LEASE_ID begin $(date +%s.%N)" >> {out}
echo "$DURE_LEASE_ID begins"
i=0; while [ $i -lt {tenths} ]; do sleep 0.1; i=$((i+1)); done
echo "$DURE_LEASE_ID ends"
echo "$DURE_LEASE_ID end $(date +%s.%N)" >> {out}
"""


class Worker(Customer):
    """Its jobs tell when they begin and end, and over a bad network take seconds each."""

    pause_s = 1.2

    def _job(self, name: str) -> JobSpec:
        script = WORK.format(out=self._out, tenths=self._chance.choice((0, 1, 5, 20)))
        member = self._chance.choice(("owner", "guest", "other"))
        return JobSpec(name=name, project=f"{member}/main", command=("sh", "-c", script), resources=Resources(gpus=self._chance.choice((1, 2))))


def check_jobs(customers: list[Customer], jobs: list) -> None:
    """All that was taken in is there and over, once; it ended by itself, or because somebody cancelled it."""
    by_id = {job.job_id: job for job in jobs}
    for customer in customers:
        assert customer.errors == []
        assert set(customer.acknowledged) <= set(by_id), "an acknowledged job is lost"
    assert max(collections.Counter(job.name for job in jobs).values()) == 1, "a submission was taken twice"
    cancelled = set().union(*(c.cancelled for c in customers))
    for job in jobs:
        assert job.outcome == "succeeded" or (job.outcome == "cancelled" and job.job_id in cancelled), job


def lines_of(out: Path) -> dict[str, list[tuple[str, float]]]:
    """What attempts have written: lease → ("begin" or "end", epoch s)."""
    found: dict[str, list[tuple[str, float]]] = collections.defaultdict(list)
    for line in out.read_text().splitlines():
        lease, what, at = line.split()
        found[lease].append((what, float(at)))
    return found


def check_runs(out: Path, jobs: list) -> int:
    """No attempt began twice, no two attempts of a job ran at one time, and none beside its lease; how many ran."""
    lines = lines_of(out)
    attempts = {a.lease_id: a for job in jobs for a in job.attempts}
    assert set(lines) <= set(attempts), "something ran without a lease"
    spans = collections.defaultdict(list)
    for lease, told in lines.items():
        assert collections.Counter(what for what, _ in told)["begin"] == 1, f"{lease} ran twice"
        begin, end = told[0][1], told[-1][1]
        leased, ended = attempts[lease].leased_at, attempts[lease].ended_at
        # Moments in the API are whole milliseconds.
        assert leased.timestamp() - 0.002 <= begin, f"{lease} ran before it was leased"
        assert end <= ended.timestamp() + 0.002, f"{lease} ran on after its end had been billed"
        spans[lease.rpartition(".")[0]].append((begin, end))
    for job_id, found in spans.items():
        found.sort()
        assert all(one[1] <= other[0] for one, other in itertools.pairwise(found)), f"two attempts of {job_id} at one time"
    return len(lines)


def check_usage(dure: Client, jobs: list) -> float:
    """The bill is what the attempts come to; GPU-seconds."""
    attempts = [a for job in jobs for a in job.attempts]
    ran = sum((a.ended_at - a.leased_at).total_seconds() * a.gpus for a in attempts)
    rows = dure.usage(month=datetime.now().astimezone().strftime("%Y-%m")).rows
    assert sum(row.attempts for row in rows) == len(attempts)
    assert sum(row.gpu_seconds for row in rows) == pytest.approx(ran, abs=0.01)
    return ran


def check_logs(dure: Client, jobs: list) -> None:
    """Of attempts that ended by themselves every byte has come, once."""
    for job in jobs:
        if job.outcome == "succeeded":
            lease = f"{job.job_id}.{job.attempt}"
            expected = f"{lease} begins\n{lease} ends\n"
            written = functools.partial(dure.logs, job.job_id, attempt=job.attempt)
            while not (part := written()).data:
                assert not part.is_ended, "a log is said to be at its end before it has come"
                time.sleep(0.1)
            until(lambda written=written, expected=expected: len(written().data) >= len(expected))
            assert written().data.decode() == expected
            assert written(offset=len(expected)).is_ended


@pytest.mark.parametrize(("seed", "bad_s"), [(10, 8.0), *(pytest.param(seed, BAD_S, marks=pytest.mark.slow) for seed in (11, 12))])
def test_losses_delays_doubles_late_ones_and_partitions(tmp_path, seed, bad_s):
    print(f"seed {seed}")
    chance, database, port = random.Random(seed), f"sqlite:///{tmp_path / 'dure.db'}", free_port()
    out, url = tmp_path / "lines", f"http://127.0.0.1:{port}"
    out.touch()
    operator, agent_token = begin(tmp_path, database)
    nursery = Nursery(tmp_path)
    pid = nursery.start("--port", str(port), "--data-dir", str(tmp_path))
    until(lambda: leader_of([port]))
    faults = Faults(**BAD)
    proxy = FaultyProxy(port, faults, seed)
    customers = [Worker(url, operator, out, seed * 10 + i) for i in range(2)]
    with proxy.running() as far, Client(url, operator) as dure:
        agent = AgentProcess(tmp_path, far, agent_token)
        try:
            for customer in customers:
                customer.start()
            end = time.monotonic() + bad_s
            while time.monotonic() < end:
                time.sleep(chance.uniform(1.0, 5.0))
                match chance.choice(("requests", "answers", "both", "agent", "drain")):
                    case "requests":
                        faults.requests_pass = False
                    case "answers":
                        faults.answers_pass = False
                    case "both":
                        faults.requests_pass = faults.answers_pass = False
                    case "agent":
                        agent.kill()
                        agent.start()
                    case "drain":
                        dure.drain_node("hall-0", 1.0)
                time.sleep(chance.uniform(0.5, 4.0))
                faults.requests_pass = faults.answers_pass = True
                dure.uncordon_node("hall-0")
            for customer in customers:
                customer.is_over.set()
                customer.join()
            # The network stays bad until all is done.
            until(lambda: all(job["state"] == "ENDED" for job in all_jobs(url, operator)), 180)
            jobs = [dure.job(str(job["job_id"])) for job in all_jobs(url, operator)]
            check_jobs(customers, jobs)
            assert check_runs(out, jobs) >= bad_s
            check_usage(dure, jobs)
            check_logs(dure, jobs)
            counts = faults.counts
            assert min(counts[what] for what in ("requests lost", "answers lost", "doubled", "late")) >= bad_s // 10, counts
            assert dure.audit().mismatches == 0
            print(f"{len(jobs)} jobs, {dict(counts)}")
        finally:
            agent.kill()
            kill(pid)
            nursery.close()
    assert prove(database) > 0


class Cut:
    """A service that takes an agent for silent after a second, with a real agent behind a proxy."""

    def __init__(self, folder: Path, ttl_s: int) -> None:
        self.running = Running(folder, silent_ms=1_000, ttl_ms=ttl_s * 1000, margin_ms=2_000)
        self.out, self.faults = folder / "lines", Faults()
        self.out.touch()
        self._proxy = FaultyProxy(self.running.port, self.faults, 0).running()
        self.dure = Client(self.running.url, self.running.tokens["operator"])
        self.agent = AgentProcess(folder, self._proxy.__enter__(), self.running.tokens["agent"])
        until(lambda: len([n for n in self.dure.nodes() if n.state == "up"]) == 2)

    def submit(self, tenths: int, **more) -> str:
        script = WORK.format(out=self.out, tenths=tenths)
        spec = JobSpec(project="owner/main", command=("sh", "-c", script), resources=Resources(gpus=2), **more)
        return self.dure.submit(spec).job_id

    def state_of(self, job_id: str) -> str:
        return self.dure.job(job_id).state

    def part(self) -> None:
        self.faults.requests_pass = self.faults.answers_pass = False

    def heal(self) -> None:
        self.faults.requests_pass = self.faults.answers_pass = True

    def check(self, num_jobs: int) -> list:
        jobs = [self.dure.job(str(job["job_id"])) for job in all_jobs(self.running.url, self.running.tokens["operator"])]
        assert len(jobs) == num_jobs
        check_runs(self.out, jobs)
        check_usage(self.dure, jobs)
        assert self.dure.audit().mismatches == 0
        return jobs

    def close(self) -> None:
        self.agent.kill()
        self._proxy.__exit__(None, None, None)
        self.dure.close()
        self.running.close()


@pytest.fixture
def cut(tmp_path, request):
    found = Cut(tmp_path, request.param)
    yield found
    found.close()


@pytest.mark.slow
@pytest.mark.parametrize("cut", [3 * CUT_S], indirect=True, ids=["cut off"])
def test_a_site_that_is_cut_off_for_long_goes_on_and_comes_to_terms(cut):
    """Within its time to live: what runs goes on and ends; it is told, and what was submitted and cancelled meanwhile is done."""
    long, short, doomed = (cut.submit(10 * seconds) for seconds in (CUT_S + 15, 6, CUT_S + 40))
    until(lambda: [cut.state_of(name) for name in (long, short, doomed)] == ["RUNNING"] * 3)
    cut.part()
    until(lambda: {n.state for n in cut.dure.nodes()} == {"silent"})
    meanwhile = cut.submit(5)
    cut.dure.cancel(doomed)
    time.sleep(CUT_S)
    assert (cut.state_of(long), cut.state_of(short), cut.state_of(doomed), cut.state_of(meanwhile)) == (
        "RUNNING", "RUNNING", "COMPLETING", "PENDING",
    )  # fmt: skip
    # The short one has ended there.
    assert [what for what, _ in lines_of(cut.out)[f"{short}.1"]] == ["begin", "end"]
    cut.heal()
    # The work counts tenths of a second, each a little longer on a busy machine.
    until(lambda: all(cut.state_of(name) == "ENDED" for name in (long, short, doomed, meanwhile)), 60 + CUT_S / 4)
    outcomes = {job.job_id: (job.outcome, job.attempt) for job in cut.check(4)}
    assert outcomes == {long: ("succeeded", 1), short: ("succeeded", 1), doomed: ("cancelled", 1), meanwhile: ("succeeded", 1)}


@pytest.mark.slow
@pytest.mark.parametrize("cut", [10], indirect=True, ids=["beyond its time to live"])
def test_a_site_that_is_cut_off_for_too_long_stops_before_others_begin(cut):
    job = cut.submit(200, checkpoint=Checkpoint(every="1s", signal="TERM", grace="1s"))
    until(lambda: cut.state_of(job) == "RUNNING")
    cut.part()
    until(lambda: cut.state_of(job) == "PENDING")
    # The agent has stopped it by then.
    assert [what for what, _ in lines_of(cut.out)[f"{job}.1"]] == ["begin", "end"]
    cut.heal()
    until(lambda: cut.state_of(job) == "ENDED")
    (found,) = cut.check(1)
    assert (found.outcome, [a.state for a in found.attempts]) == ("succeeded", ["lost", "exited"])
