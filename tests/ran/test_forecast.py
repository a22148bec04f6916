"""The slow tier: what a fence may know, how it stands, and what it lends of recorded loads beside a fence by the hour."""

from __future__ import annotations

import csv
import gzip
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.ran.worlds import days

from dure.ran.forecast import HOLD_WINDOWS, LEAD_WINDOWS, FenceForecast, calibrate_fence, load_of
from dure.ran.guard_run import run_guard
from dure.ran.loads import CellLoads
from dure.ran.site import SiteModel
from dure.twin.data import data_dir

MODEL = SiteModel()


def nothing(*_: int) -> None:
    pass


@pytest.fixture(scope="module")
def learnt() -> FenceForecast:
    """From days whose level comes and goes over four days: what it was a while ago tells what it is."""
    slow = 0.08 * np.sin(2 * np.pi * np.arange(8 * 720) / (4 * 720))
    loads = days(8, noise=0.01)
    return calibrate_fence(MODEL, CellLoads(np.clip(loads.down + slow[:, None], 0, 1), loads.up, loads.mcs_up, loads.hour), 400_000, 1, nothing)


@given(at=st.integers(0, 719), seed=st.integers(0, 99))
def test_a_fence_knows_nothing_of_what_comes(learnt, at, seed):
    loads = days(1, noise=0.05)
    other = days(1, noise=0.05)
    other.down[at:] = np.random.default_rng(seed).random((720 - at, 20))
    same = at - at % HOLD_WINDOWS + HOLD_WINDOWS if at % HOLD_WINDOWS else at
    # The fence that stands in window `at` was decided before it, and so was the next one if it begins within the lead.
    assert (learnt.fences(loads, MODEL)[:same] == learnt.fences(other, MODEL)[:same]).all()
    soon = np.arange(720)[(np.arange(720) // HOLD_WINDOWS * HOLD_WINDOWS) - LEAD_WINDOWS < at]
    assert (learnt.expected(loads)[soon] == learnt.expected(other)[soon]).all()


def test_a_fence_is_whole_slices_and_stands_for_its_time(learnt):
    fences = learnt.fences(days(1, noise=0.05, seed=3), MODEL)
    assert len(set(np.round(fences / (MODEL.num_sms / 7), 9) % 1)) == 1
    assert (fences.reshape(-1, HOLD_WINDOWS) == fences[::HOLD_WINDOWS, None]).all()
    assert fences.min() >= MODEL.floor_sms(20)
    assert fences.max() <= MODEL.num_sms
    assert fences[:60].mean() < fences[330:390].mean()


def test_a_calmer_day_than_usual_is_lent_more_of_and_a_busier_one_less(learnt):
    usual, calm, busy = (learnt.fences(days(1, level=level), MODEL)[20:].mean() for level in (0.35, 0.25, 0.45))
    assert calm < usual < busy
    assert learnt.expected(days(1, level=0.25))[20:].mean() == pytest.approx(load_of(days(1, level=0.25))[20:].mean(), rel=0.2)


def test_an_hour_never_seen_keeps_everything():
    nights = days(4)
    by_night = CellLoads(*(part[nights.hour < 8] for part in (nights.down, nights.up, nights.mcs_up)), nights.hour[nights.hour < 8])
    found = calibrate_fence(MODEL, by_night, 100_000, 1, nothing).fences(days(1), MODEL)
    assert (found[8 * 30 + HOLD_WINDOWS :] == MODEL.num_sms).all()
    assert found[:200].max() < MODEL.num_sms


@pytest.mark.slow
def test_on_recorded_loads_the_forecast_lends_more_than_a_fence_by_the_hour_and_is_as_sure(tmp_path: Path) -> None:
    root = data_dir()
    if root is None or not (root / "ran" / "lte_barcelona").is_dir():
        pytest.skip("no recorded loads (DURE_DATA)")
    early, late = [], []
    for path in sorted((root / "ran" / "lte_barcelona").glob("*.csv.gz")):
        head, *rows = list(csv.reader(gzip.decompress(path.read_bytes()).decode().splitlines()))
        cut = int(0.6 * len(rows))
        for name, part, files in (("early", rows[:cut], early), ("late", rows[cut:], late)):
            files.append(str(tmp_path / f"{path.name.split('.')[0]}-{name}.csv"))
            with Path(files[-1]).open("w", newline="") as file:
                csv.writer(file).writerows([head, *part])
    found = {
        policy: run_guard(
            early, late, policy=policy, num_cells=20, num_slots=1_000_000, vacate_ms=2, seed=3, fault=None, gpu_left=None, standby_cells=0,
            interruption_ms=110, calibrate_slots=2_000_000, num_sites=1, model=MODEL, move=nothing,
        ).summary()
        for policy in ("fence", "mig")
    }  # fmt: skip
    assert found["fence"]["hard_misses"] == 0
    assert found["fence"]["miss_rate_upper95"] < 1e-5
    assert found["fence"]["idle_lent"] > 0.5
    assert found["fence"]["idle_lent"] > found["mig"]["idle_lent"] + 0.1
