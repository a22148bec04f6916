"""Monitors of a plant: what their statistics mean, how limits and delays are set, and that the job goes on exactly."""

import os
import signal
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from tests.blueprints.modules import ModulesOf

from dure.client.blueprints import catalogue_folder
from dure.client.resuming import assert_resumes_exactly

pytest.importorskip("torch")
pytest.importorskip("joblib")
pytest.importorskip("matplotlib")

FOLDER = catalogue_folder() / "process-monitoring"
DATA = Path(os.environ.get("DURE_DATA") or FOLDER.parents[2] / "shared" / "data") / "physical_ai"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="DURE_DATA does not hold physical_ai")


@pytest.fixture
def plant(modules_of: ModulesOf) -> ModuleType:
    return modules_of(FOLDER)("plant")


@pytest.fixture
def monitors(modules_of: ModulesOf) -> ModuleType:
    return modules_of(FOLDER)("monitors")


def coupled_run(seed: int, num_samples: int = 400) -> np.ndarray:
    """Six variables that follow two slow ones, with a little noise."""
    rng = np.random.default_rng(seed)
    slow = np.zeros((num_samples, 2))
    for at in range(1, num_samples):
        slow[at] = 0.9 * slow[at - 1] + rng.normal(size=2)
    mixing = np.random.default_rng(0).normal(size=(2, 6))
    return slow @ mixing + 0.1 * rng.normal(size=(num_samples, 6))


def test_lags_stand_beside_each_sample(monitors: ModuleType) -> None:
    rows = monitors.with_lags(np.arange(10.0)[:, None], 2)
    assert rows.tolist() == [[at, at - 1, at - 2] for at in range(2, 10)]


@pytest.mark.parametrize("lags", [0, 3])
def test_t2_grows_inside_the_model_and_spe_outside(monitors: ModuleType, lags: int) -> None:
    normal = coupled_run(1)
    monitor = monitors.PrincipalComponents("PCA", lags).fit([normal[:200], normal[200:]])
    far_but_alike = normal.mean(0) + 8 * (normal - normal.mean(0))
    broken = normal.copy()
    broken[:, 0] += 2 * normal[:, 0].std() * np.random.default_rng(2).choice([-1, 1], 400)
    calm, alike, apart = (np.median(monitor.statistics(run), axis=0) for run in (normal, far_but_alike, broken))
    assert alike[0] > 20 * calm[0]
    assert apart[1] > 5 * calm[1]
    assert apart[0] < 5 * calm[0]


def test_canonical_variates_find_what_does_not_follow_from_the_past(monitors: ModuleType) -> None:
    normal = coupled_run(3)
    monitor = monitors.CanonicalVariates(past_samples=2, num_states=2, ridge=0.01).fit([normal])
    shuffled = np.random.default_rng(4).permutation(normal)
    calm, torn = (np.median(monitor.statistics(run), axis=0) for run in (normal, shuffled))
    assert torn[1] > 3 * calm[1], "seeds 3 and 4"
    assert torn[0] < 3 * calm[0]


def test_smoothing_is_an_exponential_mean(plant: ModuleType) -> None:
    values = np.array([1.0, 5.0, 2.0])
    assert plant.smoothed(values, 1.0).tolist() == values.tolist()
    assert plant.smoothed(values, 0.5).tolist() == [1.0, 3.0, 2.5]


def test_limit_lets_as_many_by_as_asked(plant: ModuleType) -> None:
    values = np.random.default_rng(5).exponential(size=5000)
    assert np.mean(values > plant.limit_of(values, 0.01)) == pytest.approx(0.01, abs=0.001)


def test_a_delay_asks_for_six_alarms_in_a_row(plant: ModuleType) -> None:
    alarms = np.zeros(50, dtype=bool)
    alarms[[3, 4, 5, 6, 7]] = True
    assert plant.delay_min(alarms) is None
    alarms[20:26] = True
    assert plant.delay_min(alarms) == 60


@pytest.mark.slow
@needs_data
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_goes_on_exactly(tmp_path: Path, number: int) -> None:
    command = ["monitor.py", "--epochs", "4", "--folds", "4"]
    story = assert_resumes_exactly("process-monitoring", command, tmp_path, [1, 10], number=number)
    assert story.metrics is not None
    assert story.metrics["false_alarms"] <= 0.02
    assert story.metrics["mean_detection"] > max(
        story.metrics["mean_detection_pca_t2"], story.metrics["mean_detection_pca_spe"]
    )
