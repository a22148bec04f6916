"""Nodes and sites that an operator closes: nothing new starts there, and what is drained leaves and goes on elsewhere."""

from __future__ import annotations

import pytest
from tests.unit.test_live import T0, YAML, job, make, of, up

from dure.core.explain import Explainer, Reason
from dure.core.live import Alliance, UnknownJobError
from dure.core.snapshot import pack, unpack
from dure.model.alliance import load_alliance
from dure.model.alliance_build import build_fleet
from dure.model.events import (
    Changed,
    Cordon,
    Drain,
    Exited,
    NodeDown,
    NodeSilent,
    NodeUp,
    Released,
    Start,
    Submit,
    Tick,
    Uncordon,
    Vacate,
    stimulus_from_json,
    to_json,
)
from dure.policy.config import named_policy

TWO_SITES = YAML.replace("agreements:", """  - name: barn
    clusters:
      - {name: barn, owner: owner, gpu_type: H200, gpus: 16, gpus_per_node: 8, nodes_per_rack: 2}
agreements:""")


def two_sites() -> Alliance:
    spec = load_alliance(TWO_SITES, "two.yaml")
    a = Alliance(*build_fleet(spec, spec.start), named_policy("dure"), T0)
    a.apply(T0, [NodeUp(name) for site in ("hall", "barn") for name in a.nodes_of_site(site)])
    return a


def starts(effects) -> dict[str, str]:
    return {s.job_id: s.placements[0].node for s in of(effects, Start)}


@pytest.mark.parametrize("stimulus", [Cordon("a"), Cordon(site="s"), Drain("a", notice_ms=5), Drain(site="s"), Uncordon(site="s")])
def test_the_log_keeps_what_an_operator_asked_for(stimulus) -> None:
    assert stimulus_from_json(to_json(stimulus)) == stimulus


def test_what_runs_on_a_cordoned_node_goes_on_and_nothing_new_comes() -> None:
    a = make()
    up(a)
    first = starts(a.apply(T0, [Submit(job("first", gpus=8))]))["first"]
    assert not a.apply(T0 + 1, [Cordon(first)])
    assert a.closing_of(first) == "cordoned"
    (other,) = {a.node_name(0), a.node_name(1)} - {first}
    assert starts(a.apply(T0 + 2, [Submit(job(f"j{i}", gpus=8)) for i in range(2)])) == {"j0": other}
    # It is free now, and stays closed however often its agent offers it.
    assert not of(a.apply(T0 + 3, [Exited("first", 1, 0), NodeUp(first)]), Start)
    found = Explainer(a.policy_core.built, closed=a.closed_nodes()).explain(a.jobs["j1"].row)
    assert (found.reason, found.rule) == (Reason.CLOSED, 7)
    assert found.pools[0].facts == {"needed_milli": 8000, "nodes": 1, "free_milli": 8000}
    assert "an operator has closed 1 node with 8 GPUs free" in found.message
    assert Explainer(a.policy_core.built).explain(a.jobs["j1"].row).reason is Reason.GPUS_BUSY
    assert not of(a.apply(T0 + 4, [Uncordon(first)]), Start)
    assert starts(a.apply(T0 + 5, [NodeUp(first)])) == {"j1": first}
    assert a.closing_of(first) == ""


def test_who_would_not_fit_with_the_closed_nodes_either_is_told_the_other_reason() -> None:
    a = make()
    up(a)
    a.apply(T0, [Submit(job("a", gpus=8)), Submit(job("b", gpus=8))])
    a.apply(T0 + 1, [Cordon(a.node_name(0)), Submit(job("c", gpus=8))])
    assert Explainer(a.policy_core.built, closed=a.closed_nodes()).explain(a.jobs["c"].row).reason is not Reason.CLOSED


def test_what_is_drained_saves_leaves_in_time_and_goes_on_elsewhere() -> None:
    a = make()
    a.apply(T0, [NodeUp(a.node_name(0))])
    a.apply(T0, [Submit(job("saves", gpus=2, checkpoint_ms=60_000)), Submit(job("anew", gpus=2)), Submit(job("guest", "guest"))])
    a.apply(T0 + 10, [NodeUp(a.node_name(1))])
    effects = a.apply(T0 + 1_000, [Drain(a.node_name(0), notice_ms=600_000)])
    assert {(v.job_id, v.deadline_ms - T0, v.cause) for v in of(effects, Vacate)} == {
        ("saves", 31_000, "drained"), ("anew", 601_000, "drained"), ("guest", 601_000, "drained"),
    }  # fmt: skip
    assert a.closing_of(a.node_name(0)) == "draining"
    # Twice is once; but with less notice who still is there is told to leave sooner.
    assert not a.apply(T0 + 1_500, [Drain(a.node_name(0), notice_ms=600_000)])
    effects = a.apply(T0 + 1_500, [Drain(a.node_name(0), notice_ms=300_000)])
    assert {(v.job_id, v.deadline_ms - T0) for v in of(effects, Vacate)} == {("anew", 301_500), ("guest", 301_500)}
    effects = a.apply(T0 + 2_000, [Exited("saves", 1, 75), Exited("anew", 1, 143)])
    assert {(r.job_id, r.cause) for r in of(effects, Released)} == {("saves", "vacated"), ("anew", "vacated")}
    assert starts(effects) == {"saves": a.node_name(1), "anew": a.node_name(1)}
    assert of(a.apply(T0 + 3_000, [Exited("guest", 1, 0)]), Changed)[-1] == Changed("guest", "ENDED", 1, "succeeded")
    assert a.closing_of(a.node_name(0)) == "drained"
    # A cordon takes nothing back from a drain.
    a.apply(T0 + 4_000, [Cordon(a.node_name(0))])
    assert a.closing_of(a.node_name(0)) == "drained"


def test_without_a_notice_it_is_that_of_one_above_its_share() -> None:
    a = make()
    up(a)
    node = starts(a.apply(T0, [Submit(job("j"))]))["j"]
    (leave,) = of(a.apply(T0 + 5, [Drain(node)]), Vacate)
    assert leave.deadline_ms == T0 + 60_005


def test_a_gang_leaves_whole() -> None:
    a = make()
    up(a)
    a.apply(T0, [Submit(job("gang", gpus=16, checkpoint_ms=1_000))])
    assert [v.job_id for v in of(a.apply(T0 + 5, [Drain(a.node_name(1))]), Vacate)] == ["gang"]
    assert not of(a.apply(T0 + 10, [Exited("gang", 1, 75)]), Start)
    a.apply(T0 + 20, [Uncordon(a.node_name(1))])
    assert list(starts(a.apply(T0 + 30, [NodeUp(a.node_name(1))]))) == ["gang"]


def test_a_site_is_closed_with_all_its_nodes_and_drains_to_another() -> None:
    a = two_sites()
    placed = starts(a.apply(T0, [Submit(job(f"j{i}", gpus=8, checkpoint_ms=1_000)) for i in range(2)]))
    (site,) = {"hall", "barn"} - {s for s in ("hall", "barn") if not set(a.nodes_of_site(s)) & set(placed.values())}
    (other,) = {"hall", "barn"} - {site}
    assert {v.job_id for v in of(a.apply(T0 + 1, [Drain(site=site)]), Vacate)} == {"j0", "j1"}
    assert a.closing_of_site(site) == "draining"
    effects = a.apply(T0 + 2, [Exited("j0", 1, 75), Exited("j1", 1, 75)])
    assert set(starts(effects).values()) == set(a.nodes_of_site(other))
    assert (a.closing_of_site(site), a.closing_of_site(other)) == ("drained", "")
    # A node of its own word stays closed when the site is opened.
    held, free = a.nodes_of_site(site)
    a.apply(T0 + 3, [Cordon(held), Uncordon(site=site)])
    assert (a.closing_of(held), a.closing_of(free)) == ("cordoned", "")
    a.apply(T0 + 4, [NodeUp(held), NodeUp(free)])
    assert set(starts(a.apply(T0 + 5, [Submit(job(f"k{i}", gpus=8)) for i in range(2)])).values()) == {free}


def test_a_gang_does_not_wait_for_closed_nodes() -> None:
    """Nodes that are held for a gang are let go when one of them is closed; it starts on others."""
    a = two_sites()
    hall, barn = a.nodes_of_site("hall"), a.nodes_of_site("barn")
    a.apply(T0, [Cordon(site="barn"), Submit(job("lent", "guest", gpus=8)), Submit(job("mine", gpus=8))])
    effects = a.apply(T0 + 1_000, [Submit(job("gang", gpus=16))])
    a.apply(T0 + 2_000, [Cordon(hall[0])])
    a.apply(T0 + 3_000, [Uncordon(site="barn")])
    effects = a.apply(T0 + 4_000, [NodeUp(name) for name in barn])
    assert [s.job_id for s in of(effects, Start)] == ["gang"]
    assert {part.node for part in of(effects, Start)[0].placements} == set(barn)


@pytest.mark.parametrize("before", [NodeSilent, NodeDown])
def test_a_node_that_was_not_heard_stays_closed_when_it_is_back(before) -> None:
    a = make()
    up(a)
    node = a.node_name(0)
    a.apply(T0 + 1, [before(node), Cordon(node)])
    a.apply(T0 + 2, [NodeUp(node), NodeDown(a.node_name(1))])
    assert not of(a.apply(T0 + 3, [Submit(job("j"))]), Start)
    a.apply(T0 + 4, [Uncordon(node)])
    assert starts(a.apply(T0 + 5, [NodeUp(node)])) == {"j": node}


def test_what_is_closed_is_closed_after_a_restart_too() -> None:
    a = two_sites()
    a.apply(T0, [Submit(job("j")), Drain(site="hall"), Cordon(a.nodes_of_site("barn")[0])])
    spec = load_alliance(TWO_SITES, "two.yaml")
    again = Alliance(*build_fleet(spec, spec.start), named_policy("dure"), T0)
    unpack(again, pack(a))
    assert pack(again) == pack(a)
    assert again.closed_nodes() == a.closed_nodes()
    assert again.closing_of_site("hall") in ("draining", "drained")
    assert again.closing_of(a.nodes_of_site("barn")[0]) == "cordoned"


def test_what_does_not_exist_cannot_be_closed() -> None:
    a = make()
    up(a)
    for bad in (Cordon("nowhere"), Drain(site="nowhere"), Uncordon("nowhere"), Cordon()):
        with pytest.raises(UnknownJobError):
            a.apply(T0, [Submit(job("a")), bad])
    assert not a.jobs
    a.apply(T0, [Tick()])
