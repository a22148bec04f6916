"""The choice of place: the promise on late answers, the fall back to the device, and the command's contract."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dure.model.errors import InputError
from dure.ran import link
from dure.ran.offload import (
    BACK_OFF_MAX,
    DEVICE,
    NUM_SCORES,
    SITE,
    SPLIT,
    Chooser,
    RiskModel,
    Seen,
    features,
    risk_bound,
)
from dure.ran.offload_run import (
    PERIOD_SLOTS,
    WARM_SLOTS,
    DevicePower,
    Fading,
    Options,
    calibrate,
    offered,
    run_offload,
    serve,
)

POWER, MODEL = DevicePower(), link.LinkModel()
GOOD = Seen(snr_db=25.0, dip_db=0.0, backlog_ms=0.0, busy=0.1, prb=200.0, speed_kmh=0.0)
EPSILON = 0.01


@pytest.fixture(scope="module")
def risks() -> RiskModel:
    return calibrate(MODEL, POWER, 20.0, seed=7, num_links=320)


def _fixed(risk: float, site_mj: float = 10.0, split_mj: float = 20.0) -> RiskModel:
    num = len(features(GOOD.values()))
    energy = np.zeros((2, num))
    energy[:, 0] = site_mj, split_mj
    edges = np.tile(np.linspace(-1, 1, NUM_SCORES - 1), (2, 1))
    return RiskModel(np.zeros((2, num)), energy, edges, np.full((2, NUM_SCORES), risk), device_mj=50.0)


def _link(trace: link.LinkTrace, speed_kmh: float, num_periods: int):
    starts = WARM_SLOTS + PERIOD_SLOTS * np.arange(num_periods)
    return offered(trace, speed_kmh, starts, MODEL, POWER, 20.0)


def test_the_cheapest_place_of_small_risk() -> None:
    assert Chooser(_fixed(0.001), EPSILON).choose(GOOD) == SITE
    assert Chooser(_fixed(0.001, site_mj=30.0), EPSILON).choose(GOOD) == SPLIT
    assert Chooser(_fixed(0.001, 60.0, 70.0), EPSILON).choose(GOOD) == DEVICE
    assert Chooser(_fixed(0.02), EPSILON).choose(GOOD) == DEVICE


def test_a_late_answer_is_followed_by_the_device() -> None:
    chooser = Chooser(_fixed(0.001), EPSILON)
    assert chooser.choose(GOOD) == SITE
    chooser.learn(SITE, is_late=True)
    assert chooser.choose(GOOD) == DEVICE
    assert chooser.choose(GOOD) == SITE


def test_a_wrong_model_is_not_believed_for_long() -> None:
    """Every answer is late although the model says that none is: the pauses double."""
    chooser, asked = Chooser(_fixed(0.0), EPSILON), []
    for k in range(1000):
        place = chooser.choose(GOOD)
        if place != DEVICE:
            asked.append(k)
        chooser.learn(place, is_late=place != DEVICE)
    assert np.diff(asked)[:4].tolist() == [2, 3, 5, 9]
    assert len(asked) <= 8 + 1000 / BACK_OFF_MAX


def test_the_limit_follows_late_answers() -> None:
    """Late as often as epsilon, it stays where it is; late twice as often, it falls until the place is left."""
    steady = Chooser(_fixed(0.001), EPSILON)
    steady.learn(SITE, is_late=True)
    after_one = steady.limit
    for _ in range(3):
        for _ in range(99):
            steady.learn(SITE, is_late=False)
        steady.learn(SITE, is_late=True)
    assert steady.limit == pytest.approx(after_one)
    worse = Chooser(_fixed(0.009), EPSILON)
    worse.learn(SITE, is_late=True)
    for _ in range(10):
        worse.choose(GOOD)
        for _ in range(49):
            worse.learn(SITE, is_late=False)
        worse.learn(SITE, is_late=True)
    assert worse.limit < 0.001


def test_risk_bound_knows_how_much_it_has_seen() -> None:
    bounds = risk_bound(np.zeros(4), np.array([0.0, 10.0, 1000.0, 100_000.0]))
    assert bounds[0] == 1.0
    assert (np.diff(bounds) < 0).all()
    assert bounds[3] < 1e-4
    # Wilson's bound for 50 of 1,000 at z = 1.2816, worked out apart.
    assert float(risk_bound(np.array([50.0]), np.array([1000.0]))[0]) == pytest.approx(0.0596, abs=5e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("snr_db", "speed_kmh", "load", "least"), [(25.0, 0.0, 0.2, 0.9), (20.0, 3.0, 0.2, 0.5), (18.0, 30.0, 0.2, 0.1)]
)
def test_epsilon_holds_on_a_stationary_link(
    risks: RiskModel, snr_db: float, speed_kmh: float, load: float, least: float
) -> None:
    num_asked = num_late = num = 0
    for seed in range(6):
        trace = link.draw_link(MODEL, WARM_SLOTS + 1001 * PERIOD_SLOTS, snr_db, speed_kmh, load, np.random.default_rng(seed))
        found = serve("dure", _link(trace, speed_kmh, 1000), risks, POWER, EPSILON)
        num_asked += int((found.place != DEVICE).sum())
        num_late += int(found.is_late.sum())
        num += 1000
    assert num_asked > least * num
    assert num_late / num_asked <= EPSILON


def test_falls_back_within_a_period_of_a_fade(risks: RiskModel) -> None:
    num_slots, fade = WARM_SLOTS + 201 * PERIOD_SLOTS, 100
    quiet = link.draw_link(MODEL, num_slots, 25.0, 0.0, 0.1, np.random.default_rng(3))
    snr = quiet.snr_db.copy()
    snr[WARM_SLOTS + fade * PERIOD_SLOTS + 5 :] = -5.0
    found = serve("dure", _link(replace(quiet, snr_db=snr), 0.0, 200), risks, POWER, EPSILON)
    assert (found.place[:fade] != DEVICE).mean() > 0.9
    assert (found.place[fade + 1 :] == DEVICE).all()
    assert found.is_late[fade + 1 :].sum() == 0


def test_stays_on_the_device_where_the_site_is_overloaded(risks: RiskModel) -> None:
    trace = link.draw_link(MODEL, WARM_SLOTS + 501 * PERIOD_SLOTS, 25.0, 0.0, 0.95, np.random.default_rng(4))
    found = serve("dure", _link(trace, 0.0, 500), risks, POWER, EPSILON)
    assert (found.place == DEVICE).mean() > 0.98


def test_energy_of_a_period_on_the_device() -> None:
    trace = link.draw_link(MODEL, WARM_SLOTS + 11 * PERIOD_SLOTS, 25.0, 0.0, 0.1, np.random.default_rng(1))
    of = _link(trace, 0.0, 10)
    alone = serve("device", of, _fixed(0.0), POWER, EPSILON)
    # 12 ms at 6 W, and the radio in deep sleep: 1 unit of 5 mW over 20 ms.
    assert alone.energy_mj == pytest.approx(np.full(10, 72.0 + 0.1))
    # Listening: half a ms each at 100 and 300 units, 19 ms of light sleep (20 units) with its transition (100 units × ms).
    assert POWER.listening_mj() == pytest.approx((50 + 150 + 20 * 19 + 100) * 5 / 1000)


def test_same_seed_same_digest() -> None:
    options = Options(fadings=(Fading(20.0, 3.0),), loads=(0.2,), episodes=2, seconds=2.0, task="none", calibration_links=64)
    first, again, other = (
        run_offload(o, lambda done, total: None, 1)["digest"] for o in (options, options, replace(options, seed=1))
    )
    assert first == again != other


@pytest.mark.parametrize(
    "change",
    [{"epsilon": 0.0}, {"epsilon": 1.0}, {"deadline_ms": 25.0}, {"loads": (1.0,)}, {"fadings": (Fading(90.0, 3.0),)}],
)
def test_options_without_sense_are_refused(change: dict) -> None:
    with pytest.raises(InputError):
        replace(Options(), **change).check()


def _dure(*args: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "dure.cli.main", "ran", "offload", *args]
    return subprocess.run(line, capture_output=True, text=True, env=os.environ, check=False)


@pytest.mark.slow
def test_contract(tmp_path: Path) -> None:
    small = ("--task", "none", "--fading", "20:3", "--load", "0.2", "--episodes", "2", "--seconds", "2")
    done = _dure(*small, "--json", "--html", str(tmp_path / "page.html"))
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "page.html").read_text("utf-8")
    assert page.count('type="application/json"') == 2
    assert "https://" not in page.split("<script>")[0]
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
    found = json.loads(done.stdout)
    assert {"task", "seed", "episodes", "period_ms", "deadline_ms", "epsilon", "assumed", "cells", "digest"} <= set(found)
    (cell,) = found["cells"]
    assert {"snr_db", "speed_kmh", "load", "is_allowed", "servable", "latency_ms", "saving_clairvoyant", "policies"} == set(cell)
    assert set(cell["policies"]) == {"device", "site", "dure"}
    for of in cell["policies"].values():
        assert {"energy_mj_per_period", "energy_saving", "late_of_asked", "late_of_asked_upper95", "asked", "places"} <= set(of)
        assert sum(of["places"].values()) == pytest.approx(1.0)
    assert cell["policies"]["device"]["energy_saving"]["mean"] == 0.0
    assert cell["saving_clairvoyant"] >= cell["policies"]["dure"]["energy_saving"]["mean"]


@pytest.mark.parametrize(
    ("args", "word"),
    [
        (("--fading", "18"), "--fading"),
        (("--epsilon", "2"), "--epsilon"),
        (("--load", "1.5"), "--load"),
        (("--deadline-ms", "50"), "--deadline-ms"),
        (("--html", "/nowhere/x.html"), "--html"),
    ],
)
def test_bad_input_ends_with_2(args: tuple[str, ...], word: str) -> None:
    done = _dure("--task", "none", *args)
    assert done.returncode == 2
    assert word in done.stderr
    assert done.stderr.count("\n") == 1


def test_without_mujoco_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mujoco", None)
    with pytest.raises(InputError, match=r"dure\[ran\]"):
        run_offload(Options(), lambda done, total: None, 1)
