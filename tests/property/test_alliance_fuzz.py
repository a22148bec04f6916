"""Damaged files become a valid object or one InputError, nothing else; what is valid can be built."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from typing import Any

import numpy as np
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from dure.examples import example_path
from dure.model.alliance import Alliance, load_alliance
from dure.model.alliance_build import build_fleet
from dure.model.errors import InputError
from dure.model.scenario import Scenario, load_scenario
from dure.model.terms import NO_AGREEMENT
from dure.model.yaml_file import Node, parse_yaml

VILLAGE = example_path("village").read_text(encoding="utf-8")
SCENARIO = example_path("scenario-village").read_text(encoding="utf-8")
ROOMY = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])

Loader = Callable[[str, str], Alliance | Scenario | Node]


def outcome(load: Loader, text: str) -> Alliance | Scenario | Node | InputError:
    """The object, or the error after a look at its form. Any other exception fails the test."""
    try:
        return load(text, "f.yaml")
    except InputError as caught:
        error = caught
    assert error.path == "f.yaml"
    assert 0 <= error.line <= len(text.splitlines()) + 2
    assert error.message
    assert len(str(error).splitlines()) == 1
    return error


def check_buildable(alliance: Alliance, at: date, until: date | None) -> None:
    try:
        fleet, terms = build_fleet(alliance, at, until)
    except InputError:
        assert until is not None
        return
    pools = fleet.nodes["pool"]
    assert set(np.diff(pools).tolist()) <= {0, 1}
    pool_gpus = np.bincount(pools, fleet.nodes["num_gpus"], minlength=len(terms.pools)).astype(np.int64)
    assert (terms.guarantee_gpus >= 0).all()
    assert np.array_equal(terms.guarantee_gpus.sum(axis=0), pool_gpus)
    assert fleet.num_gpus <= alliance.gpus_complete
    if until is None:
        assert fleet.num_gpus == alliance.gpus_complete
    borrowed = terms.agreement != NO_AGREEMENT
    assert not (borrowed & (terms.guarantee_gpus > 0)).any()
    assert (terms.agreement[borrowed] < len(terms.agreements)).all()


@st.composite
def damaged_text(draw: st.DrawFn, text: str) -> str:
    """``text`` with a few places cut, doubled, or overwritten."""
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        end = min(len(text), start + draw(st.integers(0, 30)))
        part = draw(
            st.one_of(
                st.just(""),
                st.just(text[start:end] * 2),
                st.text(max_size=8),
                st.sampled_from(
                    [
                        "\n",
                        "  ",
                        "- ",
                        ": ",
                        "{",
                        "}",
                        "[",
                        "]",
                        "'",
                        '"',
                        "&a ",
                        "*a",
                        "!!int ",
                        "<<: ",
                        "%",
                        "\t",
                        "---\n",
                        "|\n",
                        "#",
                        "0",
                        "-",
                        "9" * 20,
                        "2026-99-99",
                        "null",
                        "\x00",
                    ]
                ),
            )
        )
        text = text[:start] + part + text[end:]
    return text


@given(damaged_text(VILLAGE))
@ROOMY
def test_damaged_alliance_text(text: str) -> None:
    outcome(load_alliance, text)


@given(damaged_text(SCENARIO))
@ROOMY
def test_damaged_scenario_text(text: str) -> None:
    outcome(load_scenario, text)


@given(st.text(max_size=200))
@example("? ")
@example("- - - x")
@example("&a [*a]")
@example("{{}}")
@example("'")
@example("!")
@example("%YAML 9.9\n---\na: 1")
@ROOMY
def test_any_text(text: str) -> None:
    outcome(load_alliance, text)


@given(st.text("ab:-[]{}&*!|>'\"%@`#?<, \n\t01", max_size=60))
@ROOMY
def test_any_yaml_punctuation(text: str) -> None:
    outcome(parse_yaml, text)


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**18), 10**18),
    st.integers(-2, 200),
    st.floats(),
    st.text(max_size=6),
    st.dates(),
    st.sampled_from(["hall", "quay", "forge", "academy", "LEND", "RESERVE", "rack", "block", "5m", "KR"]),
    st.lists(st.integers(0, 9), max_size=3),
    st.dictionaries(st.text(max_size=4), st.integers(0, 9), max_size=2),
)


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths to all values in a tree."""
    found = [at] if at else []
    entries = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    for key, child in entries:
        found += places(child, (*at, key))
    return found


def damage(draw: st.DrawFn, tree: Any) -> None:
    """One change: another value, a lost or renamed key, a doubled entry, or a number near the old one."""
    *path, key = draw(st.sampled_from(places(tree)))
    parent = tree
    for step in path:
        parent = parent[step]
    old = parent[key]
    kind = draw(st.sampled_from(["value", "near", "near", "lose", "rename", "double"]))
    if kind == "near" and isinstance(old, int) and not isinstance(old, bool):
        parent[key] = max(0, old + draw(st.sampled_from([-64, -8, -4, -1, 1, 4, 8, 32, 64, old])))
    elif kind == "near" and isinstance(old, date):
        parent[key] = date.fromordinal(max(1, old.toordinal() + draw(st.integers(-400, 400))))
    elif kind == "lose":
        del parent[key]
    elif kind == "rename" and isinstance(parent, dict):
        parent[draw(st.text(max_size=5))] = parent.pop(key)
    elif kind == "double" and isinstance(parent, list):
        parent.append(old)
    else:
        parent[key] = draw(VALUES)


@given(st.data(), st.integers(1, 3), st.dates(date(2025, 1, 1), date(2028, 1, 1)), st.integers(-1, 500))
@settings(ROOMY, max_examples=100)
def test_damaged_alliance_tree(data: st.DataObject, num_changes: int, at: date, num_days: int) -> None:
    tree = yaml.safe_load(VILLAGE)
    for _ in range(num_changes):
        damage(data.draw, tree)
    found = outcome(load_alliance, yaml.safe_dump(tree, allow_unicode=True))
    if isinstance(found, Alliance):
        check_buildable(found, at, None)
        check_buildable(found, at, date.fromordinal(at.toordinal() + num_days))


@given(st.data(), st.integers(1, 3))
@ROOMY
def test_damaged_scenario_tree(data: st.DataObject, num_changes: int) -> None:
    tree = yaml.safe_load(SCENARIO)
    for _ in range(num_changes):
        damage(data.draw, tree)
    outcome(load_scenario, yaml.safe_dump(tree, allow_unicode=True))


@given(st.data())
@settings(ROOMY, max_examples=100)
def test_valid_numbers_build(data: st.DataObject) -> None:
    """Clusters, deliveries and shares drawn to be valid: they load, and their terms add up on any day."""
    tree = yaml.safe_load(VILLAGE)
    hall = tree["sites"][0]["clusters"][0]
    num_racks = data.draw(st.integers(2, 12))
    early = data.draw(st.integers(0, num_racks * 4))
    hall["racks_per_block"] = data.draw(st.integers(1, 3))
    hall["gpus"] = early * 8
    if early < num_racks * 4:
        day = data.draw(st.dates(date(2026, 9, 1), date(2027, 3, 1)))
        hall["deliveries"] = [{"date": day, "gpus": (num_racks * 4 - early) * 8}]
    academy_racks = data.draw(st.integers(1, num_racks - 1))
    tree["shares"][0]["gpus"] = tree["agreements"][0]["limit_gpus"] = academy_racks * 32
    seedling = data.draw(st.integers(1, (num_racks - academy_racks) * 32))
    tree["shares"][1]["gpus"] = tree["agreements"][1]["limit_gpus"] = seedling
    alliance = load_alliance(yaml.safe_dump(tree), "f.yaml")
    at = data.draw(st.dates(date(2026, 8, 1), date(2027, 4, 1)))
    check_buildable(alliance, at, None)
    check_buildable(alliance, at, date.fromordinal(at.toordinal() + data.draw(st.integers(1, 300))))
