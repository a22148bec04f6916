"""The scenario file: a question asked of the twin."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from typing import Annotated, Any

from pydantic import Field, GetJsonSchemaHandler, model_validator
from pydantic_core import CoreSchema

from dure.model.alliance import CellSpec, NumGpus
from dure.model.fleet import GPUS_PER_NODE_MAX
from dure.model.yaml_file import DurationMs, FileModel, Loc, Setting, check_names, load_model, nearest

Label = Annotated[str, Field(min_length=1, max_length=100)]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]


class FleetSource(FileModel):
    """The fleet: an alliance, a node list, or so many equal GPUs. Just one of the three."""

    alliance: str = Field(
        default="", max_length=1000,
        description="An alliance file; a relative path starts at the scenario file.",
    )
    at: date | None = Field(
        default=None, description="With `alliance`: first day of the run; none: the alliance's own start."
    )
    until: date | None = Field(
        default=None, description="With `alliance`: nodes delivered on this day or later are left out."
    )
    nodes: str = Field(
        default="", max_length=1000, description="A node list (openb or Dure's own); one pool, no agreements."
    )
    gpus: NumGpus = Field(default=0, description="So many equal GPUs in one pool, no agreements.")
    gpus_per_node: int = Field(
        default=8, ge=1, le=GPUS_PER_NODE_MAX, description="With `gpus`: GPUs of one node."
    )
    nodes_per_rack: int = Field(default=4, ge=1, le=1024, description="With `gpus`: nodes of one rack.")
    racks_per_block: int = Field(default=16, ge=1, le=4096, description="With `gpus`: racks of one block.")


class TraceFile(FileModel):
    """Recorded load."""

    path: str = Field(
        min_length=1, max_length=1000, description="The file; a relative path starts at the scenario file."
    )
    format: str = Field(
        default="auto", max_length=50, description="Its format; `auto`: recognised by what stands in it."
    )
    options: dict[str, Setting] = Field(
        default={}, description="`member`, `arrivals`, `num_jobs`, `checkpoint_s`: what to make of it; see cli.md."
    )


class Generator(FileModel):
    """Invented load with the statistics of the real traces."""

    days: float = Field(gt=0, le=36_600, description="How long jobs arrive.")
    offered_load: float = Field(
        gt=0, le=10, description="GPU time asked for per GPU time there is; above 1, queues grow without end."
    )
    start: date | None = Field(
        default=None, description="First day, for the rhythm of the week; none: that of the fleet."
    )
    mix: dict[str, Annotated[float, Field(ge=0)]] = Field(
        default={}, description="Parts of the GPU time by class that replace the usual ones of load.md; all are scaled to sum to 1, 0 leaves a class out."
    )
    seed: Seed | None = Field(
        default=None, description="One load for all of `seeds`; none: each of them makes its own."
    )


class LoadSource(FileModel):
    """The load: traces or a generator. Just one of the two."""

    traces: tuple[TraceFile, ...] = Field(default=(), description="Recorded load, merged by time; see below.")
    generator: Generator | None = Field(default=None, description="Invented load; see below.")


class Variant(FileModel):
    """One of the things compared."""

    name: Label = Field(description="Its name in tables and plots, unique in the scenario.")
    policy: Label = Field(default="dure", description="The policy's name.")
    alliance: str = Field(
        default="", max_length=1000,
        description="Another alliance file for this one: other shares, other terms.",
    )
    cells: CellSpec | None = Field(
        default=None, description="What all cell sites release, in place of what the alliance says; as `sites.cells` there."
    )
    words: str = Field(
        default="", max_length=1000,
        description="What the radios of all cell sites say, in place of their hours while it counts: a file of `dure ran fence --out`, said day after day.",
    )
    overrides: dict[str, Setting] = Field(
        default={}, description="Settings of the policy that differ from its defaults."
    )


class Faults(FileModel):
    """Node failures. A single word stands for the preset of that name."""

    preset: Label = Field(default="off", description="`off`, or a set of published constants.")
    constants: dict[str, float] = Field(default={}, description="Constants that differ from the preset's.")

    @model_validator(mode="before")
    @classmethod
    def _from_word(cls, value: Any) -> Any:
        return {"preset": value} if isinstance(value, str) else value

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """A word, or the mapping."""
        mapping = handler.resolve_ref_schema(handler(core_schema))
        return {"anyOf": [{"type": "string", "minLength": 1}, dict(mapping)]}


class Scenario(FileModel):
    """A scenario file."""

    name: Label = Field(description="What it is called.")
    description: str = Field(default="", max_length=2000, description="The question, in words.")
    fleet: FleetSource = Field(description="On what; see below.")
    load: LoadSource = Field(description="Under which load; see below.")
    compare: tuple[Variant, ...] = Field(
        default=(Variant(name="dure"),), min_length=1, max_length=100,
        description="Policies or alliances, each run with every seed; see below.",
    )
    faults: Faults = Field(default=Faults(), description="`off`, a preset, or constants; see below.")
    seeds: tuple[Seed, ...] = Field(
        default=(1,), min_length=1, max_length=10_000, description="Each gives one run of every variant."
    )
    horizon: DurationMs | None = Field(
        default=None, description="When a run stops, such as 30d; none: when its last job has ended."
    )
    warm_up: DurationMs = Field(default=0, description="Jobs that arrive in this time are not counted.")


@dataclass(frozen=True)
class Known:
    """Names that a scenario may use, as the layers above know them; an empty tuple: not checked here.

    Attributes
    ----------
    policies : tuple of str
        Values of ``compare.policy``.
    settings : tuple of str
        Keys of ``compare.overrides``.
    fault_presets, fault_constants : tuple of str
        Values of ``faults.preset`` besides ``off``; keys of ``faults.constants``.
    trace_formats : tuple of str
        Values of ``load.traces.format`` besides ``auto``.
    """

    policies: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    fault_presets: tuple[str, ...] = ()
    fault_constants: tuple[str, ...] = ()
    trace_formats: tuple[str, ...] = ()


def load_scenario(text: str, path: str, known: Known | None = None) -> Scenario:
    """The scenario written in ``text``.

    Parameters
    ----------
    text : str
        YAML.
    path : str
        The file as the user named it, for errors.
    known : Known, optional
        Names to check against.

    Raises
    ------
    InputError
        With line and dotted field of the first thing that is wrong.
    """

    def check(scenario: Scenario) -> Iterator[tuple[Loc, str]]:
        yield from _problems(scenario)
        yield from _unknown_names(scenario, known or Known())

    return load_model(Scenario, text, path, check)


#: Keys of a fleet that mean something beside one kind of source only.
_BESIDE = {
    "alliance": ("at", "until"), "nodes": (), "gpus": ("gpus_per_node", "nodes_per_rack", "racks_per_block"),
}


def _problems(scenario: Scenario) -> Iterator[tuple[Loc, str]]:
    fleet, load = scenario.fleet, scenario.load
    sources = [key for key in _BESIDE if getattr(fleet, key)]
    if len(sources) != 1:
        yield ("fleet",), f"give just one of {', '.join(_BESIDE)}, not {' and '.join(sources) or 'none'}"
        return
    for source, keys in _BESIDE.items():
        for key in keys:
            if source != sources[0] and key in fleet.model_fields_set:
                yield ("fleet", key), f"goes with `{source}`, but the fleet is given by `{sources[0]}`"
    if fleet.at is not None and fleet.until is not None and fleet.until <= fleet.at:
        yield ("fleet", "until"), f"must be after at ({fleet.at})"
    if bool(load.traces) == (load.generator is not None):
        yield ("load",), "give just one of traces, generator"
    variants: list[tuple[Loc, str]] = [
        (("compare", idx, "name"), variant.name) for idx, variant in enumerate(scenario.compare)
    ]
    yield from check_names(variants, "variant")
    for idx, variant in enumerate(scenario.compare):
        if variant.alliance and sources != ["alliance"]:
            yield ("compare", idx, "alliance"), f"the fleet is given by `{sources[0]}`, not by an alliance"
        if variant.cells and sources != ["alliance"]:
            yield ("compare", idx, "cells"), f"the fleet is given by `{sources[0]}`, not by an alliance"
    seeds: list[tuple[Loc, str]] = [(("seeds", idx), str(seed)) for idx, seed in enumerate(scenario.seeds)]
    for loc, _ in check_names(seeds, "seed"):
        yield loc, "the same seed twice would count one run as two"
    if scenario.horizon is not None and scenario.horizon <= scenario.warm_up:
        yield ("horizon",), "must be longer than warm_up"


def _unknown_names(scenario: Scenario, known: Known) -> Iterator[tuple[Loc, str]]:
    named: list[tuple[Loc, str, tuple[str, ...], str]] = []
    for idx, variant in enumerate(scenario.compare):
        named.append((("compare", idx, "policy"), variant.policy, known.policies, "policy"))
        named += [
            (("compare", idx, "overrides", key), key, known.settings, "setting") for key in variant.overrides
        ]
    for idx, trace in enumerate(scenario.load.traces):
        if trace.format != "auto":
            named.append((("load", "traces", idx, "format"), trace.format, known.trace_formats, "format"))
    if scenario.faults.preset != "off":
        named.append((("faults", "preset"), scenario.faults.preset, known.fault_presets, "preset"))
    for key in scenario.faults.constants:
        named.append((("faults", "constants", key), key, known.fault_constants, "constant"))
    for loc, name, names, what in named:
        if names and name not in names:
            yield loc, f"unknown {what}{nearest(name, names)}"
