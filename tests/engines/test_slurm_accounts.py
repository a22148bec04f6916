"""Slurm's own accounts beside Dure's metering: its record of a job, and its database (a real slurmdbd on MariaDB)."""

import asyncio
import time

import pytest
from tests.engines import slurm_database
from tests.engines.slurm_cluster import SlurmCluster, SlurmRestd, is_installed
from tests.engines.slurm_database import SlurmDatabase
from tests.engines.slurm_site import SlurmSite
from tests.engines.test_slurm_executor import OnSlurm

from dure.executors.slurm.rest import SlurmRest
from dure.model.events import Placement
from dure.ports.executor import RunState

SECONDS = 200


@pytest.fixture(scope="module")
def database():
    if not slurm_database.is_installed():
        pytest.skip("Slurm's accounting is not installed (Debian: apt-get install slurmdbd slurm-wlm-mysql-plugin mariadb-server)")
    database = SlurmDatabase()
    yield database
    database.close()


@pytest.fixture(scope="class")
def cluster(database):
    """For a class: the database takes one controller of a cluster's name at a time."""
    if not is_installed():
        pytest.skip("Slurm is not installed (Debian: apt-get install slurm-wlm)")
    cluster = SlurmCluster(more=database.conf)
    yield cluster
    cluster.close()


@pytest.mark.slow
class TestAccounts(OnSlurm):
    @pytest.fixture(autouse=True)
    def _database(self, database):
        self.database = database

    def sacct(self, lease):
        """GPU-seconds of the components of a lease's job, by hand."""
        lines = self.cluster.run("sacct", "-X", "-n", "-P", "-o", "JobName,ElapsedRaw,AllocTRES").stdout.splitlines()
        rows = [line.split("|") for line in lines if line.startswith(f"dure-{lease}-")]
        return [int(elapsed) * int(tres.partition("gres/gpu=")[2].partition(",")[0]) for _, elapsed, tres in rows]

    async def accounts(self, executor, *leases):
        async def have_come():
            found = {account.lease_id: account.engine_gpu_ms for account in await executor.accounts()}
            return found if set(leases) <= set(found) else None

        return await self.until(have_come)

    async def check_rest(self, executor, jobs):
        """Through slurmrestd it is the same."""
        if not SlurmRestd.is_installed():
            return
        restd = SlurmRestd(self.cluster, has_database=True)
        rest = SlurmRest(restd.address, {})
        try:
            assert await rest.has_accounts()
            assert await rest.accounts([*jobs, "99999"]) == await executor._engine.accounts(jobs) != {}
        finally:
            await rest.close()
            restd.close()

    def test_the_database_tells_of_each_attempt_once(self, tmp_path):
        async def scene():
            executor = self.make(tmp_path, arrays_from=2)
            await executor.open()
            try:
                unlike = (Placement("n1", (0,)), Placement("n0", (1, 2, 3)))
                gang = self.launch(tmp_path, "sleep 4", "gang.1", placements=unlike, fence=1)
                alike = [self.launch(tmp_path, "sleep 2", f"t{idx}.1", gpus=(idx,), nodes=1, fence=idx + 2) for idx in range(2)]
                await executor.launch(gang)
                assert (await self.ended(executor, "gang.1")).exit_code == 0
                await asyncio.gather(*(executor.launch(launch) for launch in alike))
                await executor.launch(self.launch(tmp_path, "touch up; exec sleep 600", "told.1", gpus=(3,), fence=9))
                await self.until_file(tmp_path / "up")
                await executor.stop("told.1", signal="TERM", grace_ms=10_000)
                leases = ("gang.1", "t0.1", "t1.1", "told.1")
                runs = {lease: await self.ended(executor, lease) for lease in leases}
                found = await self.accounts(executor, *leases)
                assert 12_000 <= found["gang.1"] <= 24_000
                for lease in leases:
                    # Both are Slurm's, and are the same; the database has a line for each component.
                    assert found[lease] == runs[lease].engine_gpu_ms
                assert len(self.sacct("gang.1")) == 2
                assert sum(self.sacct("gang.1")) * 1000 == found["gang.1"]
                await self.check_rest(executor, [executor._attempts[lease].job for lease in leases])
                await executor.settle(["gang.1"])
                assert {account.lease_id for account in await executor.accounts()} == set(leases) - {"gang.1"}
            finally:
                await executor.close()

        asyncio.run(scene())

    def test_accounts_that_come_late_are_waited_for(self, tmp_path):
        async def scene():
            async with self.opened(tmp_path) as executor:
                self.database.stop()
                try:
                    await executor.launch(self.launch(tmp_path, "sleep 2", gpus=(0, 1)))
                    run = await self.ended(executor)
                    assert (run.state, run.exit_code) == (RunState.EXITED, 0)
                    await executor.forget("j1.1")
                    await asyncio.sleep(3)
                    assert await executor.accounts() == []
                finally:
                    self.database.start()
                assert await self.accounts(executor, "j1.1") == {"j1.1": run.engine_gpu_ms}

        asyncio.run(scene())


@pytest.mark.slow
def test_metering_is_slurms_own_within_one_percent(tmp_path, database):
    """Jobs of some length, a gang among them, while the agent is killed and comes back: by the service, and by Slurm's own words."""
    site = SlurmSite(tmp_path, database.conf)
    try:
        client = site.running.client("operator")
        # Before the first job all of them are still loading what they need.
        site.until(site.submit("operator", "owner/main", "true", 16), "ENDED", wait_s=120)
        jobs = [site.submit("operator", "owner/main", f"sleep {SECONDS}", gpus) for gpus in (1, 2, 9)]
        for job in jobs:
            site.until(job, "RUNNING")
        site.kill_agent()
        time.sleep(5)
        site.start_agent()
        ends = [site.until(job, "ENDED", wait_s=SECONDS + 90) for job in jobs]
        name = 'dure_engine_accounts_total{by="database",site="hall"} 4.0'
        SlurmCluster.until(lambda: name in client.get("/metrics").text, 60)
        ends = [site.job(job) for job in jobs]
        for gpus, end in zip((1, 2, 9), ends, strict=True):
            (attempt,) = end["attempts"]
            metered, counted = attempt["run_s"] * attempt["gpus"], attempt["engine_gpu_seconds"]
            assert counted == pytest.approx(metered, rel=0.01), (gpus, metered, counted)
            assert counted >= gpus * SECONDS
        lines = site.cluster.run("sacct", "-X", "-n", "-P", "-o", "JobName,AllocTRES,ElapsedRaw").stdout.splitlines()
        rows = [line.split("|") for line in lines if line.startswith(tuple(f"dure-{job}." for job in jobs))]
        whole = sum(int(tres.partition("gres/gpu=")[2].partition(",")[0]) * int(elapsed) for _, tres, elapsed in rows)
        assert whole == sum(end["attempts"][0]["engine_gpu_seconds"] for end in ends)
        counts = [line for line in client.get("/metrics").text.splitlines() if line.startswith("dure_engine_account_differences_total")]
        assert [line.rpartition(" ")[2] for line in counts] == ["0.0", "0.0"]
    finally:
        site.close()
