"""The `local` executor: the suite of all executors, and what only local processes can suffer."""

import asyncio
import os
import runpy
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from dure.executors import cgroup, process, shim
from dure.executors.gpus import Gpu, MigPart, Nvml, gpu_type_of, share_env, visible_devices
from dure.executors.local import LocalExecutor
from dure.executors.local_nodes import LocalNodes, find_nodes
from dure.executors.state_lock import StateInUseError
from dure.model.errors import InputError
from dure.model.events import Placement
from dure.ports.executor import LaunchError, RunState

_SUITE = runpy.run_path(str(Path(__file__).with_name("executor_contract.py")))
ExecutorContract, ExecutorScenes = _SUITE["ExecutorContract"], _SUITE["ExecutorScenes"]


def make(folder, **options):
    return LocalExecutor(folder / "state", find_nodes(("n0", "n1"), 4, "h100"), **options)


class TestLocalExecutor(ExecutorContract):
    def make(self, folder):
        return make(folder)


class TestLocalExecutorWithoutCgroups(ExecutorContract):
    @pytest.fixture(autouse=True)
    def _no_cgroups(self, monkeypatch):
        monkeypatch.setattr(cgroup, "open_root", lambda name: None)

    def make(self, folder):
        return make(folder)


class TestOnlyLocal(ExecutorScenes):
    def make(self, folder, **options):
        return make(folder, **options)

    def test_one_agent_at_a_time(self, tmp_path):
        async def scene():
            async with self.opened(tmp_path):
                with pytest.raises(StateInUseError):
                    await self.make(tmp_path).open()

        asyncio.run(scene())

    def test_a_part_of_a_gpu_is_held_to_its_share(self, tmp_path):
        """By MPS, whatever the job says of it itself."""
        name = "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"

        async def scene():
            async with self.opened(tmp_path) as executor:
                launch = self.launch(tmp_path, f'echo "${name}"', env={name: "100"})
                await executor.launch(replace(launch, placements=(replace(launch.placements[0], gpu_milli=335),)))
                assert (await self.ended(executor)).exit_code == 0
            assert self.log(tmp_path) == "33\n"

        asyncio.run(scene())

    def test_an_intent_without_a_process_is_lost_and_never_runs(self, tmp_path):
        """Killed after the intent, before the start: the state is made by hand, as the crash leaves it."""

        async def scene():
            async with self.opened(tmp_path) as executor:
                attempt = executor._prepare(self.launch(tmp_path, "echo x >> ran"))
                assert await executor._book.intend("j1.1", 1, attempt.intent())
            async with self.opened(tmp_path) as executor:
                run = await self.ended(executor)
                assert run.state is RunState.LOST
                # Its shell comes late: started by the killed agent, but scheduled only now.
                folder = executor._folder("j1.1")
                started = shim.spawn(
                    folder / "0.rank", tmp_path / "late.log", ("sh", "-c", "echo x >> ran"), {"PATH": os.environ["PATH"]},
                    cwd=str(tmp_path), cgroup_procs="", setup="", log_max_bytes=1000,
                )  # fmt: skip
                assert os.waitstatus_to_exitcode(os.waitpid(started.shim_pid, 0)[1]) == shim.NOT_CLAIMED
                os.waitpid(started.log_pid, 0)
                await executor.launch(self.launch(tmp_path, "echo x >> ran"))
                assert (await self.run_of(executor)).state is RunState.LOST
            assert not (tmp_path / "ran").exists()

        asyncio.run(scene())

    @pytest.mark.parametrize("outcome", ["claims", "dies"])
    def test_a_shell_in_the_midst_of_its_claim_is_waited_for_as_long_as_it_lives(self, tmp_path, outcome):
        """On a busy disk seconds pass between the making of a file and its first line."""
        slow = """
            sleep 2
            [ $2 = claims ] || exit 1
            read -r me < /proc/$$/stat
            printf '%s\\n%s\\n' "$me" "$me" > "$1"
            echo x >> ran
            echo "exit 7" >> "$1"
        """

        async def scene():
            async with self.opened(tmp_path) as executor:
                attempt = executor._prepare(self.launch(tmp_path, "true"))
                assert await executor._book.intend("j1.1", 1, attempt.intent())
            rank_file = attempt.tasks[0].rank_file
            rank_file.touch()
            shell = subprocess.Popen(
                ["sh", "-c", slow, "dure", str(rank_file), outcome], env={process.LEASE_MARK: attempt.mark}, cwd=tmp_path,
                start_new_session=True,
            )  # fmt: skip
            async with self.opened(tmp_path) as executor:
                run = await self.ended(executor)
            shell.wait()
            if outcome == "claims":
                assert (run.state, run.exit_code) == (RunState.EXITED, 7)
            else:
                assert run.state is RunState.LOST
            assert (tmp_path / "ran").exists() == (outcome == "claims")

        asyncio.run(scene())

    def test_a_killed_shell_is_a_lost_attempt_and_its_job_is_ended(self, tmp_path):
        async def scene():
            async with self.opened(tmp_path) as executor:
                await executor.launch(self.launch(tmp_path, "echo $$ > pid; exec sleep 600"))
                await self.until_file(tmp_path / "pid")
                await asyncio.sleep(0.1)
                record = shim.read_rank(executor._folder("j1.1") / "0.rank")
                os.kill(record.shim.pid, signal.SIGKILL)
                assert (await self.ended(executor)).state is RunState.LOST
                assert not self.is_running(int((tmp_path / "pid").read_text()))

        asyncio.run(scene())

    def test_another_agent_s_lease_of_the_same_name_is_not_ended_with_ours(self, tmp_path, monkeypatch):
        monkeypatch.setattr(cgroup, "open_root", lambda name: None)

        async def scene():
            (tmp_path / "one").mkdir()
            (tmp_path / "two").mkdir()
            async with self.opened(tmp_path / "one") as one, self.opened(tmp_path / "two") as two:
                await two.launch(self.launch(tmp_path / "two", f"touch {tmp_path}/up; while [ ! -e {tmp_path}/go ]; do sleep 0.02; done; exit 7"))
                await self.until_file(tmp_path / "up")
                await one.launch(self.launch(tmp_path / "one", "exit 3"))
                assert (await self.ended(one)).exit_code == 3
                (tmp_path / "go").touch()
                assert (await self.ended(two)).exit_code == 7

        asyncio.run(scene())

    def test_after_a_reboot_what_ran_is_lost_and_what_ended_is_known(self, tmp_path, monkeypatch):
        async def scene():
            async with self.opened(tmp_path) as executor:
                await executor.launch(self.launch(tmp_path, "exit 3"))
                await executor.launch(self.launch(tmp_path, "sleep 600", "j2.1"))
                await self.ended(executor)
            monkeypatch.setattr(process, "boot_id", lambda: "another boot")
            async with self.opened(tmp_path) as executor:
                assert (await self.ended(executor)).exit_code == 3
                assert (await self.ended(executor, "j2.1")).state is RunState.LOST

        asyncio.run(scene())

    def test_a_process_that_has_taken_the_number_is_not_taken_for_the_job(self, tmp_path):
        async def scene():
            async with self.opened(tmp_path) as executor:
                await executor.launch(self.launch(tmp_path, "exit 0"))
                await self.ended(executor)
                rank_file = executor._folder("j1.1") / "0.rank"
            lines = rank_file.read_text().split("\n")
            stat = Path("/proc/self/stat").read_text().split()
            lines[0] = " ".join([str(os.getpid()), "(sh)", *stat[2:21], "7", *stat[22:]])
            rank_file.write_text("\n".join(lines[:2]) + "\n")
            async with self.opened(tmp_path) as executor:
                assert (await self.ended(executor)).state is RunState.LOST

        asyncio.run(scene())

    def test_a_long_log_is_cut_and_the_job_goes_on(self, tmp_path):
        assert 100_000 <= self.length_of_a_long_log(tmp_path, 100_000) < 100_400

    def test_a_full_disk_cuts_logs_and_refuses_launches_while_jobs_go_on(self, tmp_path):
        disk = tmp_path / "disk"
        disk.mkdir()

        async def scene():
            async with self.opened(disk) as executor:
                script = (
                    f"while [ ! -e {tmp_path}/full ]; do sleep 0.02; done; "
                    f"head -c 3000000 /dev/zero || exit 9; touch {tmp_path}/wrote; "
                    f"while [ ! -e {tmp_path}/go ]; do sleep 0.02; done; exit 5"
                )
                await executor.launch(self.launch(disk, script))
                await asyncio.sleep(0.3)
                _fill(disk / "ballast")
                (tmp_path / "full").touch()
                await self.until_file(tmp_path / "wrote")
                refused = 0
                for idx in range(20):
                    try:
                        await executor.launch(self.launch(disk, f"echo x > {tmp_path}/ran{idx}", f"k{idx}.1"))
                    except LaunchError:
                        refused += 1
                        assert await self.run_of(executor, f"k{idx}.1") is None
                        assert not (tmp_path / f"ran{idx}").exists()
                assert refused > 0
                (tmp_path / "go").touch()
                run = await self.ended(executor)
                assert (run.state, run.exit_code) == (RunState.EXITED, 5)
                (disk / "ballast").unlink()
                await executor.launch(self.launch(disk, "exit 2", "after.1"))
                assert (await self.ended(executor, "after.1")).exit_code == 2

        with _small_disk(disk):
            asyncio.run(scene())

    def test_no_child_is_left_unreaped(self, tmp_path):
        async def scene():
            before = _children()
            async with self.opened(tmp_path) as executor:
                for idx in range(20):
                    await executor.launch(self.launch(tmp_path, "while [ ! -e go ]; do sleep 0.1; done", f"j{idx}.1"))
                assert len(_children() - before) >= 20
                (tmp_path / "go").touch()
                for idx in range(20):
                    await self.ended(executor, f"j{idx}.1")
                assert _children() <= before

        asyncio.run(scene())

    def test_a_node_that_is_not_there_is_refused(self, tmp_path):
        async def scene():
            async with self.opened(tmp_path) as executor:
                with pytest.raises(LaunchError, match="no node 'n9'"):
                    await executor.launch(self.launch(tmp_path, "true", placements=(Placement("n9", (0,)),)))
                assert await executor.runs() == []

        asyncio.run(scene())

    def test_a_task_in_its_cgroup(self, tmp_path):
        async def scene():
            async with self.opened(tmp_path) as executor:
                if executor._cgroups is None:
                    pytest.skip("no cgroup v2 that this process may write")
                root = executor._cgroups.path
                (root / "stray").mkdir()
                await executor.launch(self.launch(tmp_path, "cat /proc/self/cgroup; sleep 600"))
                await self.until_file(tmp_path / "logs" / "j1.1" / "0.log")
                await self.until(lambda: asyncio.sleep(0, self.log(tmp_path)))
                assert f"/{root.name}/j1%2E1\n" in self.log(tmp_path)
            async with self.opened(tmp_path) as executor:
                assert [path.name for path in root.iterdir() if path.is_dir()] == ["j1%2E1"]
                await executor.stop("j1.1", signal="TERM", grace_ms=5_000)
                assert (await self.ended(executor)).exit_code == 143
            assert not root.exists()

        asyncio.run(scene())

    def test_energy_is_what_the_counters_have_grown_by_also_across_agents(self, tmp_path):
        counters = {"GPU-0": 1_000, "GPU-1": 5_000}

        class Counting(Nvml):
            """Counters of a machine that has GPUs, for one that has none."""

            def energy_mj(self, uuids):
                return {uuid: counters[uuid] for uuid in uuids if uuid in counters}

        info = find_nodes(("n0",), 3, "h100").infos
        nodes = LocalNodes(info, {"n0": tuple(Gpu(f"GPU-{idx}", "h100") for idx in range(3))}, Counting(None))

        async def scene():
            executor = LocalExecutor(tmp_path / "state", nodes)
            await executor.open()
            script = "while [ ! -e go ]; do sleep 0.02; done"
            await executor.launch(self.launch(tmp_path, script, gpus=(0, 1)))
            await executor.launch(self.launch(tmp_path, script, "j2.1", gpus=(2,)))
            await executor.close()
            counters.update({"GPU-0": 1_700, "GPU-1": 5_050})
            executor = LocalExecutor(tmp_path / "state", nodes)
            await executor.open()
            (tmp_path / "go").touch()
            assert (await self.ended(executor)).gpu_energy_mj == 750
            assert (await self.ended(executor, "j2.1")).gpu_energy_mj == -1
            await executor.close()

        asyncio.run(scene())

    def test_an_attempt_of_a_killed_process_is_taken_up(self, tmp_path):
        """kill -9 while it launches, at moments that differ: each lease has run once or is lost without having run."""
        source = (
            "import asyncio, sys; from pathlib import Path\n"
            "from dure.executors.local import LocalExecutor; from dure.executors.local_nodes import find_nodes\n"
            "from dure.model.events import Placement; from dure.ports.executor import Launch\n"
            "folder = Path(sys.argv[1])\n"
            "async def main():\n"
            "    e = LocalExecutor(folder / 'state', find_nodes(('n0', 'n1'), 4, 'h100')); await e.open(); print('up', flush=True)\n"
            "    for i in range(int(sys.argv[2]), int(sys.argv[2]) + 500):\n"
            "        await e.launch(Launch(f'j{i}.1', i, f'j{i}', 1, ('sh', '-c', f'echo j{i} >> ran; sleep 0.05'),"
            " (Placement('n0', (0,)),), str(folder / 'logs' / f'j{i}.1'), str(folder / 'keep'), str(folder)))\n"
            "asyncio.run(main())\n"
        )
        for turn in range(6):
            with subprocess.Popen(
                [sys.executable, "-c", source, str(tmp_path), str(turn * 500)], stdout=subprocess.PIPE
            ) as child:
                assert any(line == b"up\n" for line in child.stdout)
                time.sleep(0.05 + 0.037 * turn)
                child.kill()

        async def scene():
            async with self.opened(tmp_path) as executor:
                runs = await executor.runs()
                assert len(runs) > 10
                ends = {run.lease_id: await self.ended(executor, run.lease_id) for run in runs}
            ran = (tmp_path / "ran").read_text().split()
            assert len(ran) == len(set(ran))
            assert {f"{job}.1" for job in ran} == {lease for lease, run in ends.items() if run.state is RunState.EXITED}
            assert all(run.exit_code == 0 for run in ends.values() if run.state is RunState.EXITED)

        asyncio.run(scene())


def _children() -> set[int]:
    return {int(pid) for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()}


@contextmanager
def _small_disk(folder: Path):
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "dure-test", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("a small disk cannot be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def _fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        for size in (65536, 4096, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                continue


def test_limits_of_a_cgroup_are_those_asked_for_where_they_hold(tmp_path):
    both = cgroup.CgroupRoot(tmp_path, frozenset({"memory", "cpu"}))
    made = both.make("a", 2_500, 64).path
    assert (made / "memory.max").read_text() == "67108864"
    assert (made / "cpu.max").read_text() == "250000 100000"
    assert not list(both.make("b", 0, 0).path.iterdir())
    assert not list(cgroup.CgroupRoot(tmp_path, frozenset()).make("c", 1, 1).path.iterdir())


def test_visible_devices_are_indices_of_whole_gpus_and_uuids_of_parts():
    parts = (MigPart("MIG-a", 143), MigPart("MIG-b", 286), MigPart("MIG-c", 571))
    gpus = [Gpu("GPU-0", "h100"), Gpu("GPU-1", "h100", parts)]
    assert visible_devices(Placement("n", (0, 3)), []) == ("0", "3")
    assert visible_devices(Placement("n", (0,)), gpus) == ("0",)
    assert visible_devices(Placement("n", (1,), 250), gpus) == ("MIG-b",)
    assert visible_devices(Placement("n", (1,), 250), gpus, {"MIG-b"}) == ("MIG-c",)
    assert visible_devices(Placement("n", (1, 1), 100), gpus) == ("MIG-a", "MIG-b")
    with pytest.raises(LookupError):
        visible_devices(Placement("n", (1,), 600), gpus)


def test_only_a_part_of_a_whole_gpu_has_a_share():
    assert share_env(Placement("n", (0,), 5), ["0"]) == {"CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": "1"}
    assert share_env(Placement("n", (0,), 500), ["MIG-b"]) == {}
    assert share_env(Placement("n", (0, 1)), ["0", "1"]) == {}


@pytest.mark.parametrize(
    ("name", "gpu_type"),
    [("NVIDIA H100 80GB HBM3", "h100"), ("Tesla V100-SXM2-32GB", "v100"), ("NVIDIA GeForce RTX 4090", "4090"), ("", "gpu")],
)
def test_gpu_types(name, gpu_type):
    assert gpu_type_of(name) == gpu_type


def test_a_node_named_twice_is_refused():
    with pytest.raises(InputError):
        find_nodes(("a", "a"), 2)
