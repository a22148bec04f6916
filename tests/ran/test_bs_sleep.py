"""A base station's sleep: energies by hand, signals never slept through, coverage kept, the bound below every policy."""

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dure.ran import bs_sleep
from dure.ran import sleep_kernels as k
from dure.ran.bs_sleep import LEVEL_EDGES, Sample, Setting, Site, clairvoyant_bound, fixed_timers, never_sleeping
from dure.ran.energy_tables import BsTable, Sleep, bs_table
from dure.ran.sleep_load import Bursts, invented_windows, sampled

CAT1 = bs_table("cat1-set1")
SSB_POWER = CAT1.downlink_power(k.SSB_SHARE)


def site(down: dict[int, float], slots: int = 40, setting: Setting | None = None, up: dict[int, float] | None = None) -> Site:
    sample = Sample(np.zeros(slots), np.zeros(slots))
    for slot, work in down.items():
        sample.down[slot] = work
    for slot, work in (up or {}).items():
        sample.up[slot] = work
    setting = setting or Setting(CAT1)
    return Site(setting, [sample], setting.ssb_slots)


def packing(hold: int = 40, capacity: float = 1.0) -> np.ndarray:
    return np.tile([float(hold), 0.0, capacity], (len(LEVEL_EDGES) + 1, 1))


def test_an_idle_period_without_sleep() -> None:
    # 4 slots of signals, one of random access, 35 of micro sleep; half a ms each
    assert site({}).reference().energy == pytest.approx(0.5 * (4 * SSB_POWER + 110 + 35 * 55))


def test_an_idle_period_slept_lightly() -> None:
    # after both uplink slots 34 slots, 17 ms, of light sleep: 17 × 25 + 90
    run = site({}).run(packing())
    assert run.energy == pytest.approx(0.5 * (4 * SSB_POWER + 110 + 55) + 17 * 25 + 90)
    assert run.by_state["transitions"] == 90


def test_deep_sleep_in_a_period_of_160_ms_only() -> None:
    long = site({}, 320, Setting(CAT1, 160)).run(packing())
    assert long.by_state["deep"] == pytest.approx(157.0)
    assert long.by_state["transitions"] == 1000
    assert site({}, 320).run(packing()).by_state["deep"] == 0


def test_data_sent_as_it_comes_and_packed() -> None:
    down = {8: 0.25, 18: 0.25, 28: 0.25}
    spread = 0.5 * 3 * 225 * (0.4 + 0.6 * 0.25)
    apart = site(down, 80)
    assert apart.reference().by_state["downlink"] == pytest.approx(spread)
    packed = apart.run(packing())
    # all three wait for the next signals, in whose first slot 0.75 is all that is free: no static power is paid again
    assert packed.by_state["downlink"] == pytest.approx(0.5 * 225 * 0.6 * 0.75)
    assert packed.added_p95_ms == 16.0
    assert packed.unserved == 0


def test_a_hold_that_ends_before_the_signals() -> None:
    run = site({8: 0.5}, 80).run(packing(20))
    # 10 ms after it came, not with the signals at slot 40
    assert run.added_p95_ms == 10.0


def test_fixed_timer_sleeps_after_10_ms_and_wakes_in_3() -> None:
    run = site({30: 0.5}, 80).run(fixed_timers())
    # idle from slot 5 or so to 24, then asleep: at 30 it must first have slept its 6 ms of transitions
    assert run.by_state["light"] > 0
    assert 0 < run.added_p95_ms <= 6.0


def test_uplink_waits_for_an_uplink_slot_after_sleep() -> None:
    run = site({}, 80, up={10: 0.3}).run(packing())
    reference = site({}, 80, up={10: 0.3}).reference()
    assert reference.by_state["uplink"] == pytest.approx(0.5 * 55)
    # heard with random access at slot 44, where the reference hears it at 14
    assert run.added_p95_ms == 15.0


@pytest.mark.parametrize("ssb_ms", [5, 10, 20, 40, 160])
@pytest.mark.parametrize("num_carriers", [1, 3])
def test_no_signal_is_slept_through(ssb_ms: int, num_carriers: int) -> None:
    setting = Setting(CAT1, ssb_ms, num_carriers)
    samples = bs_sleep.make_samples(sampled(invented_windows(1, 3), 6, 3, 0), Bursts(), setting, 2, 3, 0)
    found = Site(setting, samples, setting.ssb_slots)
    for actions in (fixed_timers(), packing(), packing(0), packing(16, 0.0)):
        run = found.run(actions)
        assert run.missed_ssb == 0
        assert found.bound() <= run.energy


def test_coverage_is_kept_with_capacity_out_of_service() -> None:
    found = site({100: 3.0}, 400, Setting(CAT1, 20, 2))
    off = found.run(packing(40, 0.0))
    assert off.missed_ssb == 0
    assert off.unserved == 0
    assert off.off_share > 0.99
    assert off.energy < found.run(packing()).energy


def test_capacity_comes_back_when_its_level_says_so() -> None:
    actions = packing(0, 0.0)
    actions[3:, k.A_CAPACITY] = 1.0
    run = site(dict.fromkeys(range(400, 4000), 1.2), 6000, Setting(CAT1, 20, 2)).run(actions)
    assert 0.05 < run.off_share < 0.7
    assert run.missed_ssb == 0
    assert run.unserved == 0


TINY = BsTable("tiny", Sleep(1.0, 8.0, 4.0), Sleep(10.0, 3.0, 1.0), Sleep(20.0, 0.0, 0.0), 100.0, 40.0)


def cheapest(work: int, slots: int, period: int) -> float:
    """The least energy of `work` tenths of a slot in any order, by trying all: each slot is signals, access, active or one of a sleep."""
    powers = TINY

    @cache
    def rest(slot: int, left: int) -> float:
        if slot == slots:
            return 0.0 if left == 0 else np.inf
        at = slot % period
        options = []
        if at < k.SSB_SLOTS:
            for sent in range(min(left, 7) + 1):
                sf = k.SSB_SHARE + sent / 10
                options.append(0.5 * powers.downlink_power(sf) + rest(slot + 1, left - sent))
            return min(options)
        if at == k.ACCESS_SLOT:
            return 0.5 * powers.uplink + rest(slot + 1, left)
        for sent in range(1, min(left, 10) + 1):
            options.append(0.5 * powers.downlink_power(sent / 10) + rest(slot + 1, left - sent))
        gap = 0
        while slot + gap < slots and (slot + gap) % period > k.ACCESS_SLOT:
            gap += 1
            options.append(powers.gap_energy(gap * 0.5) + rest(slot + gap, left))
        return min(options)

    return rest(0, work)


@pytest.mark.parametrize("ssb_ms", [5, 10])
@pytest.mark.parametrize("work", [0, 3, 25, 31, 60])
def test_the_bound_is_below_the_best_of_all_schedules(ssb_ms: int, work: int) -> None:
    setting = Setting(TINY, ssb_ms)
    sample = Sample(np.zeros(20), np.zeros(20))
    sample.down[7] = work / 10
    best = cheapest(work, 20, setting.ssb_slots)
    assert clairvoyant_bound(setting, sample) <= best + 1e-9
    if work == 0:
        assert clairvoyant_bound(setting, sample) == pytest.approx(best)
    run = Site(setting, [sample], setting.ssb_slots).run(packing(0))
    assert run.unserved or run.energy >= best - 1e-9


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(0.0, 0.9), min_size=80, max_size=80),
    st.lists(st.floats(0.0, 0.3), min_size=80, max_size=80),
    st.integers(0, 40), st.integers(1, 2), st.floats(0.0, 1.0),
)  # fmt: skip
def test_work_is_kept_and_the_bound_holds(down: list[float], up: list[float], hold: int, carriers: int, capacity: float) -> None:
    sample = Sample(np.array(down + [0.0] * 320) * 0.6, np.array(up + [0.0] * 320) * 0.3)
    found = Site(Setting(CAT1, 20, carriers), [sample], 40)
    for actions in (never_sleeping(), fixed_timers(), packing(hold, float(capacity > 0.5))):
        run = found.run(actions)
        assert run.unserved == 0
        assert run.missed_ssb == 0
        assert run.energy >= found.bound() - 1e-6


def test_learning_keeps_to_the_budget_of_its_days() -> None:
    setting = Setting(CAT1, 20, 2)
    samples = bs_sleep.make_samples(sampled(invented_windows(2, 1), 10, 1, 0), Bursts(), setting, 3, 1, 0)
    found = Site(setting, samples, 40)
    run = found.run(bs_sleep.learn(found, 20.0))
    assert run.added_guard_ms <= 20.0
    assert run.energy < 0.75 * found.reference().energy
    assert found.bound() < run.energy
