"""Leases of a local executor, stopped and continued by another process; with cgroups where they may be made here, and without."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dure.executors import cgroup
from dure.executors.local import LocalExecutor
from dure.executors.local_nodes import find_nodes
from dure.executors.shim import read_rank
from dure.executors.tenants import FrozenTenant, Tenants
from dure.model.events import Placement
from dure.ports.executor import Launch, RunState
from dure.ran.beat import BEAT_NS, IS_HANDED_BACK, LEASE_NS, WATCH_NS, Beat, beat_path
from dure.ran.watchdog import Watched

#: Counts in the file named; a child that has left its parent, group and session counts in another.
COUNTING = """
import os, sys, time
def count(name):
    while True:
        with open(name, "a") as out:
            out.write(".")
        time.sleep(0.002)
if os.fork() == 0:
    os.setsid()
    if os.fork():
        os._exit(0)
    count(sys.argv[1] + ".strayed")
count(sys.argv[1])
"""
#: The same, but the parent ends once its child counts.
LEAVING = COUNTING.replace('count(sys.argv[1])\n', 'while not os.path.exists(sys.argv[1] + ".strayed"):\n    time.sleep(0.01)\n')
#: A child that leaves its group for a new one again and again, and never looks back.
FLEEING = """
import os, signal, sys, time
if os.fork():
    signal.pause()
while True:
    with open(sys.argv[1], "a") as out:
        out.write(".")
    if os.fork():
        os._exit(0)
    os.setsid()
    time.sleep(0.1)
"""
WAIT_S = 30


@pytest.fixture(params=["cgroup", "signals"])
def way(request, monkeypatch):
    if request.param == "signals":
        monkeypatch.setattr(cgroup, "open_root", lambda name: None)
    return request.param


class House:
    """An executor's state in which leases run while nobody looks after them."""

    def __init__(self, folder: Path):
        self.folder, self.state, self.num = folder, folder / "state", 0

    def _executor(self):
        return LocalExecutor(self.state, find_nodes(("n0",), 4, "g"))

    def launch(self, script: str, *, is_awaited: bool = True) -> Path:
        """The file in which it counts, which is there if it is awaited."""
        self.num += 1
        name = f"j{self.num}"
        counts = self.folder / name

        async def start():
            executor = self._executor()
            await executor.open()
            await executor.launch(
                Launch(
                    f"{name}.1", self.num, name, 1, (sys.executable, "-c", script, str(counts)), (Placement("n0", (0,)),),
                    str(self.folder / "logs" / name), str(self.folder / "keep"),
                )
            )  # fmt: skip
            await executor.close()

        asyncio.run(start())
        if is_awaited:
            until(counts.exists)
        return counts

    def end(self) -> list:
        """End all; how they ended."""

        async def stop():
            executor = self._executor()
            await executor.open()
            for run in await executor.runs():
                await executor.stop(run.lease_id, signal="KILL", grace_ms=0)
            while any(run.state not in (RunState.EXITED, RunState.LOST) for run in await executor.runs()):
                await executor.changed()
            runs = await executor.runs()
            for run in runs:
                await executor.forget(run.lease_id)
            await executor.close()
            return runs

        return asyncio.run(stop())


@pytest.fixture
def house(tmp_path):
    made = House(tmp_path)
    yield made
    made.end()
    beat_path(made.state).unlink(missing_ok=True)


def until(is_so, wait_s=WAIT_S):
    end = time.monotonic() + wait_s
    while not is_so():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


def size(*paths: Path) -> int:
    return sum(path.stat().st_size for path in paths if path.exists())


def is_counting(*paths: Path) -> bool:
    """Whether they all grow."""
    before = [size(path) for path in paths]
    time.sleep(0.3)
    return all(size(path) > was for path, was in zip(paths, before, strict=True))


def stand(tenant) -> None:
    def stands():
        tenant.stop()
        return tenant.is_standing()

    until(stands)


def strayed(path: Path) -> Path:
    return path.with_name(f"{path.name}.strayed")


def test_a_lease_stands_with_all_it_has_started_and_goes_on(house, way):
    counts = house.launch(COUNTING)
    until(strayed(counts).exists)
    (tenant,) = Tenants(house.state).look()
    if way == "signals" or cgroup.open_root("dure-test-none") is None:
        assert not isinstance(tenant, FrozenTenant)
    stand(tenant)
    before = size(counts, strayed(counts))
    time.sleep(0.3)
    assert size(counts, strayed(counts)) == before
    tenant.resume()
    until(lambda: is_counting(counts, strayed(counts)))
    assert tenant.cpu_s() > 0


def test_leases_come_and_go_the_oldest_first(house, way):
    tenants = Tenants(house.state)
    assert tenants.look() == []
    house.launch(COUNTING)
    (first,) = tenants.look()
    house.launch(COUNTING)
    assert [tenant.lease_id for tenant in tenants.look()] == ["j1.1", "j2.1"]
    assert tenants.look()[0] is first
    first.evict()
    until(lambda: [tenant.lease_id for tenant in tenants.look()] == ["j2.1"])
    assert [(run.lease_id, run.exit_code) for run in house.end()] == [("j1.1", 137), ("j2.1", 137)]
    assert tenants.look() == []


def test_a_lease_is_held_to_cores_and_its_children_too(house, way):
    counts = house.launch(COUNTING)
    until(strayed(counts).exists)
    cores = sorted(os.sched_getaffinity(0))
    (tenant,) = Tenants(house.state).look()
    tenant.pin(cores[-1:])
    threads = tenant.threads()
    assert len(threads) == 2
    assert all(os.sched_getaffinity(thread) == {cores[-1]} for thread in threads)
    tenant.pin(cores)
    assert all(os.sched_getaffinity(thread) == set(cores) for thread in threads)


def test_who_keeps_leaving_its_group_is_stopped_and_evicted(house, way):
    counts = house.launch(FLEEING)
    tenants = Tenants(house.state)
    (tenant,) = tenants.look()
    stand(tenant)
    assert not is_counting(counts)
    tenant.resume()
    until(lambda: is_counting(counts))

    def is_gone():
        for one in tenants.look():
            one.evict()
        return not tenants.look() and not is_counting(counts)

    until(is_gone)
    assert [run.exit_code for run in house.end()] == [137]


def test_what_a_lease_leaves_behind_is_its_tenant_until_it_is_gone(house, way):
    strays = strayed(house.launch(LEAVING, is_awaited=False))
    until(strays.exists)
    (rank,) = (house.state / "leases").rglob("0.rank")
    until(lambda: read_rank(rank).exit_code == 0)
    tenants = Tenants(house.state)
    (tenant,) = tenants.look()
    stand(tenant)
    assert not is_counting(strays)
    tenant.evict()
    until(lambda: not tenants.look())
    assert not is_counting(strays)
    assert [run.exit_code for run in house.end()] == [0]


def test_a_stop_order_ends_a_lease_that_stands(house, way):
    house.launch(COUNTING)
    (tenant,) = Tenants(house.state).look()
    stand(tenant)
    (run,) = house.end()
    assert (run.state, run.exit_code) == (RunState.EXITED, 137)


def _watchdog(house, lease_s: float):
    beat = Beat(beat_path(house.state))
    beat[LEASE_NS] = int(lease_s * 1e9)
    process = subprocess.Popen([sys.executable, "-P", "-m", "dure.ran.watchdog", str(house.state)])

    def is_at_work():
        beat[BEAT_NS] = time.monotonic_ns()
        return beat[WATCH_NS] > 0

    until(is_at_work)
    return beat, process


def test_the_watchdog_stops_all_in_silence_and_whoever_comes_then_until_the_node_is_handed_back(house, way):
    first = house.launch(COUNTING)
    beat, process = _watchdog(house, 1.0)
    try:
        for _ in range(15):
            beat[BEAT_NS] = time.monotonic_ns()
            time.sleep(0.1)
        assert is_counting(first), "while the governor speaks nothing is stopped"
        until(lambda: not is_counting(first))
        second = house.launch(COUNTING, is_awaited=False)
        until(lambda: not second.exists() or not is_counting(second))
        again = subprocess.run([sys.executable, "-P", "-m", "dure.ran.watchdog", str(house.state)], timeout=WAIT_S, check=False)
        assert again.returncode == 0, "there is one"
        assert not is_counting(first)
        process.send_signal(signal.SIGTERM)
        assert process.wait(WAIT_S) == 0
        until(lambda: second.exists() and is_counting(first, second))
    finally:
        process.kill()
        process.wait()


def test_a_watchdog_that_dies_is_followed_by_another(house):
    counts = house.launch(COUNTING)
    beat = Beat(beat_path(house.state))
    beat[LEASE_NS] = 1_000_000_000
    watched = Watched(house.state, beat)
    try:
        watched.wait()
        first = watched._started
        first.kill()
        until(lambda: not watched.is_watched())
        watched.wait()
        assert watched._started.pid != first.pid
        assert is_counting(counts)
    finally:
        beat[IS_HANDED_BACK] = 1
        watched.end()
    assert watched._started.returncode == 0
