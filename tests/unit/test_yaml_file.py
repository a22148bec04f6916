"""YAML with line numbers: what is read, what is refused, and where the error points."""

from __future__ import annotations

from datetime import date

import pytest
from pydantic import Field

from dure.model.errors import InputError
from dure.model.yaml_file import (
    DEPTH_MAX,
    DurationMs,
    FileModel,
    Setting,
    load_model,
    locate,
    parse_duration,
    parse_yaml,
    plain,
)


class Wheel(FileModel):
    radius_mm: int = Field(ge=1)
    spokes: tuple[str, ...] = ()


class Cart(FileModel):
    name: str
    wheels: tuple[Wheel, ...] = ()
    built: date | None = None
    rest: DurationMs = 0
    extras: dict[str, Setting] = Field(default={})
    parts: tuple[str, ...] = Field(default=("axle",), min_length=1, max_length=2)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: 1", {"a": 1}),
        ("a: 260_000", {"a": 260_000}),
        ("a: -1.5e3", {"a": -1500.0}),
        ("a: .5", {"a": 0.5}),
        ("a: 2026-10-01", {"a": date(2026, 10, 1)}),
        ("a: '2026-10-01'", {"a": "2026-10-01"}),
        ("a: true", {"a": True}),
        ("a: off", {"a": "off"}),  # YAML 1.1 would make these four false, true, 90 and 8
        ("a: NO\nb: yes\nc: 1:30\nd: 010", {"a": "NO", "b": "yes", "c": "1:30", "d": "010"}),
        ("a: 120s", {"a": "120s"}),
        ("a: 5e", {"a": "5e"}),
        ("a:\nb: ~", {"a": None, "b": None}),
        ("- 1\n- [x, {y: z}]", (1, ("x", {"y": "z"}))),
        ("2026: x", {"2026": "x"}),
        ("a: |\n  x\n  y\n", {"a": "x\ny\n"}),
        ("\ufeffa: 1", {"a": 1}),
        ("a: !!str 5", {"a": "5"}),
        ('"<<": 1', {"<<": 1}),
        ("a: &x {b: 1, c: 2}\nd: {<<: *x, c: 3}", {"a": {"b": 1, "c": 2}, "d": {"b": 1, "c": 3}}),
        (
            "a: &x {b: 1}\ny: &y {b: 2, c: 2}\nd: {<<: [*x, *y]}",
            {"a": {"b": 1}, "y": {"b": 2, "c": 2}, "d": {"b": 1, "c": 2}},
        ),
        ("a: {<<: &x {b: 1}, c: 2}\nd: *x", {"a": {"b": 1, "c": 2}, "d": {"b": 1}}),
    ],
)
def test_values(text: str, value: object) -> None:
    assert plain(parse_yaml(text)) == value


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("", 0, "empty"),
        ("# nothing\n", 0, "empty"),
        ("a: 1\nb: [1, 2\n", 3, "column 1: not valid YAML"),
        ("a: 1\n\tb: 2", 2, "column 1: not valid YAML"),
        ("a: b: c", 1, "column 5: not valid YAML"),
        ("a: 1\nb: 2\na: 3", 3, "'a' stands twice (first on line 1)"),
        ("a: 1\n---\nb: 2", 2, "second document"),
        ("a: 1\nb: *gone", 2, "no anchor &gone"),
        ("a: &x [1, *x]", 1, "*x would contain itself"),
        ("a: !!python/object:os.system x", 1, "tags"),
        ("a: !!set {x}", 1, "tags"),
        ("? [1, 2]\n: 3", 1, "cannot be a key"),
        ("a: &x 1\n*x : 3", 2, "cannot be a key"),
        ("a: 2026-02-30", 1, "no day 2026-02-30"),
        ("a: {<<: 3}", 1, "merges mappings only"),
        ("a: 1\nb: x\x07y", 2, "column 5: character U+0007"),
        ("a: \ud800", 1, "U+D800"),
        ("a: " + "9" * 50, 1, "more than 40"),
        ("a: 1\nb: " + "[" * 100, 2, f"nested more than {DEPTH_MAX}"),
        ("a: " + "x" * 4_000_001, 0, "longer than"),
    ],
)
def test_refused(text: str, line: int, words: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_yaml(text, "cart.yaml")
    assert (caught.value.path, caught.value.line) == ("cart.yaml", line)
    assert words in caught.value.message


@pytest.mark.parametrize("depth", [12, 60])
def test_webs_of_aliases_are_bounded(depth: int) -> None:
    laughs = "\n".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9) if i else 'ha'}]" for i in range(depth))
    with pytest.raises(InputError, match="values or nested"):
        parse_yaml(laughs)


@pytest.mark.parametrize(
    ("loc", "line", "name"),
    [
        (("wheels", 1, "radius_mm"), 5, "wheels[1].radius_mm"),
        (("wheels", 0, "spokes", 1), 4, "wheels[0].spokes[1]"),
        (("wheels", 1, "spokes"), 5, "wheels[1].spokes"),  # missing: the line of the mapping it is missing in
        (("wheels", "Wheel", 1, "radius_mm"), 5, "wheels[1].radius_mm"),  # a union member's name
        ((), 1, ""),
    ],
)
def test_locate(loc: tuple[str | int, ...], line: int, name: str) -> None:
    root = parse_yaml("name: x\nwheels:\n  - radius_mm: 3\n    spokes: [a, b]\n  - radius_mm: 4\n")
    assert locate(root, loc) == (line, name)


def test_a_good_file() -> None:
    cart = load_model(
        Cart, "name: c\nwheels: [{radius_mm: 3, spokes: [a]}]\nrest: 1m30s\nextras: {x: 1}", "f"
    )
    assert cart == Cart(name="c", wheels=(Wheel(radius_mm=3, spokes=("a",)),), rest="1m30s", extras={"x": 1})  # type: ignore[arg-type]
    assert cart.rest == 90_000


@pytest.mark.parametrize(
    ("text", "line", "name", "words"),
    [
        ("- 1", 1, "", "must be a mapping with the keys built, extras, name, parts, rest, wheels"),
        ("wheels: []", 1, "name", "this key is required"),
        ("name: x\nwheels:\n- spokes: []\n", 3, "wheels[0].radius_mm", "this key is required"),
        ("name: x\nwheel: []", 2, "wheel", "unknown key 'wheel'; did you mean 'wheels'?"),
        ("name: x\nwheels:\n- {radius_mm: 1, zzz: 1}", 3, "wheels[0].zzz", "known: radius_mm, spokes"),
        ("name: 5", 1, "name", "must be text, not 5"),
        ("name: x\nwheels: {radius_mm: 1}", 2, "wheels", "must be a list, not a mapping"),
        ("name: x\nwheels:\n- 3", 3, "wheels[0]", "must be a mapping, not 3"),
        ("name: x\nwheels:\n- {radius_mm: 0}", 3, "wheels[0].radius_mm", "greater than or equal to 1, not 0"),
        ("name: x\nwheels:\n- {radius_mm: '4'}", 3, "wheels[0].radius_mm", "must be a whole number, not '4'"),
        (
            "name: x\nwheels:\n- {radius_mm: true}",
            3,
            "wheels[0].radius_mm",
            "must be a whole number, not True",
        ),
        ("name: x\nbuilt: yesterday", 2, "built", "must be a date such as 2026-10-01, not 'yesterday'"),
        ("name: x\nrest: 5", 2, "rest", "must be a duration with its unit"),
        ("name: x\nextras: {a: [1]}", 2, "extras.a", "must be one text, number or true/false, not a list"),
        ("name: 5\nwheels: 6\nbuilt: x", 1, "name", "(and 2 more)"),
        ("name:", 1, "name", "must be text, not nothing"),
        ("name: x\nparts: []", 2, "parts", "must have at least 1 entries"),
        ("name: x\nparts: [a, b, c]", 2, "parts", "must have at most 2 entries"),
        ("name: x\nparts: [1]", 2, "parts[0]", "must be text, not 1"),
    ],
)
def test_a_bad_file_names_line_and_field(text: str, line: int, name: str, words: str) -> None:
    with pytest.raises(InputError) as caught:
        load_model(Cart, text, "cart.yaml")
    assert (caught.value.line, caught.value.field) == (line, name)
    assert words in caught.value.message
    assert str(caught.value).startswith(f"cart.yaml:{line}: ")


def test_checks_point_into_the_file() -> None:
    def check(cart: Cart):  # type: ignore[no-untyped-def]
        yield ("wheels", 1, "radius_mm"), "odd"

    with pytest.raises(InputError) as caught:
        load_model(Cart, "name: x\nwheels:\n- radius_mm: 1\n- radius_mm: 3\n", "f", check)
    assert str(caught.value) == "f:4: wheels[1].radius_mm: odd"


@pytest.mark.parametrize(
    ("text", "value_ms"),
    [
        ("0s", 0),
        ("120s", 120_000),
        ("5m", 300_000),
        ("1h30m", 5_400_000),
        ("1h 30m", 5_400_000),
        ("250ms", 250),
        ("1.5s", 1500),
        ("2d", 172_800_000),
        ("1w", 604_800_000),
    ],
)
def test_durations(text: str, value_ms: int) -> None:
    assert parse_duration(text) == value_ms


@pytest.mark.parametrize("text", ["", "5", "s", "5 seconds", "-5s", "5s!", "999999d", 5, None, 1.5])
def test_bad_durations(text: object) -> None:
    with pytest.raises(ValueError, match="duration"):
        parse_duration(text)
