"""Engines' lives and bearings' faults: what is known when, what the scores say, and that both jobs go on exactly."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from tests.blueprints.modules import ModulesOf

from dure.client.blueprints import catalogue_folder
from dure.client.resuming import assert_resumes_exactly
from dure.model.errors import InputError

pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")
pytest.importorskip("torch")

FOLDER = catalogue_folder() / "predictive-maintenance"
DATA = Path(os.environ.get("DURE_DATA") or FOLDER.parents[2] / "shared" / "data") / "physical_ai"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="DURE_DATA does not hold physical_ai")

FEW = ["train.py", "--folds", "8", "--repeats", "1", "--trees", "10"]


@pytest.fixture
def engines(modules_of: ModulesOf) -> ModuleType:
    return modules_of(FOLDER)("engines")


@pytest.fixture
def bearings(modules_of: ModulesOf) -> ModuleType:
    return modules_of(FOLDER)("bearings")


def test_features_know_nothing_of_later_cycles(engines: ModuleType) -> None:
    history = np.random.default_rng(1).normal(size=(80, 14))
    changed = history.copy()
    changed[50:] += 100
    assert np.array_equal(engines.features(history)[:50], engines.features(changed)[:50])


def test_features_are_means_drift_and_age(engines: ModuleType) -> None:
    history = np.random.default_rng(2).normal(size=(70, 14))
    row = engines.features(history)[64]
    latest = [history[65 - span : 65].mean(0) for span in (10, 30, 60)]
    assert row == pytest.approx(np.concatenate([*latest, latest[0] - history[:30].mean(0), [65]]))


def test_no_engine_is_in_two_folds(engines: ModuleType) -> None:
    fold_of = engines.folds_of_engines(100, 7, seed=4)
    assert len(fold_of) == 100
    assert set(np.bincount(fold_of)) == {14, 15}


def test_late_warnings_cost_more(engines: ModuleType) -> None:
    true = np.array([50.0])
    assert engines.nasa_score(true + 10, true) == pytest.approx(np.e - 1)
    assert engines.nasa_score(true - 13, true) == pytest.approx(np.e - 1)


def test_widened_intervals_cover_new_cases_as_often_as_asked(engines: ModuleType) -> None:
    rng = np.random.default_rng(5)
    inside = []
    for _ in range(400):
        true = rng.normal(size=(2, 60))
        wider = engines.widening(np.full(60, -0.5), np.full(60, 0.2), true[0], 0.9)
        inside.append(np.mean((true[1] >= -0.5 - wider) & (true[1] <= 0.2 + wider)))
    assert np.mean(inside) == pytest.approx(0.9, abs=0.02), "seed 5"


def test_too_few_cases_for_a_coverage_are_refused(engines: ModuleType) -> None:
    with pytest.raises(InputError, match="too few"):
        engines.widening(np.zeros(5), np.zeros(5), np.zeros(5), 0.9)


def test_resampling_keeps_a_tone_and_drops_what_would_fold_back(bearings: ModuleType) -> None:
    t = np.arange(48_000) / 48_000
    kept = bearings.to_common_rate(np.sin(2 * np.pi * 1000 * t).astype(np.float32), 48_000)
    gone = bearings.to_common_rate(np.sin(2 * np.pi * 11_000 * t).astype(np.float32), 48_000)
    assert len(kept) == 12_000
    assert kept[100:-100].std() == pytest.approx(np.sqrt(0.5), rel=0.01)
    assert gone[100:-100].std() < 0.01


def test_the_test_is_later_than_what_was_learnt_from(bearings: ModuleType) -> None:
    train, test = bearings.split_by_time(np.arange(10_000, dtype=np.float32))
    assert test[0] - train[-1] > bearings.WINDOW_SAMPLES


def test_noise_has_the_power_asked_for(bearings: ModuleType) -> None:
    rng = np.random.default_rng(6)
    windows = rng.standard_normal((50, 1024), dtype=np.float32) * 3
    noise = bearings.with_noise(windows, -4, rng) - windows
    assert 10 * np.log10(windows.var() / noise.var()) == pytest.approx(-4, abs=0.1), "seed 6"


@pytest.mark.slow
@needs_data
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_lives_go_on_exactly(tmp_path: Path, number: int) -> None:
    story = assert_resumes_exactly("predictive-maintenance", FEW, tmp_path, [1, 1], number=number)
    assert story.metrics is not None
    assert 10 < story.metrics["rmse"] < 30


@pytest.mark.slow
@needs_data
def test_bearings_go_on_exactly(tmp_path: Path) -> None:
    command = ["bearings.py", "--epochs", "12", "--batches", "5"]
    assert_resumes_exactly("predictive-maintenance", command, tmp_path, [1, 1], number=signal.SIGUSR1)


@pytest.mark.slow
@needs_data
def test_members_of_other_parameters_are_refused(tmp_path: Path) -> None:
    env = {
        **os.environ,
        "DURE_CHECKPOINT_DIR": str(tmp_path / "c"),
        "DURE_OUTPUT_DIR": str(tmp_path / "o"),
        "OMP_NUM_THREADS": "1",
    }
    for trees, code in (("2", 0), ("3", 2)):
        command = [sys.executable, "train.py", "--folds", "2", "--repeats", "1", "--trees", trees]
        done = subprocess.run(command, cwd=FOLDER, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stderr
    assert "other parameters" in done.stderr
