"""Devices: energies of short traces by hand, the bound, the learned table."""

import numpy as np
import pytest

from dure.ran.energy_tables import UeTable
from dure.ran.sleep_load import invented_windows, sampled
from dure.ran.ue_drx import (
    HORIZON_MS,
    STEP_MS,
    TRAFFICS,
    DeviceDay,
    Drx,
    clairvoyant_bound,
    learn,
    listening_starts,
    make_device,
    run_fixed,
    run_table,
)  # fmt: skip

UE = UeTable()


def day(arrive: list[int], receive: list[int], end_ms: int) -> DeviceDay:
    return DeviceDay(np.array(arrive, np.int64), np.array(receive, np.int64), end_ms)


def test_a_silent_cycle() -> None:
    # 8 ms of listening, 152 ms of deep sleep
    assert run_fixed(day([], [], 160), Drx(), UE, 50).energy == 8 * 100 + 152 + 450


def test_a_burst_in_sleep_waits_for_the_next_cycle() -> None:
    run = run_fixed(day([20], [5], 320), Drx(), UE, 50)
    # then the inactivity timer until 265, and 55 ms of deep sleep
    assert run.energy == 8 * 100 + 152 + 450 + 5 * 300 + 100 * 100 + 55 + 450
    assert run.added_p95_ms == 140


def test_a_burst_while_listening_is_received_at_once() -> None:
    run = run_fixed(day([4, 50], [2, 2], 160), Drx(), UE, 50)
    # listens 0-4, 6-50, 52-152, sleeps 8 ms lightly
    assert run.energy == (4 + 44 + 100) * 100 + 4 * 300 + 8 * 20 + 100
    assert run.added_mean_ms == 0


def test_the_inactivity_timer_ends_within_an_on_duration() -> None:
    # received 0-5, listens until 13; the on-duration from 10 goes on to 14, then 6 ms of light sleep
    assert run_fixed(day([0], [5], 20), Drx(10, 4, 8), UE, 50).energy == 5 * 300 + 9 * 100 + 6 * 20 + 100


def test_a_table_of_one_sleep() -> None:
    table = np.full((7, 4), 40, np.int64)
    run = run_table(day([30], [3], 87), table, 2, UE, 50)
    # 40 asleep, received 40-43, 40 asleep, 2 listening, 2 of micro sleep
    assert run.energy == 2 * (40 + 450) + 3 * 300 + 2 * 100 + 2 * 45
    assert run.added_p95_ms == 10


def test_zero_in_a_table_listens() -> None:
    assert run_table(day([], [], 50), np.zeros((7, 4), np.int64), 2, UE, 50).energy == 50 * 100


def test_overlapping_bursts_wait_for_one_another() -> None:
    assert listening_starts(day([0, 3, 20], [10, 4, 1], 30)).tolist() == [0, 10, 20]


def test_the_bound_is_below_every_way_to_receive_a_tiny_day() -> None:
    """All subsets of awake ms: receptions in some of them, gaps between at their best."""
    end, receive = 12, 2
    tiny = day([3], [receive], end)
    least = np.inf
    for awake in range(1 << end):
        slots = [bool(awake >> ms & 1) for ms in range(end)]
        if sum(slots) < receive:
            continue
        energy, gap = 300.0 * receive + 100.0 * (sum(slots) - receive), 0
        for is_awake in [*slots, True]:
            if not is_awake:
                gap += 1
            elif gap:
                energy += UE.gap_energy(gap)
                gap = 0
        least = min(least, energy)
    assert clairvoyant_bound(tiny, UE) <= least
    assert clairvoyant_bound(tiny, UE) == 2 * 300 + 10


@pytest.mark.parametrize("name", sorted(TRAFFICS))
def test_learning_holds_the_budget_and_beats_a_timer_as_quick(name: str) -> None:
    windows = invented_windows(2, 5)
    early, late = (make_device(sampled(windows, 40, 5, i), TRAFFICS[name], 5, i) for i in range(2))
    sleeps = learn(early, 2, UE, 50.0)
    assert sleeps.shape[1] == HORIZON_MS // STEP_MS + 1
    run = run_table(late, sleeps, 2, UE, 50.0)
    assert run.added_p95_ms <= 52
    assert run.energy < run_fixed(late, Drx(50, 2, 10), UE, 50.0).energy
    assert run.energy > clairvoyant_bound(late, UE)
