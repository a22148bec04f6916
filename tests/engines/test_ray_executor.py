"""The `ray` executor on a real Ray: the suite of all executors, and what only Ray can do to one."""

import asyncio
import os
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.engines.ray_cluster import RayCluster, is_installed

from dure.executors import far_folder
from dure.executors.ray.attempt import RayAttempt
from dure.executors.ray.cluster import shape_of
from dure.executors.ray.executor import RayExecutor
from dure.executors.ray.link import RaySilentError
from dure.executors.ray.spec import specs_of
from dure.executors.state_lock import StateInUseError
from dure.model.events import Placement
from dure.ports.executor import LaunchError, RunState

_SUITE = runpy.run_path(str(Path(__file__).parents[1] / "contract" / "executor_contract.py"))
ExecutorContract, ExecutorScenes = _SUITE["ExecutorContract"], _SUITE["ExecutorScenes"]


@pytest.fixture(scope="module")
def cluster():
    if not is_installed():
        pytest.skip("Ray is not installed (pip install 'dure[ray]')")
    cluster = RayCluster(prefix="r")
    yield cluster
    cluster.close()


class OnRay(ExecutorScenes):
    # The cluster's.
    NODES = ("r0", "r1")
    WAIT_S = 60.0
    IS_CLEARED = True

    @pytest.fixture(autouse=True)
    def _cluster(self, cluster):
        self.cluster = cluster
        yield
        if self.IS_CLEARED:
            cluster.clear()

    def make(self, folder, **options):
        return RayExecutor(folder / "state", folder / "shared", self.cluster.address, **options)


class TestRayExecutor(OnRay, ExecutorContract):
    # Ray takes the free GPUs that it likes: there is no option by which to name them.
    CHOOSES_GPUS = False


class TestOnlyRay(OnRay):
    LOOP = "while :; do sleep 0.05; done"

    async def ready(self, executor, folder, script="", lease="j1.1", **other):
        """Launch something that runs on, and wait until it does; the process of its first rank."""
        up = folder / f"up-{lease}"
        await executor.launch(self.launch(folder, f"{script} echo $$ > {up}.$RANK.new && mv {up}.$RANK.new {up}.$RANK; {self.LOOP}", lease, **other))
        ranks = other.get("nodes", 1)
        for rank in range(ranks):
            await self.until_file(Path(f"{up}.{rank}"))

        async def is_running():
            return (await self.run_of(executor, lease)).state is RunState.RUNNING

        await self.until(is_running)
        return [int(Path(f"{up}.{rank}").read_text()) for rank in range(ranks)]

    async def node(self, executor, name):
        return next((node for node in await executor.nodes() if node.name == name), None)

    async def until_node(self, executor, name, is_so):
        async def is_there():
            return is_so(await self.node(executor, name))

        await self.until(is_there)

    async def until_ended(self, *pids):
        async def are_gone():
            return not any(self.is_running(pid) for pid in pids)

        await self.until(are_gone)

    async def survey(self, executor):
        return await executor._link.ask("survey", prefix=executor._prefix)

    def driver(self, executor):
        """The process that speaks to Ray."""
        return executor._link._process.pid

    def test_one_agent_at_a_time(self, tmp_path):
        async def scene():
            async with self.opened(tmp_path):
                with pytest.raises(StateInUseError):
                    await self.make(tmp_path).open()

        asyncio.run(scene())

    def test_a_cluster_that_is_not_there_is_said(self, tmp_path):
        async def scene():
            executor = RayExecutor(tmp_path / "state", tmp_path / "shared", "127.0.0.1:1")
            with pytest.raises(RaySilentError, match=r"Ray at 127.0.0.1:1"):
                await executor.open()

        asyncio.run(scene())

    @pytest.mark.parametrize(
        ("placement", "words"), [(Placement("r9", (0,)), "no node 'r9'"), (Placement("r0", (0,), 500), "parts of GPUs")]
    )
    def test_what_ray_cannot_do_is_refused(self, tmp_path, placement, words):
        async def scene():
            async with self.opened(tmp_path) as executor:
                with pytest.raises(LaunchError, match=words):
                    await executor.launch(self.launch(tmp_path, "true", placements=(placement,)))
                assert await executor.runs() == []

        asyncio.run(scene())

    def test_nothing_of_dure_is_needed_on_a_node(self):
        """What goes to a node is read in a process that has no Dure."""
        if not is_installed():
            pytest.skip("Ray is not installed (pip install 'dure[ray]')")
        source = (
            "import sys; from ray import cloudpickle; from dure.executors.ray.driver import TRAVELLING, NodeRunner\n"
            "for module in TRAVELLING: cloudpickle.register_pickle_by_value(module)\n"
            "sys.stdout.buffer.write(cloudpickle.dumps(NodeRunner))"
        )
        sent = subprocess.run([sys.executable, "-c", source], capture_output=True, check=True).stdout
        reader = (
            "import sys; sys.modules['dure'] = None; from ray import cloudpickle\n"
            "cls = cloudpickle.loads(sys.stdin.buffer.read()); print(cls.__name__, cls._begin.__globals__['spawn'].__name__)"
        )
        done = subprocess.run([sys.executable, "-c", reader], input=sent, capture_output=True, check=True)
        assert done.stdout.split() == [b"NodeRunner", b"spawn"]

    def test_names_and_types_of_nodes(self, tmp_path):
        async def scene():
            executor = self.make(tmp_path, name_label="hall", gpu_type="h100")
            await executor.open()
            nodes = await executor.nodes()
            assert [(node.name, node.gpus, node.gpu_type, node.cpu_milli, node.mem_mib) for node in nodes] == [
                ("rack-r0", 4, "h100", 64_000, 65_536), ("rack-r1", 4, "h100", 64_000, 65_536),
            ]  # fmt: skip
            await executor.launch(self.launch(tmp_path, "echo $DURE_NODE", placements=(Placement("rack-r1", (0,)),)))
            await self.ended(executor)
            assert self.log(tmp_path) == "rack-r1\n"
            await executor.close()

        asyncio.run(scene())

    def test_what_a_job_asks_of_ray(self, tmp_path):
        async def scene():
            async with self.opened(tmp_path) as executor:
                parts = (Placement("r0", (0, 1)), Placement("r1", (3,)))
                await self.ready(executor, tmp_path, placements=parts, cpu_milli=5_000, mem_mib=2_048)
                await self.ready(executor, tmp_path, lease="j2.1", gpus=())
                found = await self.survey(executor)
                ids = {node["node_id"]: node["name"] for node in found["nodes"]}
                bundles = {
                    group["name"].rpartition("-")[2]: [(ids[node_id], wanted) for node_id, wanted in group["bundles"]]
                    for group in found["groups"]
                }
                half = {"CPU": 2.5, "memory": float(1 << 30)}
                assert bundles == {
                    "j1.1": [("r0", {"GPU": 2.0, **half}), ("r1", {"GPU": 1.0, **half})], "j2.1": [("r0", {"CPU": 0.001})],
                }  # fmt: skip
                assert all(node.is_open for node in await executor.nodes())

        asyncio.run(scene())

    @pytest.mark.parametrize("wanted", [{"num_gpus": 3}, {"num_cpus": 40}])
    def test_what_others_have_closes_a_node(self, tmp_path, wanted):
        async def scene():
            async with self.opened(tmp_path) as executor:
                await self.ready(executor, tmp_path)
                with self.cluster.foreign("r0", **wanted):
                    await self.until_node(executor, "r0", lambda node: not node.is_open)
                    assert (await self.node(executor, "r1")).is_open
                    assert (await self.run_of(executor)).state is RunState.RUNNING
                await self.until_node(executor, "r0", lambda node: node.is_open)

        asyncio.run(scene())

    def test_what_comes_and_goes_closes_no_node(self, tmp_path):
        async def scene():
            async with self.opened(tmp_path) as executor:
                for turn in range(6):
                    await executor.launch(self.launch(tmp_path, "sleep 0.1", f"j{turn}.1", gpus=(0, 1, 2, 3)))
                    await self.ended(executor, f"j{turn}.1")
                    assert all(node.is_open for node in await executor.nodes())

        asyncio.run(scene())

    def test_who_waits_for_long_is_lost_and_its_node_closed(self, tmp_path):
        async def scene():
            executor = self.make(tmp_path, patience_ms=2_500)
            await executor.open()
            with self.cluster.foreign("r0", num_gpus=1):
                await executor.launch(self.launch(tmp_path, "echo x >> ran", gpus=(0, 1, 2, 3)))
                run = await self.ended(executor)
                assert run.state is RunState.LOST
                assert run.refused == "Ray has not started it: its placement group is PENDING"
                assert run.refused in self.log(tmp_path)
            await self.until_node(executor, "r0", lambda node: not node.is_open)
            await asyncio.sleep(1)
            assert (await self.survey(executor))["groups"] == []
            await executor.close()
            assert not (tmp_path / "ran").exists()

        asyncio.run(scene())

    def test_a_raylet_that_dies_takes_its_gang_with_it(self, tmp_path):
        async def scene():
            async with self.opened(tmp_path) as executor:
                pids = await self.ready(executor, tmp_path, nodes=2)
                others = await self.ready(executor, tmp_path, lease="j2.1")
                self.cluster.kill_node("r1")
                assert (await self.ended(executor)).state is RunState.LOST
                assert not any(self.is_running(pid) for pid in pids)
                assert (await self.run_of(executor, "j2.1")).state is RunState.RUNNING
                assert self.is_running(*others)
                await self.until_node(executor, "r1", lambda node: node is None)
                assert (await self.node(executor, "r0")).is_open
                # It comes back under its name.
                self.cluster.start_node("r1")
                await self.until_node(executor, "r1", lambda node: node is not None and node.is_open)
                await executor.launch(self.launch(tmp_path, "exit 4", "j3.1", nodes=2))
                assert (await self.ended(executor, "j3.1")).exit_code == 4

        asyncio.run(scene())

    def test_of_an_actor_that_is_killed_nothing_is_left(self, tmp_path):
        async def scene():
            async with self.opened(tmp_path) as executor:
                script = "setsid sh -c 'echo $$ > stray; exec sleep 600' &"
                (pid,) = await self.ready(executor, tmp_path, script)
                shell = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
                actor = int(Path(f"/proc/{shell}/stat").read_text().rpartition(")")[2].split()[1])
                assert b"NodeRunner" in Path(f"/proc/{actor}/cmdline").read_bytes()
                os.kill(actor, signal.SIGKILL)
                assert (await self.ended(executor)).state is RunState.LOST
                assert not self.is_running(pid)
                assert not self.is_running(int((tmp_path / "stray").read_text()))

        asyncio.run(scene())

    def test_the_process_that_speaks_to_ray_may_die(self, tmp_path):
        async def scene():
            async with self.opened(tmp_path) as executor:
                script = f"touch {tmp_path}/up; while [ ! -e {tmp_path}/go ]; do sleep 0.02; done; exit 6"
                await executor.launch(self.launch(tmp_path, script))
                await self.until_file(tmp_path / "up")
                for _ in range(2):
                    before = self.driver(executor)
                    os.kill(before, signal.SIGKILL)

                    async def is_another(before=before):
                        return executor._link._process is not None and self.driver(executor) != before

                    await self.until(is_another)
                assert (await self.run_of(executor)).state is RunState.RUNNING
                (tmp_path / "go").touch()
                assert (await self.ended(executor)).exit_code == 6
                os.kill(self.driver(executor), signal.SIGKILL)
                await executor.launch(self.launch(tmp_path, "exit 5", "j2.1"))
                run = await self.ended(executor, "j2.1")
                # Handed in, unless it was just then that the process died.
                assert (run.state, run.exit_code) == (RunState.EXITED, 5) or run.refused

        asyncio.run(scene())

    def test_a_head_that_comes_back_has_lost_nothing(self, tmp_path):
        async def scene():
            async with self.opened(tmp_path) as executor:
                await self.ready(executor, tmp_path)
                script = f"touch {tmp_path}/up2; while [ ! -e {tmp_path}/go ]; do sleep 0.02; done; exit 6"
                await executor.launch(self.launch(tmp_path, script, "j2.1"))
                await self.until_file(tmp_path / "up2")
                self.cluster.kill_head()
                (tmp_path / "go").touch()
                await asyncio.wait_for(executor.launch(self.launch(tmp_path, "echo x >> ran", "j3.1")), 1)
                await executor.stop("j1.1", signal="TERM", grace_ms=60_000)
                await asyncio.sleep(3)
                assert [node.name for node in await executor.nodes()] == ["r0", "r1"]
                assert (await self.run_of(executor, "j3.1")).state is RunState.STARTING
                self.cluster.start_head()
                assert (await self.ended(executor, "j2.1")).exit_code == 6
                assert (await self.ended(executor)).exit_code == 143
                run = await self.ended(executor, "j3.1")
                assert run.exit_code == 0 or run.refused
                ran = (tmp_path / "ran").exists()
                assert ran is (run.state is RunState.EXITED)
                await executor.launch(self.launch(tmp_path, "exit 3", "j4.1", nodes=2))
                assert (await self.ended(executor, "j4.1")).exit_code == 3

        asyncio.run(scene())

    def test_an_intent_that_was_not_handed_in_is_lost_and_never_runs(self, tmp_path):
        """Killed after the intent, before Ray was asked: the state is made by hand, as the crash leaves it."""

        async def scene():
            async with self.opened(tmp_path) as executor:
                launch = self.launch(tmp_path, "echo x >> ran", nodes=2)
                shape = shape_of(launch, executor._nodes)
                attempt = RayAttempt(launch, executor._folder("j1.1"), shape, f"{executor._prefix}j1.1")
                far_folder.make(attempt.folder, launch)
                assert await executor._book.intend("j1.1", 1, attempt.intent())
            async with self.opened(tmp_path) as executor:
                assert (await self.ended(executor)).state is RunState.LOST
                # It is asked for late: by the process of the killed agent.
                await executor._link.ask(
                    "start", name=attempt.name, bundles=shape.bundles, node_ids=shape.node_ids,
                    specs=specs_of(launch, attempt.folder, attempt.name, "127.0.0.1", 1 << 20),
                )  # fmt: skip

                async def is_taken_away():
                    found = await self.survey(executor)
                    return not found["groups"] and not found["actors"]

                await self.until(is_taken_away)
                assert (await self.run_of(executor)).state is RunState.LOST
            assert not (tmp_path / "ran").exists()

        asyncio.run(scene())

    def test_a_node_that_does_not_see_the_folder_refuses(self, tmp_path, monkeypatch):
        def elsewhere(launch, folder, *others):
            return specs_of(launch, folder / "not-there", *others)

        async def scene():
            monkeypatch.setattr("dure.executors.ray.executor.specs_of", elsewhere)
            async with self.opened(tmp_path) as executor:
                await executor.launch(self.launch(tmp_path, "echo x >> ran"))
                run = await self.ended(executor)
                assert run.state is RunState.LOST
                assert run.refused.startswith("it did not start on its node: FileNotFoundError")
            assert not (tmp_path / "ran").exists()

        asyncio.run(scene())

    def test_a_long_log_is_cut_and_the_job_goes_on(self, tmp_path):
        assert 102_400 <= self.length_of_a_long_log(tmp_path, 102_400) < 102_800

    def test_attempts_of_a_killed_process_are_taken_up(self, tmp_path):
        """kill -9 while it launches, at moments that differ: each lease has run once or is lost without having run."""
        source = (
            "import asyncio, sys; from pathlib import Path\n"
            "from dure.executors.ray.executor import RayExecutor\n"
            "from dure.model.events import Placement; from dure.ports.executor import Launch\n"
            "folder, turn = Path(sys.argv[1]), int(sys.argv[2])\n"
            "async def main():\n"
            "    e = RayExecutor(folder / 'state', folder / 'shared', sys.argv[3])\n"
            "    await e.open(); print('up', flush=True)\n"
            "    for i in range(turn * 100, turn * 100 + 100):\n"
            "        await e.launch(Launch(f'j{i}.1', i, f'j{i}', 1, ('sh', '-c', f'echo j{i} >> ran; sleep 0.05'),"
            " (Placement(f'r{i % 2}', (0,)),), str(folder / 'logs' / f'j{i}.1'), str(folder / 'keep'), str(folder)))\n"
            "        await asyncio.sleep(0.1)\n"
            "asyncio.run(main())\n"
        )
        for turn in range(3):
            words = [sys.executable, "-c", source, str(tmp_path), str(turn), self.cluster.address]
            with subprocess.Popen(words, stdout=subprocess.PIPE) as child:
                assert any(line == b"up\n" for line in child.stdout)
                time.sleep(0.7 + 0.53 * turn)
                child.kill()

        async def scene():
            async with self.opened(tmp_path) as executor:
                runs = await executor.runs()
                assert len(runs) > 10
                ends = {run.lease_id: await self.ended(executor, run.lease_id) for run in runs}
                await asyncio.sleep(3)
            ran = (tmp_path / "ran").read_text().split()
            assert len(ran) == len(set(ran))
            assert {f"{job}.1" for job in ran} == {lease for lease, run in ends.items() if run.state is RunState.EXITED}
            assert all(run.exit_code == 0 for run in ends.values() if run.state is RunState.EXITED)

        asyncio.run(scene())

    @pytest.mark.slow
    def test_what_ends_without_an_agent_gives_its_gpus_back(self, tmp_path):
        async def scene():
            async with self.opened(tmp_path) as executor:
                await executor.launch(self.launch(tmp_path, "touch up; sleep 1; exit 3", nodes=2, gpus=(0, 1, 2, 3)))
                await self.until_file(tmp_path / "up")
            (tmp_path / "other").mkdir()
            async with self.opened(tmp_path / "other") as other:
                await self.until_node(other, "r0", lambda node: not node.is_open)
                await self.until_node(other, "r0", lambda node: node.is_open)
                await other.launch(self.launch(tmp_path, "true", "j2.1", nodes=2, gpus=(0, 1, 2, 3)))
                assert (await self.ended(other, "j2.1")).exit_code == 0
            async with self.opened(tmp_path) as executor:
                run = await self.run_of(executor)
                assert (run.state, run.exit_code) == (RunState.EXITED, 3)

        asyncio.run(scene())


@pytest.mark.slow
class TestForgetful(OnRay):
    """A head that comes back without what it knew: its nodes end, and all that ran there."""

    IS_CLEARED = False

    @pytest.fixture
    def cluster(self):
        if not is_installed():
            pytest.skip("Ray is not installed (pip install 'dure[ray]')")
        cluster = RayCluster(1, prefix="r")
        yield cluster
        cluster.close()

    def test_what_ray_has_forgotten_is_lost_once_it_has_ended(self, tmp_path):
        async def scene():
            async with self.opened(tmp_path) as executor:
                await executor.launch(self.launch(tmp_path, f"echo $$ > {tmp_path}/up; while :; do sleep 0.05; done"))
                await self.until_file(tmp_path / "up")
                self.cluster.kill_head()
                await asyncio.sleep(1)
                self.cluster.start_head(is_fresh=True)
                run = await self.until(lambda: self._lost(executor), 150)
                assert run.refused == ""
                assert not self.is_running(int((tmp_path / "up").read_text()))

        asyncio.run(scene())

    async def _lost(self, executor):
        run = await self.run_of(executor)
        return run if run.state is RunState.LOST else None
