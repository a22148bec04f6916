"""A site on a real Slurm, from the service to the nodes and back: `dure agent --executor slurm`."""

import time

import pytest
from tests.engines.slurm_cluster import is_installed
from tests.engines.slurm_site import SlurmSite
from tests.service.processes import until


@pytest.fixture
def site(tmp_path):
    if not is_installed():
        pytest.skip("Slurm is not installed (Debian: apt-get install slurm-wlm)")
    site = SlurmSite(tmp_path)
    yield site
    site.close()


@pytest.mark.slow
def test_jobs_run_on_slurm_whatever_dies(site, tmp_path):
    """A gang on both nodes with its logs and outputs; a job that outlives agent and controller; a reclaim that saves."""
    gang = site.submit("operator", "owner/main", "echo rank $RANK of $WORLD_SIZE on $DURE_NODE; touch $DURE_OUTPUT_DIR/$RANK", 16)
    assert site.until(gang, "ENDED")["exit_code"] == 0
    # The end is told first, logs follow it.
    client = site.running.client("operator")
    until(lambda: "rank 1 of 2 on hall-1" in client.get(f"/api/v1/jobs/{gang}/logs?rank=1").text)
    # No database lies on storage that is shared.
    assert {path.name for path in (tmp_path / "data").rglob("*.sqlite")} == {"agent.sqlite", "leases.sqlite"}
    assert list((tmp_path / "shared").rglob("*sqlite*")) == []

    long = site.submit("operator", "owner/main", f"touch {tmp_path}/up; while [ ! -e {tmp_path}/go ]; do sleep 0.05; done; exit 3", 8)
    site.until(long, "RUNNING")
    while not (tmp_path / "up").exists():
        time.sleep(0.05)
    site.kill_agent()
    site.cluster.save()
    site.cluster.kill_controller()
    (tmp_path / "go").touch()
    site.start_agent()
    time.sleep(1)
    site.cluster.start_controller()
    found = site.until(long, "ENDED")
    assert (found["exit_code"], len(found["attempts"])) == (3, 1)

    site.lends_and_takes_back()
