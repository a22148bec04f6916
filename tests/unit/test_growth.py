"""A site joins a running alliance: all goes on as if it had stood in the file from the beginning, and nobody had come from it."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest

from dure.core.live import Alliance
from dure.core.snapshot import SnapshotError, pack, unpack
from dure.model.alliance import load_alliance
from dure.model.alliance_build import build_fleet
from dure.model.alliance_growth import load_site, text_of, with_sites
from dure.model.errors import InputError
from dure.model.events import (
    Cordon,
    Drain,
    Exited,
    JobRequest,
    NodeDown,
    NodeUp,
    Released,
    SiteAdded,
    Start,
    Submit,
    Tick,
    Uncordon,
    stimulus_from_json,
    to_json,
)
from dure.policy.config import named_policy

HEAD = """
name: Small
start: 2026-01-01
own_notice: 60s
gpu_types:
  - {name: H200, speed_milli: 1000, idle_w: 280, busy_w: 1275, sleep_w: 40, mem_gib: 140}
  - {name: L40S, speed_milli: 300, idle_w: 80, busy_w: 400, sleep_w: 10, mem_gib: 48}
members:
  - {name: owner, kind: public}
  - {name: guest, kind: company}
  - {name: other, kind: company}
  - {name: quiet, kind: company}
sites:
  - name: hall
    clusters:
      - {name: hall, owner: owner, gpu_type: H200, gpus: 24, gpus_per_node: 8, nodes_per_rack: 2}
      - {name: shed, owner: other, gpu_type: L40S, gpus: 8, gpus_per_node: 4, nodes_per_rack: 1}
"""
TAIL = """
agreements:
  - {name: common, lenders: [owner, quiet], borrowers: [guest], kind: LEND, limit_gpus: 16, notice: 2m, start: 2026-01-01}
  - {name: to-other, lenders: [owner], borrowers: [other], kind: LEND, limit_gpus: 12, notice: 1m, start: 2026-01-01, end: 2026-01-03}
  - {name: from-other, lenders: [other], borrowers: [guest], kind: LEND, limit_gpus: 4, notice: 1m, start: 2026-01-01}
"""
BARN = """
name: barn
clusters:
  - {name: barn, owner: quiet, gpu_type: H200, gpus: 80, gpus_per_node: 8, nodes_per_rack: 2}
  - {name: loft, owner: quiet, gpu_type: L40S, gpus: 8, gpus_per_node: 2, nodes_per_rack: 1}
"""
SHARES = "shares:\n  - {member: guest, cluster: hall, gpus: 4, under: reserved}\n"
T0 = 1_800_000_000_000
#: Tables in which a grown state may differ, as they say nothing, or only where something is kept; and columns of the same kind.
PLACES, PLACE_COLUMNS = {"seg", "dec", "pick", "cost", "dirty"}, {"seg", "free_seg"}
#: Columns that count how often was looked in vain, which is also done in a pool of which no node has come yet.
LOOKS = {"looks", "preempt_at_ms", "short_milli", "stamp", "tried"}


def small(text: str = HEAD + TAIL) -> Alliance:
    spec = load_alliance(text, "small.yaml")
    return Alliance(
        *build_fleet(spec, spec.start), named_policy("dure"), T0, lambda texts: build_fleet(with_sites(spec, texts), spec.start)
    )


def full() -> Alliance:
    barn = "".join(f"  {line}\n" for line in BARN.strip().splitlines())
    return small(HEAD + barn.replace("  name", "  - name", 1).replace("\n  clus", "\n    clus").replace("\n    -", "\n      -") + TAIL)


JOIN = SiteAdded(text_of(load_site(BARN)))


def tables(a: Alliance) -> dict[str, np.ndarray]:
    return a.kept()[1]


def assert_same(grown: Alliance, other: Alliance, *but: str) -> None:
    """Both are in the same state, but for the places that segments have, and some columns."""
    mine, theirs = tables(grown), tables(other)
    for name, table in theirs.items():
        if name in PLACES:
            continue
        length = min(len(mine[name]), len(table))
        one, two = mine[name][:length], table[:length]
        columns = [c for c in table.dtype.names or () if c not in PLACE_COLUMNS | set(but)]
        for column in columns:
            assert np.array_equal(one[column], two[column]), (name, column)
        if not columns:
            assert np.array_equal(one, two), name


def test_a_site_that_joins_before_anything_happened_is_as_one_of_the_file():
    grown = small()
    other = full()
    assert grown.apply(T0, [JOIN]) == other.apply(T0, [Tick()]) == []
    assert_same(grown, other)
    assert [s.name for s in grown.fleet.sites] == ["hall", "barn"]
    assert grown.nodes_of_site("barn")[:2] == ["barn-0", "barn-1"]
    assert stimulus_from_json(json.loads(json.dumps(to_json(JOIN)))) == JOIN


class Drive:
    """The same random work for two alliances; what one decides the other must decide."""

    def __init__(self, seed: int, *alliances: Alliance) -> None:
        self.rng, self.alliances = random.Random(seed), alliances
        self.now, self.num, self.alive = T0, 0, {}
        self.names: list[str] = []
        self.log: list = []

    def turns(self, how_many: int, names: list[str]) -> None:
        for _ in range(how_many):
            self.now += self.rng.choice([0, 1, 500, 60_000, 3_600_000])
            self.step([self.one(names) for _ in range(self.rng.randint(1, 4))])

    def one(self, names):
        rng = self.rng
        what = rng.random()
        if what < 0.45 or (what < 0.8 and not self.alive):
            self.num += 1
            more = {"gpus": rng.choice([0, 1, 2, 4, 8, 16]), "checkpoint_ms": rng.choice([0, 60_000])}
            if rng.random() < 0.3:
                more |= {"gpus": 1, "gpu_milli": rng.choice([300, 500])}
            if rng.random() < 0.3:
                more["gpu_types"] = (rng.choice(["H200", "L40S"]),)
                # No more than guests may have before the site joins: what can never run is refused for good.
                more["gpus"] = min(more["gpus"], 4)
            if rng.random() < 0.1:
                more |= {"begin_ms": self.now + 3_600_000, "is_reserved": True, "gpu_milli": 1000}
            member = rng.choice(["owner", "guest", "other"])
            user = rng.choice(["u", "v"])
            return Submit(JobRequest(f"j{self.num}", member, f"{member}/p", user, cpu_milli=rng.choice([0, 4000]), **more))
        if what < 0.8:
            name = rng.choice(sorted(self.alive))
            return Exited(name, self.alive[name], rng.choice([0, 0, 0, 75]))
        if what < 0.9:
            return NodeUp(rng.choice(names))
        return rng.choice((NodeDown, Cordon, Drain, Uncordon))(rng.choice(names))

    def step(self, stimuli) -> None:
        effects = [a.apply(self.now, stimuli) for a in self.alliances]
        self.log.append((self.now, stimuli, effects[0]))
        assert all(found == effects[0] for found in effects)
        for e in effects[0]:
            if isinstance(e, Start):
                self.alive[e.job_id] = e.attempt
            elif isinstance(e, Released):
                self.alive.pop(e.job_id)


@pytest.mark.parametrize("seed", range(12))
def test_what_was_goes_on_and_what_comes_is_decided_as_if_the_site_had_always_been_there(seed):
    grown, other = small(), full()
    drive = Drive(seed, grown, other)
    hall = grown.nodes_of_site("hall")
    drive.turns(120, hall)
    assert grown.apply(drive.now, [JOIN]) == []
    other.apply(drive.now, [Tick()])
    assert_same(grown, other, *LOOKS)
    log_at_joining = len(drive.log)
    drive.turns(150, [*hall, *grown.nodes_of_site("barn")])
    assert_same(grown, other, *LOOKS)
    sites = {e.site for _, _, effects in drive.log[log_at_joining:] for e in effects if isinstance(e, Start)}
    assert sites == {"hall", "barn"}


@pytest.mark.parametrize("seed", range(3))
def test_a_restart_after_a_site_has_joined_goes_on_from_a_snapshot(seed):
    a = small()
    drive = Drive(seed, a)
    drive.turns(60, a.nodes_of_site("hall"))
    a.apply(drive.now, [JOIN])
    drive.turns(60, [*a.nodes_of_site("hall"), *a.nodes_of_site("barn")])
    again = small()
    unpack(again, pack(a))
    assert pack(again) == pack(a)
    assert again.nodes_of_site("barn") == a.nodes_of_site("barn")
    drive.alliances = (a, again)
    drive.turns(60, [*a.nodes_of_site("hall"), *a.nodes_of_site("barn")])
    assert pack(again) == pack(a)
    # One that cannot take the site cannot take its state.
    spec = load_alliance(HEAD + TAIL, "small.yaml")
    with pytest.raises(SnapshotError, match="no site can be added"):
        unpack(Alliance(*build_fleet(spec, spec.start), named_policy("dure"), T0), pack(a))


def test_several_sites_one_after_another():
    a = small()
    for i in range(5):
        text = BARN.replace("barn", f"barn{i}").replace("loft", f"loft{i}")
        a.apply(T0 + i, [SiteAdded(text_of(load_site(text)))])
        a.apply(T0 + i, [NodeUp(name) for name in a.nodes_of_site(f"barn{i}")])
    jobs = [Submit(JobRequest(f"j{i}", "quiet", "quiet/p", "u", gpus=80, gpu_types=("H200",))) for i in range(5)]
    starts = [e for e in a.apply(T0 + 10, jobs) if isinstance(e, Start)]
    assert {s.site for s in starts} == {f"barn{i}" for i in range(5)}
    assert len({part.node for s in starts for part in s.placements}) == 50


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("name: barn\nc", "name: hall\nc", "name"), ("name: loft", "name: hall", "clusters.1.name"),
        ("owner: quiet", "owner: nobody", "unknown member"), ("L40S", "B200", "unknown GPU type"), ("gpus: 80", "gpus: 81", "node"),
    ],
)  # fmt: skip
def test_a_site_that_does_not_fit_is_refused_and_changes_nothing(old, new, said):
    a = small()
    before = pack(a)
    site = load_site(BARN.replace(old, new, 1))
    with pytest.raises(InputError, match=said):
        a.apply(T0, [Submit(JobRequest("j", "owner", "owner/p", "u")), SiteAdded(text_of(site))])
    assert pack(a) == before


def test_no_more_sites_than_jobs_can_name():
    a = small()
    texts = [text_of(load_site(BARN.replace("barn", f"b{i}").replace("loft", f"l{i}"))) for i in range(64)]
    with pytest.raises(InputError, match="at most 64 sites"):
        a.apply(T0, [SiteAdded(text) for text in texts])
