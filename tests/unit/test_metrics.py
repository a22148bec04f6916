"""The numbers of a run, against values worked out by hand and against NumPy."""

from __future__ import annotations

import dataclasses
import math
import pickle
import runpy
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dure.model.fleet import uniform_fleet
from dure.model.jobs import Trace, make_jobs
from dure.model.terms import AgreementTerms, Member, Pool, Terms
from dure.twin.metrics import SIZE_CLASSES, jain_index, measure, size_class, spread, summary
from dure.twin.result import (
    NEVER,
    OUTCOME_CANCELLED,
    OUTCOME_FINISHED,
    OUTCOME_RUNNING,
    OUTCOME_WAITING,
    PROMISE_DTYPE,
    PROMISE_FORECAST,
    PROMISE_RECLAIM,
    PROMISE_RESERVED,
    Counters,
    RunResult,
    Series,
    make_result_jobs,
)
from dure.twin.start_errors import ERROR_QUANTILES, by_horizon, start_errors

synthetic_result = runpy.run_path(str(Path(__file__).parents[1] / "synthetic_result.py"))["synthetic_result"]

SUMMARY_KEYS = [
    "jobs", "finished", "wait_mean_s", "wait_p50_s", "wait_p99_s", "jct_mean_s", "jct_p99_s", "utilisation",
    "makespan_s", "preemptions", "guarantee_breaches", "wall_s", "cpu_s", "digest",
]  # fmt: skip


def small_result(num_jobs=5) -> RunResult:
    """Five jobs of two members on 10 GPUs for 1,000 s, by hand; the first ``num_jobs`` of them."""
    load = make_jobs(5)
    load["submit_ms"] = [0, 0, 10_000, 20_000, 30_000]
    load["num_gpus"] = [1, 8, 1, 16, 0]
    load["gpu_milli"] = [1000, 1000, 500, 1000, 1000]
    load["member"] = [0, 1, 0, 1, 1]
    jobs = make_result_jobs(5)
    jobs["outcome"] = [
        OUTCOME_FINISHED,
        OUTCOME_FINISHED,
        OUTCOME_CANCELLED,
        OUTCOME_WAITING,
        OUTCOME_RUNNING,
    ]
    jobs["first_start_ms"] = [0, 100_000, 10_000, NEVER, 30_000]
    jobs["end_ms"] = [1_000, 400_000, 60_000, NEVER, NEVER]
    jobs["wait_ms"] = [0, 100_000, 20_000, 980_000, 0]
    jobs["run_ms"] = [1_000, 300_000, 30_000, 0, 970_000]
    jobs["lost_ms"] = [0, 100_000, 0, 0, 0]
    jobs["useful_ms"] = [1_000, 200_000, 30_000, 0, 970_000]
    promises = np.zeros(7, PROMISE_DTYPE)
    promises["job"] = [0, 1, 2, 3, 4, 1, 3]
    promises["kind"] = [PROMISE_FORECAST] * 5 + [PROMISE_RECLAIM, PROMISE_RESERVED]
    promises["made_ms"] = [0, 0, 4_000, 20_000, 30_000, 30_000, 20_000]
    promises["promised_ms"] = [0, 160_000, 4_000, 500_000, NEVER, 95_000, 40_000]
    promises["start_ms"] = [0, 100_000, 10_000, NEVER, 30_000, 100_000, NEVER]
    series = Series(*(np.zeros(2) for _ in range(7)), *(np.zeros((n, 2)) for n in (1, 2, 2, 2, 2, 2)))
    terms = Terms(
        [Member("a"), Member("b")],
        [Pool("pool", 0, 0, 0, 0)],
        np.array([[6], [2]]),
        [AgreementTerms("lend", 0, 10, 60_000)],
        np.zeros((2, 1), np.int32),
    )
    trace = Trace(load[:num_jobs], list("vwxyz")[:num_jobs], ["a", "b"], ["p"], ["u"], [], "by hand")
    return RunResult(
        trace=trace, fleet=uniform_fleet(10, 10), terms=terms, policy="fifo", seed=7, jobs=jobs[:num_jobs],
        series=series, end_ms=1_000_000, online_gpu_ms=10_000_000,
        used_gpu_ms=np.array([1_000_000, 4_000_000]),
        lost_gpu_ms=np.array([0, 500_000]), lent_gpu_ms=np.array([[0, 1_800_000], [360_000, 0]]),
        energy_wh=np.array([1_500.0]), reclaim_latency_ms=np.array([4_000, 1_000, 2_000, 3_000]),
        counters=Counters(num_preemptions=3, num_guarantee_breaches=2),
        wall_s=0.5, cpu_s=0.25, peak_rss_mb=100.0, digest="d", promises=promises[promises["job"] < num_jobs],
    )  # fmt: skip


def test_the_summary_has_exactly_the_promised_keys_and_the_values_worked_out_by_hand():
    found = summary(small_result())
    assert list(found) == SUMMARY_KEYS
    assert found["jobs"] == 5
    assert found["finished"] == 2
    assert found["wait_mean_s"] == pytest.approx((0 + 100 + 20 + 0) / 4)  # the waiting job never started
    assert found["wait_p50_s"] == pytest.approx(10)
    assert found["wait_p99_s"] == pytest.approx(20 + 0.97 * 80)
    assert found["jct_mean_s"] == pytest.approx((1 + 400) / 2)
    assert found["jct_p99_s"] == pytest.approx(1 + 0.99 * 399)
    assert found["utilisation"] == pytest.approx(0.5)
    assert found["makespan_s"] == 1_000
    assert (found["preemptions"], found["guarantee_breaches"]) == (3, 2)
    assert (found["wall_s"], found["cpu_s"], found["digest"]) == (0.5, 0.25, "d")


def test_means_over_no_job_are_none_and_not_zero():
    found = summary(small_result(num_jobs=0))
    assert found["jobs"] == 0
    assert [found[key] for key in SUMMARY_KEYS[2:7]] == [None] * 5


def test_all_numbers_of_the_small_run():
    of = measure(small_result())
    assert of.outcomes == {"waiting": 1, "running": 1, "finished": 2, "cancelled": 1, "rejected": 0}
    # 1 s of work counts as 10 s, so the first job is not slowed; the second did 200 s of work in 400 s.
    assert (of.slowdown.n, of.slowdown.mean, of.slowdown.max) == (2, pytest.approx(1.5), 2.0)
    assert of.instant_share == 0.5
    a, b = of.by_member
    assert (a.name, a.num_jobs, a.num_started, a.num_finished) == ("a", 2, 2, 1)
    assert (b.name, b.num_jobs, b.num_started, b.num_finished) == ("b", 3, 2, 1)
    assert (a.wait_s.mean, b.wait_s.mean) == (pytest.approx(10), pytest.approx(50))
    assert [row.name for row in of.by_size] == ["CPU only", "< 1", "1", "5–8", "9–64"]
    assert [row.num_jobs for row in of.by_size] == [1] * 5
    x = np.array([31 / 51, 1_270 / 2_350])  # run ÷ (run + wait) of a and of b
    assert of.jain == pytest.approx(x.sum() ** 2 / (2 * (x * x).sum()))
    # 1 s, two thirds of 8 × 300 s and half of 30 s, of 10,000 GPU-seconds.
    assert of.goodput == pytest.approx(0.1616)
    assert of.energy_kwh == {"site": 1.5}
    assert (of.reclaim_s.n, of.reclaim_s.p50, of.reclaim_s.max) == (4, 2.5, 4.0)
    assert of.lent_gpu_h == pytest.approx(0.6)
    lender, borrower = of.lending
    assert (lender.lent_gpu_h, lender.borrowed_gpu_h, lender.balance_gpu_h) == pytest.approx((0.5, 0.1, 0.4))
    assert borrower.balance_gpu_h == pytest.approx(-0.4)
    assert (lender.guarantee_gpus, borrower.guarantee_gpus) == (6, 2)


def test_a_foretold_start_that_has_not_come_is_counted_apart():
    error = measure(small_result()).foretold
    assert (error.n, error.num_open, error.num_unforeseen) == (3, 1, 1)
    assert error.mean_s == pytest.approx((0 - 60 + 6) / 3)
    assert error.mae_s == pytest.approx((0 + 60 + 6) / 3)
    assert error.quantiles_s[3] == 0
    assert error.quantiles_s[0] == pytest.approx(-60 + 0.02 * 60)
    # Late by 6 s; all are within a minute.
    assert (error.late_share, error.on_time_share) == (pytest.approx(1 / 3), 1)
    assert error.ahead_p50_s == 0
    nothing = measure(small_result(num_jobs=0)).foretold
    assert nothing.n == 0
    assert math.isnan(nothing.mae_s)


def test_promises_are_scored_by_kind():
    of = measure(small_result())
    assert list(of.promised_by_kind) == ["reclaim", "reserved"]
    reclaim, reserved = of.promised_by_kind.values()
    assert (reclaim.n, reclaim.num_open, reclaim.mean_s, reclaim.ahead_p50_s) == (1, 0, 5, 65)
    assert (reserved.n, reserved.num_open) == (0, 1)
    assert (of.promised.n, of.promised.num_open) == (1, 1)


def promised(*rows):
    """Rows of (kind, made, promised, started), s."""
    out = np.zeros(len(rows), PROMISE_DTYPE)
    for row, (kind, *times_s) in zip(out, rows, strict=True):
        row["kind"] = kind
        row["made_ms"], row["promised_ms"], row["start_ms"] = (t if t == NEVER else t * 1000 for t in times_s)
    return out


@pytest.mark.parametrize(("made", "foretold", "start", "on_time"), [
    (0, 0, 60, 1), (0, 0, 61, 0), (0, 100, 40, 1), (0, 100, 39, 0), (0, 6_000, 6_600, 1), (0, 6_000, 6_601, 0),
    (0, 6_000, 5_400, 1), (0, 6_000, 5_399, 0), (5_000, 6_000, 6_100, 1), (5_000, 6_000, 6_101, 0),
])  # fmt: skip
def test_on_time_is_within_a_minute_or_a_tenth_of_the_time_ahead(made, foretold, start, on_time):
    assert start_errors(promised((PROMISE_RECLAIM, made, foretold, start))).on_time_share == on_time


def test_forecasts_are_told_apart_by_how_far_ahead_they_were():
    hour, far = 3_600, 10 * 86_400
    rows = [(PROMISE_FORECAST, 0, ahead, 7 * hour) for ahead in (600, 601, hour, hour + 1, far)]
    found = by_horizon(promised(*rows, (PROMISE_RECLAIM, 0, 5, 7), (PROMISE_FORECAST, 0, NEVER, 9)))
    assert {edge_s: of.n for edge_s, of in found.items()} == {600: 1, 3_600: 2, 21_600: 1, math.inf: 1}
    assert found[math.inf].mean_s == 7 * hour - far
    assert found[3_600].mean_s == pytest.approx(7 * hour - (601 + hour) / 2)


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)), min_size=1, max_size=80))
def test_errors_agree_with_numpy(rows):
    found = start_errors(promised(*((PROMISE_RECLAIM, 0, *row) for row in rows)))
    error = np.array([start - foretold for foretold, start in rows])
    assert found.quantiles_s == pytest.approx(np.quantile(error, ERROR_QUANTILES))
    assert (found.mean_s, found.mae_s) == pytest.approx((error.mean(), np.abs(error).mean()))
    assert found.late_share == pytest.approx((error > 0).mean())


def test_metrics_travel_between_processes():
    of = measure(small_result())
    assert pickle.loads(pickle.dumps(of)).summary == of.summary


@given(st.lists(st.integers(0, 10**7), min_size=1, max_size=60))
def test_a_spread_agrees_with_numpy(values):
    ascending = np.sort(np.array(values))
    found = spread(ascending)
    expected = [np.mean(ascending), *np.quantile(ascending, [0.5, 0.9, 0.99])]
    assert [found.mean, found.p50, found.p90, found.p99] == pytest.approx(expected)
    assert (found.n, found.max) == (len(values), max(values))


def test_groups_agree_with_one_mask_for_each_member():
    result = synthetic_result(num_jobs=3_000, num_members=9, num_samples=20)
    rows = measure(result).by_member
    is_started = result.jobs["first_start_ms"] != NEVER
    for m, row in enumerate(rows):
        is_own = result.trace.jobs["member"] == m
        wait_s = result.jobs["wait_ms"][is_own & is_started] / 1000
        done = is_own & (result.jobs["outcome"] == OUTCOME_FINISHED)
        jct_s = (result.jobs["end_ms"] - result.trace.jobs["submit_ms"])[done] / 1000
        assert (row.num_jobs, row.num_started, row.num_finished) == (is_own.sum(), len(wait_s), len(jct_s))
        assert row.wait_s.p90 == pytest.approx(np.quantile(wait_s, 0.9))
        assert row.jct_s.p99 == pytest.approx(np.quantile(jct_s, 0.99))
    assert sum(row.num_jobs for row in rows) == 3_000


def test_members_with_borrowed_time_balance_to_zero():
    of = measure(synthetic_result(num_jobs=500, num_members=20, num_samples=50))
    assert sum(row.balance_gpu_h for row in of.lending) == pytest.approx(0, abs=1e-6 * of.lent_gpu_h)


@pytest.mark.parametrize(("gpus", "milli", "name"), [
    (0, 1000, "CPU only"), (1, 1, "< 1"), (1, 999, "< 1"), (1, 1000, "1"), (2, 1000, "2–4"), (4, 1000, "2–4"),
    (5, 1000, "5–8"), (8, 1000, "5–8"), (9, 1000, "9–64"), (64, 1000, "9–64"), (65, 1000, "65–512"),
    (4_096, 1000, "513–4,096"), (4_097, 1000, "> 4,096"), (50_000, 1000, "> 4,096"),
])  # fmt: skip
def test_size_classes_hold_what_their_names_say(gpus, milli, name):
    jobs = make_jobs(1)
    jobs["num_gpus"], jobs["gpu_milli"] = gpus, milli
    assert SIZE_CLASSES[size_class(jobs)[0]][1] == name


def test_jain_is_one_for_equals_and_one_nth_for_a_monopoly():
    assert jain_index(np.full(7, 0.3)) == pytest.approx(1)
    assert jain_index(np.array([1.0, 0, 0, 0])) == pytest.approx(0.25)
    assert math.isnan(jain_index(np.array([])))


def test_a_run_is_called_by_its_label_where_it_has_one():
    result = small_result()
    assert result.name == "fifo"
    assert dataclasses.replace(result, label="fifo, alliance B").name == "fifo, alliance B"
