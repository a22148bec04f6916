"""One decision over several sites: by whose they are, agreement, country, GPU type and its speed, power, and what is free."""

from __future__ import annotations

import pytest
from tests.service.running import Running
from tests.service.world import document_of_today

from dure.service import commands
from dure.service.schemas import Sync

#: hall stands at home; far is abroad; fast has GPUs of twice the speed; dim may draw power for one node of its two.
ALLIANCE = """
name: Several
start: 2026-01-01
own_notice: 60s
gpu_types:
  - {name: H200, speed_milli: 1000, idle_w: 100, busy_w: 1000, sleep_w: 100, mem_gib: 140}
  - {name: B300, speed_milli: 2000, idle_w: 100, busy_w: 1000, sleep_w: 100, mem_gib: 268}
members:
  - {name: owner, kind: public}
  - {name: guest, kind: company}
  - {name: other, kind: company}
sites:
  - name: hall
    clusters:
      - {name: home, owner: owner, gpu_type: H200, gpus: 8, gpus_per_node: 8, nodes_per_rack: 1}
  - name: far
    country: JP
    clusters:
      - {name: far, owner: owner, gpu_type: H200, gpus: 8, gpus_per_node: 8, nodes_per_rack: 1}
  - name: fast
    clusters:
      - {name: fast, owner: guest, gpu_type: B300, gpus: 8, gpus_per_node: 8, nodes_per_rack: 1}
  - name: dim
    power_cap_mw: 0.0092
    pue: 1.0
    clusters:
      - {name: dim, owner: other, gpu_type: H200, gpus: 16, gpus_per_node: 8, nodes_per_rack: 1}
agreements:
  - {name: guests-to-owner, lenders: [guest], borrowers: [owner], kind: LEND, limit_gpus: 8, notice: 2m, start: 2026-01-01}
"""
NODES = {"hall": ("home-0",), "far": ("far-0",), "fast": ("fast-0",), "dim": ("dim-0", "dim-1")}


@pytest.fixture
def running(tmp_path):
    found = Running(tmp_path, document=document_of_today() | {"alliance": ALLIANCE})
    for site, names in NODES.items():
        nodes = [{"name": name, "gpus": 8} for name in names]
        form = {"agent_id": f"agent of {site}", "boot": "b", "seq": 1, "nodes": nodes, "runs": []}
        found.do(commands.take_sync(site, Sync.model_validate(form)))
    yield found
    found.close()


def ask(running, project, gpus=8, **resources):
    form = {"project": project, "command": ["true"], "resources": {"gpus": gpus, **resources}}
    return running.client("operator").post("/api/v1/jobs", json=form)


def submit(running, project, gpus=8, **resources):
    """The job, and the sites where it was given GPUs."""
    answer = ask(running, project, gpus, **resources)
    assert answer.status_code == 201, answer.text
    job = answer.json()["job_id"]
    return job, [site for site in NODES for lease in running.service.writer.leases_at(site) if lease.job_id == job]


def why(running, job):
    return running.client("operator").get(f"/api/v1/jobs/{job}").json()["reason"]


def test_a_job_stays_in_the_countries_it_names(running):
    assert submit(running, "owner/main", countries=["JP"])[1] == ["far"]
    second, where = submit(running, "owner/main", countries=["JP"])
    assert where == []
    assert submit(running, "owner/main", countries=["JP", "KR"])[1] == ["hall"]
    # What is free elsewhere is not for it.
    assert why(running, second) == "share_used"


def test_countries_and_sites_must_agree(running):
    answer = ask(running, "owner/main", countries=["JP"], sites=["hall"])
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "resources.countries")
    assert ask(running, "owner/main", countries=["DE"]).status_code == 422
    assert ask(running, "owner/main", countries=["japan"]).status_code == 422
    assert submit(running, "owner/main", countries=["JP"], sites=["hall", "far"])[1] == ["far"]


def test_of_a_set_of_sites_one_is_taken(running):
    found = [submit(running, "owner/main", sites=["hall", "far"])[1] for _ in range(3)]
    assert sorted(found) == [[], ["far"], ["hall"]]


def test_own_sites_come_before_those_lent_and_what_no_agreement_lends_is_left_alone(running):
    found = [submit(running, "owner/main") for _ in range(4)]
    assert sorted(where for _, where in found[:2]) == [["far"], ["hall"]]
    assert found[2][1] == ["fast"]
    # dim stands free, and nobody has agreed to lend it.
    assert (found[3][1], why(running, found[3][0])) == ([], "share_used")


def test_a_gpu_type_chooses_the_site(running):
    assert submit(running, "owner/main", gpu_types=["B300"])[1] == ["fast"]
    assert submit(running, "owner/main", gpu_types=["H200"])[1] != ["fast"]


def test_a_sites_power_is_a_limit(running):
    _, where = submit(running, "other/main")
    assert where == ["dim"]
    second, where = submit(running, "other/main")
    assert (where, why(running, second)) == ([], "power_cap")
