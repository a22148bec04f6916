"""Three sites at once, each with an engine of its own: what is lent and taken back between them, whatever dies on the way."""

from __future__ import annotations

import time
from collections import Counter

import pytest
from tests.engines import ray_cluster, slurm_cluster
from tests.engines.site import spawn_agent, submit
from tests.service.running import Running
from tests.service.world import document_of_today

ALLIANCE = """
name: Three
start: 2026-01-01
own_notice: 30s
gpu_types:
  - {name: H200, speed_milli: 1000, idle_w: 280, busy_w: 1275, sleep_w: 40, mem_gib: 140}
members:
  - {name: owner, kind: public}
  - {name: guest, kind: company}
  - {name: other, kind: company}
sites:
  - name: hall
    clusters:
      - {name: hall, owner: owner, gpu_type: H200, gpus: 128, gpus_per_node: 8, nodes_per_rack: 4}
  - name: barn
    clusters:
      - {name: barn, owner: guest, gpu_type: H200, gpus: 16, gpus_per_node: 8, nodes_per_rack: 2}
  - name: shed
    clusters:
      - {name: shed, owner: other, gpu_type: H200, gpus: 8, gpus_per_node: 8, nodes_per_rack: 1}
agreements:
  - {name: of-owner, lenders: [owner], borrowers: [guest, other], kind: LEND, limit_gpus: 128, notice: 30s, start: 2026-01-01}
  - {name: of-guest, lenders: [guest], borrowers: [owner, other], kind: LEND, limit_gpus: 16, notice: 30s, start: 2026-01-01}
  - {name: of-other, lenders: [other], borrowers: [owner, guest], kind: LEND, limit_gpus: 8, notice: 30s, start: 2026-01-01}
"""
STEPS = 40
#: Counts to STEPS at two a second; notes each step and when each attempt was there; keeps the number, and leaves when it is told to.
COUNT = """\
note() { echo "$1 $DURE_ATTEMPT $(date +%s.%N)" >> @/$DURE_JOB_ID; }
leave() { note left; exit 143; }
trap leave TERM
note came
n=0; [ -s $DURE_CHECKPOINT_DIR/n ] && n=$(cat $DURE_CHECKPOINT_DIR/n)
while [ $n -lt # ]; do
  sleep 0.5
  n=$((n + 1)); echo "step $n $DURE_ATTEMPT" >> @/$DURE_JOB_ID
  echo $n > $DURE_CHECKPOINT_DIR/new && mv $DURE_CHECKPOINT_DIR/new $DURE_CHECKPOINT_DIR/n
done
note left
"""


class ThreeSites:
    """A service; Slurm at ``hall``, Ray at ``barn``, this machine's own processes at ``shed``."""

    def __init__(self, folder):
        self.folder = folder
        self.slurm = slurm_cluster.SlurmCluster(16, 8, "hall-")
        self.ray = ray_cluster.RayCluster(2, 8, "barn-")
        self.running = Running(folder, document=document_of_today() | {"alliance": ALLIANCE})
        self._words = {
            "hall": ["--executor", "slurm", "--partition", "gpu", "--shared-dir", str(folder / "hall-shared")],
            "barn": ["--executor", "ray", "--address", self.ray.address, "--gpu-type", "h100", "--shared-dir", str(folder / "barn-shared")],
            "shed": ["--gpus", "8", "--node-names", "shed-0"],
        }  # fmt: skip
        self._tokens = {site: self.running.token(user=site, role="agent", site=site) for site in self._words}
        self._agents = {}
        for site in self._words:
            self.start_agent(site)

    def start_agent(self, site):
        kept = ["--checkpoints", f"file://{self.folder}/kept"]
        words, env = ["--data-dir", str(self.folder / site), *kept, *self._words[site]], self.slurm.env if site == "hall" else {}
        self._agents[site] = spawn_agent(self.folder, site, site, self.running, self._tokens[site], words, env)

    def kill_agent(self, site):
        self._agents[site].kill()
        self._agents[site].wait()

    def ask(self, path):
        return self.running.client("operator").get(f"/api/v1/{path}").json()

    def submit(self, project, script, gpus, **more):
        return submit(self.running, "operator", project, script, gpus, **more)

    def until(self, is_so, wait_s, what):
        end = time.monotonic() + wait_s
        while not is_so():
            logs = [(self.folder / f"{site}.log").read_text()[-1500:] for site in self._words]
            assert time.monotonic() < end, (what, [(j["job_id"], j["state"], j["site"], j["reason"]) for j in self.ask("jobs")["jobs"]], *logs)
            time.sleep(0.2)

    def running_at(self, jobs):
        """How many of some jobs run at each site."""
        found = [self.ask(f"jobs/{job}") for job in jobs]
        return Counter(job["site"] for job in found if job["state"] == "RUNNING")

    def close(self):
        for agent in self._agents.values():
            agent.terminate()
        for agent in self._agents.values():
            agent.wait(30)
        self.running.close()
        self.ray.close()
        self.slurm.close()


@pytest.fixture
def sites(tmp_path):
    if not slurm_cluster.is_installed():
        pytest.skip("Slurm is not installed (Debian: apt-get install slurm-wlm)")
    if not ray_cluster.is_installed():
        pytest.skip("Ray is not installed (pip install 'dure[ray]')")
    sites = ThreeSites(tmp_path)
    yield sites
    sites.close()


@pytest.mark.slow
def test_lent_and_taken_back_between_three_engines_whatever_dies(sites, tmp_path):
    """A company fills its own site and borrows two others; both take their GPUs back; each engine dies once and comes back."""
    told = tmp_path / "told"
    told.mkdir()
    count = COUNT.replace("@", str(told)).replace("#", str(STEPS))
    sites.until(lambda: sum(n["state"] == "up" for n in sites.ask("nodes")) == 19, 90, "19 nodes")

    kept = {"every": "10m", "grace": "25s"}
    lent = [sites.submit("guest/main", count, 8, checkpoint=kept) for _ in range(19)]
    sites.until(lambda: sites.running_at(lent) == {"hall": 16, "barn": 2, "shed": 1}, 90, "all lent")

    # Each engine dies and comes back; what runs goes on.
    sites.kill_agent("shed")
    sites.slurm.save()
    sites.slurm.kill_controller()
    sites.ray.kill_head()
    time.sleep(1)
    sites.start_agent("shed")
    sites.slurm.start_controller()
    sites.ray.start_head()

    # Two owners at two sites take back what is theirs.
    small = sites.submit("other/main", "sleep 5", 8)
    gang = sites.submit("owner/main", "sleep 20", 128)
    sites.until(lambda: sites.ask(f"jobs/{small}")["state"] == "ENDED", 120, "the small claim")
    sites.until(lambda: sites.ask(f"jobs/{gang}")["state"] == "ENDED", 180, "the large claim")
    for job in (small, gang):
        found = sites.ask(f"jobs/{job}")
        assert (found["exit_code"], len(found["attempts"])) == (0, 1), found
    sites.until(lambda: all(sites.ask(f"jobs/{job}")["state"] == "ENDED" for job in lent), 240, "all done")

    moved, own_s = 0, {}
    for job in lent:
        found = sites.ask(f"jobs/{job}")
        assert found["outcome"] == "succeeded", found
        moved += len({attempt["site"] for attempt in found["attempts"]}) > 1
        lines = [line.split() for line in (told / job).read_text().splitlines()]
        # Nothing lost, and nothing done twice but the step that an attempt was told to leave in.
        steps = Counter(int(words[1]) for words in lines if words[0] == "step")
        assert set(steps) == set(range(1, STEPS + 1))
        assert sum(steps.values()) - STEPS <= len(found["attempts"]) - 1
        # Never two attempts at a time.
        here = [(float(words[2]), words[0], words[1]) for words in lines if words[0] != "step"]
        assert [(what, attempt) for _, what, attempt in sorted(here)] == [
            (what, str(attempt["attempt"])) for attempt in found["attempts"] for what in ("came", "left")
        ]
        at = {(what, attempt): moment for moment, what, attempt in here}
        for attempt in {attempt for _, attempt in at}:
            own_s[f"{job}.{attempt}"] = at["left", attempt] - at["came", attempt]
    assert moved > 0

    # Slurm's own record lies between what the job saw and the lease, which is longer by what it takes to start and to tell; its
    # moments are whole seconds (test_slurm_accounts.py has the bill of a longer run).
    attempts = [a for job in (*lent, gang) for a in sites.ask(f"jobs/{job}")["attempts"] if a["site"] == "hall"]
    assert len(attempts) >= 17
    for a in attempts:
        engine_s = a["engine_gpu_seconds"] / a["gpus"]
        assert own_s.get(a["lease_id"], 20.0) - 1 < engine_s < a["run_s"] + 1, a
        assert a["run_s"] <= engine_s + 6, a
    audit = sites.ask("audit")
    assert audit["mismatches"] == 0
    assert audit["verified"] == audit["decisions"] > 0
