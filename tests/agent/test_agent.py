"""The agent as a process of its own, against a real HTTP service, with real jobs; whatever dies or is cut in between."""

import asyncio
import itertools
import json
import os
import random
import runpy
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import structlog

from dure.agent.agent import Agent, AgentConfig
from dure.agent.folders import Folders
from dure.executors import cgroup
from dure.executors.clock import Clock
from dure.executors.local import LocalExecutor, cgroup_name
from dure.executors.local_nodes import find_nodes
from dure.ports.executor import Run, RunState

_HERE = Path(__file__).parent
_stand_in = runpy.run_path(str(_HERE / "stand_in.py"))
StandIn, TOKEN = _stand_in["StandIn"], _stand_in["TOKEN"]
_proxy = runpy.run_path(str(_HERE / "proxy.py"))
Proxy, PASS, NO_ANSWERS, NOTHING, REFUSE = (_proxy[name] for name in ("Proxy", "PASS", "NO_ANSWERS", "NOTHING", "REFUSE"))


@pytest.fixture(autouse=True)
def _no_cgroups_left(tmp_path):
    """A killed agent cannot tidy up; the last of a test was one."""
    yield
    for state in (tmp_path / "data" / "executor", tmp_path / "disk" / "executor"):
        root = cgroup.open_root(cgroup_name(state))
        if root is not None:
            root.remove_all_but(())
            root.close()


def start_agent(folder: Path, url: str, *options: str, token: str = TOKEN) -> subprocess.Popen:
    with (folder / "agent.log").open("ab") as log:
        return subprocess.Popen(
            [
                sys.executable, "-m", "dure.cli.main", "agent", "--site", "site-1", "--gpus", "8", "--gpu-type", "h100",
                "--node-names", "n0,n1", "--data-dir", str(folder / "data"), *options,
            ],
            env={**os.environ, "DURE_URL": url, "DURE_TOKEN": token}, stdout=log, stderr=log,
        )  # fmt: skip


@contextmanager
def agent_at(folder: Path, url: str, *options: str, **other):
    process = start_agent(folder, url, *options, **other)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@contextmanager
def agent_inside(folder: Path, url: str, clock: Clock):
    """The agent in this process, where its clock can be bent."""
    import threading

    runner = LocalExecutor(Folders(folder / "data").state, find_nodes(("n0", "n1"), 8, "h100"), clock=clock)
    agent = Agent(AgentConfig("site-1", url, TOKEN, folder / "data"), runner, clock=clock)
    loops = []

    async def run():
        loops.append(asyncio.get_running_loop())
        await agent.run()

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    with structlog.testing.capture_logs() as logs:
        thread.start()
        try:
            yield logs
        finally:
            loops[0].call_soon_threadsafe(agent.stop)
            thread.join()


def said(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "agent.log").read_text().splitlines() if line.startswith("{")]


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2])


def test_submit_run_logs_exit(tmp_path):
    service = StandIn(nodes=("n0", "n1"))
    with service.serving() as url, agent_at(tmp_path, url):
        service.submit("j1", 'echo "hello $DURE_PROJECT $RANK of $WORLD_SIZE"; exit 3', project="m/p", array_index=4)
        service.submit("j2", 'echo "$DURE_ARRAY_INDEX|$DURE_URL|$MY"; pwd', env={"MY": "own"})
        end = service.until_ended("j1.1")
        assert (end["state"], end["exit_code"], end["fence"], end["log_bytes"]) == ("exited", 3, 1, [17, 17])
        assert service.until_ended("j2.1")["exit_code"] == 0
        service.until(lambda: len(service.logs[("j1.1", 0)]) == 17)
        assert service.until(lambda: service.logs[("j1.1", 1)]) == b"hello m/p 1 of 2\n"
        work = tmp_path / "data" / "work" / "j2"
        assert service.until(lambda: service.logs[("j2.1", 0)]) == f"|{url}|own\n{work}\n".encode()
        nodes = service.syncs[0]["nodes"]
        assert [(node["name"], node["gpus"], node["gpu_type"]) for node in nodes] == [("n0", 8, "h100"), ("n1", 8, "h100")]
        # What is over and sent leaves nothing behind.
        service.until(lambda: not service.syncs[-1]["runs"])
        service.until(lambda: not list((tmp_path / "data" / "logs").iterdir()))
        assert not list((tmp_path / "data" / "executor" / "leases").iterdir())
        assert not work.exists()


def test_reports_grow_by_one_and_are_held_back_by_the_service(tmp_path):
    service = StandIn()
    with service.serving() as url, agent_at(tmp_path, url):
        service.until(lambda: len(service.syncs) >= 2)
        time.sleep(1.0)
        assert len(service.syncs) < 6, "an idle agent waits"
        began = time.monotonic()
        service.submit("j1")
        service.until_ended("j1.1")
        assert time.monotonic() - began < 20
        seqs = [report["seq"] for report in service.syncs]
        assert seqs == list(range(1, len(seqs) + 1))
        assert len({report["boot"] for report in service.syncs}) == 1


def test_progress_comes_with_the_next_report(tmp_path):
    service = StandIn()
    with service.serving() as url, agent_at(tmp_path, url):
        script = "echo 'dure-progress: {\"step\": 1}'; while [ ! -e go ]; do sleep 0.05; done; echo 'dure-progress: {\"step\": 2}'"
        service.submit("j1", script, cwd=str(tmp_path))
        service.until(lambda: service.progress.get("j1.1") == {"step": 1}, 10)
        (tmp_path / "go").touch()
        assert service.until_ended("j1.1")["progress"] == {"step": 2}


def test_files_are_handed_on_and_a_missing_one_fails_the_job(tmp_path):
    service = StandIn()
    with service.serving() as url, agent_at(tmp_path, url):
        service.submit("j1", "echo data > $DURE_OUTPUT_DIR/table.csv")
        service.until_ended("j1.1")
        given = {"job_id": "j1", "name": "prep", "path": "table.csv"}
        service.submit("j2", "cat $DURE_INPUT_DIR/prep/table.csv", inputs=[given])
        service.submit("j3", "true", inputs=[{**given, "path": "other.csv"}])
        assert service.until_ended("j2.1")["exit_code"] == 0
        assert service.until(lambda: service.logs[("j2.1", 0)]) == b"data\n"
        assert service.until_ended("j3.1")["exit_code"] == 126
        said_to_user = service.until(lambda: service.logs[("j3.1", 0)])
        assert said_to_user == b"dure: input prep/other.csv: job j1 has left no such file at this site\n"


SAVING = """
import os, signal, sys, time
path = os.environ["DURE_CHECKPOINT_DIR"] + "/step"
step = int(open(path).read()) if os.path.exists(path) else 0
def leave(*_):
    open(path, "w").write(str(step)); print("saved", step, flush=True); sys.exit(0)
signal.signal(signal.SIGUSR1, leave)
print("from", step, flush=True)
while True:
    step += 1
    if step >= 100 and len(sys.argv) > 1: sys.exit(0)
    time.sleep(0.01)
"""


def saving(folder, *more):
    (folder / "job.py").write_text(SAVING)
    return {"argv": [sys.executable, str(folder / "job.py"), *more]}


def leave_saved(service, lease):
    """Let it count, then make it leave; what it has saved."""
    service.until(lambda: b"from" in service.logs[(lease, 0)])
    time.sleep(0.2)
    service.order(lease, "vacate", grace_ms=20_000, signal="USR1")
    saved = service.until(lambda: b"saved" in service.logs[(lease, 0)] and service.logs[(lease, 0)]).split()[-1]
    assert saved != b"0"
    return saved


def test_vacate_with_a_checkpoint_and_resume(tmp_path):
    service = StandIn()
    with service.serving() as url, agent_at(tmp_path, url):
        lease = service.give("j1", 1, 1, saving(tmp_path))
        service.until(lambda: b"from 0" in service.logs[(lease, 0)])
        time.sleep(0.3)
        service.order(lease, "vacate", grace_ms=20_000, signal="USR1")
        assert service.until_ended(lease)["exit_code"] == 0
        second = service.give("j1", 2, 2, saving(tmp_path, "end"))
        assert service.until_ended(second)["exit_code"] == 0
        saved = service.until(lambda: b"saved" in service.logs[(lease, 0)] and service.logs[(lease, 0)])
        assert saved.split()[-1] != b"0"
        assert service.until(lambda: service.logs[(second, 0)]) == b"from " + saved.split()[-1] + b"\n"


@pytest.mark.parametrize("is_path", [True, False])
def test_a_job_goes_on_at_another_site_and_comes_back(tmp_path, is_path):
    """By a folder that both sites see, or by copies: where each has folders of its own, the newest is taken."""
    if not is_path:
        pytest.importorskip("fsspec")
    where = ("--checkpoints", f"{tmp_path}/kept" if is_path else f"file://{tmp_path}/kept")
    service = StandIn()
    with service.serving() as url:
        saved = b"0"
        for attempt, site in enumerate(["a", "b", "a", "a", "b"], 1):
            (tmp_path / site).mkdir(exist_ok=True)
            with agent_at(tmp_path / site, url, *where):
                lease = service.give("j1", attempt, attempt, saving(tmp_path))
                assert service.until(lambda lease=lease: service.logs[(lease, 0)]).split()[:2] == [b"from", saved]
                saved = leave_saved(service, lease)
                assert service.until_ended(lease)["exit_code"] == 0
    assert (tmp_path / "a/data/checkpoints").exists() != is_path


def test_an_end_is_told_when_the_checkpoint_is_copied_whatever_dies_meanwhile(tmp_path):
    pytest.importorskip("fsspec")
    where = ("--checkpoints", f"file://{tmp_path}/kept")
    service = StandIn(ttl_ms=8000)
    with service.serving() as url:
        with agent_at(tmp_path, url, *where):
            lease = service.give("j1", 1, 1, saving(tmp_path))
            service.until(lambda: lease in service.started)
            # A store that is out of order.
            shutil.rmtree(tmp_path / "kept", ignore_errors=True)
            (tmp_path / "kept").touch()
            saved = leave_saved(service, lease)
            service.until(lambda: any(line["event"] == "the store of checkpoints" for line in said(tmp_path)))
            heard = len(service.syncs)
            service.until(lambda: len(service.syncs) > heard + 1)
            assert lease not in service.ends
            assert [run["state"] for run in service.syncs[-1]["runs"]] == ["stopping"]
        (tmp_path / "kept").unlink()
        with agent_at(tmp_path, url, *where):
            assert service.until_ended(lease)["exit_code"] == 0
        (tmp_path / "b").mkdir()
        with agent_at(tmp_path / "b", url, *where):
            second = service.give("j1", 2, 2, saving(tmp_path, "end"))
            assert service.until_ended(second)["exit_code"] == 0
            assert service.until(lambda: service.logs[(second, 0)]) == b"from " + saved + b"\n"


def test_what_need_not_begin_any_more_is_not_waited_for(tmp_path):
    """The store does not give the checkpoint; the agent keeps contact, and lets go when it is told to."""
    pytest.importorskip("fsspec")
    (tmp_path / "kept").touch()
    service = StandIn(ttl_ms=2000)
    with service.serving() as url, agent_at(tmp_path, url, "--checkpoints", f"file://{tmp_path}/kept"):
        lease = service.give("j1", 1, 1, saving(tmp_path))
        service.until(lambda: service.syncs and [run["state"] for run in service.syncs[-1]["runs"]] == ["starting"])
        heard = len(service.syncs)
        time.sleep(3)
        assert lease in service.leases
        assert 4 < len(service.syncs) - heard < 40
        service.order(lease, "vacate")
        service.until(lambda: lease in service.lost)
        service.waiting.clear()


def test_who_does_not_vacate_is_killed_at_the_deadline_of_a_service_whose_clock_is_elsewhere(tmp_path):
    service = StandIn()
    service.clock_skew_ms = -86_400_000
    with service.serving() as url, agent_at(tmp_path, url):
        service.submit("j1", "trap '' TERM; echo up; while :; do sleep 0.05; done")
        service.until(lambda: service.logs[("j1.1", 0)])
        began = time.monotonic()
        service.order("j1.1", "vacate", grace_ms=700)
        assert service.until_ended("j1.1")["exit_code"] == 137
        assert time.monotonic() - began > 0.6


def test_stop_and_given_up(tmp_path):
    service = StandIn()
    with service.serving() as url, agent_at(tmp_path, url):
        for job in ("j1", "j2"):
            service.submit(job, f"echo $$ > {tmp_path}/{job}; exec sleep 600")
        service.until(lambda: {"j1.1", "j2.1"} <= set(service.started))
        service.order("j1.1", "stop")
        assert service.until_ended("j1.1")["exit_code"] == 143
        service.drop("j2.1")
        service.until(lambda: not service.syncs[-1]["runs"])
        with pytest.raises(ProcessLookupError):
            os.kill(int((tmp_path / "j2").read_text()), 0)


def test_an_older_fence_is_refused_also_by_the_next_process(tmp_path):
    service = StandIn()
    launch = {"argv": ["sh", "-c", f"echo $DURE_LEASE_ID >> {tmp_path}/ran"]}
    with service.serving() as url:
        with agent_at(tmp_path, url):
            service.until_ended(service.give("j1", 2, 20, launch))
        with agent_at(tmp_path, url):
            service.bend = lambda report, answer: answer
            service.give("j1", 1, 10, launch)
            service.until(lambda: "j1.1" in service.lost)
            # Forgotten, and given again by a service that has lost its mind: neither does it run.
            service.give("j1", 2, 20, launch)
            service.until(lambda: "j1.2" in service.lost)
    assert (tmp_path / "ran").read_text().split().count("j1.2") == 1
    assert "j1.1" not in (tmp_path / "ran").read_text()


def test_sigterm_to_the_agent_leaves_jobs_running_and_ends_well(tmp_path):
    service = StandIn()
    with service.serving() as url:
        with agent_at(tmp_path, url) as process:
            service.submit("j1", f"while [ ! -e {tmp_path}/go ]; do sleep 0.02; done; echo end; exit 5")
            service.until(lambda: "j1.1" in service.started)
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) == 0
            assert said(tmp_path)[-1]["event"] == "agent down"
        (tmp_path / "go").touch()
        time.sleep(0.3)
        with agent_at(tmp_path, url):
            assert service.until_ended("j1.1")["exit_code"] == 5
            assert service.until(lambda: service.logs[("j1.1", 0)]) == b"end\n"


def test_a_token_that_is_not_taken_is_said_and_tried_again(tmp_path):
    service = StandIn()
    with service.serving() as url, agent_at(tmp_path, url, token="wrong"):
        service.until(lambda: any("401" in line.get("error", "") for line in said(tmp_path)))


def kill_again_and_again(tmp_path, num_jobs, num_kills, sleep_s, num_slots):
    chance = random.Random(7)
    service = StandIn(num_slots=num_slots)
    for idx in range(num_jobs):
        service.submit(f"j{idx}", f"echo $DURE_LEASE_ID >> {tmp_path}/ran; echo out $DURE_LEASE_ID; sleep {sleep_s}; echo end")
    recoveries = []
    with service.serving() as url:
        for _ in range(num_kills):
            heard = len(service.syncs)
            began = time.monotonic()
            with agent_at(tmp_path, url):
                service.until(lambda heard=heard: len(service.syncs) > heard)
                recoveries.append(time.monotonic() - began)
                time.sleep(chance.uniform(0.0, 0.8))
        with agent_at(tmp_path, url):
            service.until(lambda: len(service.ends) == num_jobs, 240)
            service.until(lambda: all(service.logs[(lease, 0)] == f"out {lease}\nend\n".encode() for lease in service.ends))
    ran = (tmp_path / "ran").read_text().split()
    assert len(ran) == len(set(ran)), "a lease ran twice"
    assert set(ran) == set(service.ends), "what ran was not lost, and what was lost did not run"
    assert {lease.partition(".")[0] for lease in service.ends} == {f"j{idx}" for idx in range(num_jobs)}
    assert all(end["exit_code"] == 0 for end in service.ends.values())
    print(f"lost without having run: {service.lost}; start to first report, median s: {sorted(recoveries)[len(recoveries) // 2]:.2f}")


def test_kill_9_of_the_agent_while_jobs_run(tmp_path):
    kill_again_and_again(tmp_path, num_jobs=40, num_kills=5, sleep_s=0.5, num_slots=8)


@pytest.mark.slow
def test_kill_9_of_the_agent_forty_times_while_a_hundred_jobs_run(tmp_path):
    kill_again_and_again(tmp_path, num_jobs=100, num_kills=40, sleep_s=4, num_slots=10)


def test_an_answer_without_a_lease_does_not_make_a_success_of_it(tmp_path):
    service = StandIn()
    script = "trap 'exit 0' TERM; echo up; while :; do sleep 0.02; done"
    with service.serving() as url, agent_at(tmp_path, url):
        service.submit("j1", script)
        service.until(lambda: service.logs[("j1.1", 0)] == b"up\n")
        bent = []

        def bend(report, answer):
            if not bent and answer["leases"]:
                bent.append(answer)
                return answer | {"leases": []}
            return answer

        service.bend = bend
        service.submit("j2")
        service.until(lambda: bent)
        service.until(lambda: "j1" in {lease.partition(".")[0] for lease in service.lost}, 20)
        assert "j1.1" not in service.ends


WORKING = """
import fcntl, os, signal, sys, time
lease, place = os.environ["DURE_LEASE_ID"], os.environ["DURE_CHECKPOINT_DIR"]
def note(name, what):
    with open(os.path.join(sys.argv[1], name), "a") as file:
        file.write(what + "\\n")
lock = open(place + "/lock", "w")
try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    note("overlaps", lease)
note("ran", lease)
path = place + "/step"
step = int(open(path).read()) if os.path.exists(path) else 0
def save(*_):
    open(path + ".new", "w").write(str(step)); os.rename(path + ".new", path); os._exit(0)
signal.signal(signal.SIGTERM, save)
while step < 150:
    step += 1
    time.sleep(0.01)
sys.exit(10)
"""


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_everything_at_once(tmp_path, seed):
    """Kills, cuts of every kind, old answers, reclaims and losses, drawn: no lease runs twice, no two attempts of a job at
    one time, and every job comes to its own end.
    """
    (tmp_path / "job.py").write_text(WORKING)
    chance = random.Random(seed)
    service = StandIn(num_slots=8, ttl_ms=3_000, margin_ms=8_000)
    service.left_codes = (0, 137, 143)
    before = []

    def bend(report, answer):
        before.append(json.loads(json.dumps(answer)))
        return chance.choice(before[-5:]) if chance.random() < 0.1 else answer

    service.bend = bend
    jobs = [f"j{idx}" for idx in range(40)]
    for job in jobs:
        service.waiting.append((job, {"argv": [sys.executable, str(tmp_path / "job.py"), str(tmp_path)]}))
    with service.serving() as url:
        proxy = Proxy(port_of(url))
        with proxy.running() as through:
            process = start_agent(tmp_path, through)
            try:
                until = time.monotonic() + 60
                while time.monotonic() < until and len(service.ends) < len(jobs):
                    time.sleep(chance.uniform(0.05, 0.6))
                    match chance.randrange(5):
                        case 0:
                            process.kill()
                            process.wait()
                            process = start_agent(tmp_path, through)
                        case 1:
                            proxy.mode = chance.choice([NO_ANSWERS, NOTHING, REFUSE])
                            time.sleep(chance.choice([0.1, 0.5, 1.0, 4.0]))
                            proxy.mode = PASS
                        case _:
                            for lease in list(service.leases)[:2]:
                                if service.leases[lease]["action"] == "run" and lease in service.started:
                                    service.order(lease, "vacate", grace_ms=5_000)
                service.bend = lambda report, answer: answer
                service.until(lambda: len(service.ends) == len(jobs), 120)
            finally:
                process.kill()
                process.wait()
    ran = (tmp_path / "ran").read_text().split()
    assert len(ran) == len(set(ran)), "a lease ran twice"
    assert not (tmp_path / "overlaps").exists(), "two attempts of a job ran at one time"
    assert {lease.partition(".")[0] for lease in service.ends} == set(jobs)
    assert {end["exit_code"] for end in service.ends.values()} == {10}
    print(f"{len(ran)} attempts of {len(jobs)} jobs; {len(service.lost)} requeued; {len(service.syncs)} reports")


@pytest.mark.parametrize("mode", [NO_ANSWERS, NOTHING, REFUSE])
def test_a_cut_shorter_than_the_ttl_harms_nothing(tmp_path, mode):
    service = StandIn()
    with service.serving() as url:
        proxy = Proxy(port_of(url))
        with proxy.running() as through, agent_at(tmp_path, through):
            script = f"echo one; echo $DURE_LEASE_ID >> {tmp_path}/ran; while [ ! -e {tmp_path}/go ]; do sleep 0.02; done; echo two"
            service.submit("j1", script)
            service.until(lambda: service.logs[("j1.1", 0)] == b"one\n")
            proxy.mode = mode
            service.submit("j2", f"echo $DURE_LEASE_ID >> {tmp_path}/ran")
            time.sleep(1.0)
            (tmp_path / "go").touch()
            time.sleep(0.5)
            assert "j1.1" not in service.ends or mode == NO_ANSWERS
            proxy.mode = PASS
            assert service.until_ended("j1.1")["exit_code"] == 0
            assert service.until_ended("j2.1")["exit_code"] == 0
            service.until(lambda: service.logs[("j1.1", 0)] == b"one\ntwo\n")
    assert sorted((tmp_path / "ran").read_text().split()) == ["j1.1", "j2.1"]
    assert service.lost == []


@pytest.mark.parametrize("margin_ms", [1_000, 600_000], ids=["noticed by the service", "noticed by the agent only"])
def test_a_cut_longer_than_the_ttl_ends_what_runs_before_it_starts_again(tmp_path, margin_ms):
    service = StandIn(ttl_ms=1_500, margin_ms=margin_ms)
    with service.serving() as url:
        proxy = Proxy(port_of(url))
        with proxy.running() as through, agent_at(tmp_path, through):
            script = (
                f"[ -e {tmp_path}/again ] && {{ echo again >> {tmp_path}/times; exit 0; }}; touch {tmp_path}/again; "
                f"trap 'date +%s%N >> {tmp_path}/left; exit 0' TERM; echo first >> {tmp_path}/times; while :; do sleep 0.02; done"
            )
            service.submit("j1", script)
            service.until(lambda: "j1.1" in service.started)
            # Idle reports must come often enough for such a short time to live.
            proxy.mode = REFUSE
            cut_s = time.monotonic()
            service.until((tmp_path / "left").exists, 20)
            assert time.monotonic() - cut_s > 0.2
            time.sleep(max(0.0, cut_s + 4 - time.monotonic()))
            proxy.mode = PASS
            assert service.until_ended("j1.2")["exit_code"] == 0
            assert service.lost == ["j1.1"]
            service.until(lambda: not service.syncs[-1]["runs"])
    assert (tmp_path / "times").read_text() == "first\nagain\n"


def test_a_short_ttl_alone_stops_nothing(tmp_path):
    service = StandIn(ttl_ms=1_000)
    with service.serving() as url, agent_at(tmp_path, url):
        service.submit("j1", "sleep 4; exit 6")
        assert service.until_ended("j1.1")["exit_code"] == 6


def test_the_ttl_counts_while_the_agent_is_dead(tmp_path):
    service = StandIn(ttl_ms=2_000)
    with service.serving() as url, agent_at(tmp_path, url):
        service.submit("j1", f"echo $$ > {tmp_path}/pid; exec sleep 600")
        service.until(lambda: "j1.1" in service.started)
    time.sleep(2.5)
    # The service is gone: nobody may go on.
    with agent_at(tmp_path, "http://127.0.0.1:9"):
        service.until(lambda: any(line.get("why") == "no contact" for line in said(tmp_path)), 20)
        pid = int((tmp_path / "pid").read_text())
        service.until(lambda: not Path(f"/proc/{pid}").exists(), 10)
    # The next agent knows that it was no end of the job's own.
    service.ttl_ms = 3_600_000
    with service.serving() as url, agent_at(tmp_path, url):
        service.until(lambda: service.lost == ["j1.1"])


def test_doubled_reordered_and_late_answers(tmp_path):
    """Every other answer is one given before, or to another report: each job runs once all the same."""
    service = StandIn()
    chance = random.Random(3)
    before = []

    def bend(report, answer):
        before.append(json.loads(json.dumps(answer)))
        return chance.choice(before[-8:]) if chance.random() < 0.5 else answer

    service.bend = bend
    with service.serving() as url, agent_at(tmp_path, url):
        for idx in range(12):
            service.submit(f"j{idx}", f"echo $DURE_LEASE_ID >> {tmp_path}/ran; sleep 0.2")
            time.sleep(0.1)
        service.until(lambda: len(service.ends) == 12)
        # On a slow machine the twelve may have taken but a few reports.
        service.until(lambda: any("an answer to report" in line.get("error", "") for line in said(tmp_path)))
    ran = (tmp_path / "ran").read_text().split()
    assert sorted(ran) == sorted(f"j{idx}.1" for idx in range(12))


@pytest.mark.parametrize("answer", [{}, {"seq": 1}, [1], "x", {"now_ms": 1, "ttl_ms": 0, "seq": 2, "leases": []}])
def test_nonsense_for_an_answer_is_no_contact(tmp_path, answer):
    service = StandIn()
    service.bend = lambda report, given: answer
    with service.serving() as url, agent_at(tmp_path, url) as process:
        service.until(lambda: len(service.syncs) >= 3)
        assert process.poll() is None
        service.bend = lambda report, given: given
        service.submit("j1")
        service.until_ended("j1.1")


class BentClock(Clock):
    """A wall clock that jumps, and one since boot that can be put forward."""

    def __init__(self):
        self.wall_step_ms = 0
        self.boot_step_ms = 0

    def boot_ms(self):
        return super().boot_ms() + self.boot_step_ms

    def wall_ms(self):
        return super().wall_ms() + self.wall_step_ms


def test_a_wall_clock_that_steps_changes_nothing_and_the_other_one_decides(tmp_path):
    service, clock = StandIn(ttl_ms=60_000), BentClock()
    with service.serving() as url, agent_inside(tmp_path, url, clock) as logs:
        service.submit("j1", f"while [ ! -e {tmp_path}/go ]; do sleep 0.02; done; exit 5", limit_ms=600_000)
        service.until(lambda: "j1.1" in service.started)
        for step_ms in (-10**10, 10**10, -5 * 10**9):
            clock.wall_step_ms = step_ms
            service.clock_skew_ms = -step_ms
            time.sleep(0.3)
        assert not [line for line in logs if line["event"] in ("stop", "no contact")]
        (tmp_path / "go").touch()
        assert service.until_ended("j1.1")["exit_code"] == 5
        service.submit("j2", "exec sleep 600", limit_ms=600_000)
        service.until(lambda: "j2.1" in service.started)
        clock.boot_step_ms = 599_000
        time.sleep(0.2)
        clock.boot_step_ms = 601_000
        # Nothing has woken the executor yet; its next look is when the limit was due. Contact is what runs out first.
        service.until(lambda: any(line["event"] == "stop" and line["why"] == "no contact" for line in logs), 10)


def test_logs_resume_after_a_cut_and_arrive_once(tmp_path):
    service = StandIn()
    with service.serving() as url:
        proxy = Proxy(port_of(url))
        with proxy.running() as through, agent_at(tmp_path, through):
            service.submit("j1", "i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); [ $((i % 300)) = 0 ] && sleep 0.2; done")
            service.until(lambda: len(service.logs[("j1.1", 0)]) > 100)
            for mode in (NO_ANSWERS, PASS, REFUSE, PASS, NOTHING, PASS):
                proxy.mode = mode
                time.sleep(0.3)
            expected = "".join(f"line {idx}\n" for idx in range(3000)).encode()
            service.until(lambda: service.logs[("j1.1", 0)] == expected, 30)
            assert service.until_ended("j1.1")["log_bytes"] == [len(expected)]


def test_logs_left_over_by_a_killed_agent_are_sent_by_the_next(tmp_path):
    service = StandIn()
    service.refuse_logs = 503
    with service.serving() as url:
        with agent_at(tmp_path, url):
            service.submit("j1", "echo kept")
            service.until_ended("j1.1")
            service.until(lambda: not service.syncs[-1]["runs"])
        assert service.logs[("j1.1", 0)] == b""
        service.refuse_logs = None
        with agent_at(tmp_path, url):
            service.until(lambda: service.logs[("j1.1", 0)] == b"kept\n")
            service.until(lambda: not list((tmp_path / "data" / "logs").iterdir()))


def test_logs_that_nobody_wants_are_dropped(tmp_path):
    service = StandIn()
    service.refuse_logs = 404
    with service.serving() as url, agent_at(tmp_path, url):
        service.submit("j1", "echo nobody")
        service.until_ended("j1.1")
        service.until(lambda: any(line["event"] == "a log is not wanted" for line in said(tmp_path)))
        service.until(lambda: not list((tmp_path / "data" / "logs").iterdir()))


def test_a_loud_job_does_not_drown_the_others_nor_the_agent(tmp_path):
    service = StandIn()
    with service.serving() as url, agent_at(tmp_path, url) as process:
        service.submit("loud", "head -c 60000000 /dev/zero | tr '\\0' x; echo; sleep 600")
        service.until(lambda: len(service.logs[("loud.1", 0)]) >= 8 << 20)
        service.submit("quiet", "echo hush")
        service.until(lambda: service.logs[("quiet.1", 0)] == b"hush\n")
        assert len(service.logs[("loud.1", 0)]) < 40 << 20, "8 MiB at once, then 2 MiB a second"
        memory_kib = int(Path(f"/proc/{process.pid}/status").read_text().split("VmRSS:")[1].split()[0])
        assert memory_kib < 200_000
        service.order("loud.1", "stop")
        service.until_ended("loud.1")


def test_a_full_disk_is_said_and_survived(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "dure-test", str(disk)], check=False, capture_output=True)
    if mounted.returncode:
        pytest.skip("a small disk cannot be mounted here")
    service = StandIn()
    service.refuse_logs = 503
    try:
        with service.serving() as url, agent_at(tmp_path, url, "--data-dir", str(disk)):
            service.submit("loud", f"head -c 20000000 /dev/zero || exit 9; touch {tmp_path}/wrote; while [ ! -e {tmp_path}/go ]; do sleep 0.05; done; exit 4")
            service.until((tmp_path / "wrote").exists)
            service.until(lambda: any(line["event"] == "disk full" for line in said(tmp_path)))
            (tmp_path / "go").touch()
            assert service.until_ended("loud.1")["exit_code"] == 4
            assert any(line["event"] == "a log is cut" for line in said(tmp_path))
            service.refuse_logs = None
            service.submit("j2", "exit 3")
            service.until(lambda: any(end["exit_code"] == 3 for end in service.ends.values()))
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_an_agent_comes_again_when_a_busy_service_wants_it(tmp_path):
    service = StandIn(nodes=("n0", "n1"))
    service.later_s = 2
    with service.serving() as url, agent_at(tmp_path, url):
        service.until(lambda: len(service.put_off) >= 3)
        assert all(later - earlier >= 1.9 for earlier, later in itertools.pairwise(service.put_off))
        service.later_s = None
        service.submit("j1", "exit 4")
        assert service.until_ended("j1.1")["exit_code"] == 4


def test_a_report_with_much_progress_leaves_out_what_is_long():
    from dure.agent import wire

    def size_of(num, size):
        progress = {f"j{i}.1": {"step": i, "text": "x" * size} for i in range(num)} | {"short.1": {"step": 1}}
        runs = [Run(lease, 1, RunState.RUNNING) for lease in progress]
        body = wire.report("a", "b", 1, [], runs, progress, {}, [])
        assert len(body["runs"]) == num + 1
        assert body["runs"][-1]["progress"] == {"step": 1}
        return sum(run["progress"] is not None for run in body["runs"]), len(json.dumps(body))

    assert size_of(100, 4000)[0] == 101
    told, size = size_of(5000, 4000)
    assert told == 1
    assert size < 8 << 20
