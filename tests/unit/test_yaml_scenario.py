"""The scenario file."""

from __future__ import annotations

from datetime import date

import pytest

from dure.examples import example_names, example_path
from dure.model.errors import InputError
from dure.model.scenario import Known, load_scenario
from dure.twin.files import beside, read_alliance, read_scenario

TEXT = """\
name: a question
fleet: {alliance: village.yaml, at: 2026-10-01}
load:
  generator: {days: 3, offered_load: 0.85}
compare:
  - {name: one, policy: fifo}
  - {name: two, policy: dure, overrides: {aging: 5m, depth: 100}}
faults: rsc1
seeds: [1, 2]
horizon: 5d
warm_up: 6h
"""
KNOWN = Known(("fifo", "dure"), ("aging", "depth"), ("rsc1",), ("repair_s",), ("swf", "philly"))


def test_a_good_scenario() -> None:
    scenario = load_scenario(TEXT, "s.yaml", KNOWN)
    assert scenario.fleet.at == date(2026, 10, 1)
    assert scenario.load.generator is not None
    assert scenario.load.generator.days == 3
    assert [(v.name, v.policy) for v in scenario.compare] == [("one", "fifo"), ("two", "dure")]
    assert scenario.compare[1].overrides == {"aging": "5m", "depth": 100}
    assert (scenario.faults.preset, scenario.faults.constants) == ("rsc1", {})
    assert (scenario.horizon, scenario.warm_up) == (5 * 86_400_000, 6 * 3_600_000)


def test_defaults() -> None:
    scenario = load_scenario("name: x\nfleet: {gpus: 64}\nload: {traces: [{path: a.csv}]}", "s.yaml")
    assert [v.policy for v in scenario.compare] == ["dure"]
    assert (scenario.faults.preset, scenario.seeds, scenario.horizon) == ("off", (1,), None)
    assert scenario.load.traces[0].format == "auto"
    constants = load_scenario(
        TEXT.replace("faults: rsc1", "faults: {constants: {repair_s: 60.5}}"), "s", KNOWN
    )
    assert (constants.faults.preset, constants.faults.constants) == ("off", {"repair_s": 60.5})


BAD = [
    (
        "alliance: village.yaml, at: 2026-10-01",
        "gpus: 64, nodes: n.csv",
        2,
        "fleet",
        "just one of alliance, nodes, gpus, not nodes and gpus",
    ),
    ("alliance: village.yaml, at: 2026-10-01", "gpus_per_node: 8", 2, "fleet", "not none"),
    ("alliance: village.yaml,", "gpus: 64,", 2, "fleet.at", "goes with `alliance`"),
    ("at: 2026-10-01", "gpus_per_node: 4", 2, "fleet.gpus_per_node", "goes with `gpus`"),
    ("at: 2026-10-01", "at: 2026-10-01, until: 2026-10-01", 2, "fleet.until", "must be after at"),
    ("  generator: {days: 3, offered_load: 0.85}", "  {}", 3, "load", "just one of traces, generator"),
    ("days: 3", "day: 3", 4, "load.generator.days", "required"),
    ("days: 3", "days: 0", 4, "load.generator.days", "greater than 0"),
    (
        "offered_load: 0.85",
        "offered_load: 85%",
        4,
        "load.generator.offered_load",
        "must be a number, not '85%'",
    ),
    ("name: two", "name: one", 7, "compare[1].name", "a second variant"),
    ("policy: fifo", "policy: fifoo", 6, "compare[0].policy", "unknown policy 'fifoo'; did you mean 'fifo'?"),
    ("depth: 100", "deepth: 100", 7, "compare[1].overrides.deepth", "did you mean 'depth'?"),
    ("depth: 100", "depth: [100]", 7, "compare[1].overrides.depth", "one text, number or true/false"),
    ("faults: rsc1", "faults: rsc9", 8, "faults", "unknown preset 'rsc9'; did you mean 'rsc1'?"),
    (
        "faults: rsc1",
        "faults: {preset: rsc1, constant: {}}",
        8,
        "faults.constant",
        "did you mean 'constants'?",
    ),
    (
        "faults: rsc1",
        "faults: {constants: {repair_ms: 1}}",
        8,
        "faults.constants.repair_ms",
        "did you mean 'repair_s'?",
    ),
    ("faults: rsc1", "faults: 3", 8, "faults", "must be a mapping, not 3"),
    ("seeds: [1, 2]", "seeds: [1, 1]", 9, "seeds[1]", "count one run as two"),
    ("seeds: [1, 2]", "seeds: []", 9, "seeds", "at least 1 entries"),
    ("seeds: [1, 2]", "seeds: [-1]", 9, "seeds[0]", "greater than or equal to 0"),
    ("horizon: 5d", "horizon: 5h", 10, "horizon", "longer than warm_up"),
    ("horizon: 5d", "horizon: 5", 10, "horizon", "duration"),
    ("policy: dure,", "polcy: dure,", 7, "compare[1].polcy", "did you mean 'policy'?"),
    (
        "  generator: {days: 3, offered_load: 0.85}",
        "  traces: [{path: a, format: swff}]",
        4,
        "load.traces[0].format",
        "did you mean 'swf'?",
    ),
]


@pytest.mark.parametrize(("old", "new", "line", "field", "words"), BAD)
def test_a_bad_scenario_names_line_and_field(old: str, new: str, line: int, field: str, words: str) -> None:
    assert old in TEXT
    with pytest.raises(InputError) as caught:
        load_scenario(TEXT.replace(old, new, 1), "s.yaml", KNOWN)
    assert words in caught.value.message
    assert (caught.value.path, caught.value.line, caught.value.field) == ("s.yaml", line, field)


def test_an_alliance_variant_needs_an_alliance() -> None:
    text = TEXT.replace("alliance: village.yaml, at: 2026-10-01", "gpus: 64").replace(
        "policy: fifo", "policy: fifo, alliance: other.yaml"
    )
    with pytest.raises(InputError, match=r"s.yaml:6: compare\[0\].alliance: the fleet is given by `gpus`"):
        load_scenario(text, "s.yaml")


@pytest.mark.parametrize("name", [name for name in example_names() if name.startswith("scenario")])
def test_shipped_scenarios(name: str) -> None:
    path = example_path(name)
    scenario = read_scenario(path)
    alliance = read_alliance(beside(path, scenario.fleet.alliance))
    assert alliance.gpus_complete in (400, 263_000)
