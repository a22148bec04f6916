"""Intervals over seeds and paired differences."""

from __future__ import annotations

import dataclasses
import math
import runpy
from pathlib import Path

import pytest

from dure.model.intervals import mean_interval, student_quantile
from dure.twin.comparison import COMPARED, OF_CELLS, compare
from dure.twin.metrics import measure

synthetic_result = runpy.run_path(str(Path(__file__).parents[1] / "synthetic_result.py"))["synthetic_result"]


@pytest.fixture(scope="module")
def base():
    return measure(synthetic_result(num_jobs=200, num_members=4, num_samples=20))


def trial(base, name, seed, wait_mean_s):
    return dataclasses.replace(
        base, name=name, seed=seed, summary=base.summary | {"wait_mean_s": wait_mean_s}
    )


def metric(comparison, key):
    return next(of for of in comparison.metrics if of.key == key)


@pytest.mark.parametrize(("level", "degrees", "t"), [
    (0.95, 1, 12.7062), (0.95, 2, 4.3027), (0.95, 3, 3.1824), (0.95, 4, 2.7764), (0.95, 9, 2.2622),
    (0.95, 10, 2.2281), (0.95, 30, 2.0423), (0.95, 120, 1.9799), (0.99, 1, 63.6567), (0.99, 5, 4.0321),
    (0.90, 7, 1.8946),
])  # fmt: skip
def test_student_quantiles_agree_with_the_printed_tables(level, degrees, t):
    assert student_quantile(level, degrees) == pytest.approx(t, abs=6e-5)


def test_an_interval_worked_out_by_hand():
    of = mean_interval([1.0, 2.0, 3.0, 4.0])
    half = 3.182446 * math.sqrt((5 / 3) / 4)
    assert (of.mean, of.low, of.high, of.n) == pytest.approx((2.5, 2.5 - half, 2.5 + half, 4), abs=1e-6)


def test_one_value_has_no_interval_and_none_no_mean():
    one, none = mean_interval([3.0]), mean_interval([])
    assert one.mean == 3.0
    assert math.isnan(one.low)
    assert math.isnan(none.mean)
    assert (one.n, none.n) == (1, 0)


def test_differences_are_paired_by_seed_so_that_what_seeds_share_cancels(base):
    waits = {1: 100.0, 2: 900.0, 3: 500.0}
    trials = [trial(base, "fifo", seed, wait) for seed, wait in waits.items()]
    trials += [trial(base, "dure", seed, wait - 10) for seed, wait in waits.items()]
    comparison = compare(trials)
    of = metric(comparison, "wait_mean_s")
    assert comparison.names == ("fifo", "dure")
    assert comparison.num_seeds == 3
    assert of.intervals["fifo"].high - of.intervals["fifo"].low > 1_000
    difference = of.differences["dure"]
    assert (difference.mean, difference.low, difference.high) == pytest.approx((-10, -10, -10))
    assert "fifo" not in of.differences


def test_only_seeds_in_common_are_paired(base):
    trials = [
        trial(base, "a", 1, 10.0),
        trial(base, "a", 2, 20.0),
        trial(base, "b", 2, 50.0),
        trial(base, "b", 3, 0.0),
    ]
    difference = metric(compare(trials), "wait_mean_s").differences["b"]
    assert (difference.mean, difference.n) == (30.0, 1)


def test_an_unknown_value_is_left_out_and_not_taken_for_zero(base):
    trials = [trial(base, "a", 1, None), trial(base, "a", 2, 8.0), trial(base, "b", 1, 4.0)]
    of = metric(compare(trials), "wait_mean_s")
    assert (of.intervals["a"].mean, of.intervals["a"].n) == (8.0, 1)
    assert of.differences["b"].n == 0


def test_a_seed_given_twice_is_refused(base):
    with pytest.raises(ValueError, match="seed 1 given twice"):
        compare([trial(base, "a", 1, 1.0), trial(base, "a", 1, 2.0)])


def test_every_compared_metric_is_computed_from_a_run(base):
    comparison = compare([base])
    assert [of.key for of in comparison.metrics] == [key for key in COMPARED if key not in OF_CELLS]
    assert metric(comparison, "lent_gpu_h").intervals["dure"].mean == base.lent_gpu_h
