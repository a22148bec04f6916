"""Inspection of surfaces: what measures mean, that defects lie where they are said to be, that training goes on exactly."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.blueprints.modules import Load, ModulesOf

from dure.client.blueprints import catalogue_folder
from dure.client.resuming import assert_resumes_exactly

for library in ("matplotlib", "onnxruntime", "onnxscript", "skimage", "sklearn", "torch"):
    pytest.importorskip(library)

FOLDER = catalogue_folder() / "visual-inspection"
FEW = ["train.py", "--steps", "6", "--batch", "4", "--channels", "4", "--size-px", "32", "--tests", "6", "--save-every-s", "0"]


@pytest.fixture
def load(modules_of: ModulesOf) -> Load:
    return modules_of(FOLDER)


def test_auroc_is_the_chance_of_the_right_order(load: Load) -> None:
    measures = load("measures")
    scores, is_bad = np.array([0.1, 0.4, 0.35, 0.8]), np.array([0, 0, 1, 1])
    assert measures.auroc(scores, is_bad) == 0.75


def test_region_overlap_counts_each_defect_alike_whatever_its_size(load: Load) -> None:
    measures = load("measures")
    truth = np.zeros((1, 40, 40))
    truth[0, :20, :20] = 1
    truth[0, 30:32, 30:32] = 1
    assert measures.region_overlap(truth, truth) == pytest.approx(1)
    only_large = truth.copy()
    only_large[0, 30:32, 30:32] = 0
    noise = np.random.default_rng(0).uniform(0, 1e-3, truth.shape)
    # What is not marked is found as often as good pixels raise false alarms: half of .3 on average.
    assert measures.region_overlap(only_large + noise, truth) == pytest.approx((1 + 0.15) / 2, abs=0.1)


def test_what_is_learnt_from_and_what_is_tested_share_no_pixel(load: Load) -> None:
    surfaces = load("surfaces")
    for texture in surfaces.TEXTURES:
        whole = surfaces.sheet(texture)
        learnt_from, tested = surfaces.halves(texture)
        assert len(learnt_from) + len(tested) == len(whole)
        assert np.array_equal(np.concatenate([learnt_from, tested]), whole)
        assert (whole.min(), whole.max()) >= (0, 0)
        assert whole.max() <= 1


def test_a_defect_changes_the_image_where_it_is_and_hardly_elsewhere(load: Load) -> None:
    surfaces = load("surfaces")
    _, part = surfaces.halves("weave")
    for defect in surfaces.DEFECTS:
        for seed in range(5):
            rng = np.random.default_rng(seed)
            image = surfaces.good(part, 64, rng)
            spoilt, mask = defect(image, rng)
            change = np.abs(spoilt - image)
            assert 0 < mask.mean() < 0.3
            assert (spoilt.min(), spoilt.max()) >= (0, 0)
            assert change[mask > 0].mean() > 5 * change[mask == 0].mean(), defect.__name__


def test_what_is_learnt_as_an_anomaly_can_be_seen(load: Load) -> None:
    surfaces = load("surfaces")
    part, _ = surfaces.halves("brushed")
    rng = np.random.default_rng(3)
    for _ in range(20):
        image = surfaces.good(part, 32, rng)
        mixed, mask = surfaces.anomalous(image, part, rng)
        assert set(np.unique(mask)) <= {0, 1}
        if mask.any():
            assert np.sqrt(np.mean((mixed - image)[mask > 0] ** 2)) > surfaces.SEEN / 2


def test_the_filter_bank_finds_a_bright_spot(load: Load) -> None:
    inspector = load("inspector")
    rng = np.random.default_rng(0)
    images = [rng.normal(0.5, 0.05, (32, 32)).astype(np.float32) for _ in range(6)]
    bank = inspector.FilterBank(images[:5])
    spotted = images[5].copy()
    spotted[10:14, 20:24] = 1
    assert np.unravel_index(bank.marks(spotted).argmax(), (32, 32)) == (pytest.approx(11.5, abs=3), pytest.approx(21.5, abs=3))


@pytest.mark.slow
def test_goes_on_exactly_and_serves_the_same_by_onnx(tmp_path: Path) -> None:
    story = assert_resumes_exactly("visual-inspection", FEW, tmp_path, [2], number=signal.SIGUSR1)
    assert story.metrics is not None
    assert story.metrics["filter_bank_image_auroc"] > 0.6
    import onnxruntime

    output = tmp_path / "parts" / "output"
    result = json.loads((output / "result.json").read_text())
    assert result["onnx_worst_difference"] < 1e-4
    session = onnxruntime.InferenceSession(output / "model.onnx", providers=["CPUExecutionProvider"])
    assert float(session.get_modelmeta().custom_metadata_map["limit"]) == result["limit"]
    with np.load(output / "test_images.npz") as found:
        images, is_defective = found["images"], found["is_defective"]
    assert len(images) == len(is_defective) == 48
    for num in (1, 3):
        marks, scores = session.run(None, {"images": (images[:num, None] / 255).astype(np.float32)})
        assert (marks.shape, scores.shape) == ((num, 1, 32, 32), (num,))
    # Its checkpoint is not taken for that of other parameters.
    env = {**os.environ, "DURE_CHECKPOINT_DIR": str(tmp_path / "parts" / "checkpoint"), "DURE_OUTPUT_DIR": str(tmp_path / "o")}
    command = [sys.executable, *FEW, "--batch", "5"]
    done = subprocess.run(command, cwd=FOLDER, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "other parameters" in done.stderr
