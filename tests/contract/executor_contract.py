"""What every executor must do (`dure.ports.executor`): a suite that each of them passes."""

import asyncio
import json
import os
import subprocess
import time
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from dure.model.events import Placement
from dure.ports.executor import Launch, RunState

SHOW_ENV = (
    "import json, os; names = ('RANK','WORLD_SIZE','LOCAL_RANK','LOCAL_WORLD_SIZE','NODE_RANK','MASTER_ADDR','MASTER_PORT',"
    "'CUDA_VISIBLE_DEVICES','DURE_JOB_ID','DURE_ATTEMPT','DURE_LEASE_ID','DURE_FENCE','DURE_CHECKPOINT_DIR','MINE');"
    "print(json.dumps({name: os.environ.get(name) for name in names}))"
)


class ExecutorScenes:
    """What scenes are told with. Subclasses give `make`: each call, an executor on the same state with two nodes of 4 GPUs."""

    NODES = ("n0", "n1")
    WAIT_S = 20.0
    #: Whether an attempt has the very GPUs of its lease; where the engine alone chooses which, it has as many.
    CHOOSES_GPUS = True

    def make(self, folder: Path):
        raise NotImplementedError

    @asynccontextmanager
    async def opened(self, folder: Path):
        executor = self.make(folder)
        await executor.open()
        try:
            yield executor
        finally:
            await executor.close()

    def launch(self, folder: Path, script: str, lease: str = "j1.1", *, gpus=(0,), nodes=1, **other) -> Launch:
        job, _, attempt = lease.rpartition(".")
        placements = tuple(Placement(node, tuple(gpus)) for node in self.NODES[:nodes])
        values = {
            "lease_id": lease, "fence": 1, "job_id": job, "attempt": int(attempt), "argv": ("sh", "-c", script),
            "placements": placements, "log_dir": str(folder / "logs" / lease), "checkpoint_dir": str(folder / "keep" / job),
            "cwd": str(folder),
        }  # fmt: skip
        return Launch(**{**values, **other})

    async def run_of(self, executor, lease: str = "j1.1"):
        return next((run for run in await executor.runs() if run.lease_id == lease), None)

    async def until(self, is_so: Callable[[], Awaitable[object]], wait_s: float | None = None):
        until = time.monotonic() + (wait_s or self.WAIT_S)
        while time.monotonic() < until:
            found = await is_so()
            if found:
                return found
            await asyncio.sleep(0.01)
        raise AssertionError("it did not happen in time")

    async def ended(self, executor, lease: str = "j1.1"):
        async def is_over():
            run = await self.run_of(executor, lease)
            return run if run is not None and run.state in (RunState.EXITED, RunState.LOST) else None

        return await self.until(is_over)

    async def until_file(self, path: Path):
        async def is_there():
            return path.exists()

        await self.until(is_there)

    def log(self, folder: Path, lease: str = "j1.1", rank: int = 0) -> str:
        return (folder / "logs" / lease / f"{rank}.log").read_text()

    def length_of_a_long_log(self, folder: Path, max_bytes: int) -> int:
        """Of one that was cut at so many bytes; the job went on, and the log says so."""

        async def scene():
            executor = self.make(folder, log_max_bytes=max_bytes)
            await executor.open()
            loop = "i=0; while [ $i -lt 200 ]; do head -c 1000 /dev/zero | tr '\\0' x || exit 9; i=$((i+1)); done; touch done"
            await executor.launch(self.launch(folder, loop))
            assert (await self.ended(executor)).exit_code == 0
            await executor.close()
            assert (folder / "done").exists()
            log = self.log(folder)
            assert log.endswith("dropped: no room on the disk, or longer than a log may be\n")
            return len(log)

        return asyncio.run(scene())

    @staticmethod
    def is_running(pid: int) -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except FileNotFoundError:
            return False


class ExecutorContract(ExecutorScenes):
    """The suite."""

    def test_nodes_are_those_it_can_launch_on(self, tmp_path):
        async def scene():
            async with self.opened(tmp_path) as executor:
                nodes = await executor.nodes()
                assert [node.name for node in nodes] == list(self.NODES)
                assert all(node.gpus == 4 and len(set(node.gpu_uuids)) == 4 for node in nodes)

        asyncio.run(scene())

    @pytest.mark.parametrize(
        ("argv", "code"),
        [
            (("true",), 0),
            (("sh", "-c", "exit 3"), 3),
            (("no-such-command-anywhere",), 127),
            (("/etc/passwd",), 126),
            (("sh", "-c", "kill -KILL $$"), 137),
            (("sh", "-c", "kill -TERM $$"), 143),
        ],
    )
    def test_the_exit_code_is_the_commands(self, tmp_path, argv, code):
        async def scene():
            async with self.opened(tmp_path) as executor:
                await executor.launch(self.launch(tmp_path, "", argv=argv))
                run = await self.ended(executor)
                assert (run.state, run.exit_code) == (RunState.EXITED, code)
                assert run.ended_ms >= run.started_ms > 0

        asyncio.run(scene())

    def test_a_working_directory_that_is_not_there_is_said_in_the_log(self, tmp_path):
        async def scene():
            async with self.opened(tmp_path) as executor:
                await executor.launch(self.launch(tmp_path, "echo never", cwd=str(tmp_path / "missing")))
                assert (await self.ended(executor)).exit_code == 126
                assert "missing" in self.log(tmp_path)
                assert "never" not in self.log(tmp_path)

        asyncio.run(scene())

    def test_output_of_both_streams_is_kept_in_order(self, tmp_path):
        async def scene():
            async with self.opened(tmp_path) as executor:
                await executor.launch(self.launch(tmp_path, "echo one; echo two >&2; echo three"))
                await self.ended(executor)
                assert self.log(tmp_path) == "one\ntwo\nthree\n"

        asyncio.run(scene())

    def test_a_gang_has_the_variables_of_torchrun(self, tmp_path):
        async def scene():
            async with self.opened(tmp_path) as executor:
                launch = self.launch(
                    tmp_path, "", argv=("python3", "-c", SHOW_ENV), gpus=(1, 3), nodes=2, tasks_per_node=2, fence=7,
                    env={"MINE": "a b'c\"$d", "DURE_FENCE": "not the user's"},
                )  # fmt: skip
                await executor.launch(launch)
                run = await self.ended(executor)
                assert run.exit_code == 0
            found = [json.loads(self.log(tmp_path, rank=rank)) for rank in range(4)]
            assert [env["RANK"] for env in found] == ["0", "1", "2", "3"]
            assert [env["LOCAL_RANK"] for env in found] == ["0", "1", "0", "1"]
            assert [env["NODE_RANK"] for env in found] == ["0", "0", "1", "1"]
            assert {(env["WORLD_SIZE"], env["LOCAL_WORLD_SIZE"]) for env in found} == {("4", "2")}
            visible = [env["CUDA_VISIBLE_DEVICES"] for env in found]
            if self.CHOOSES_GPUS:
                assert set(visible) == {"1,3"}
            else:
                assert visible[0] == visible[1]
                assert visible[2] == visible[3]
                assert [len(set(devices.split(","))) for devices in visible] == [2] * 4
                # Where the engine chooses, the run says which it has.
                seen = {node: ",".join(map(str, idxs)) for node, idxs in run.gpu_idxs.items()}
                assert seen == {self.NODES[int(env["NODE_RANK"])]: env["CUDA_VISIBLE_DEVICES"] for env in found}
            assert len({(env["MASTER_ADDR"], env["MASTER_PORT"]) for env in found}) == 1
            assert int(found[0]["MASTER_PORT"]) > 0
            assert {(env["DURE_JOB_ID"], env["DURE_ATTEMPT"], env["DURE_LEASE_ID"], env["DURE_FENCE"]) for env in found} == {
                ("j1", "1", "j1.1", "7")
            }
            assert {env["DURE_CHECKPOINT_DIR"] for env in found} == {launch.checkpoint_dir}
            assert {env["MINE"] for env in found} == {"a b'c\"$d"}

        asyncio.run(scene())

    def test_the_tasks_of_a_gang_meet_at_the_rendezvous(self, tmp_path):
        meet = (
            "import os, socket, time; rank, world = int(os.environ['RANK']), int(os.environ['WORLD_SIZE'])\n"
            "at = (os.environ['MASTER_ADDR'], int(os.environ['MASTER_PORT']))\n"
            "if rank == 0:\n"
            "    with socket.create_server(at) as server:\n"
            "        print(sorted(int(server.accept()[0].recv(8)) for _ in range(world - 1)))\n"
            "else:\n"
            "    until = time.monotonic() + 10\n"
            "    while True:\n"
            "        try: socket.create_connection(at).send(str(rank).encode()); break\n"
            "        except OSError:\n"
            "            if time.monotonic() > until: raise\n"
            "            time.sleep(0.02)\n"
        )

        async def scene():
            async with self.opened(tmp_path) as executor:
                launch = self.launch(tmp_path, "", argv=("python3", "-c", meet), nodes=2, tasks_per_node=3)
                await executor.launch(launch)
                assert (await self.ended(executor)).exit_code == 0
                assert self.log(tmp_path) == "[1, 2, 3, 4, 5]\n"

        asyncio.run(scene())

    def test_one_task_a_gpu(self, tmp_path):
        async def scene():
            async with self.opened(tmp_path) as executor:
                await executor.launch(self.launch(tmp_path, "echo $LOCAL_RANK", gpus=(0, 1, 2), tasks_per_node=0))
                await self.ended(executor)
                assert [self.log(tmp_path, rank=rank) for rank in range(3)] == ["0\n", "1\n", "2\n"]

        asyncio.run(scene())

    def test_one_failing_task_ends_the_gang_with_its_code(self, tmp_path):
        async def scene():
            async with self.opened(tmp_path) as executor:
                script = '[ "$RANK" = 1 ] && exit 9; trap "" TERM; while :; do sleep 0.1; done'
                await executor.launch(self.launch(tmp_path, script, nodes=2))
                run = await self.ended(executor)
                assert (run.state, run.exit_code) == (RunState.EXITED, 9)

        asyncio.run(scene())

    def test_setup_runs_before_in_the_same_shell(self, tmp_path):
        async def scene():
            async with self.opened(tmp_path) as executor:
                setup = "export FROM_SETUP='x y'\ncd /\n"
                await executor.launch(self.launch(tmp_path, 'echo "$FROM_SETUP $PWD"', setup=setup))
                await executor.launch(self.launch(tmp_path, "echo never", "j2.1", setup="set -e\nfalse\ntrue\n"))
                await executor.launch(self.launch(tmp_path, "echo never", "j3.1", setup="exit 5"))
                assert (await self.ended(executor)).exit_code == 0
                assert self.log(tmp_path) == "x y /\n"
                assert (await self.ended(executor, "j2.1")).exit_code == 1
                assert (await self.ended(executor, "j3.1")).exit_code == 5
                assert "never" not in self.log(tmp_path, "j2.1") + self.log(tmp_path, "j3.1")

        asyncio.run(scene())

    def test_a_job_saves_when_it_is_told_to_leave(self, tmp_path):
        async def scene():
            async with self.opened(tmp_path) as executor:
                script = 'trap "echo saved > $DURE_CHECKPOINT_DIR/state; exit 0" USR1; touch up; while :; do sleep 0.05; done'
                await executor.launch(self.launch(tmp_path, script))
                await self.until_file(tmp_path / "up")
                await executor.stop("j1.1", signal="USR1", grace_ms=10_000)
                assert (await self.run_of(executor)).state in (RunState.STOPPING, RunState.EXITED)
                run = await self.ended(executor)
                assert (run.state, run.exit_code) == (RunState.EXITED, 0)
                await executor.launch(self.launch(tmp_path, "cat $DURE_CHECKPOINT_DIR/state", "j1.2"))
                await self.ended(executor, "j1.2")
                assert self.log(tmp_path, "j1.2") == "saved\n"

        asyncio.run(scene())

    def test_who_does_not_leave_is_killed_with_all_its_children(self, tmp_path):
        async def scene():
            async with self.opened(tmp_path) as executor:
                # One child in the group, one in a session of its own whose parent has gone.
                script = (
                    'trap "" TERM; (while :; do sleep 0.05; done) & '
                    "setsid sh -c 'sh -c \"echo \\$\\$ > daemon; exec sleep 600\" &' ; touch up; while :; do sleep 0.05; done"
                )
                await executor.launch(self.launch(tmp_path, script))
                await self.until_file(tmp_path / "daemon")
                await self.until_file(tmp_path / "up")
                began = time.monotonic()
                await executor.stop("j1.1", signal="TERM", grace_ms=300)
                run = await self.ended(executor)
                assert (run.state, run.exit_code) == (RunState.EXITED, 137)
                assert time.monotonic() - began >= 0.25
                assert not self.is_running(int((tmp_path / "daemon").read_text()))

        asyncio.run(scene())

    def test_nothing_is_left_of_a_job_that_has_ended(self, tmp_path):
        async def scene():
            async with self.opened(tmp_path) as executor:
                script = "setsid sh -c 'echo $$ > left; exec sleep 600' & while [ ! -s left ]; do sleep 0.02; done; exit 4"
                await executor.launch(self.launch(tmp_path, script))
                run = await self.ended(executor)
                assert run.exit_code == 4
                assert not self.is_running(int((tmp_path / "left").read_text()))

        asyncio.run(scene())

    def test_a_lease_of_that_name_of_another_agent_is_left_alone(self, tmp_path):
        """Two alliances may each have a node n0 and a job j1 on one machine."""
        other = {"DURE_LEASE_ID": "j1.1", "DURE_NODE": "n0", "DURE_LEASE_MARK": str(tmp_path / "of another agent")}
        stranger = subprocess.Popen(["sleep", "600"], env=other, start_new_session=True)

        async def scene():
            async with self.opened(tmp_path) as executor:
                await executor.launch(self.launch(tmp_path, "sleep 600 & touch up; exit 3"))
                assert (await self.ended(executor)).exit_code == 3
                await executor.launch(self.launch(tmp_path, "touch up-2; exec sleep 600", "j1.2", fence=2))
                await self.until_file(tmp_path / "up-2")
                await executor.stop("j1.2", signal="TERM", grace_ms=0)
                await self.ended(executor, "j1.2")

        try:
            asyncio.run(scene())
            assert stranger.poll() is None
        finally:
            stranger.kill()
            stranger.wait()

    def test_stopping_again_and_stopping_nothing_change_nothing(self, tmp_path):
        async def scene():
            async with self.opened(tmp_path) as executor:
                script = 'trap "echo told >> told" USR1; touch up; while [ ! -e go ]; do sleep 0.05; done; sleep 0.2'
                await executor.launch(self.launch(tmp_path, script))
                await self.until_file(tmp_path / "up")
                await executor.stop("nobody.1", signal="TERM", grace_ms=0)
                for _ in range(3):
                    await executor.stop("j1.1", signal="USR1", grace_ms=20_000)
                await self.until_file(tmp_path / "told")
                (tmp_path / "go").touch()
                assert (await self.ended(executor)).exit_code == 0
                await executor.stop("j1.1", signal="TERM", grace_ms=0)
                assert (tmp_path / "told").read_text() == "told\n"
                assert (await self.run_of(executor)).exit_code == 0

        asyncio.run(scene())

    def test_a_stricter_stop_shortens_the_grace(self, tmp_path):
        async def scene():
            async with self.opened(tmp_path) as executor:
                await executor.launch(self.launch(tmp_path, 'trap "" TERM USR1; touch up; while :; do sleep 0.05; done'))
                await self.until_file(tmp_path / "up")
                await executor.stop("j1.1", signal="USR1", grace_ms=600_000)
                await executor.stop("j1.1", signal="TERM", grace_ms=200)
                assert (await self.ended(executor)).exit_code == 137

        asyncio.run(scene())

    def test_the_time_limit_holds(self, tmp_path):
        async def scene():
            async with self.opened(tmp_path) as executor:
                launch = self.launch(tmp_path, 'trap "" TERM; while :; do sleep 0.05; done', limit_ms=400, grace_ms=300)
                began = time.monotonic()
                await executor.launch(launch)
                assert (await self.ended(executor)).exit_code == 137
                assert time.monotonic() - began >= 0.6

        asyncio.run(scene())

    def test_a_lease_is_launched_once(self, tmp_path):
        async def scene():
            launch = self.launch(tmp_path, "echo x >> ran")
            async with self.opened(tmp_path) as executor:
                await asyncio.gather(*(executor.launch(launch) for _ in range(5)))
                await self.ended(executor)
                await executor.launch(launch)
                await executor.forget("j1.1")
                await executor.launch(launch)
                assert await executor.runs() == []
            async with self.opened(tmp_path) as executor:
                await executor.launch(replace(launch, fence=99))
                assert await executor.runs() == []
                await asyncio.sleep(0.3)
            assert (tmp_path / "ran").read_text() == "x\n"

        asyncio.run(scene())

    def test_what_runs_is_not_forgotten(self, tmp_path):
        async def scene():
            async with self.opened(tmp_path) as executor:
                await executor.launch(self.launch(tmp_path, "while [ ! -e go ]; do sleep 0.02; done"))
                await executor.forget("j1.1")
                await executor.forget("nobody.1")
                assert await self.run_of(executor) is not None
                (tmp_path / "go").touch()
                await self.ended(executor)
                await executor.forget("j1.1")
                assert await executor.runs() == []

        asyncio.run(scene())

    def test_a_change_is_told(self, tmp_path):
        async def scene():
            async with self.opened(tmp_path) as executor:
                await executor.launch(self.launch(tmp_path, "while [ ! -e go ]; do sleep 0.02; done; exit 6"))
                while (await self.run_of(executor)).state is not RunState.RUNNING:
                    await asyncio.wait_for(executor.changed(), self.WAIT_S)
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(executor.changed(), 0.2)
                (tmp_path / "go").touch()
                await asyncio.wait_for(executor.changed(), self.WAIT_S)
                assert (await self.run_of(executor)).exit_code == 6

        asyncio.run(scene())

    def test_attempts_survive_their_agent(self, tmp_path):
        async def scene():
            async with self.opened(tmp_path) as executor:
                await executor.launch(self.launch(tmp_path, "touch up; while [ ! -e go ]; do sleep 0.02; done; exit 7", nodes=2))
                await executor.launch(self.launch(tmp_path, "touch up2; sleep 0.3; exit 8", "j2.1"))
                await self.until_file(tmp_path / "up")
                await self.until_file(tmp_path / "up2")
                # One of the two ranks may have touched it before the other began.
                while (await self.run_of(executor)).state is not RunState.RUNNING:
                    await asyncio.wait_for(executor.changed(), self.WAIT_S)
                started_ms = (await self.run_of(executor)).started_ms
            await asyncio.sleep(0.6)
            async with self.opened(tmp_path) as executor:
                run = await self.run_of(executor)
                assert (run.state, run.started_ms, run.fence) == (RunState.RUNNING, started_ms, 1)
                assert (await self.ended(executor, "j2.1")).exit_code == 8
                (tmp_path / "go").touch()
                run = await self.ended(executor)
                assert (run.state, run.exit_code) == (RunState.EXITED, 7)

        asyncio.run(scene())

    def test_a_stop_goes_on_under_the_next_agent(self, tmp_path):
        async def scene():
            async with self.opened(tmp_path) as executor:
                await executor.launch(self.launch(tmp_path, 'trap "" TERM; touch up; while :; do sleep 0.05; done'))
                await self.until_file(tmp_path / "up")
                await executor.stop("j1.1", signal="TERM", grace_ms=700)
            async with self.opened(tmp_path) as executor:
                assert (await self.run_of(executor)).state is RunState.STOPPING
                run = await self.ended(executor)
                assert (run.state, run.exit_code) == (RunState.EXITED, 137)

        asyncio.run(scene())

    def test_the_agents_secrets_are_not_the_jobs(self, tmp_path, monkeypatch):
        monkeypatch.setenv("DURE_TOKEN", "secret-of-the-agent")
        monkeypatch.setenv("SOME_KEY", "secret-of-the-agent")

        async def scene():
            async with self.opened(tmp_path) as executor:
                await executor.launch(self.launch(tmp_path, "env; echo $PATH"))
                await self.ended(executor)
                assert os.environ["PATH"] in self.log(tmp_path)
                assert "secret-of-the-agent" not in self.log(tmp_path)

        asyncio.run(scene())
