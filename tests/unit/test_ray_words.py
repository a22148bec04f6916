"""What is made of Ray's words: nodes, what others have, what is asked; attempts as they are written down."""

from pathlib import PurePath

import pytest

from dure.executors.far import Now, RankEnd, order_to_json
from dure.executors.ray.attempt import RayAttempt, attempt_from
from dure.executors.ray.cluster import is_taken, nodes_of, offer, shape_of, survey_from, taken_elsewhere
from dure.executors.ray.spec import specs_of
from dure.model.events import Placement
from dure.ports.executor import Launch, LaunchError, RunState

GIB = 1 << 30
NOW = Now(1_000, 5_000_000, "boot")


def node(name, *, total=None, free=None, labels=None, is_alive=True):
    total = {"GPU": 8.0, "CPU": 64.0, "memory": 64.0 * GIB} if total is None else total
    return {
        "node_id": f"id-{name}", "name": name, "is_alive": is_alive, "address": f"10.0.0.{name[-1]}", "labels": labels or {},
        "total": total, "available": total if free is None else {**total, **free},
    }  # fmt: skip


def survey(*nodes, groups=(), actors=()):
    return survey_from({"nodes": nodes, "groups": groups, "actors": actors})


def launch(*placements, **other):
    values = {
        "lease_id": "j1.1", "fence": 7, "job_id": "j1", "attempt": 1, "argv": ("true",), "placements": placements,
        "log_dir": "/s/logs", "checkpoint_dir": "/s/keep",
    }  # fmt: skip
    return Launch(**{**values, **other})


def attempt(*placements, **other):
    told = launch(*placements or (Placement("n0", (0,)), Placement("n1", (0,))), **other)
    return RayAttempt(told, PurePath("/s/f"), shape_of(told, nodes_of(survey(node("n0"), node("n1")), "")), "dure-t-j1.1")


def test_nodes_that_are_dead_or_empty_or_share_a_name_are_not_offered():
    found = survey(
        node("n1"), node("n0"), node("n2", is_alive=False), node("head", total={"memory": 4.0}), node("n3", total={"CPU": 1.0}),
        node("n4"), node("n4"),
    )  # fmt: skip
    assert list(nodes_of(found, "")) == ["n0", "n1", "n3"]


def test_a_label_may_name_the_nodes():
    found = survey(node("n0", labels={"rack": "b"}), node("n1", labels={"rack": "a"}), node("n2"))
    assert [(name, at.node_id) for name, at in nodes_of(found, "rack").items()] == [("a", "id-n1"), ("b", "id-n0")]


def test_the_type_of_gpus_is_the_operators_or_rays():
    by_label = node("n0", labels={"ray.io/accelerator-type": "A100"})
    by_resource = node("n1", total={"GPU": 2.0, "accelerator_type:H100": 1.0})
    nodes = nodes_of(survey(by_label, by_resource, node("n2")), "")
    assert [info.gpu_type for info in offer(nodes, (), "")] == ["A100", "H100", "gpu"]
    assert {info.gpu_type for info in offer(nodes, (), "mine")} == {"mine"}
    assert [info.is_open for info in offer(nodes, {"n1"}, "")] == [True, False, True]
    assert offer(nodes, (), "")[0].mem_mib == 64 * 1024


@pytest.mark.parametrize(
    ("free", "ours", "is_so"),
    [
        ({}, {}, False),
        ({"GPU": 6.0}, {"GPU": 2.0}, False),
        ({"GPU": 5.0}, {"GPU": 2.0}, True),
        # A group that Ray has made and not yet taken off what is free.
        ({}, {"GPU": 2.0}, False),
        ({"CPU": 32.0}, {}, False),
        ({"CPU": 31.0}, {}, True),
        ({"CPU": 10.0}, {"CPU": 30.0}, False),
        ({"memory": 31.0 * GIB}, {}, True),
    ],
)
def test_what_others_have_is_what_is_not_ours(free, ours, is_so):
    group = {"name": "dure-t-j", "state": "CREATED", "bundles": [["id-n0", ours], ["", {"GPU": 8.0}]]}
    found = survey(node("n0", free=free), groups=[group])
    assert is_taken(found.nodes[0], taken_elsewhere(found)["id-n0"]) is is_so


def test_what_is_asked_is_what_the_job_names():
    nodes = nodes_of(survey(node("n0"), node("n1")), "")
    parts = (Placement("n1", (0, 1)), Placement("n0", (5,)), Placement("n1", (3,)))
    found = shape_of(launch(*parts, cpu_milli=3_000, mem_mib=1_025), nodes)
    assert (found.nodes, found.node_ids) == (("n1", "n0"), ("id-n1", "id-n0"))
    rest = {"CPU": 1.5, "memory": 1025.0 * (1 << 19)}
    assert found.bundles == ({"GPU": 3.0, **rest}, {"GPU": 1.0, **rest})
    assert shape_of(launch(Placement("n0", ())), nodes).bundles == ({"CPU": 0.001},)


@pytest.mark.parametrize(("part", "words"), [(Placement("n9", (0,)), "no node 'n9'"), (Placement("n0", (0,), 250), "parts of")])
def test_what_cannot_run_is_refused(part, words):
    with pytest.raises(LaunchError, match=words):
        shape_of(launch(part), nodes_of(survey(node("n0")), ""))


def test_each_node_is_told_of_its_own_ranks():
    told = launch(Placement("n1", (0, 1)), Placement("n0", (5,)), tasks_per_node=0, env={"MINE": "x", "RANK": "9"}, limit_ms=60_000)
    first, second = specs_of(told, PurePath("/s/f"), "dure-t-j1.1", "10.0.0.1", 100)
    assert [[rank["rank"] for rank in part["ranks"]] for part in (first, second)] == [[0, 1], [2]]
    assert (first["first"], second["first"], second["nodes"]) == ("dure-t-j1.1.0", "dure-t-j1.1.0", 2)
    assert first["mark"] != second["mark"]
    env = second["ranks"][0]["env"]
    assert (env["MINE"], env["RANK"], env["WORLD_SIZE"], env["DURE_NODE"]) == ("x", "2", "3", "n0")
    assert env["DURE_LEASE_MARK"] == second["mark"]
    # What a node has of its own, it adds there.
    assert not {"PATH", "MASTER_PORT", "CUDA_VISIBLE_DEVICES"} & set(env)
    assert first["limit_s"] == 60 + 30 + 300


def test_an_attempt_is_read_as_it_was_written():
    one = attempt(env={"A": "b"})
    assert one.order("TERM", 1_500)
    again = attempt_from(one.intent(), order_to_json(one.stop, NOW), one.folder, NOW)
    assert (again.launch, again.shape, again.name, again.stop) == (one.launch, one.shape, one.name, one.stop)
    assert (again.state, again.is_adopted, again.handed_in_boot_ms) == (RunState.STOPPING, True, 1_000)
    assert again.actors == ["dure-t-j1.1.0", "dure-t-j1.1.1"]


def test_peers_of_a_node_that_has_gone_without_an_end_are_ended():
    one = attempt()
    one.see_begun(5_000_000, NOW)
    assert one.see_gone({0}, {0: RankEnd(0, 1)}, 2_000) == set()
    assert one.due_order(10_000) is None
    assert one.see_gone({0, 1}, {0: RankEnd(0, 1)}, 2_000) == {1}
    assert one.see_gone({0, 1}, {0: RankEnd(0, 1)}, 3_000) == set()
    assert one.due_order(3_999) is None
    assert one.due_order(4_000) == ("TERM", 5_000)


def test_peers_of_a_missing_actor_are_ended_and_the_wait_counts_from_when_it_was_first_missed():
    one = attempt()
    one.see_missing({1}, 1_000)
    assert one.failed_boot_ms is None
    one.see_begun(5_000_000, NOW)
    one.see_missing({1}, 2_000)
    one.see_missing({0, 1}, 3_000)
    assert one.missing_boot_ms == {0: 3_000, 1: 1_000}
    assert one.due_order(4_000) == ("TERM", 5_000)
    one.see_missing((), 4_000)
    assert one.missing_boot_ms == {}
