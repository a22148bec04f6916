"""Rule 4: the core's places are those that lose least of the load expected, and it expects what has come."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from dure.core.build import build_state
from dure.core.step import Core, Submitted
from dure.model.fleet import NODE_DTYPE, Fleet, GpuType, Site
from dure.model.jobs import TOPOLOGY_NODE, Trace, make_jobs
from dure.policy.config import named_policy
from dure.policy.kernels import expected
from dure.policy.kernels import placement_dure as own
from dure.policy.kernels import placement_run as runs
from dure.policy.kernels.placement import can_host
from dure.twin.loop import one_by_one

#: CPU (1/1000), GPUs, milli of each: more CPU for a GPU than the nodes have in some, none in others.
SHAPES = [(4000, 1, 300), (3000, 1, 810), (8000, 1, 1000), (9000, 2, 1000), (16000, 4, 1000), (12000, 0, 1000)]


def fleet_of(cpu: np.ndarray, num_gpus: np.ndarray, gpu_type: np.ndarray) -> Fleet:
    nodes = np.zeros(len(cpu), NODE_DTYPE)
    nodes["cpu_milli"], nodes["num_gpus"], nodes["gpu_type"], nodes["mem_mib"] = cpu, num_gpus, gpu_type, 1 << 30
    nodes["pool"] = nodes["block"] = gpu_type
    nodes["rack"] = np.arange(len(cpu))
    return Fleet(nodes, [GpuType(f"t{i}") for i in range(3)], [Site("s")], ["c"], [])


def trace_of(shapes: np.ndarray) -> Trace:
    jobs = make_jobs(len(shapes))
    jobs["submit_ms"] = np.arange(len(shapes))
    jobs["cpu_milli"], jobs["gpu_milli"] = shapes[:, 0], shapes[:, 2]
    jobs["num_gpus"] = jobs["min_gpus"] = jobs["max_gpus"] = shapes[:, 1]
    jobs["topology"] = np.where(shapes[:, 1] > 1, TOPOLOGY_NODE, 0)
    return Trace(jobs, [str(i) for i in range(len(jobs))], ["m"], ["p"], ["u"], [], "shapes")


def scene(seed: int, num_jobs: int = 60) -> tuple[Fleet, Trace, np.ndarray]:
    rng = np.random.default_rng(seed)
    fleet = fleet_of(rng.integers(8, 22, 12) * 1000, rng.integers(3, 5, 12), np.sort(rng.integers(0, 3, 12)))
    fleet.nodes["pool"] = fleet.nodes["block"] = np.unique(fleet.nodes["gpu_type"], return_inverse=True)[1]
    shapes = np.array(SHAPES)[rng.integers(0, len(SHAPES), num_jobs)]
    shapes[0] = SHAPES[2]  # once it has come, all places count: it wants more CPU than its part of a node
    # A job that no node could ever take is another matter.
    able = [any(c >= s[0] and g >= s[1] for c, g in zip(fleet.nodes["cpu_milli"], fleet.nodes["num_gpus"], strict=True))
            for s in shapes]  # fmt: skip
    return fleet, trace_of(shapes[able]), shapes[able]


@pytest.mark.parametrize("seed", range(12))
def test_the_core_places_as_a_search_of_all_nodes_does(seed: int) -> None:
    fleet, trace, shapes = scene(seed)
    everything = float((1 << 3) - 1)
    target = np.array([(cpu, gpus, milli if gpus else 0, everything, 1 / len(SHAPES)) for cpu, gpus, milli in SHAPES])
    outlook = own.outlook_of(target)
    state = build_state(fleet, None, trace, named_policy("dure")).state
    expected.told(state, target)
    chosen = np.full(len(shapes), -1, np.int64)
    one_by_one(state, chosen)
    nodes = fleet.nodes
    cpu_free, scratch = nodes["cpu_milli"].copy(), np.zeros(4, np.int32)
    free = np.where(np.arange(4) < nodes["num_gpus"][:, None], 1000, 0).astype(np.int32)
    for j, (cpu, gpus, milli) in enumerate(shapes):
        found = []
        for n in range(len(nodes)):
            if can_host(cpu_free[n], 1, free[n], nodes["num_gpus"][n], 0, cpu, 0, gpus, milli, 1):
                step, mask = runs.score_descent(runs.DURE, cpu_free[n], free[n], int(nodes["num_gpus"][n]),
                                                int(nodes["gpu_type"][n]), cpu, gpus, milli, target, outlook,
                                                scratch)  # fmt: skip
                found.append((step, -n, mask))
        assert (chosen[j] >= 0) == bool(found), j
        if not found:
            continue
        step, n, mask = max(found)
        assert chosen[j] == -n, j
        cpu_free[-n] -= cpu
        for g in range(4):
            free[-n, g] -= milli * (mask >> g & 1) if gpus else 0
    assert (chosen >= 0).sum() > 10
    assert (chosen < 0).any()
    np.testing.assert_array_equal(state.node["cpu_free"], cpu_free)
    is_whole = state.node["free_mask"][:, None] >> np.arange(4) & 1
    np.testing.assert_array_equal(np.where(is_whole, 1000, state.gfree[:, :4]), free)


def test_what_has_come_is_expected_and_nothing_else() -> None:
    shapes = np.array(SHAPES)[np.random.default_rng(3).choice(len(SHAPES), 400, p=[0.5, 0.02, 0.2, 0.2, 0.07, 0.01])]
    fleet = fleet_of(np.full(12, 48_000), np.full(12, 4), np.zeros(12, int))
    core = Core(fleet, None, trace_of(shapes), named_policy("dure"))
    for j in range(expected.SEEN_MIN - 1):
        core.step(j, [Submitted(j)])
    assert core.state.g[0]["num_target"] == 0
    core.step(expected.SEEN_MIN, [Submitted(expected.SEEN_MIN - 1)])
    seen = Counter(map(tuple, shapes[: expected.SEEN_MIN]))
    rows = core.state.target[: core.state.g[0]["num_target"]]
    assert 0 < len(rows) < len(SHAPES)  # the rarest are beyond 95%
    common = sum(seen[s] for s in seen if seen[s] >= sorted(seen.values())[-len(rows)])
    for cpu, gpus, milli, _, part in rows:
        shape = (int(cpu), int(gpus), int(milli) or 1000)
        assert part == pytest.approx(seen[shape] / common), shape
    assert [part for *_, part in rows] == sorted((part for *_, part in rows), reverse=True)


def test_old_jobs_fade() -> None:
    half = expected.SEEN_MAX // 2
    state = build_state(fleet_of(np.full(2, 48_000), np.full(2, 4), np.zeros(2, int)), None,
                        trace_of(np.array([SHAPES[0], SHAPES[2]])), named_policy("dure")).state  # fmt: skip
    first, second = (int(c) for c in state.job["cls"])
    for c in (first,) * half + (second,) * (3 * half):
        expected.note_submitted(state, c)
    seen = {int(state.cls[c]["shape"]): int(state.shape[state.cls[c]["shape"]]["seen"]) for c in (first, second)}
    assert seen[int(state.cls[first]["shape"])] < half
    assert sum(seen.values()) == state.g[0]["num_seen"] < expected.SEEN_MAX
