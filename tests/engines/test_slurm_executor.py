"""The `slurm` executor on a real Slurm: the suite of all executors, and what only Slurm can do to one."""

import asyncio
import runpy
from pathlib import Path

import pytest
from tests.engines.slurm_cluster import SlurmCluster, is_installed

from dure.executors.ranks import inherited_env
from dure.executors.slurm.commands import SlurmCommands
from dure.executors.slurm.executor import SlurmExecutor

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
    @pytest.fixture(autouse=True)
    def _cluster(self, cluster):
        self.cluster = cluster
        yield
        cluster.clear()

    def make(self, folder, **options):
        engine = SlurmCommands({**inherited_env(), **self.cluster.env})
        return SlurmExecutor(folder / "state", folder / "shared", engine, **options)


class TestSlurmExecutor(OnSlurm, ExecutorContract):
    # Slurm takes the free GPUs that it likes: there is no option by which to name them.
    CHOOSES_GPUS = False
