"""The site's physics beside numbers worked out by hand, and its bursts beside their means."""

import math

import numpy as np
import pytest
from tests.ran.worlds import drawn_of

from dure.ran import kernels as k
from dure.ran.bursts import draw_bursts, seed_stream
from dure.ran.calibrate import Segment
from dure.ran.site import SiteModel, downlink_shares, uplink_phases

MODEL = SiteModel()


def test_the_frame_as_the_gpu_sees_it():
    # On the air: D D D S U U D D D D. Downlink of the next slot, uplink of the last.
    assert list(downlink_shares()) == pytest.approx([1, 1, 10 / 14, 0, 0, 1, 1, 1, 1, 1])
    assert list(np.flatnonzero(uplink_phases())) == [5, 6]


def test_work_and_time_by_hand():
    # 0.6 + 0.00681 · 273 · 4 = 8.0365 µs on the whole GPU.
    work = MODEL.dl_work_us(273, 4)
    assert work == pytest.approx(8.03652)
    # On 82 SMs, twenty cells, beside tenants: 30 + 160.73 · 132/82 · 1.1.
    assert MODEL.time_us(20 * work, 82) == pytest.approx(30 + 160.7304 * 132 / 82 * 1.1)
    # 0.8 + 546 · (0.00824 + 0.0122 · 0.5 · 1.6)
    assert MODEL.ul_work_us(273, 2, 0.5, 1.6) == pytest.approx(0.8 + 546 * (0.00824 + 0.00976))


def test_twenty_peak_cells_just_fill_the_gpu_and_are_in_time():
    downlink = 20 * MODEL.dl_work_us(273, 4) * MODEL.dl_sms_per_us
    uplink = 20 * MODEL.ul_work_us(273, 2, 1.0, 1.03) * MODEL.ul_sms_per_us
    assert downlink == pytest.approx(82, abs=0.5)
    assert downlink + 2 * uplink == pytest.approx(132, abs=1)
    assert MODEL.time_us(20 * MODEL.dl_work_us(273, 4), downlink, MODEL.noise_allowance_us) == pytest.approx(375)


def test_the_floor_holds_control_of_all_cells():
    # 20 · (0.6 · 132 · 1.1/285 + 2 · 0.8 · 132 · 1.1/1410) = 6.11 + 3.30, to a multiple of two.
    assert MODEL.floor_sms(20) == 10
    assert MODEL.rounded_sms(131.5) == 132
    assert MODEL.rounded_sms(300.0) == 132


@pytest.mark.parametrize("load", [0.04, 0.25, 0.81, 1.0])
def test_bursts_have_the_mean_they_are_asked_for(load):
    shares, stream, means = np.empty(20_000), np.zeros(1, np.uint64), []
    for cell in range(40):
        seed_stream(stream, 3, 0, cell)
        draw_bursts(stream, load, 0, shares)
        means.append(shares.mean())
    assert shares.min() >= 0
    assert shares.max() <= 1
    assert np.mean(means) == pytest.approx(load, rel=0.05)


def test_an_empty_site_needs_control_alone():
    needs = drawn_of(down=0.0, up=0.0).draw(Segment(0, 1000))
    share = downlink_shares()[np.arange(needs.shape[1]) % 10]
    control = 20 * 0.6 * 132 * 1.1 / 285
    assert needs[k.DL] == pytest.approx(np.where(share > 0, control, 0.0))
    assert needs[k.DL_CONTROL] == pytest.approx(needs[k.DL])
    # Uplink control of two slots, each spread over three: 1, 2, 2, 1 of them in phases 5 to 8.
    each = 20 * 0.8 * 132 * 1.1 / 1410
    assert needs[k.UL_PLAN, 10:20] == pytest.approx([0, 0, 0, 0, 0, each, 2 * each, 2 * each, each, 0])


def test_a_full_site_needs_what_peak_cells_need():
    needs = drawn_of(down=1.0, up=0.0).draw(Segment(0, 1000))
    assert needs[k.DL, 100] == pytest.approx(20 * MODEL.dl_work_us(273, 4) * MODEL.dl_sms_per_us)
    assert needs[k.LEVEL_OF, 500] == pytest.approx(needs[k.DL, 100] - needs[k.DL_CONTROL, 100])
    assert needs[k.RISK_OF, 500] == pytest.approx(
        math.sqrt(20 * (needs[k.LEVEL_OF, 500] / 20) ** 2 + 4.0 * needs[k.LEVEL_OF, 500])
    )


def test_the_same_seed_draws_the_same_and_another_does_not():
    first, same, other = (drawn_of(seed=s).draw(Segment(2, 1000)) for s in (1, 1, 2))
    assert np.array_equal(first, same)
    assert not np.array_equal(first[k.DL], other[k.DL])


def test_a_surge_trebles_the_load_from_its_slot_on():
    needs = drawn_of(down=0.1, up=0.0).draw(Segment(0, 40_000), surge_at=20_000)
    data = needs[k.DL] - needs[k.DL_CONTROL]
    assert data[20_000:].mean() / data[:20_000].mean() == pytest.approx(3, rel=0.15)
