"""From alliance file to fleet and terms, against values worked out by hand."""

from __future__ import annotations

from datetime import date

import numpy as np
import pytest

from dure.examples import example_path
from dure.model.alliance import Alliance, load_alliance
from dure.model.alliance_build import build_fleet
from dure.model.errors import InputError
from dure.model.fleet import Fleet
from dure.model.terms import NO_AGREEMENT, Terms
from dure.twin.files import read_alliance

DAY_MS = 86_400_000
START = date(2026, 10, 1)
VILLAGE = example_path("village").read_text(encoding="utf-8")


def village(*replacements: tuple[str, str]) -> Alliance:
    text = VILLAGE
    for old, new in replacements:
        assert old in text
        text = text.replace(old, new, 1)
    return load_alliance(text, "village.yaml")


def check_form(fleet: Fleet, terms: Terms) -> None:
    """What the policy relies on."""
    nodes = fleet.nodes
    keys = [tuple(row) for row in nodes[["pool", "cluster", "block", "rack"]].tolist()]
    assert keys == sorted(keys)
    for name in ("pool", "block", "rack"):
        column = nodes[name]
        assert column[0] == 0
        assert set(np.diff(column).tolist()) <= {0, 1}
    assert len(terms.pools) == nodes["pool"][-1] + 1
    for pool_idx, pool in enumerate(terms.pools):
        mine = nodes[nodes["pool"] == pool_idx]
        assert set(mine["owner"].tolist()) == {pool.owner}
        assert set(mine["cluster"].tolist()) == {pool.cluster}
        assert set(mine["gpu_type"].tolist()) == {pool.gpu_type}
        assert terms.guarantee_gpus[:, pool_idx].sum() == mine["num_gpus"].sum()
    assert (terms.guarantee_gpus >= 0).all()
    assert len({pool.name for pool in terms.pools}) == len(terms.pools)
    for name in ("block", "rack"):
        for value in np.unique(nodes[name]):
            assert len(set(nodes["pool"][nodes[name] == value].tolist())) == 1
    for member, pool_idx in np.argwhere(terms.agreement != NO_AGREEMENT):
        lent = terms.agreements[terms.agreement[member, pool_idx]]
        assert lent.lender == terms.pools[pool_idx].home != member
        assert terms.guarantee_gpus[member, pool_idx] == 0


def members_of(terms: Terms) -> list[str]:
    return [member.name for member in terms.members]


def lent_to(terms: Terms, pool_name: str) -> dict[str, str]:
    """Borrower → agreement in that pool."""
    pool_idx = [pool.name for pool in terms.pools].index(pool_name)
    return {
        name: terms.agreements[terms.agreement[idx, pool_idx]].name
        for idx, name in enumerate(members_of(terms))
        if terms.agreement[idx, pool_idx] != NO_AGREEMENT
    }


def test_village_pools_and_guarantees() -> None:
    fleet, terms = build_fleet(village(), START)
    check_form(fleet, terms)
    assert [pool.name for pool in terms.pools] == ["hall/academy", "hall", "smelter", "quay", "masts"]
    assert members_of(terms) == ["township", "forge", "harbour", "tower", "academy", "seedling"]
    assert terms.guarantee_gpus.tolist() == [
        [0, 88, 0, 0, 0],  # 128 - 32 set apart - 8 of seedling
        [0, 0, 144, 0, 0],
        [0, 0, 0, 96, 0],
        [0, 0, 0, 0, 32],
        [32, 0, 0, 0, 0],
        [0, 8, 0, 0, 0],
    ]
    assert [(pool.owner, pool.home) for pool in terms.pools] == [(0, 4), (0, 0), (1, 1), (2, 2), (3, 3)]
    assert terms.own_notice_ms == 60_000
    assert [member.weight_milli for member in terms.members] == [1000] * 5 + [500]


def test_village_nodes() -> None:
    fleet, _ = build_fleet(village(), START)
    assert fleet.num_gpus == 400
    assert [(site.name, site.power_cap_w) for site in fleet.sites] == [
        ("town-hall", 150_000),
        ("riverside", 0),
        ("masts", 0),  # 0.18 MW / 1.2
    ]
    nodes = fleet.nodes
    assert len(nodes) == 16 + 36 + 12 + 16
    # racks of 4 nodes; academy's rack is cut out of the first block (2 racks), which then counts twice
    assert nodes["rack"][:16].tolist() == [0] * 4 + [1] * 4 + [2] * 4 + [3] * 4
    assert nodes["block"][:16].tolist() == [0] * 4 + [1] * 4 + [2] * 8
    assert nodes["rack"][16:52].tolist() == [4] * 18 + [5] * 18
    assert nodes["block"][16:52].tolist() == [3] * 36
    assert nodes["rack"][64:].tolist() == list(range(9, 25))  # each mast is a rack of its own
    assert nodes["block"][64:].tolist() == [5] * 8 + [6] * 8
    assert nodes["num_gpus"][[0, 16, 52, 64]].tolist() == [8, 4, 8, 2]
    assert nodes["cpu_milli"][[0, 16]].tolist() == [224_000, 144_000]
    assert nodes["mem_mib"][[0, 16]].tolist() == [2048 * 1024, 960 * 1024]
    assert fleet.gpu_types[1].mem_mib == 268 * 1024


def test_deliveries_come_online_during_the_run() -> None:
    fleet, _ = build_fleet(village(), START)
    quay = fleet.nodes[fleet.nodes["cluster"] == 2]
    assert quay["online_ms"].tolist() == [0] * 8 + [2 * DAY_MS] * 4
    fleet, _ = build_fleet(village(), date(2027, 1, 1))
    assert not fleet.nodes["online_ms"].any()


def test_what_comes_after_the_run_is_left_out() -> None:
    fleet, terms = build_fleet(village(), START, date(2026, 10, 3))
    check_form(fleet, terms)
    assert fleet.num_gpus == 368
    assert terms.guarantee_gpus[2, 3] == 64
    assert build_fleet(village(), START, date(2026, 10, 4))[0].num_gpus == 400


def test_shares_grow_with_the_cluster() -> None:
    half = village(
        (
            "gpus: 128, racks_per_block: 2",
            "gpus: 64, racks_per_block: 2, deliveries: [{date: 2027-01-01, gpus: 64}]",
        ),
        ("gpus: 32, topology: rack", "gpus: 96, topology: rack"),
        ("limit_gpus: 32", "limit_gpus: 96"),
    )
    fleet, terms = build_fleet(half, START, date(2026, 11, 1))
    check_form(fleet, terms)
    # half of 3 racks is 1 whole rack, half of 8 GPUs is 4
    assert terms.guarantee_gpus[:, 0].tolist() == [0, 0, 0, 0, 32, 0]
    assert terms.guarantee_gpus[:, 1].tolist() == [28, 0, 0, 0, 0, 4]
    _, complete = build_fleet(half, START)
    assert complete.guarantee_gpus[:, 0].tolist() == [0, 0, 0, 0, 96, 0]
    assert complete.guarantee_gpus[:, 1].tolist() == [24, 0, 0, 0, 0, 8]


def test_a_share_ends_with_its_agreement() -> None:
    ended = village(
        (
            "limit_gpus: 32\n    start: 2026-01-01",
            "limit_gpus: 32\n    start: 2026-01-01\n    end: 2026-10-01",
        )
    )
    _, terms = build_fleet(ended, START)
    assert [pool.name for pool in terms.pools] == ["hall", "smelter", "quay", "masts"]
    assert terms.guarantee_gpus[:, 0].tolist() == [120, 0, 0, 0, 0, 8]
    _, before = build_fleet(ended, date(2026, 9, 30))
    assert before.pools[0].name == "hall/academy"


def test_who_may_borrow_where() -> None:
    _, terms = build_fleet(village(), START)
    assert lent_to(terms, "hall/academy") == {"seedling": "open-door/academy"}  # lent in academy's name
    assert lent_to(terms, "hall") == {
        "forge": "well/township",
        "harbour": "well/township",
        "academy": "open-door/township",
    }  # seedling has a share here and needs none
    assert lent_to(terms, "smelter") == {
        "township": "well/forge",
        "harbour": "well/forge",
        "academy": "open-door/forge",
        "seedling": "open-door/forge",
    }
    assert lent_to(terms, "masts") == {"academy": "masts-at-night", "seedling": "masts-at-night"}
    night = next(lent for lent in terms.agreements if lent.name == "masts-at-night")
    assert (night.lender, night.limit_gpus, night.notice_ms, night.start_ms) == (3, 16, 2000, 0)
    assert night.end_ms >= 1 << 60
    assert [lent.name for lent in terms.agreements if lent.name.startswith("well")] == [
        "well/township",
        "well/forge",
        "well/harbour",
    ]


NIGHT = "limit_gpus: 16\n    notice: 2s\n    start: 2026-01-01"


def test_the_first_agreement_counts_and_one_in_force_before_a_later_one() -> None:
    second = (
        "\n  - {name: second, kind: LEND, lenders: [tower], borrowers: [seedling, forge], "
        "limit_gpus: 8, start: 2026-01-01}"
    )
    _, terms = build_fleet(village((NIGHT, NIGHT + second)), START)
    assert lent_to(terms, "masts") == {
        "forge": "second",
        "academy": "masts-at-night",
        "seedling": "masts-at-night",
    }
    later = NIGHT.replace("2026-01-01", "2026-10-02\n    end: 2026-10-09")
    alliance = village((NIGHT, later + second))
    _, terms = build_fleet(alliance, START)
    assert lent_to(terms, "masts") == {"forge": "second", "academy": "masts-at-night", "seedling": "second"}
    night = next(lent for lent in terms.agreements if lent.name == "masts-at-night")
    assert (night.start_ms, night.end_ms) == (DAY_MS, 8 * DAY_MS)
    _, over = build_fleet(alliance, date(2026, 10, 9))
    assert "masts-at-night" not in [lent.name for lent in over.agreements]
    _, short = build_fleet(alliance, START, date(2026, 10, 2))
    assert "masts-at-night" not in [lent.name for lent in short.agreements]


@pytest.mark.parametrize(
    ("limit", "pools"),
    [
        ("clusters: [quay]", ["quay"]),
        ("gpu_types: [GB200-NVL72, H200]", ["hall", "hall/academy", "smelter"]),
        ("sites: [riverside]", ["quay", "smelter"]),
        ("sites: [riverside]\n    gpu_types: [B300]", ["quay"]),
    ],
)
def test_limits_of_an_agreement(limit: str, pools: list[str]) -> None:
    _, terms = build_fleet(village(("limit_gpus: 48", f"{limit}\n    limit_gpus: 48")), START)
    open_door = [
        p.name for p in terms.pools if any(a.startswith("open-door") for a in lent_to(terms, p.name).values())
    ]
    assert sorted(open_door) == pools


def test_eligibility_narrows_the_borrowers() -> None:
    abroad = ("{name: seedling, kind: startup", "{name: seedling, country: JP, kind: startup")
    rule = ("limit_gpus: 16", "eligibility: {countries: [KR]}\n    limit_gpus: 16")
    _, terms = build_fleet(village(abroad, rule), START)
    assert lent_to(terms, "masts") == {"academy": "masts-at-night"}
    rule = ("limit_gpus: 16", "eligibility: {except_members: [academy]}\n    limit_gpus: 16")
    _, terms = build_fleet(village(rule), START)
    assert lent_to(terms, "masts") == {"seedling": "masts-at-night"}


def test_power_cap_of_the_first_day() -> None:
    stepped = village(
        (
            "power_cap_mw: 0.18",
            "power_cap_mw: 0.18\n    power_steps: [{date: 2026-10-01, mw: 0.24}, "
            "{date: 2027-01-01, mw: 0.6}]",
        )
    )
    caps = [
        build_fleet(stepped, day)[0].sites[0].power_cap_w
        for day in (date(2026, 9, 30), START, date(2026, 12, 31), date(2027, 1, 1))
    ]
    assert caps == [150_000, 200_000, 200_000, 500_000]


def test_a_run_needs_gpus_and_days() -> None:
    with pytest.raises(InputError, match="must be after the first day"):
        build_fleet(village(), START, START)
    text = """
name: Late
start: 2026-10-01
gpu_types: [{name: G, speed_milli: 1, idle_w: 0, busy_w: 0, sleep_w: 0, mem_gib: 1}]
members: [{name: a, kind: company}]
sites: [{name: s, clusters: [{name: c, owner: a, gpu_type: G, deliveries: [{date: 2027-01-01, gpus: 8}]}]}]
"""
    late = load_alliance(text, "late.yaml")
    with pytest.raises(InputError, match="no cluster has a GPU before 2026-12-01"):
        build_fleet(late, late.start, date(2026, 12, 1))
    fleet, _ = build_fleet(late, late.start)
    assert fleet.nodes["online_ms"].tolist() == [92 * DAY_MS]


@pytest.mark.parametrize("day", [date(2026, 8, 1), date(2028, 7, 1), date(2030, 12, 1)])
def test_reference_alliance_over_the_years(day: date) -> None:
    reference = read_alliance(example_path("alliance"))
    fleet, terms = build_fleet(reference, day, date(day.year + 1, 1, 1))
    check_form(fleet, terms)
    everything, _ = build_fleet(reference, day)
    assert everything.num_gpus == 263_000
    assert (
        int((everything.nodes["num_gpus"] * (everything.nodes["online_ms"] < 31 * DAY_MS)).sum()) <= 263_000
    )


def test_reference_pools_hold_whole_units() -> None:
    reference = read_alliance(example_path("alliance"))
    fleet, terms = build_fleet(reference, reference.start)
    for pool_idx, pool in enumerate(terms.pools):
        if "/" not in pool.name:
            continue
        nodes = fleet.nodes[fleet.nodes["pool"] == pool_idx]
        cluster = reference.clusters[pool.cluster][1]
        for rack in np.unique(nodes["rack"]):
            assert (nodes["rack"] == rack).sum() == cluster.nodes_per_rack
        share = next(
            s for s in reference.shares if pool.name in (f"{s.cluster}/{s.member}", f"{s.cluster}/{s.name}")
        )
        assert nodes["num_gpus"].sum() == share.gpus
        if share.topology == "block":
            assert len(np.unique(nodes["block"])) * cluster.block_gpus == share.gpus


def test_no_site_but_gumi_needs_its_cap_on_the_reference_day() -> None:
    """The comments of the file say so; full power of all GPUs against the cap."""
    reference = read_alliance(example_path("alliance"))
    for day in sorted({d.date for _, c in reference.clusters for d in c.deliveries}):
        fleet, _ = build_fleet(reference, day, date.fromordinal(day.toordinal() + 1))
        busy_w = np.array([gpu_type.busy_w for gpu_type in fleet.gpu_types])
        node_w = busy_w[fleet.nodes["gpu_type"]] * fleet.nodes["num_gpus"]
        for idx, site in enumerate(fleet.sites):
            is_over = bool(site.power_cap_w) and node_w[fleet.nodes["site"] == idx].sum() > site.power_cap_w
            assert is_over == (site.name == "gumi" and day >= date(2029, 6, 1))
