"""The `slurm` executor through a real slurmrestd: the suite of all executors, and what differs from the commands."""

import asyncio
import runpy
from pathlib import Path

import pytest
from tests.engines.slurm_cluster import SlurmCluster, SlurmRestd, is_installed
from tests.engines.test_slurm_executor import OnSlurm

from dure.executors.ranks import inherited_env
from dure.executors.slurm.engine import SlurmRefusalError, SlurmSilentError
from dure.executors.slurm.executor import SlurmExecutor
from dure.executors.slurm.nodes import shape_of
from dure.executors.slurm.rest import SlurmRest
from dure.model.events import Placement
from dure.ports.executor import RunState

ExecutorContract = runpy.run_path(str(Path(__file__).parents[1] / "contract" / "executor_contract.py"))["ExecutorContract"]


@pytest.fixture(scope="module")
def cluster():
    if not is_installed() or not SlurmRestd.is_installed():
        pytest.skip("slurmrestd is not installed (Debian: apt-get install slurm-wlm slurmrestd)")
    cluster = SlurmCluster()
    yield cluster
    cluster.close()


@pytest.fixture(scope="module")
def restd(cluster):
    restd = SlurmRestd(cluster)
    yield restd
    restd.close()


class OnSlurmRest(OnSlurm):
    @pytest.fixture(autouse=True)
    def _restd(self, restd):
        self.restd = restd

    def engine(self):
        return SlurmRest(self.restd.address, inherited_env())

    def make(self, folder, **options):
        return SlurmExecutor(folder / "state", folder / "shared", self.engine(), **options)


@pytest.mark.slow
class TestSlurmExecutorThroughRest(OnSlurmRest, ExecutorContract):
    CHOOSES_GPUS = False


class TestOnlyRest(OnSlurmRest):
    def test_nodes_jobs_and_partitions_are_those_that_the_commands_give(self, tmp_path):
        async def scene():
            by_rest, by_commands = self.engine(), super(OnSlurmRest, self).make(tmp_path)._engine
            self.cluster.run("scontrol", "update", "nodename=n1", "state=drain", "reason=test")
            held = ("--hold", "--array=0,2-3", "--comment=x", "--gres=gpu:2", "--job-name=held", "--output=/dev/null", "--wrap=true")
            self.cluster.run("sbatch", *held)
            self.cluster.run("sbatch", "--job-name=runs", "--nodelist=n0", "--gres=gpu:h100:3", "--mem=99", "--output=/dev/null", "--wrap=sleep 99")
            self.cluster.run("sbatch", "--job-name=ends", "--nodelist=n0", "--mem=99", "--output=/dev/null", "--wrap=exit 3")
            SlurmCluster.until(lambda: {"runs RUNNING", "ends FAILED"} <= {" ".join(line.split()) for line in self.cluster.jobs()}, 20)
            assert await by_rest.cluster() == await by_commands.cluster()
            found, same = [
                {(job.name, job.task): job for job in await engine.jobs() if not job.name.startswith("dure-")} for engine in (by_rest, by_commands)
            ]
            assert {name for name, _ in found} == {"held", "runs", "ends"}
            for key, job in same.items():
                # When it may start, the commands do not say of a job that waits.
                if job.state != "PENDING":
                    assert found[key] == job
                assert (found[key].word, found[key].phase, found[key].gpus) == (job.word, job.phase, job.gpus)
            assert set(found) == set(same)
            assert not await by_rest.has_accounts()
            await by_rest.close()

        asyncio.run(scene())

    def test_a_refusal_is_no_silence(self, tmp_path):
        async def scene():
            async with self.opened(tmp_path) as executor:
                launch = self.launch(tmp_path, "true", mem_mib=1_000_000)
                shape = shape_of(launch, executor._nodes, executor._partition)
                with pytest.raises(SlurmRefusalError):
                    await executor._engine.submit(shape, "#!/bin/sh\n", name="x", comment="", tasks=1)
            nobody = SlurmRest(f"unix:{tmp_path}/nobody", {})
            with pytest.raises(SlurmSilentError) as found:
                await nobody.cluster()
            await nobody.close()
            assert not found.value.is_sent

        asyncio.run(scene())

    def test_arrays_and_unlike_gangs(self, tmp_path):
        async def scene():
            executor = self.make(tmp_path, arrays_from=2)
            await executor.open()
            try:
                script = "touch up-$DURE_JOB_ID; trap 'exit 5' USR1; while :; do sleep 0.02; done"
                launches = [self.launch(tmp_path, script, f"j{idx}.1", fence=idx) for idx in range(6)]
                await asyncio.gather(*(executor.launch(launch) for launch in launches))
                # There are four GPUs: the others wait, and are not taken for lost.
                await asyncio.sleep(3)
                states = [run.state for run in await executor.runs()]
                assert sorted(states) == [RunState.RUNNING] * 4 + [RunState.STARTING] * 2
                for idx in range(6):
                    await executor.stop(f"j{idx}.1", signal="USR1", grace_ms=20_000)
                codes = sorted([(await self.ended(executor, f"j{idx}.1")).exit_code for idx in range(6)])
                assert codes == [5, 5, 5, 5, 138, 138]
                unlike = (Placement("n1", (0,)), Placement("n0", (1, 2, 3)))
                await executor.launch(self.launch(tmp_path, "sleep 1; exit $((RANK * 3))", "gang.1", placements=unlike, fence=9))
                run = await self.ended(executor, "gang.1")
                assert (run.exit_code, run.gpu_idxs) == (3, {"n1": (0,), "n0": (0, 1, 2)})
                assert run.engine_gpu_ms > 0
            finally:
                await executor.close()

        asyncio.run(scene())

    @pytest.mark.slow
    def test_a_controller_that_is_gone_for_a_while_ends_nothing(self, tmp_path):
        async def scene():
            async with self.opened(tmp_path) as executor:
                await executor.launch(self.launch(tmp_path, "touch up; while [ ! -e go ]; do sleep 0.02; done; exit 6"))
                await self.until_file(tmp_path / "up")
                self.cluster.save()
                self.cluster.kill_controller()
                (tmp_path / "go").touch()
                await asyncio.wait_for(executor.launch(self.launch(tmp_path, "echo x >> ran; exit 4", "j2.1")), 1)
                await asyncio.sleep(3)
                states = {run.lease_id: run.state for run in await executor.runs()}
                assert states == {"j1.1": RunState.RUNNING, "j2.1": RunState.STARTING}
                self.cluster.start_controller()
                assert (await self.ended(executor)).exit_code == 6
                assert (await self.ended(executor, "j2.1")).exit_code == 4
            assert (tmp_path / "ran").read_text() == "x\n"

        asyncio.run(scene())
