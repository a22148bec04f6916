"""Services: placed where their answers are in time, and found by a name."""

from __future__ import annotations

import pytest
from tests.service.running import Running
from tests.service.world import document_of_today

from dure.model.alliance import load_alliance
from dure.service import commands
from dure.service.schemas import Sync
from dure.service.up import MACHINE_SITE, with_machine

#: hall reaches the city at once and the coast late, far the coast only, deaf nobody.
ALLIANCE = """
name: Cells
start: 2026-01-01
own_notice: 60s
gpu_types:
  - {name: L40S, speed_milli: 1000, idle_w: 100, busy_w: 1000, sleep_w: 100, mem_gib: 48}
members:
  - {name: owner, kind: public}
  - {name: guest, kind: company}
  - {name: other, kind: company}
sites:
  - name: hall
    reaches: {city: 1.5, coast: 9}
    clusters: [{name: hall, owner: owner, gpu_type: L40S, gpus: 8, gpus_per_node: 8, nodes_per_rack: 1}]
  - name: far
    country: JP
    reaches: {coast: 4}
    clusters: [{name: far, owner: owner, gpu_type: L40S, gpus: 8, gpus_per_node: 8, nodes_per_rack: 1}]
  - name: deaf
    clusters: [{name: deaf, owner: owner, gpu_type: L40S, gpus: 8, gpus_per_node: 8, nodes_per_rack: 1}]
"""
SITES = ("hall", "far", "deaf")


@pytest.fixture
def running(tmp_path):
    found = Running(tmp_path, document=document_of_today() | {"alliance": ALLIANCE})
    found.seq = 0
    tell(found)
    yield found
    found.close()


def tell(running, **of_sites):
    """What the agents say: of each site its runs."""
    running.seq += 1
    for site in SITES:
        form = {"agent_id": f"agent of {site}", "boot": "b", "seq": running.seq, "nodes": [{"name": f"{site}-0", "gpus": 8}],
                "runs": of_sites.get(site, [])}  # fmt: skip
        running.do(commands.take_sync(site, Sync.model_validate(form)))


def ask(running, area=None, within="", **more):
    reach = {"reach": {"area": area, "within": within}} if area else {}
    form = {"project": "owner/main", "command": ["serve"], "service": "planner", "resources": {"gpus": 1, **reach, **more}}
    return running.client("operator").post("/api/v1/jobs", json=form)


def lease_of(running, answer):
    """Its lease and where."""
    assert answer.status_code == 201, answer.text
    job = answer.json()["job_id"]
    return next((lease, site) for site in SITES for lease in running.service.writer.leases_at(site) if lease.job_id == job)


def run_of(lease, **said):
    return {"lease_id": lease.lease_id, "fence": lease.fence, "state": "running", "started_ms": 1, "progress": said or None}


def find(running, who="operator", name="planner", **query):
    answer = running.client(who).get(f"/api/v1/services/{name}", params=query)
    assert answer.status_code == 200, answer.text
    return [(end["url"], end["site"], end["trip_ms"]) for end in answer.json()]


@pytest.mark.parametrize(("area", "within", "sites"), [
    ("city", "2ms", {"hall"}), ("coast", "5ms", {"far"}), ("coast", "10ms", {"hall", "far"}), (None, "", {"hall", "far", "deaf"}),
])  # fmt: skip
def test_it_runs_only_where_its_answers_are_in_time(running, area, within, sites):
    assert {lease_of(running, ask(running, area, within))[1] for _ in range(8)} <= sites


@pytest.mark.parametrize(("area", "within", "more", "field", "words"), [
    ("city", "1ms", {}, "resources.reach.within", "1.5 ms away from the nearest site"),
    ("moon", "1s", {}, "resources.reach.area", "no site reaches 'moon'"),
    ("city", "1s", {"sites": ["far"]}, "resources.reach.area", "no site that it names reaches 'city'"),
    ("city", "1s", {"countries": ["JP"]}, "resources.reach.area", "no site reaches 'city'"),
    ("city", "0s", {}, "resources.reach.within", "greater than 0"),
])  # fmt: skip
def test_who_cannot_be_in_time_anywhere_is_refused(running, area, within, more, field, words):
    answer = ask(running, area, within, **more)
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, field)
    assert words in answer.json()["errors"][0]["message"]


def test_devices_find_what_runs_and_says_its_address_the_nearest_first(running):
    near, far = lease_of(running, ask(running, "city", "2ms"))[0], lease_of(running, ask(running, "coast", "5ms"))[0]
    quiet = lease_of(running, ask(running, "city", "2ms"))[0]
    assert find(running) == []
    tell(running, hall=[run_of(near, step=1, url="http://hall:1"), run_of(quiet, step=1)], far=[run_of(far, step=1, url="http://far:1")])
    assert {url for url, _, _ in find(running)} == {"http://hall:1", "http://far:1"}
    assert find(running, area="coast") == [("http://far:1", "far", 4.0), ("http://hall:1", "hall", 9.0)]
    assert find(running, area="coast", within_ms=5) == [("http://far:1", "far", 4.0)]
    assert find(running, area="city") == [("http://hall:1", "hall", 1.5)]
    assert find(running, area="moon") == find(running, name="other") == []
    # Others' devices do not see it.
    assert find(running, who="user") == []
    assert running.client("operator").get("/api/v1/services/planner", params={"within_ms": 5}).status_code == 422


def test_what_leaves_or_has_only_said_something_in_an_earlier_attempt_is_not_found(running):
    lease, _ = lease_of(running, ask(running, "city", "2ms"))
    tell(running, hall=[run_of(lease, step=1, url="http://hall:1", attempt=1)])
    assert len(find(running)) == 1
    tell(running, hall=[run_of(lease, step=1, url="http://hall:1", attempt=0)])
    assert find(running) == []
    tell(running, hall=[run_of(lease, step=1, url="http://hall:1", attempt=1)])
    assert running.client("operator").post("/api/v1/sites/hall/drain", params={"notice_s": 60}).status_code == 200
    assert find(running) == []


def test_the_machine_of_dure_up_reaches_what_it_is_told():
    text = with_machine(ALLIANCE, 8, "owner", "L40S", {"city": 2.5})
    (machine,) = [site for site in load_alliance(text, "a.yaml").sites if site.name == MACHINE_SITE]
    assert machine.reaches == {"city": 2.5}
