"""The learned receiver: what it is held against is right, its gain means what it says, training and trial go on exactly."""

import argparse
import json
import signal
from pathlib import Path

import numpy as np
import pytest
from tests.blueprints.modules import Load, ModulesOf

from dure.client.blueprints import catalogue_folder
from dure.client.resuming import assert_resumes_exactly
from dure.model.errors import InputError

for library in ("matplotlib", "scipy", "sionna", "torch"):
    pytest.importorskip(library)

FOLDER = catalogue_folder() / "neural-receiver"
FEW = [
    "train.py", "--steps", "4", "--batch", "2", "--widths", "4", "--rounds", "2", "--prbs", "2", "--snr-low-db", "0", "--snr-high-db", "9", "--snr-step-db", "9", "--slots", "26", "--other-channels", "TDLA30-10",
    "--other-slots", "3", "--save-every-s", "0",
]  # fmt: skip


@pytest.fixture
def load(modules_of: ModulesOf) -> Load:
    return modules_of(FOLDER)


def link_of(load: Load, channel: str, prbs: int = 2):
    link = load("link")
    return link.Link(prbs, 10, link.Channel.named(channel), "cpu")


def test_slots_depend_on_the_seed_alone_and_are_as_loud_as_said(load: Load) -> None:
    link = link_of(load, "TDLB100-400")
    first, again, other = (link.slots(40, 3.0, seed, is_coded=True) for seed in (1, 1, 2))
    assert first.received.equal(again.received)
    assert first.blocks.equal(again.blocks)
    assert not first.bits.equal(other.bits)
    assert float(first.channel.abs().square().mean()) == pytest.approx(1, rel=0.15)
    assert float(first.noise[0]) == pytest.approx(10**-0.3)
    louder = link.slots(40, 10.0, 1, is_coded=True)
    # Of an SNR only the noise's strength changes, so that receivers and SNRs are compared on the same slots.
    assert louder.channel.equal(first.channel)
    assert louder.blocks.equal(first.blocks)


def test_without_noise_on_a_channel_that_stands_still_estimates_are_exact(load: Load) -> None:
    receivers = load("receivers")
    link = link_of(load, "TDLA30-0")
    slots = link.slots(3, 90.0, 5, is_coded=True)
    channel, error = receivers.Wiener(link)(slots)
    assert float((channel - slots.channel).abs().max()) < 1e-2
    assert float(error.max()) < 1e-3
    detector = receivers.Detector(link)
    for estimate in (receivers.LeastSquares(link), receivers.Wiener(link), receivers.Perfect()):
        logits = detector(slots, estimate(slots))
        assert (logits > 0).equal(slots.bits > 0.5)
        assert not link.is_wrong(logits, slots.blocks).any()


def test_the_estimate_s_error_is_what_it_says_and_less_than_that_of_least_squares(load: Load) -> None:
    receivers = load("receivers")
    link = link_of(load, "TDLB100-400", prbs=4)
    slots = link.slots(400, 3.0, 7, is_coded=False)
    channel, error = receivers.Wiener(link)(slots)
    off = (channel - slots.channel).abs().square()
    assert float(off.mean()) == pytest.approx(float(error.mean()), rel=0.15)
    # Far from the pilots' symbol, the third, more is unknown.
    assert float(off[:, :, 13].mean()) == pytest.approx(float(error[:, :, 13].mean()), rel=0.15)
    assert float(off[:, :, 13].mean()) > 3 * float(off[:, :, 2].mean())
    assert float(off.mean()) < 0.8 * float((receivers.LeastSquares(link)(slots)[0] - slots.channel).abs().square().mean())


def test_the_detector_is_sionna_s_lmmse(load: Load) -> None:
    from sionna.phy.mimo import StreamManagement
    from sionna.phy.ofdm import LinearDetector

    receivers = load("receivers")
    link = link_of(load, "TDLB100-400")
    slots = link.slots(4, 5.0, 3, is_coded=False)
    sionna_s = LinearDetector("lmmse", "bit", "app", link.grid, StreamManagement(np.ones((1, 1), bool), 1), "qam", link.bits_per_symbol)
    channel, error = receivers.Wiener(link)(slots)
    theirs = sionna_s(slots.received[:, None], channel[:, None, :, None, None], error[:, None, :, None, None], slots.noise)[:, 0, 0]
    ours = receivers.Detector(link)(slots, receivers.Wiener(link)(slots))
    assert float((ours - theirs).abs().max()) < 1e-2 * float(theirs.abs().max())


def test_untrained_it_is_ls_lmmse(load: Load) -> None:
    receivers, network = load("receivers"), load("network")
    link = link_of(load, "TDLB100-400")
    slots = link.slots(2, 3.0, 3, is_coded=False)
    learned = network.LearnedReceiver(link, receivers.Detector(link), 4, 2)
    assert learned(slots)[0].equal(receivers.Wiener(link)(slots)[0])


def test_gain_is_the_distance_of_curves_at_one_in_ten(load: Load) -> None:
    trial = load("trial")
    snr_db = (0.0, 2.0, 4.0)
    assert trial.snr_at(snr_db, np.array([1.0, 0.1001, 0.001])) == pytest.approx(2, abs=1e-3)
    # Half-way between 1 and 0.01 on a logarithmic scale.
    assert trial.snr_at(snr_db, np.array([1.0, 0.01, 0.001])) == pytest.approx(1)
    assert trial.snr_at(snr_db, np.array([1.0, 0.5, 0.2])) == np.inf
    assert trial.snr_at(snr_db, np.array([0.09, 0.01, 0.0])) == -np.inf
    rng = np.random.default_rng(0)
    better = rng.uniform(size=(1, 400)) < np.array([0.5, 0.05, 0.005])[:, None]
    worse = rng.uniform(size=(1, 400)) < np.array([0.9, 0.5, 0.05])[:, None]
    errors = trial.Errors(("worse", "better"), snr_db, np.stack([worse, better]))
    gain_db, low_db, high_db = errors.gain_db("better", "worse", seed=0)
    assert low_db < gain_db < high_db
    assert gain_db == pytest.approx(2, abs=0.4)
    low, high = errors.bounds("better")
    assert (low < errors.rates("better")).all()
    assert (errors.rates("better") < high).all()


def test_the_widest_within_the_budget_is_taken(load: Load) -> None:
    train, receivers = load("train"), load("receivers")
    link = link_of(load, "TDLB100-400")
    for budget_ms, width in ((1e6, 6), (0, 2)):
        options = argparse.Namespace(widths=[2, 6, 4], rounds=1, budget_ms=budget_ms)
        assert train.chosen_width(link, receivers.Detector(link), options) == width


def test_what_is_no_channel_is_refused(load: Load) -> None:
    link = load("link")
    assert link.Channel.named("TDLB100-400").speed_m_s == pytest.approx(400 * 299792458 / 3.5e9)
    for name in ("TDLX30-10", "TDLA30", "TDLD30-5", "TDLA30-x"):
        with pytest.raises(InputError, match="is no channel"):
            link.Channel.named(name)


@pytest.mark.slow
def test_goes_on_exactly_in_training_and_in_the_trial(tmp_path: Path) -> None:
    story = assert_resumes_exactly("neural-receiver", FEW, tmp_path, [2, 4], number=signal.SIGUSR1)
    assert [fields.get("channel") for _, fields in story.said] == [None] * 4 + ["TDLB100-400"] * 4 + ["TDLA30-10"] * 2
    result = json.loads((tmp_path / "parts" / "output" / "result.json").read_text())
    rates = result["block_error_rates"]["TDLB100-400"]
    assert rates["perfect"]["rate"][0] >= rates["perfect"]["rate"][1]
    assert sum(rates["perfect"]["rate"]) <= sum(rates["ls"]["rate"])
    assert {path.name for path in (tmp_path / "parts" / "output").iterdir()} == {"receiver.pt", "result.json", "result.png"}
