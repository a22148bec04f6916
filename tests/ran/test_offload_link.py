"""The link model against latencies worked out by hand and distributions in closed form."""

import math

import numpy as np
import pytest

from dure.ran import link

LONG = 20_000


def _quiet(num_slots: int, snr_db: float, draw: float = 1.0, backlog_ms: float = 0.0) -> link.LinkTrace:
    full = np.full(num_slots, 1.0)
    return link.LinkTrace(full * snr_db, full * 273, full * backlog_ms, full * draw, full * draw)


@pytest.mark.parametrize(
    ("start", "bits", "backlog_ms", "slots"),
    [
        # Request in slot 4, grant in 7, block in 14, decoded by 17, inference to 21, answer in 21, decoded by 23.
        (0, 1_000.0, 0.0, 23),
        # Two blocks, in 14 and 15: a slot more.
        (0, 48_000.0, 0.0, 24),
        # Three blocks: the third in 24.
        (0, 100_000.0, 0.0, 33),
        # 3 ms of others' work before: six slots.
        (0, 1_000.0, 3.0, 29),
        # Ready in slot 23, which is the special one: the answer waits for 26.
        (0, 1_000.0, 1.0, 28),
        # Slot 6 has just missed an uplink slot: the request waits for 14, the block for 24.
        (6, 1_000.0, 0.0, 27),
    ],
)
def test_latency_of_a_clean_link(start: int, bits: float, backlog_ms: float, slots: int) -> None:
    trace = _quiet(200, 40.0, backlog_ms=backlog_ms)
    found = link.outcomes(trace, np.array([start]), link.LinkModel().constants(bits, 100))[0]
    assert found[link.LATENCY] == slots
    assert found[link.AWAKE_SLOTS] == slots


def test_energy_slots_of_a_clean_link() -> None:
    found = link.outcomes(_quiet(200, 40.0), np.array([0]), link.LinkModel().constants(48_000.0, 100))[0]
    assert found[link.TX_SLOTS] == 3  # the scheduling request and two blocks
    assert found[link.RX_SLOTS] == 1
    assert found[link.FAILED] == 0


def test_a_request_is_given_up_at_its_deadline() -> None:
    trace = _quiet(200, 40.0)
    constants = link.LinkModel().constants(1_000.0, 22)
    found = link.outcomes(trace, np.array([0]), constants)[0]
    assert math.isinf(found[link.LATENCY])
    assert found[link.AWAKE_SLOTS] == 22


def test_blocks_that_never_decode_are_late_and_cost_every_try() -> None:
    found = link.outcomes(_quiet(200, 10.0, draw=0.0), np.array([0]), link.LinkModel().constants(1_000.0, 40))[0]
    assert math.isinf(found[link.LATENCY])
    assert found[link.TX_SLOTS] == 4  # the request, then the block in slots 14, 24 and 34
    assert found[link.FAILED] == 3


def test_harq_tries_follow_their_formula() -> None:
    """At a constant SNR the k-th try fails with the error rate at k times the SNR."""
    model = link.LinkModel(backoff_db=0.3)
    rng = np.random.default_rng(5)
    num, snr = 20_000, 10.0
    slots = 100 * num + 200
    full = np.ones(slots)
    trace = link.LinkTrace(full * snr, full * 273, full * 0, rng.random(slots), full)
    found = link.outcomes(trace, 100 * np.arange(num), model.constants(1_000.0, 100))
    fails = [float(link.error_rate(snr + 10 * math.log10(k), snr - 0.3)) for k in (1, 2, 3)]
    assert 0.3 < fails[0] < 0.45
    expected = [1 - fails[0], fails[0] * (1 - fails[1]), fails[0] * fails[1] * (1 - fails[2])]
    for k, share in enumerate(expected):
        got = float((found[:, link.FAILED] == k).mean())
        assert abs(got - share) < 4 * math.sqrt(share * (1 - share) / num) + 1e-9
    # Each failure costs one period of the pattern.
    assert set(np.unique(found[:, link.LATENCY][found[:, link.FAILED] == 1])) == {33.0}


def test_queue_is_lindleys_recursion() -> None:
    backlog = link.queue(np.array([0.0, 2.0, 0.0, 0.0, 1.0, 0.0]), 1.0)
    assert backlog.tolist() == [0.0, 0.0, 1.5, 1.0, 0.5, 1.0]


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_queue_waits_as_long_as_in_m_d_1(load: float) -> None:
    service_ms = 4.0
    arrivals = np.random.default_rng(3).poisson(load * link.SLOT_MS / service_ms, 4_000_000)
    mean_ms = float(link.queue(arrivals.astype(float), service_ms).mean())
    expected_ms = load * service_ms / (2 * (1 - load))
    # Work that arrives within a slot begins at its end: less than a slot's difference.
    assert expected_ms - link.SLOT_MS <= mean_ms <= expected_ms * 1.05


def test_fading_has_mean_1_and_jakes_correlation() -> None:
    doppler_hz, lag = 50.0, 6
    runs = np.array([link.jakes(np.random.default_rng(i), LONG, doppler_hz, 1) for i in range(40)])
    assert runs.mean() == pytest.approx(1.0, abs=0.03)
    a, b = runs[:, :-lag].ravel() - 1, runs[:, lag:].ravel() - 1
    angle = np.linspace(0, np.pi, 2001)
    bessel = float(np.cos(2 * np.pi * doppler_hz * lag * link.SLOT_MS / 1000 * np.sin(angle)).mean())
    assert (a * b).mean() / (a * a).mean() == pytest.approx(bessel**2, abs=0.06)


def test_waves_are_cosines() -> None:
    turns, phases, t = np.array([0.3, 0.01]), np.array([1.0, -2.0]), np.arange(40_000)
    expected = np.cos(0.3 * t + 1.0) + np.cos(0.01 * t - 2.0)
    assert np.abs(link.sum_of_waves(turns, phases, len(t)) - expected).max() < 1e-9


def test_shadow_correlation_falls_with_distance() -> None:
    step = 0.01
    wave = link.shadow_fading(np.random.default_rng(1), 400_000, step)
    assert float((wave**2).mean()) == pytest.approx(1.0, abs=0.15)
    assert float((wave[:-100] * wave[100:]).mean()) == pytest.approx(math.exp(-1), abs=0.1)


@pytest.mark.parametrize("slot", range(10))
def test_pattern(slot: int) -> None:
    pattern = "DDDSUUDDDD" * 3
    assert link.next_uplink(slot) == pattern.index("U", slot)
    assert link.next_downlink(slot) == pattern.index("D", slot)
