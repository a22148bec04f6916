"""The `slurm` executor on a real Slurm: the suite of all executors, and what only Slurm can do to one."""

import asyncio
import json
import re
import runpy
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.engines.slurm_cluster import SlurmCluster, is_installed

from dure.executors.ranks import inherited_env
from dure.executors.slurm import folder as folders
from dure.executors.slurm import script
from dure.executors.slurm.attempt import SlurmAttempt
from dure.executors.slurm.commands import SlurmCommands
from dure.executors.slurm.executor import SlurmExecutor
from dure.executors.slurm.nodes import shape_of
from dure.executors.state_lock import StateInUseError
from dure.model.events import Placement
from dure.ports.executor import LaunchError, RunState

_SUITE = runpy.run_path(str(Path(__file__).parents[1] / "contract" / "executor_contract.py"))
ExecutorContract, ExecutorScenes = _SUITE["ExecutorContract"], _SUITE["ExecutorScenes"]


@pytest.fixture(scope="module")
def cluster():
    if not is_installed():
        pytest.skip("Slurm is not installed (Debian: apt-get install slurm-wlm)")
    cluster = SlurmCluster()
    yield cluster
    cluster.close()


class OnSlurm(ExecutorScenes):
    # A command that finds no controller takes ten seconds to say so.
    WAIT_S = 60.0

    @pytest.fixture(autouse=True)
    def _cluster(self, cluster):
        self.cluster = cluster
        yield
        cluster.clear()

    async def until(self, is_so, wait_s=None):
        try:
            return await super().until(is_so, wait_s)
        except AssertionError:
            print(self.cluster.told())
            raise

    def make(self, folder, **options):
        engine = SlurmCommands({**inherited_env(), **self.cluster.env})
        return SlurmExecutor(folder / "state", folder / "shared", engine, **options)


class TestSlurmExecutor(OnSlurm, ExecutorContract):
    # Slurm takes the free GPUs that it likes: there is no option by which to name them.
    CHOOSES_GPUS = False


class TestOnlySlurm(OnSlurm):
    LOOP = "while :; do sleep 0.05; done"

    async def ready(self, executor, folder, script="", lease="j1.1", **other):
        """Launch something that runs on, and wait until it does."""
        up = folder / f"up-{lease}"
        await executor.launch(self.launch(folder, f"{script} touch {up}; {self.LOOP}", lease, **other))
        await self.until_file(up)

    async def node(self, executor, name):
        return next((node for node in await executor.nodes() if node.name == name), None)

    async def until_node(self, executor, name, is_so):
        async def is_there():
            return is_so(await self.node(executor, name))

        await self.until(is_there)

    def job(self, *words):
        """What Slurm says of the one job that is ours."""
        return self.cluster.run("squeue", "-h", "-t", "running,pending", "-O", *words).stdout.strip()

    def test_one_agent_at_a_time(self, tmp_path):
        async def scene():
            async with self.opened(tmp_path):
                with pytest.raises(StateInUseError):
                    await self.make(tmp_path).open()

        asyncio.run(scene())

    @pytest.mark.parametrize(
        ("placements", "words"),
        [
            ([Placement("n9", (0,))], "no node 'n9'"),
            ([Placement("n0", (0,), 500)], "parts of GPUs"),
        ],
    )
    def test_what_slurm_cannot_do_is_refused(self, tmp_path, placements, words):
        async def scene():
            async with self.opened(tmp_path) as executor:
                with pytest.raises(LaunchError, match=words):
                    await executor.launch(self.launch(tmp_path, "true", placements=placements))
                assert await executor.runs() == []

        asyncio.run(scene())

    def test_what_slurm_refuses_is_lost_and_the_log_says_why(self, tmp_path):
        async def scene():
            async with self.opened(tmp_path) as executor:
                await executor.launch(self.launch(tmp_path, "echo x >> ran", mem_mib=1_000_000))
                assert (await self.ended(executor)).state is RunState.LOST
                assert "Slurm refuses it: sbatch:" in self.log(tmp_path)
                await executor.launch(self.launch(tmp_path, "echo x >> ran", mem_mib=1_000_000))
                assert len(await executor.runs()) == 1
            assert not (tmp_path / "ran").exists()

        asyncio.run(scene())

    def test_what_a_job_asks_of_slurm(self, tmp_path):
        async def scene():
            executor = self.make(tmp_path, partition="short")
            await executor.open()
            assert [node.name for node in await executor.nodes()] == ["n0"]
            await self.ready(executor, tmp_path, gpus=(2, 3), fence=7)
            found = self.cluster.run("scontrol", "-d", "-o", "show", "job", self.job("JobID")).stdout
            # Half of the node's GPUs: half of its CPUs and memory; no longer than the partition lets it.
            for word in ("Comment=fence=7", "ReqNodeList=n0", "NumCPUs=32", "MinMemoryNode=250G", "Requeue=0", "TimeLimit=00:30:00",
                         "TresPerNode=gres:gpu:h100:2", "Partition=short", "GRES=gpu:h100:2("):  # fmt: skip
                assert word in found, (word, found)
            await executor.stop("j1.1", signal="TERM", grace_ms=100)
            await self.ended(executor)
            await self.ready(executor, tmp_path, lease="j2.1", gpus=(0,), cpu_milli=3_000, mem_mib=1_024, limit_ms=60_000)
            found = self.cluster.run("scontrol", "-o", "show", "job", self.job("JobID")).stdout
            for word in ("NumCPUs=3", "MinMemoryNode=1G", "TimeLimit=00:07:00"):
                assert word in found, (word, found)
            await executor.close()

        asyncio.run(scene())

    UNLIKE = (Placement("n1", (0,)), Placement("n0", (1, 2, 3)))

    def test_a_gang_with_unlike_numbers_of_gpus(self, tmp_path):
        async def scene():
            async with self.opened(tmp_path) as executor:
                script = "echo $RANK/$WORLD_SIZE $NODE_RANK on $DURE_NODE $CUDA_VISIBLE_DEVICES; exit $((RANK * 3))"
                await executor.launch(self.launch(tmp_path, script, placements=self.UNLIKE, fence=3))
                run = await self.ended(executor)
                assert (run.state, run.exit_code) == (RunState.EXITED, 3)
                assert run.gpu_idxs == {"n1": (0,), "n0": (0, 1, 2)}
                assert [self.log(tmp_path, rank=rank) for rank in range(2)] == ["0/2 0 on n1 0\n", "1/2 1 on n0 0,1,2\n"]

        asyncio.run(scene())

    def test_a_gang_with_unlike_numbers_of_gpus_saves_and_leaves(self, tmp_path):
        async def scene():
            script = "trap 'echo saved > said-$RANK; exit 0' USR1; touch up-$RANK; while :; do sleep 0.05; done"
            async with self.opened(tmp_path) as executor:
                await executor.launch(self.launch(tmp_path, script, placements=self.UNLIKE))
                await executor.launch(self.launch(tmp_path, f"trap '' TERM; touch $DURE_NODE; {self.LOOP}", "j2.1"))
                for name in ("up-0", "up-1", "n0"):
                    await self.until_file(tmp_path / name)
            async with self.opened(tmp_path) as executor:
                await executor.stop("j1.1", signal="USR1", grace_ms=60_000)
                assert (await self.ended(executor)).exit_code == 0
                assert [(tmp_path / f"said-{rank}").read_text() for rank in range(2)] == ["saved\n"] * 2
                # The other is not touched; what does not leave is killed on all nodes.
                assert (await self.run_of(executor, "j2.1")).state is RunState.RUNNING
                await executor.launch(self.launch(tmp_path, f"trap '' TERM; touch here-$RANK; {self.LOOP}", "j3.1", placements=self.UNLIKE))
                for rank in range(2):
                    await self.until_file(tmp_path / f"here-{rank}")
                await executor.stop("j3.1", signal="TERM", grace_ms=100)
                assert (await self.ended(executor, "j3.1")).exit_code == 137
            self.cluster.clear()

        asyncio.run(scene())

    def test_a_gang_with_unlike_numbers_of_gpus_is_lost_with_any_of_its_nodes(self, tmp_path):
        async def scene():
            async with self.opened(tmp_path) as executor:
                await self.ready(executor, tmp_path, placements=self.UNLIKE)
                self.cluster.run("scontrol", "update", "nodename=n0", "state=down", "reason=test")
                assert (await self.ended(executor)).state is RunState.LOST
            self.cluster.until_idle()

        asyncio.run(scene())

    def test_the_gpu_time_of_an_attempt_is_slurms_record_of_it(self, tmp_path):
        async def scene():
            async with self.opened(tmp_path) as executor:
                await executor.launch(self.launch(tmp_path, "sleep 3", placements=self.UNLIKE))
                run = await self.ended(executor)
                # Four GPUs, on two nodes, by whole seconds.
                assert run.engine_gpu_ms in (12_000, 16_000, 20_000)
                assert abs(run.engine_gpu_ms - 4 * (run.ended_ms - run.started_ms)) < 8_000

        asyncio.run(scene())

    def test_the_gpus_that_slurm_has_given_are_told(self, tmp_path):
        """The lease names GPU 0 on both nodes; somebody has it on the second."""

        async def scene():
            self.cluster.run("sbatch", "--nodelist=n1", "--gres=gpu:1", "--mem=100", "--output=/dev/null", "--wrap=sleep 600")
            SlurmCluster.until(lambda: self.cluster.jobs("running"), 20)
            async with self.opened(tmp_path) as executor:
                await self.ready(executor, tmp_path, nodes=2)

                async def told():
                    return (await self.run_of(executor)).gpu_idxs

                idxs = await self.until(told)
                assert idxs == {"n0": (0,), "n1": (1,)}
                said = self.cluster.run("scontrol", "-d", "-o", "show", "job").stdout
                (line,) = (line for line in said.splitlines() if "JobName=dure-j1.1-" in line and "JobState=RUNNING" in line)
                assert dict(re.findall(r" Nodes=(\S+) CPU_IDs=\S+ Mem=\d+ GRES=gpu:h100:1\(IDX:(\d+)\)", line)) == {"n0": "0", "n1": "1"}
            async with self.opened(tmp_path) as executor:
                assert (await self.run_of(executor)).gpu_idxs == idxs

        asyncio.run(scene())

    def test_launches_of_a_moment_are_one_array_and_each_its_own(self, tmp_path):
        async def scene():
            executor = self.make(tmp_path, arrays_from=2)
            await executor.open()
            try:
                script = "touch up-$DURE_JOB_ID; trap 'exit 5' USR1; while [ ! -e go ]; do sleep 0.02; done; echo $DURE_LEASE_ID; exit $CODE"
                await asyncio.gather(
                    *(executor.launch(self.launch(tmp_path, script, f"j{idx}.1", env={"CODE": str(idx)}, fence=idx)) for idx in range(4))
                )
                for idx in range(4):
                    await self.until_file(tmp_path / f"up-j{idx}")
                ids = self.cluster.run("squeue", "-h", "-r", "-t", "running", "-O", "ArrayJobID,ArrayTaskID").stdout.splitlines()
                assert len({line.split()[0] for line in ids}) == 1
                assert sorted(line.split()[1] for line in ids) == ["0", "1", "2", "3"]
                # The last task of an array has the number of the array itself.
                for idx in (0, 3):
                    await executor.stop(f"j{idx}.1", signal="USR1", grace_ms=10_000)
                    assert (await self.ended(executor, f"j{idx}.1")).exit_code == 5
                (tmp_path / "go").touch()
                for idx in (1, 2):
                    assert (await self.ended(executor, f"j{idx}.1")).exit_code == idx
                    assert self.log(tmp_path, f"j{idx}.1") == f"j{idx}.1\n"
            finally:
                await executor.close()

        asyncio.run(scene())

    def test_more_than_there_is_room_for_waits_and_is_told_to_leave_while_it_does(self, tmp_path):
        async def scene():
            async with self.opened(tmp_path) as executor:
                await self.ready(executor, tmp_path, gpus=(0, 1, 2, 3))
                await executor.launch(self.launch(tmp_path, "echo x >> ran", "j2.1"))
                await asyncio.sleep(1)
                assert (await self.run_of(executor, "j2.1")).state is RunState.STARTING
                await executor.stop("j2.1", signal="TERM", grace_ms=60_000)
                run = await self.ended(executor, "j2.1")
                assert (run.state, run.exit_code) == (RunState.EXITED, 143)
                await executor.stop("j1.1", signal="TERM", grace_ms=0)
                await self.ended(executor)
            self.cluster.clear()
            assert not (tmp_path / "ran").exists()

        asyncio.run(scene())

    def test_a_job_that_is_cancelled_behind_our_back_is_lost(self, tmp_path):
        async def scene():
            async with self.opened(tmp_path) as executor:
                await self.ready(executor, tmp_path, "trap 'exit 0' TERM;")
                self.cluster.run("scancel", self.job("JobID"))
                assert (await self.ended(executor)).state is RunState.LOST
                assert "Slurm has ended it: CANCELLED" in self.log(tmp_path)

        asyncio.run(scene())

    def test_a_job_that_is_put_back_in_the_queue_does_not_run_again(self, tmp_path):
        async def scene():
            async with self.opened(tmp_path) as executor:
                await self.ready(executor, tmp_path, "echo x >> ran;")
                job = self.job("JobID")
                self.cluster.run("scontrol", "update", f"jobid={job}", "requeue=1")
                self.cluster.run("scontrol", "requeue", job)
                assert (await self.ended(executor)).state is RunState.LOST
                self.cluster.until_idle()
            assert (tmp_path / "ran").read_text() == "x\n"

        asyncio.run(scene())

    def test_a_drained_node_is_closed_and_what_runs_there_goes_on(self, tmp_path):
        async def scene():
            async with self.opened(tmp_path) as executor:
                await self.ready(executor, tmp_path)
                self.cluster.run("scontrol", "update", "nodename=n0", "state=drain", "reason=test")
                await self.until_node(executor, "n0", lambda node: not node.is_open)
                assert (await self.node(executor, "n1")).is_open
                assert (await self.run_of(executor)).state is RunState.RUNNING
                self.cluster.run("scontrol", "update", "nodename=n0", "state=resume")
                await self.until_node(executor, "n0", lambda node: node.is_open)

        asyncio.run(scene())

    def test_a_node_that_is_down_is_gone_and_so_is_what_ran_there(self, tmp_path):
        async def scene():
            async with self.opened(tmp_path) as executor:
                await self.ready(executor, tmp_path, nodes=2)
                self.cluster.run("scontrol", "update", "nodename=n1", "state=down", "reason=test")
                assert (await self.ended(executor)).state is RunState.LOST
                await self.until_node(executor, "n1", lambda node: node is None)
                assert await self.node(executor, "n0") is not None

        asyncio.run(scene())

    def test_gpus_that_others_have_close_a_node(self, tmp_path):
        async def scene():
            async with self.opened(tmp_path) as executor:
                await self.ready(executor, tmp_path)
                foreign = self.cluster.run(
                    "sbatch", "--parsable", "--nodelist=n0", "--gres=gpu:3", "--mem=100", "--output=/dev/null", "--wrap=sleep 600"
                ).stdout.strip()  # fmt: skip
                await self.until_node(executor, "n0", lambda node: not node.is_open)
                assert (await self.node(executor, "n1")).is_open
                assert (await self.run_of(executor)).state is RunState.RUNNING
                self.cluster.run("scancel", foreign)
                await self.until_node(executor, "n0", lambda node: node.is_open)

        asyncio.run(scene())

    def test_who_waits_for_long_is_lost_and_its_node_closed(self, tmp_path):
        async def scene():
            executor = self.make(tmp_path, patience_ms=1_500)
            await executor.open()
            # All its CPUs, no GPU: the node looks free.
            self.cluster.run("sbatch", "--nodelist=n0", "--cpus-per-task=64", "--mem=100", "--output=/dev/null", "--wrap=sleep 600")
            await executor.launch(self.launch(tmp_path, "echo x >> ran"))
            run = await self.ended(executor)
            assert run.state is RunState.LOST
            assert "Slurm has not started it: PENDING Resources" in self.log(tmp_path)
            await self.until_node(executor, "n0", lambda node: not node.is_open)
            SlurmCluster.until(lambda: not [line for line in self.cluster.jobs("pending") if "j1.1" in line], 10)
            await executor.close()
            assert not (tmp_path / "ran").exists()

        asyncio.run(scene())

    @pytest.mark.slow
    def test_a_controller_that_is_gone_for_a_while_ends_nothing(self, tmp_path):
        async def scene():
            async with self.opened(tmp_path) as executor:
                await self.ready(executor, tmp_path)
                script = f"touch {tmp_path}/up2; while [ ! -e {tmp_path}/go ]; do sleep 0.02; done; exit 6"
                await executor.launch(self.launch(tmp_path, script, "j2.1"))
                await self.until_file(tmp_path / "up2")
                self.cluster.save()
                self.cluster.kill_controller()
                (tmp_path / "go").touch()
                await asyncio.wait_for(executor.launch(self.launch(tmp_path, "echo x >> ran", "j3.1")), 1)
                await executor.stop("j1.1", signal="TERM", grace_ms=60_000)
                await asyncio.sleep(3)
                assert [node.name for node in await executor.nodes()] == ["n0", "n1"]
                states = {run.lease_id: run.state for run in await executor.runs()}
                assert states == {"j1.1": RunState.STOPPING, "j2.1": RunState.RUNNING, "j3.1": RunState.STARTING}
            # The next agent finds it silent too.
            async with self.opened(tmp_path) as executor:
                assert [node.name for node in await executor.nodes()] == ["n0", "n1"]
                self.cluster.start_controller()
                assert (await self.ended(executor, "j2.1")).exit_code == 6
                run = await self.ended(executor, "j1.1")
                assert (run.state, run.exit_code) == (RunState.EXITED, 143)
                # It was not handed in when its agent ended.
                assert (await self.ended(executor, "j3.1")).state is RunState.LOST
            assert not (tmp_path / "ran").exists()

        asyncio.run(scene())

    @pytest.mark.slow
    def test_a_launch_while_the_controller_is_gone_is_handed_in_later(self, tmp_path):
        async def scene():
            async with self.opened(tmp_path) as executor:
                self.cluster.kill_controller()
                await asyncio.wait_for(executor.launch(self.launch(tmp_path, "echo x >> ran; exit 4")), 1)
                await asyncio.sleep(1)
                self.cluster.start_controller()
                run = await self.ended(executor)
                assert (run.state, run.exit_code) == (RunState.EXITED, 4)
            assert (tmp_path / "ran").read_text() == "x\n"

        asyncio.run(scene())

    @pytest.mark.slow
    def test_a_controller_that_comes_back_with_an_older_state_starts_nothing_twice(self, tmp_path):
        """It takes the job for one that waits, ends what it finds running, and starts it again."""

        async def scene():
            executor = self.make(tmp_path, patience_ms=15_000)
            await executor.open()
            try:
                await self.ready(executor, tmp_path, lease="j0.1", gpus=(0, 1, 2, 3))
                await executor.launch(self.launch(tmp_path, f"echo x >> ran; {self.LOOP}"))
                await asyncio.sleep(1)
                older = self.cluster.save().read_bytes()
                await executor.stop("j0.1", signal="TERM", grace_ms=0)
                await self.until_file(tmp_path / "ran")
                self.cluster.save()
                self.cluster.kill_controller()
                (self.cluster.folder / "state" / "job_state").write_bytes(older)
                self.cluster.start_controller()
                assert (await self.ended(executor)).state is RunState.LOST
            finally:
                await executor.close()
            self.cluster.clear()
            assert (tmp_path / "ran").read_text() == "x\n"

        asyncio.run(scene())

    def test_ends_that_slurm_has_forgotten_are_known(self, tmp_path):
        async def scene():
            async with self.opened(tmp_path) as executor:
                await executor.launch(self.launch(tmp_path, f"touch {tmp_path}/up; exit 3"))
                await self.until_file(tmp_path / "up")
                await self.ready(executor, tmp_path, lease="j2.1")
            SlurmCluster.until(lambda: len(self.cluster.jobs("running,completing")) == 1, 20)
            self.cluster.kill_controller()
            self.cluster.start_controller(is_fresh=True)
            executor = self.make(tmp_path, patience_ms=3_000)
            await executor.open()
            run = await self.ended(executor)
            assert (run.state, run.exit_code) == (RunState.EXITED, 3)
            # What still runs, Slurm ends as soon as its node has told; until then it is not called lost. Its script may live long
            # enough to note by what its command was ended.
            assert (await self.run_of(executor, "j2.1")).state is RunState.RUNNING
            run = await self.ended(executor, "j2.1")
            assert (run.state, run.exit_code) in ((RunState.LOST, -1), (RunState.EXITED, 137))
            await executor.close()

        asyncio.run(scene())

    def test_an_intent_that_was_not_handed_in_is_lost_and_never_runs(self, tmp_path):
        """Killed after the intent, before sbatch: the state is made by hand, as the crash leaves it."""

        async def scene():
            async with self.opened(tmp_path) as executor:
                folder = executor._folder("j1.1")
                launch = self.launch(tmp_path, "echo x >> ran")
                shape = shape_of(launch, executor._nodes, executor._partition)
                attempt = SlurmAttempt(launch, folder, shape, f"dure-j1.1-{executor._tag()}")
                folders.write(folder, launch, {"n0": "127.0.0.1"}, 1 << 20)
                assert await executor._book.intend("j1.1", 1, attempt.intent())
                text = script.batch_script(executor._root, {0: folder.name}, shape, 1)
            async with self.opened(tmp_path) as executor:
                assert (await self.ended(executor)).state is RunState.LOST
                # Its submission comes late: sent by the killed agent, taken only now.
                await executor._engine.submit(shape, text, name=attempt.name, comment="", tasks=1)
                self.cluster.until_idle()
                assert (await self.run_of(executor)).state is RunState.LOST
            assert not (tmp_path / "ran").exists()

        asyncio.run(scene())

    def test_a_long_log_is_cut_and_the_job_goes_on(self, tmp_path):
        assert 102_400 <= self.length_of_a_long_log(tmp_path, 102_400) < 102_800

    def test_attempts_of_a_killed_process_are_taken_up(self, tmp_path):
        """kill -9 while it launches, at moments that differ: each lease has run once or is lost without having run."""
        source = (
            "import asyncio, json, sys; from pathlib import Path\n"
            "from dure.executors.slurm.commands import SlurmCommands; from dure.executors.slurm.executor import SlurmExecutor\n"
            "from dure.model.events import Placement; from dure.ports.executor import Launch\n"
            "folder = Path(sys.argv[1])\n"
            "async def main():\n"
            "    e = SlurmExecutor(folder / 'state', folder / 'shared', SlurmCommands(json.loads(sys.argv[3])))\n"
            "    await e.open(); print('up', flush=True)\n"
            "    for i in range(int(sys.argv[2]), int(sys.argv[2]) + 500):\n"
            "        await e.launch(Launch(f'j{i}.1', i, f'j{i}', 1, ('sh', '-c', f'echo j{i} >> ran; sleep 0.05'),"
            " (Placement(f'n{i % 2}', (0,)),), str(folder / 'logs' / f'j{i}.1'), str(folder / 'keep'), str(folder)))\n"
            "        await asyncio.sleep(0.01)\n"
            "asyncio.run(main())\n"
        )
        env = json.dumps({**inherited_env(), **self.cluster.env})
        for turn in range(4):
            with subprocess.Popen(
                [sys.executable, "-c", source, str(tmp_path), str(turn * 500), env], stdout=subprocess.PIPE
            ) as child:
                assert any(line == b"up\n" for line in child.stdout)
                time.sleep(0.1 + 0.083 * turn)
                child.kill()

        async def scene():
            async with self.opened(tmp_path) as executor:
                runs = await executor.runs()
                assert len(runs) > 10
                ends = {run.lease_id: await self.ended(executor, run.lease_id) for run in runs}
            self.cluster.until_idle()
            ran = (tmp_path / "ran").read_text().split()
            assert len(ran) == len(set(ran))
            assert {f"{job}.1" for job in ran} == {lease for lease, run in ends.items() if run.state is RunState.EXITED}
            assert all(run.exit_code == 0 for run in ends.values() if run.state is RunState.EXITED)

        asyncio.run(scene())
