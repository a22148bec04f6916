"""What slots cost on a machine: the fit, the file, and a real measurement at small size."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
from tests.in_process import caller

from dure.model.errors import InputError
from dure.ran import measure
from dure.ran.site import SiteModel

pytest.importorskip("scipy")
TRUE = SiteModel(num_sms=64, t0_us=20.0, d0_us=0.5, d1_us=0.01, u0_us=0.9, u1_us=0.02, u2_us=0.03)


def points_of(model, shares, noise_us, seed=1):
    """Times as the model has them, and noise above that."""
    rng = np.random.default_rng(seed)
    points = []
    for share in shares:
        for slot in measure.slots_of((24, 106, 273), (1, 2, 4)):
            x = slot["prb"] * slot["layers"]
            part = slot["efficiency"] / measure.HIGHEST_EFFICIENCY * slot["iterations"] / measure.MEAN_ITERATIONS
            down = model.t0_us + (model.d0_us + model.d1_us * x) / share
            up = model.t0_us + (model.u0_us + model.u1_us * x + model.u2_us * x * part) / share
            points.append({"share": share, **slot, "dl_us": list(down + rng.exponential(noise_us, 400)), "ul_us": list(up + rng.exponential(noise_us, 400))})
    return points


def test_the_fit_finds_the_coefficients_that_made_the_times():
    found, quality = measure.fit(points_of(TRUE, (0.25, 0.5, 1.0), 0.2), 64)
    for name in ("t0_us", "d1_us", "u1_us", "u2_us"):
        assert getattr(found, name) == pytest.approx(getattr(TRUE, name), rel=0.02), "seed 1"
    assert found.d0_us + found.u0_us == pytest.approx(1.4, rel=0.1)
    assert found.noise_mean_us == pytest.approx(0.2, rel=0.1)
    assert found.noise_allowance_us == pytest.approx(0.2 * np.log(1000), rel=0.15)
    assert found.num_sms == 64
    assert quality["worst_error"] < 0.01


def test_of_the_whole_device_alone_the_constant_is_one():
    found, quality = measure.fit(points_of(TRUE, (1.0,), 0.0), 64)
    assert (found.d0_us, found.u0_us) == (0, 0)
    assert found.t0_us == pytest.approx(20.7, abs=0.3)
    assert quality["worst_error"] < 0.02


def test_interference_is_the_worst_slot_s():
    alone = points_of(TRUE, (0.5,), 0.0)
    beside = [{**point, "dl_us": [1.1 * t for t in point["dl_us"]], "ul_us": [1.3 * t for t in point["ul_us"]]} for point in alone]
    assert measure.interference(alone, beside) == pytest.approx(0.3)
    assert measure.interference(beside, alone) == 0


def test_a_slow_machine_s_clock_is_slowed():
    assert measure.slowed_by(SiteModel(), 20) == 1.0, "the default's twenty cells just fit"
    assert measure.slowed_by(SiteModel(), 22) > 1.0
    slow = replace(SiteModel(), **{name: 10 * value for name, value in asdict(SiteModel()).items() if name[:2] in ("t0", "d0", "d1", "u0", "u1", "u2", "no")})
    assert measure.slowed_by(slow, 40) == pytest.approx(10 * measure.slowed_by(SiteModel(), 40))
    assert replace(slow, slowed_by=10.0).dl_sms_per_us == pytest.approx(SiteModel().dl_sms_per_us / 10)


def test_a_file_survives(tmp_path):
    path = str(tmp_path / "coefficients.json")
    measure.write_coefficients({"coefficients": asdict(TRUE)}, path)
    assert measure.read_coefficients(path) == TRUE


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("{", "no JSON"), ("[]", "has no coefficients"), ('{"coefficients": {"t0": 1}}', "no such coefficient"),
        ('{"coefficients": {"t0_us": -1}}', "not a number from 0"), ('{"coefficients": {"num_sms": 1.5}}', "not a number from 0"),
        ('{"coefficients": {"num_sms": 0}}', "above 0"), ('{"coefficients": {"t0_us": true}}', "not a number from 0"),
    ],
)  # fmt: skip
def test_bad_files_are_told(tmp_path, text, what):
    (tmp_path / "bad.json").write_text(text)
    with pytest.raises(InputError, match=what) as told:
        measure.read_coefficients(str(tmp_path / "bad.json"))
    assert str(told.value).startswith(str(tmp_path / "bad.json"))


def test_decoding_corrects_a_noisy_word():
    torch = pytest.importorskip("torch")
    from dure.ran.receive import BLOCK, Cell, Slot

    cell = Cell(Slot(8, 1, iterations=20), "cpu", seed=3)
    noise = torch.randn(1, BLOCK, generator=torch.Generator().manual_seed(4))
    # The word of zeros, at 2.5 dB: 2 / variance times what is received.
    variance = 10 ** (-2.5 / 10)
    cell.ratios = 2 / variance * (1 + variance**0.5 * noise)
    assert (cell.ratios < 0).float().mean() > 0.05, "seed 4"
    assert (cell.decode() > 0).all()


def test_an_equalised_grid_is_that_of_the_layers():
    pytest.importorskip("torch")
    from dure.ran.receive import ANTENNAS, FFT, SYMBOLS, Cell, Slot

    cell = Cell(Slot(4, 2), "cpu")
    assert cell.downlink().shape == (ANTENNAS, SYMBOLS, FFT)
    assert cell.receive().shape == (48, 2, SYMBOLS)
    assert cell.decode().shape == (cell.slot.num_blocks, 8448)


@pytest.mark.slow
def test_a_machine_is_measured_and_its_site_guarded(tmp_path, monkeypatch, capfd):
    pytest.importorskip("torch")
    dure = caller(monkeypatch, capfd)
    out = tmp_path / "here.json"
    words = ["--out", str(out), "--prb", "4", "--prb", "16", "--layers", "1", "--layers", "2", "--repeats", "7", "--rounds", "5", "--cells", "2"]
    said = json.loads(dure("ran", "calibrate", *words, "--json").stdout)
    found = json.loads(out.read_text())
    assert said["coefficients"] == found["coefficients"]
    assert said["slowed_by"] >= 1
    assert found["coefficients"]["u2_us"] > 0
    assert set(found["vacate_ms"]) == {"0.5", "2", "10"}
    assert len(found["points"]) == len(found["shares"]) * 12
    for kernels in found["vacate_ms"].values():
        assert 0 <= kernels["p50_ms"] <= kernels["p99_ms"] <= kernels["p100_ms"]
    assert measure.read_coefficients(str(out)).num_sms == found["coefficients"]["num_sms"]
