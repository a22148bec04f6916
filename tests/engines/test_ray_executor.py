"""The `ray` executor on a real Ray: the suite of all executors, and what only Ray can do to one."""

import runpy
from pathlib import Path

import pytest
from tests.engines.ray_cluster import RayCluster, is_installed

from dure.executors.ray.executor import RayExecutor

_SUITE = runpy.run_path(str(Path(__file__).parents[1] / "contract" / "executor_contract.py"))
ExecutorContract, ExecutorScenes = _SUITE["ExecutorContract"], _SUITE["ExecutorScenes"]


@pytest.fixture(scope="module")
def cluster():
    if not is_installed():
        pytest.skip("Ray is not installed (pip install 'dure[ray]')")
    cluster = RayCluster()
    yield cluster
    cluster.close()


class OnRay(ExecutorScenes):
    WAIT_S = 60.0

    @pytest.fixture(autouse=True)
    def _cluster(self, cluster):
        self.cluster = cluster
        yield
        cluster.clear()

    def make(self, folder, **options):
        return RayExecutor(folder / "state", folder / "shared", self.cluster.address, **options)


class TestRayExecutor(OnRay, ExecutorContract):
    # Ray takes the free GPUs that it likes: there is no option by which to name them.
    CHOOSES_GPUS = False
