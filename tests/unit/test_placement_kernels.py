"""Placement kernels: compiled against plain Python, the cache against no cache, and what no placement may do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dure.policy.kernels import placement as scoring
from dure.policy.kernels import placement_dure as own
from dure.policy.kernels import placement_run as runs

NUM_TYPES = 3
G = 4
KINDS = np.array([0, 0, 1, 2, 4, -1], np.int64)  # of the shapes of `small_pool`


def plain(kernel: Any) -> Any:
    """A kernel's plain Python form (itself where compiling is switched off)."""
    return getattr(kernel, "py_func", kernel)


@st.composite
def pods(draw: Any) -> tuple[int, int, int, int, int]:
    """(CPU, memory, GPUs, milli-GPU, type mask)."""
    num_gpus = draw(st.integers(0, G))
    milli = draw(st.integers(1, 1000)) if num_gpus == 1 else (1000 if num_gpus else 0)
    return (
        draw(st.integers(0, 40)) * 500,
        draw(st.integers(0, 40)) * 512,
        num_gpus,
        milli,
        draw(st.integers(1, (1 << NUM_TYPES) - 1)),
    )


@st.composite
def nodes(draw: Any) -> tuple[int, int, np.ndarray, int, int]:
    """(CPU free, memory free, milli-GPU free, GPUs, type)."""
    num_gpus = draw(st.integers(1, G))
    free = np.zeros(G, np.int32)
    free[:num_gpus] = draw(
        st.lists(st.one_of(st.just(1000), st.just(0), st.integers(0, 1000)), min_size=num_gpus, max_size=num_gpus)
    )
    return (
        draw(st.integers(0, 80)) * 500,
        draw(st.integers(0, 80)) * 512,
        free,
        num_gpus,
        draw(st.integers(0, NUM_TYPES - 1)),
    )


@st.composite
def targets(draw: Any) -> np.ndarray:
    """A distribution of one to five pods."""
    rows = draw(st.lists(st.tuples(pods(), st.integers(1, 9)), min_size=1, max_size=5))
    table = np.array([(p[0], p[2], p[3], p[4], weight) for p, weight in rows], float)
    table[:, 4] /= table[:, 4].sum()
    return table


def lost_by_definition(cpu: int, free: list[int], gpu_type: int, target: np.ndarray) -> float:
    """FGD's fragmentation as the paper words it, pod by pod."""
    lost = 0.0
    for pod_cpu, num_gpus, milli, mask, weight in target.tolist():
        usable = [f for f in free if f >= milli]
        runs = num_gpus > 0 and cpu >= pod_cpu and (int(mask) >> gpu_type) % 2 == 1 and len(usable) >= num_gpus
        lost += weight * (sum(free) - sum(usable) if runs else sum(free))
    return lost


@settings(max_examples=60, deadline=None)
@given(nodes(), pods(), targets())
def test_compiled_scores_equal_plain_ones(node: Any, pod: Any, target: np.ndarray) -> None:
    cpu, mem, free, num_gpus, gpu_type = node
    total = int(free.sum())
    scratch = np.zeros(G, np.int32)
    outlook = own.outlook_of(target)
    calls: list[tuple[Any, tuple[Any, ...]]] = [
        (scoring.gpus_that_fit, (free, num_gpus, pod[3])),
        (scoring.can_host, (cpu, mem, free, num_gpus, gpu_type, *pod)),
        (scoring.total_free, (free, num_gpus)),
        (scoring.fragmentation, (cpu, free, num_gpus, gpu_type, target)),
        (own.stranded, (float(total), float(cpu), outlook[0])),
        (own.loss, (cpu, free, num_gpus, gpu_type, target, outlook)),
        (scoring.score_dot_product, (cpu, total, pod[0], pod[2] * pod[3])),
        (scoring.score_clustering, (total, 5, pod[2] - 1)),
        (scoring.fgd_step, (float(total), float(cpu))),
        (own.dure_step, (float(total), float(cpu))),
    ]
    if scoring.can_host(cpu, mem, free, num_gpus, gpu_type, *pod):
        calls += [
            (scoring.tightest_gpus, (free, num_gpus, pod[2], pod[3])),
            (scoring.random_gpu, (free, num_gpus, pod[2], pod[3], 0.7)),
            (scoring.score_packing, (free, num_gpus, pod[2], pod[3])),
            (scoring.score_best_fit, (cpu, total, pod[0], pod[2] * pod[3])),
            *(
                (runs.score_descent, (rule, cpu, free, num_gpus, gpu_type, pod[0], *pod[2:4], target, outlook, scratch))
                for rule in (runs.FGD, runs.DURE)
            ),
        ]
    for kernel, arguments in calls:
        assert kernel(*arguments) == plain(kernel)(*arguments), kernel


@settings(max_examples=60, deadline=None)
@given(nodes(), targets())
def test_fragmentation_is_the_papers(node: Any, target: np.ndarray) -> None:
    cpu, _, free, num_gpus, gpu_type = node
    found = scoring.fragmentation(cpu, free, num_gpus, gpu_type, target)
    assert found == pytest.approx(lost_by_definition(cpu, free[:num_gpus].tolist(), gpu_type, target), abs=1e-6)


def test_rest_after_many_pods() -> None:
    target = np.array([[1000.0, 1.0, 400.0, 1.0, 0.5], [1000.0, 1.0, 1000.0, 1.0, 0.5]])
    rest = own.outlook_of(target)[own.FILL_AT :]
    assert rest[399] == 399.0
    assert rest[[400, 800, 999, 1000]] == pytest.approx([0.0, 0.0, 199.0, 0.0])


def test_rest_counts_on_rare_pods_as_far_as_they_will_come() -> None:
    target = np.array([[1000.0, 1.0, 400.0, 1.0, 0.99], [1000.0, 1.0, 600.0, 1.0, 0.01]])
    rest = own.outlook_of(target)[own.FILL_AT :]
    missed = 0.99**100
    assert rest[600] == pytest.approx(missed * rest[200])
    assert rest[1000] == pytest.approx(missed * rest[600])


def test_compiled_outlook_equals_plain_one() -> None:
    target = small_pool(1)[-1]
    np.testing.assert_array_equal(own.outlook_of(target), plain(own.outlook_of)(target))


def test_outlook_begins_with_cpu_for_each_milli_gpu() -> None:
    target = np.array([[6000.0, 1.0, 500.0, 1.0, 0.5], [9000.0, 1.0, 1000.0, 1.0, 0.5]])
    assert own.outlook_of(target)[0] == pytest.approx(10.0)


def test_stranded_gpu_is_what_the_other_resource_cannot_feed() -> None:
    assert own.stranded(1000.0, 0.0, 1.0) == 1000.0
    assert own.stranded(1000.0, 500.0, 1.0) == pytest.approx((0 + 500 + 1000 - 500 / 1.8) / 3)
    assert own.stranded(1000.0, 5000.0, 1.0) == 0.0
    assert own.stranded(1000.0, 0.0, 0.0) == 0.0


def small_pool(seed: int) -> tuple[Any, ...]:
    """Twelve nodes, six shapes, sixty arrivals."""
    rng = np.random.default_rng(seed)
    num_gpus = rng.integers(1, G + 1, 12).astype(np.int64)
    gpu_free = np.where(np.arange(G) < num_gpus[:, None], 1000, 0).astype(np.int32)
    shapes = np.array(
        [(4000, 8, 1, 300, 7), (3000, 8, 1, 810, 7), (8000, 8, 1, 1000, 3), (9000, 16, 2, 1000, 7),
         (16000, 64, 4, 1000, 7), (12000, 4, 0, 0, 7)], np.int64,
    )  # fmt: skip
    arrivals = rng.integers(0, len(shapes), 60).astype(np.int32)
    target = np.array([(s[0], s[2], s[3], s[4], 1 / len(shapes)) for s in shapes], float)
    cpu = rng.integers(8, 48, 12).astype(np.int64) * 1000
    return arrivals, shapes, cpu, np.full(12, 256, np.int64), gpu_free, num_gpus, rng.integers(0, 3, 12), target


def run(rule: int, seed: int, function: Any = runs.place_pods) -> tuple[Any, ...]:
    """One run on a small pool: what was chosen and what is left."""
    arrivals, shapes, cpu, mem, gpu_free, num_gpus, gpu_type, target = small_pool(seed)
    rng = np.random.default_rng(seed + 1)
    chosen, gpus = np.empty(60, np.int64), np.empty(60, np.int64)
    function(rule, arrivals, shapes, KINDS, cpu, mem, gpu_free, num_gpus, gpu_type, target,
             np.arange(12), rng.random((60, 2)), chosen, gpus)  # fmt: skip
    return chosen, gpus, cpu, mem, gpu_free


@pytest.mark.parametrize("rule", range(runs.DURE))
def test_runs_equal_plain_python(rule: int) -> None:
    for compiled, interpreted in zip(run(rule, 5), run(rule, 5, plain(runs.place_pods)), strict=True):
        np.testing.assert_array_equal(compiled, interpreted)


@pytest.mark.parametrize("rule", range(runs.DURE))
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_placements_are_feasible_and_none_is_refused_that_fits(rule: int, seed: int) -> None:
    arrivals, shapes, cpu, mem, gpu_free, num_gpus, gpu_type, _ = small_pool(seed)
    chosen, gpus, cpu_left, _, gpu_left = run(rule, seed)
    for p, s in enumerate(arrivals):
        fits = [scoring.can_host(cpu[n], mem[n], gpu_free[n], num_gpus[n], gpu_type[n], *shapes[s]) for n in range(12)]
        if chosen[p] < 0:
            assert not any(fits)
            continue
        n = chosen[p]
        assert fits[n]
        taken = [g for g in range(G) if (int(gpus[p]) >> g) & 1]
        assert len(taken) == shapes[s, 2]
        cpu[n] -= shapes[s, 0]
        mem[n] -= shapes[s, 1]
        gpu_free[n, taken] -= shapes[s, 3]
        assert (gpu_free[n] >= 0).all()
    np.testing.assert_array_equal(cpu, cpu_left)
    np.testing.assert_array_equal(gpu_free, gpu_left)


@pytest.mark.parametrize("rule", range(runs.DOT_PRODUCT, runs.DURE))
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_the_cache_changes_no_decision(rule: int, seed: int) -> None:
    """One pod at a time on the state that the last one left, which leaves nothing to keep."""
    arrivals, shapes, cpu, mem, gpu_free, num_gpus, gpu_type, target = small_pool(seed)
    kinds = np.zeros(12, np.int64)
    chosen, gpus, *_ = run(rule, seed)
    scratch = np.empty(G, np.int32)
    outlook = np.zeros(0)
    for p, s in enumerate(arrivals):
        scores = [
            runs.score_node(rule, n, s, shapes, KINDS[s], cpu, mem, gpu_free, num_gpus, gpu_type, kinds, target, outlook,
                            scratch)
            for n in range(12)
        ]  # fmt: skip
        best = max(range(12), key=lambda n: (scores[n][0], -n))
        if scores[best][0] == runs.UNFIT:
            assert chosen[p] == -1
            continue
        assert (best, scores[best][1]) == (chosen[p], gpus[p])
        cpu[best] -= shapes[s, 0]
        mem[best] -= shapes[s, 1]
        for g in range(G):
            gpu_free[best, g] -= shapes[s, 3] * ((gpus[p] >> g) & 1)
        if KINDS[s] >= 0:
            kinds[best] |= 1 << KINDS[s]
