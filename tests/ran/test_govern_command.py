"""`dure ran govern` over real tenants: real processes, by a slowed clock."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from tests.in_process import caller
from tests.service.processes import AgentProcess, Nursery, begin, free_port, kill, leader_of, until

from dure.agent.folders import Folders
from dure.client import Client
from dure.model.job_file import JobSpec
from dure.ran.beat import SLOT, Beat, beat_path

KEYS = {
    "policy", "slots", "slot_ms", "slowed_by", "priority", "on_time", "miss_rate_upper95", "late_downlink", "late_uplink", "skipped",
    "idle_lent", "radio_share", "kept_all", "tenant_work", "lost_slots", "stops", "stop_ms_p50", "stop_ms_p99", "stop_ms_max",
    "late_tenants", "evicted",
}  # fmt: skip
ABOUT = {"cores", "cells", "tenants", "wake_late_p99_ms", "decide_p99_ms", "stop_alone_p99_ms", "interference", "synthetic_below_s", "runs"}
FEW = ("--calibrate-slots", 100_000)


@pytest.fixture
def dure(monkeypatch, capfd):
    return caller(monkeypatch, capfd, "ran", "govern")


def started_for(folder: Path, what: str = "") -> list[int]:
    """Processes that `dure ran govern` has started whose files are below a folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = path.read_bytes()
            if f"\0dure.ran.{what}".encode() in words and str(folder).encode() in words:
                found.append(int(path.parent.name))
    return found


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--load", "x.csv"], "--calibrate, --load: go together"),
        (["--hand-back"], "--hand-back: goes with --agent"),
        (["--agent", "/nowhere"], "does not exist"),
        (["--policy", "best"], "'best' is not one of"),
    ],
)
def test_bad_options_are_one_line_and_code_2(dure, args, said):
    done = dure(*args)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_under_the_guard_the_radio_is_no_later_than_without_and_nothing_is_left_of_it(dure, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    done = dure("--slots", 1000, "--slot-ms", 20, "--tenants", 2, *FEW, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert set(found) == ABOUT
    assert (found["tenants"], found["synthetic_below_s"]) == (2, 120)
    none, guard, stopped = found["runs"]
    assert [run["policy"] for run in found["runs"]] == ["none", "guard", "stopped"]
    for run in found["runs"]:
        assert set(run) == KEYS
        assert run["slots"] == 1000 - 2 * 40
        assert (run["slot_ms"], run["slowed_by"], run["priority"]) == (20, 40, "plain")
        assert 0 <= run["on_time"] <= 1
        assert run["evicted"] == 0
    # A machine that others use as well has bad moments; on a quiet one there are a few hundred late slots without and none with the guard.
    assert guard["on_time"] >= none["on_time"] - 0.05
    assert none["stops"] == 0
    assert none["tenant_work"] > guard["tenant_work"]
    assert (stopped["kept_all"], stopped["idle_lent"] < 0.05, stopped["tenant_work"] < 0.05) == (1, True, True)
    if found["cores"] > 1:
        assert guard["stops"] > 0
        assert guard["idle_lent"] > stopped["idle_lent"]
        assert guard["stop_ms_p50"] > 0
    assert started_for(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


class Alliance:
    """A service and an agent, whose jobs count in files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.submitted: list[str] = []
        operator, agent_token = begin(folder, f"sqlite:///{folder / 'dure.db'}")
        port = free_port()
        self._nursery = Nursery(folder)
        self._pid = self._nursery.start("--port", str(port), "--data-dir", str(folder))
        until(lambda: leader_of([port]))
        self.dure = Client(f"http://127.0.0.1:{port}", operator)
        self.agent = AgentProcess(folder, f"http://127.0.0.1:{port}", agent_token)
        until(lambda: [node for node in self.dure.nodes() if node.state == "up"])

    def count(self, name: str) -> Path:
        counts = self.folder / name
        script = f"while :; do echo >> {counts}; sleep 0.01; done"
        self.submitted.append(self.dure.submit(JobSpec(project="owner/main", command=("sh", "-c", script))).job_id)
        until(counts.exists)
        return counts

    def close(self) -> None:
        self.agent.kill()
        self.dure.close()
        kill(self._pid)
        self._nursery.close()


@pytest.fixture
def alliance(tmp_path):
    found = Alliance(tmp_path)
    yield found
    try:
        for job_id in found.submitted:
            found.dure.cancel(job_id)
        until(lambda: all(found.dure.job(job_id).is_ended for job_id in found.submitted))
    finally:
        found.close()
        beat_path(Folders(tmp_path / "agent").state).unlink(missing_ok=True)


def is_counting(*paths: Path) -> bool:
    before = [path.stat().st_size for path in paths]
    time.sleep(0.5)
    return all(path.stat().st_size > was for path, was in zip(paths, before, strict=True))


@contextlib.contextmanager
def governing(*words):
    """`dure ran govern` as a process of its own, killed if it has not ended."""
    command = [sys.executable, "-m", "dure.cli.main", "ran", "govern", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.slow
def test_jobs_of_a_live_alliance_stand_while_everything_is_reserved_and_when_the_governor_or_the_radio_is_killed(alliance, dure):
    first = alliance.count("first")
    data_dir = alliance.folder / "agent"
    words = ["--agent", str(data_dir), "--slots", "0", "--slot-ms", "20", "--calibrate-slots", "100000", "--json"]
    beat = Beat(beat_path(Folders(data_dir).state))
    with governing(*words, "--policy", "stopped") as governor:
        until(lambda: beat[SLOT] > 10)
        assert not is_counting(first)
        governor.send_signal(signal.SIGTERM)
        (run,) = json.loads(governor.communicate(timeout=60)[0])["runs"]
    assert governor.returncode == 0
    assert (run["stops"], run["tenant_work"], run["kept_all"]) == (1, None, 1)
    until(lambda: is_counting(first))
    beat[SLOT] = -1
    with governing(*words) as governor:
        until(lambda: beat[SLOT] > 10)
        refused = dure(*words)
        assert (refused.returncode, "another process governs it" in refused.stderr) == (2, True)
        governor.kill()
    until(lambda: not is_counting(first))
    time.sleep(1)
    assert not is_counting(first), "the watchdog holds them"
    assert json.loads(dure("--agent", data_dir, "--hand-back", "--json").stdout) == {"leases": 1}
    until(lambda: is_counting(first))
    until(lambda: started_for(data_dir) == [])
    beat[SLOT] = -1
    with governing(*words) as governor:
        until(lambda: beat[SLOT] > 10)
        (radio,) = started_for(data_dir, "radio")
        os.kill(radio, signal.SIGKILL)
        assert governor.wait(60) == 2
    until(lambda: not is_counting(first))
    dure("--agent", data_dir, "--hand-back")
    until(lambda: is_counting(first))
    until(lambda: started_for(data_dir) == [])
