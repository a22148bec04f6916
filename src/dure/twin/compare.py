"""Run a scenario: every variant with every seed, on the cores there are."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from dure.model.errors import InputError
from dure.model.fleet import Fleet, uniform_fleet
from dure.model.jobs import Trace
from dure.model.scenario import Known, Scenario, Variant
from dure.model.terms import Terms
from dure.policy.config import POLICIES, Policy, named_policy
from dure.twin.comparison import Comparison
from dure.twin.comparison import compare as compare_trials
from dure.twin.faults import FAULT_PRESETS, generate_faults
from dure.twin.files import beside, read_alliance, read_scenario
from dure.twin.metrics import RunMetrics, measure
from dure.twin.replay import replay
from dure.twin.result import NEVER, RunResult

#: Settings of a policy that a scenario may override.
SETTINGS = tuple(f.name for f in fields(Policy) if f.name not in ("name", "order"))


@dataclass(frozen=True)
class Outcome:
    """A scenario's runs: one result a variant (first seed), numbers of all, and their comparison."""

    results: list[RunResult]
    trials: list[RunMetrics]
    comparison: Comparison


def known_names() -> Known:
    """Names that a scenario may use, for its checks."""
    return Known(policies=tuple(POLICIES), settings=SETTINGS, fault_presets=tuple(FAULT_PRESETS))


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
            for future in as_completed(futures):
                done[futures[future]] = future.result()
                if progress:
                    progress(len(done), len(tasks))
    trials = [done[task][0] for task in tasks]
    results = [r for task in tasks if (r := done[task][1]) is not None]
    return Outcome(results, trials, compare_trials(trials))


def _run(
    path: str, scenario: Scenario, variant_idx: int, seed: int, is_kept: bool
) -> tuple[RunMetrics, RunResult | None]:
    variant = scenario.compare[variant_idx]
    fleet, terms = _fleet(path, scenario, variant)
    trace = _load(path, scenario, fleet, terms, seed)
    policy = replace(named_policy(variant.policy), **_overrides(path, variant, variant_idx))
    horizon_ms = NEVER if scenario.horizon is None else scenario.horizon
    last = int(trace.jobs["submit_ms"].max(initial=0))
    faults = generate_faults(
        fleet, scenario.faults.preset, horizon_ms if horizon_ms != NEVER else 2 * last + 1, seed,
        scenario.faults.constants,
    )  # fmt: skip
    result = replay(
        trace, fleet, policy, terms, faults=faults, seed=seed, horizon_ms=horizon_ms, is_rejecting=True
    )
    result = replace(_after_warm_up(result, scenario.warm_up), label=variant.name)
    return measure(result), result if is_kept else None


def _overrides(path: str, variant: Variant, idx: int) -> dict[str, Any]:
    for name in variant.overrides:
        if name not in SETTINGS:
            raise InputError(
                f"no such setting; known: {', '.join(SETTINGS)}", path, 0, f"compare.{idx}.overrides.{name}"
            )
    return dict(variant.overrides)


def _fleet(path: str, scenario: Scenario, variant: Variant) -> tuple[Fleet, Terms | None]:
    source = scenario.fleet
    name = variant.alliance or source.alliance
    if name:
        from dure.model.alliance_build import build_fleet

        alliance = read_alliance(beside(path, name))
        return build_fleet(alliance, source.at or alliance.start, source.until)
    if source.nodes:
        from dure.twin.traces import load_nodes

        return load_nodes(beside(path, source.nodes)), None
    return uniform_fleet(
        source.gpus, source.gpus_per_node, source.nodes_per_rack, source.racks_per_block
    ), None


def _load(path: str, scenario: Scenario, fleet: Fleet, terms: Terms | None, seed: int) -> Trace:
    if scenario.load.generator is not None:
        from dure.model.terms import single_member_terms
        from dure.twin.generate import LoadSpec, generate

        spec = scenario.load.generator
        made = LoadSpec(spec.days, spec.offered_load)
        if spec.start is not None:
            made = replace(made, start=spec.start)
        chosen = seed if spec.seed is None else spec.seed
        return generate(made, fleet, terms or single_member_terms(fleet.num_gpus), chosen)
    from dure.twin.traces import load_trace

    if len(scenario.load.traces) != 1:
        raise InputError("one trace a scenario", path, 0, "load.traces")
    source = scenario.load.traces[0]
    return load_trace(beside(path, source.path), format=source.format or None)


def _after_warm_up(result: RunResult, warm_up_ms: int) -> RunResult:
    """Leave the jobs of the first moments out of the count; they were run to fill the fleet."""
    if warm_up_ms == 0:
        return result
    trace = result.trace
    keep = np.flatnonzero(trace.jobs["submit_ms"] >= result.start_ms + warm_up_ms)
    kept = Trace(
        trace.jobs[keep], [trace.job_ids[i] for i in keep], trace.members, trace.projects, trace.users,
        trace.gpu_types, trace.source, {name: values[keep] for name, values in trace.extra.items()},
    )  # fmt: skip
    return replace(result, trace=kept, jobs=result.jobs[keep])
