"""Real processes of service and agent over HTTP: a job from its submission to its result, whatever comes between."""

from __future__ import annotations

import collections
import contextlib
import hashlib
import runpy
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.service.processes import AgentProcess, Nursery, begin, free_port, kill, leader_of, until

from dure.client import ApiError, Client
from dure.model.job_file import Checkpoint, JobSpec, Resources
from dure.service.audit import audit
from dure.store.store import Store

_proxy = runpy.run_path(str(Path(__file__).parent.parent / "agent" / "proxy.py"))
Proxy, PASS, CUTS = _proxy["Proxy"], _proxy["PASS"], [_proxy[name] for name in ("NO_ANSWERS", "NOTHING", "REFUSE")]


class Site:
    """A service and its agent, as processes of their own; between them a proxy that can be cut."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._database = f"sqlite:///{folder / 'dure.db'}"
        operator, agent_token = begin(folder, self._database)
        port = free_port()
        self._nursery = Nursery(folder)
        self._pid = self._nursery.start("--port", str(port), "--data-dir", str(folder))
        until(lambda: leader_of([port]))
        self.dure = Client(f"http://127.0.0.1:{port}", operator)
        self.proxy = Proxy(port)
        self._running = self.proxy.running()
        self.agent = AgentProcess(folder, self._running.__enter__(), agent_token)
        until(lambda: [node for node in self.dure.nodes() if node.state == "up"])

    def submit(self, script: str, **more) -> str:
        command = ("sh", "-c", script)
        return self.dure.submit(JobSpec(**{"project": "owner/main", "command": command, **more})).job_id

    def end_of(self, job_id: str, wait_s: float = 60):
        def ended():
            job = self.dure.job(job_id)
            return job if job.is_ended else None

        return until(ended, wait_s)

    def close(self) -> None:
        self.agent.kill()
        self._running.__exit__(None, None, None)
        self.dure.close()
        kill(self._pid)
        self._nursery.close()
        store = Store(self._database)
        store.open()
        found = audit(store)
        store.close()
        assert found.mismatches == 0, found.findings
        assert found.verified == found.decisions > 0


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    found = Site(tmp_path_factory.mktemp("site"))
    yield found
    found.close()


def test_from_submission_to_result(site):
    script = 'echo "job $DURE_JOB_ID on $CUDA_VISIBLE_DEVICES"; echo \'dure-progress: {"step": 7}\'; exit 5'
    job_id = site.submit(script, name="first", resources=Resources(gpus=2))
    text = b"".join(site.dure.follow(job_id)).decode()
    job = site.end_of(job_id)
    lines = text.splitlines()
    assert lines[0].startswith(f"job {job_id} on ")
    assert len(lines[0].rpartition(" ")[2].split(",")) == 2
    assert (job.outcome, job.exit_code, job.progress, job.attempt) == ("failed", 5, {"step": 7}, 1)
    (attempt,) = job.attempts
    assert (attempt.state, attempt.owner, attempt.gpus) == ("exited", "owner", 2)
    assert [entry.what for entry in job.timeline] == ["submitted", "leased", "started", "exited", "ended"]


#: Each step's result rests on all before it; what was saved is what the next attempt goes on from.
CHAIN = """
import hashlib, json, os, signal, sys, time
path = os.environ["DURE_CHECKPOINT_DIR"] + "/chain.json"
step, value = json.load(open(path)) if os.path.exists(path) else (0, "seed")
wanted = []
signal.signal(signal.SIGUSR1, lambda *_: wanted.append(1))
print("from", step, flush=True)
while step < 300:
    value = hashlib.sha256(f"{step} {value}".encode()).hexdigest()
    step += 1
    with open(sys.argv[1], "a") as out:
        out.write(f"{step}\\n")
    if wanted:
        with open(path + ".new", "w") as file:
            json.dump((step, value), file)
        os.rename(path + ".new", path)
        print("saved", step, flush=True)
        sys.exit(75)
    time.sleep(0.02)
print("result", value, flush=True)
"""


def test_what_was_lent_is_taken_back_with_a_checkpoint_and_goes_on_exactly_there(site):
    steps = site.folder / "steps"
    (site.folder / "chain.py").write_text(CHAIN)
    guest = site.dure.submit(
        JobSpec(project="guest/main", command=(sys.executable, str(site.folder / "chain.py"), str(steps)),
                resources=Resources(gpus=8), checkpoint=Checkpoint(every="1s", signal="USR1", grace="20s"))
    ).job_id  # fmt: skip
    until(lambda: steps.exists() and len(steps.read_text().split()) >= 20)
    owner = site.submit("echo mine", resources=Resources(gpus=16))
    assert site.end_of(owner).outcome == "succeeded"
    job = site.end_of(guest)
    assert (job.outcome, job.exit_code, job.attempt) == ("succeeded", 0, 2)
    assert [a.state for a in job.attempts] == ["vacated", "exited"]
    assert job.attempts[0].cause == owner
    assert [(a.owner, a.agreement) for a in job.attempts] == [("owner", "to-guest")] * 2
    # Every step once, in order, over both attempts; the result is that of a run without a break.
    assert steps.read_text().split() == [str(number) for number in range(1, 301)]
    value = "seed"
    for step in range(300):
        value = hashlib.sha256(f"{step} {value}".encode()).hexdigest()
    first, second = (b"".join(site.dure.follow(guest, attempt=number)).decode().splitlines() for number in (1, 2))
    saved = first[-1].split()[1]
    assert first == ["from 0", f"saved {saved}"]
    assert 20 <= int(saved) < 300
    assert second == [f"from {saved}", f"result {value}"]


@pytest.mark.parametrize("cut", CUTS)
def test_a_cut_between_agent_and_service_loses_and_doubles_nothing(site, cut):
    """In one direction or both: what runs goes on, what ends meanwhile is told later, what was given meanwhile comes later."""
    out = site.folder / f"cut-{cut.replace(' ', '-')}"
    script = f"echo $DURE_LEASE_ID >> {out}; while [ ! -e {out}.go ]; do sleep 0.05; done; exit 4"
    before = [site.submit(script) for _ in range(3)]
    until(lambda: out.exists() and len(out.read_text().split()) == 3)
    site.proxy.mode = cut
    during = [site.submit(f"echo $DURE_LEASE_ID >> {out}; exit 4") for _ in range(3)]
    Path(f"{out}.go").touch()
    time.sleep(1.5)
    # Where only answers are lost, the service hears of ends.
    assert not any(site.dure.job(job_id).is_ended for job_id in (during if cut == CUTS[0] else during + before))
    site.proxy.mode = PASS
    ends = [site.end_of(job_id) for job_id in before + during]
    assert {(job.exit_code, job.attempt) for job in ends} == {(4, 1)}
    assert collections.Counter(out.read_text().split()) == {f"{job_id}.1": 1 for job_id in before + during}


def test_a_full_disk_under_service_and_agent(tmp_path):
    """What is taken is kept, what cannot be is refused; with room again all goes on."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "dure-test", str(disk)], check=False, capture_output=True).returncode:
        pytest.skip("a small disk cannot be mounted here")
    try:
        site = Site(disk)
        try:
            assert site.end_of(site.submit("echo 1")).outcome == "succeeded"
            with (disk / "filler").open("wb") as filler, contextlib.suppress(OSError):
                while True:
                    filler.write(b"x" * 65536)
                    filler.flush()
            taken, refusals = [], []
            for _ in range(50):
                try:
                    taken.append(site.submit("exit 0", setup="true #" + "x" * 20_000))
                except ApiError as error:
                    refusals.append(error.status)
            assert set(refusals) == {503}
            assert len(refusals) >= 20
            assert site.dure.job(taken[0] if taken else site.dure.jobs().jobs[0].job_id)
            (disk / "filler").unlink()
            until(lambda: has_room(site))
            last = site.submit("exit 3")
            assert site.end_of(last).exit_code == 3
            assert all(site.end_of(job_id).outcome == "succeeded" for job_id in taken)
            assert {job.job_id for job in site.dure.all_jobs()} >= {*taken, last}
        finally:
            site.close()
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def has_room(site) -> bool:
    try:
        site.submit("exit 0")
    except ApiError:
        return False
    return True


@pytest.mark.slow
def test_a_site_that_can_start_nothing_is_asked_less_and_less_says_why_and_recovers(site):
    leases = site.folder / "agent" / "executor" / "leases"
    away = leases.with_name("away")
    leases.rename(away)
    leases.write_text("no folder")
    try:
        job_ids = [site.submit("exit 0", resources=Resources(gpus=8)) for _ in range(2)]
        until(lambda: all(site.dure.job(job_id).attempt >= 2 for job_id in job_ids))
        until(lambda: site.dure.job(job_ids[0]).reason == "refused")
        found = site.dure.explain(job_ids[0])
        assert "File exists" in found.message or "Not a directory" in found.message
        assert found.expected_start is not None
        refused = [a for a in site.dure.job(job_ids[0]).attempts if a.state == "refused"]
        assert refused
        assert all("directory" in a.cause or "exists" in a.cause for a in refused)
        # Other jobs are refused too: the nodes are left alone, and nothing is tried there.
        more = [site.submit("exit 0") for _ in range(8)]
        until(lambda: {node.state for node in site.dure.nodes()} == {"quarantined"})
        tried = sum(site.dure.job(job_id).attempt for job_id in job_ids + more)
        time.sleep(3)
        assert sum(site.dure.job(job_id).attempt for job_id in job_ids + more) == tried <= 20
    finally:
        leases.unlink()
        shutil.move(away, leases)
    assert all(site.end_of(job_id, 150).outcome == "succeeded" for job_id in job_ids + more)
