"""Run a scenario: every variant with every seed, on the cores there are."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, fields, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from dure.model.alliance_build import build_fleet
from dure.model.errors import InputError
from dure.model.fleet import Fleet, uniform_fleet
from dure.model.jobs import Trace
from dure.model.scenario import Known, Scenario, TraceFile, Variant
from dure.model.terms import Terms, single_member_terms
from dure.policy.config import POLICIES, Policy, named_policy
from dure.policy.kernels import layout
from dure.twin.comparison import Comparison
from dure.twin.comparison import compare as compare_trials
from dure.twin.faults import FAULT_CONSTANT_NAMES, FAULT_PRESETS, generate_faults
from dure.twin.files import beside, read_alliance, read_scenario
from dure.twin.generate import LoadSpec, generate
from dure.twin.metrics import RunMetrics, measure
from dure.twin.radio_words import words_of
from dure.twin.replay import replay
from dure.twin.result import NEVER, RunResult
from dure.twin.traces import FORMATS, load_nodes, load_trace
from dure.twin.traces.merge import merged, shaped

#: Settings of a policy that a scenario may override.
SETTINGS = tuple(f.name for f in fields(Policy) if f.name not in ("name", "order"))
#: Least and greatest value of a setting that is a number, where not 0 and `_MOST`.
_MOST = 1 << 53
_BOUNDS = {
    "backfill": (0, layout.BACKFILL_CONSERVATIVE),
    "holds_max": (1, _MOST),
    "rank_step_ms": (1, _MOST),
    "scan_max": (1, 1 << 20),
    "epoch_ms": (1000, _MOST),
    "decay_ppm": (0, 1_000_000),
    "las_base": (1, _MOST),
    "las_levels": (1, 62),
    "spares_ppm": (0, 1_000_000),
    "default_ms": (1, _MOST),
    "history_min": (1, 1 << 31),
}


@dataclass(frozen=True)
class Outcome:
    """A scenario's runs: one result a variant (first seed), numbers of all, and their comparison."""

    results: list[RunResult]
    trials: list[RunMetrics]
    comparison: Comparison


def known_names() -> Known:
    """Names that a scenario may use, for its checks."""
    return Known(tuple(POLICIES), SETTINGS, tuple(FAULT_PRESETS), FAULT_CONSTANT_NAMES, FORMATS)


def run_scenario(
    path: str | Path, num_processes: int | None = None, progress: Callable[[int, int], None] | None = None
) -> Outcome:
    """Run every (variant, seed) of a scenario file; the result does not depend on the number of processes."""
    scenario = read_scenario(path, known_names())
    tasks = [(v, seed) for v in range(len(scenario.compare)) for seed in scenario.seeds]
    workers = min(num_processes or os.cpu_count() or 1, len(tasks))
    done: dict[tuple[int, int], tuple[RunMetrics, RunResult | None]] = {}
    if workers == 1:
        for v, seed in tasks:
            done[v, seed] = _run(str(path), scenario, v, seed, seed == scenario.seeds[0])
            if progress:
                progress(len(done), len(tasks))
    else:
        with ProcessPoolExecutor(workers) as pool:
            futures = {
                pool.submit(_run, str(path), scenario, v, seed, seed == scenario.seeds[0]): (v, seed)
                for v, seed in tasks
            }
            try:
                for future in as_completed(futures):
                    done[futures[future]] = future.result()
                    if progress:
                        progress(len(done), len(tasks))
            except BaseException:
                # An error of one run is the answer; those that have not begun are not waited for.
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    trials = [done[task][0] for task in tasks]
    results = [r for task in tasks if (r := done[task][1]) is not None]
    return Outcome(results, trials, compare_trials(trials))


def overridden(policy: Policy, settings: Mapping[str, Any], path: str, field: str) -> Policy:
    """A policy with some of its settings changed.

    Raises
    ------
    InputError
        A value is not of the setting's kind or out of its bounds.
    """
    for name, value in settings.items():
        default = getattr(policy, name)
        if isinstance(default, bool):
            if not isinstance(value, bool):
                raise InputError(f"must be true or false, not {value!r}", path, 0, f"{field}.{name}")
            continue
        low, high = _BOUNDS.get(name, (0, _MOST))
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise InputError(f"must be a whole number {low} to {high}, not {value!r}", path, 0, f"{field}.{name}")
    return replace(policy, **settings)


def _run(
    path: str, scenario: Scenario, variant_idx: int, seed: int, is_kept: bool
) -> tuple[RunMetrics, RunResult | None]:
    variant = scenario.compare[variant_idx]
    fleet, terms = _fleet(path, scenario, variant)
    trace = _load(path, scenario, variant, fleet, terms, seed)
    policy = overridden(named_policy(variant.policy), variant.overrides, path, f"compare[{variant_idx}].overrides")
    horizon_ms = NEVER if scenario.horizon is None else scenario.horizon
    last = int(trace.jobs["submit_ms"].max(initial=0))
    is_off = scenario.faults.preset == "off" and not scenario.faults.constants
    faults = None if is_off else generate_faults(
        fleet, scenario.faults.preset, horizon_ms if horizon_ms != NEVER else 2 * last + 1, seed,
        scenario.faults.constants,
    )  # fmt: skip
    words = words_of(str(beside(path, variant.words)), fleet) if variant.words else None
    result = replay(
        trace, fleet, policy, terms, faults=faults, seed=seed, horizon_ms=horizon_ms, is_rejecting=True, words=words
    )
    result = replace(_after_warm_up(result, scenario.warm_up), label=variant.name)
    return measure(result), result if is_kept else None


def _fleet(path: str, scenario: Scenario, variant: Variant) -> tuple[Fleet, Terms | None]:
    source = scenario.fleet
    name = variant.alliance or source.alliance
    if name:
        alliance = read_alliance(beside(path, name))
        if variant.cells:
            alliance = alliance.releasing(variant.cells)
        return build_fleet(alliance, source.at or alliance.start, source.until)
    if source.nodes:
        return load_nodes(beside(path, source.nodes)), None
    return uniform_fleet(source.gpus, source.gpus_per_node, source.nodes_per_rack, source.racks_per_block), None


def _load(path: str, scenario: Scenario, variant: Variant, fleet: Fleet, terms: Terms | None, seed: int) -> Trace:
    spec = scenario.load.generator
    if spec is not None:
        start = spec.start or _first_day(path, scenario, variant)
        made = LoadSpec(spec.days, spec.offered_load, mix=spec.mix)
        if start is not None:
            made = replace(made, start=start)
        chosen = seed if spec.seed is None else spec.seed
        try:
            return generate(made, fleet, terms or single_member_terms(fleet.num_gpus), chosen)
        except InputError as error:
            raise InputError(error.message, path, 0, f"load.generator.{error.field}") from None
    return merged([_read(path, idx, source) for idx, source in enumerate(scenario.load.traces)])


def _first_day(path: str, scenario: Scenario, variant: Variant) -> date | None:
    name = variant.alliance or scenario.fleet.alliance
    if not name or scenario.fleet.at is not None:
        return scenario.fleet.at
    return read_alliance(beside(path, name)).start


def _read(path: str, idx: int, source: TraceFile) -> Trace:
    trace = load_trace(beside(path, source.path), format=None if source.format == "auto" else source.format)
    try:
        return shaped(trace, source.options)
    except InputError as error:
        raise InputError(error.message, path, 0, f"load.traces[{idx}].options.{error.field}") from None


def _after_warm_up(result: RunResult, warm_up_ms: int) -> RunResult:
    """Leave the jobs of the first moments out of the count; they were run to fill the fleet."""
    if warm_up_ms == 0:
        return result
    trace = result.trace
    keep = np.flatnonzero(trace.jobs["submit_ms"] >= result.start_ms + warm_up_ms)
    return replace(result, trace=trace.rows(keep), jobs=result.jobs[keep])
