"""A site on a real Ray, from the service to the nodes and back: `dure agent --executor ray`."""

import time

import pytest
from tests.engines.ray_cluster import RayCluster, is_installed
from tests.engines.site import Site
from tests.service.processes import until


@pytest.fixture
def cluster():
    if not is_installed():
        pytest.skip("Ray is not installed (pip install 'dure[ray]')")
    cluster = RayCluster(2, 8, "hall-")
    yield cluster
    cluster.close()


@pytest.fixture
def site(tmp_path, cluster):
    site = Site(tmp_path, ["--executor", "ray", "--address", cluster.address, "--gpu-type", "h100"], {})
    yield site
    site.close()


def test_jobs_run_on_ray_whatever_dies(site, cluster, tmp_path):
    """A gang on both nodes with its logs and outputs; a job that outlives agent and head; a reclaim that saves; a lost node."""
    gang = site.submit("operator", "owner/main", "echo rank $RANK of $WORLD_SIZE on $DURE_NODE; touch $DURE_OUTPUT_DIR/$RANK", 16)
    assert site.until(gang, "ENDED")["exit_code"] == 0
    # The end is told first, logs follow it.
    client = site.running.client("operator")
    until(lambda: "rank 1 of 2 on hall-1" in client.get(f"/api/v1/jobs/{gang}/logs?rank=1").text)

    long = site.submit("operator", "owner/main", f"touch {tmp_path}/up; while [ ! -e {tmp_path}/go ]; do sleep 0.05; done; exit 3", 8)
    site.until(long, "RUNNING")
    while not (tmp_path / "up").exists():
        time.sleep(0.05)
    site.kill_agent()
    cluster.kill_head()
    (tmp_path / "go").touch()
    site.start_agent()
    time.sleep(1)
    cluster.start_head()
    found = site.until(long, "ENDED")
    assert (found["exit_code"], len(found["attempts"])) == (3, 1)

    site.lends_and_takes_back()

    again = "[ -e $DURE_CHECKPOINT_DIR/been ] && exit 0; touch $DURE_CHECKPOINT_DIR/been; while :; do sleep 0.05; done"
    lost = site.submit("operator", "owner/main", again, 16)
    site.until(lost, "RUNNING")
    time.sleep(2)
    cluster.kill_node("hall-1")
    time.sleep(5)
    cluster.start_node("hall-1")
    found = site.until(lost, "ENDED", wait_s=120)
    assert (found["exit_code"], len(found["attempts"])) == (0, 2)
