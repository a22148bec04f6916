"""A base station that packs data and sleeps: fixed timers, a learned controller and the clairvoyant bound.

The site has one coverage carrier, which sends every synchronisation signal, and capacity carriers, which may be out of service. Load
levels are what the site itself has seen in the last second.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dure.ran import sleep_kernels as k
from dure.ran.energy_tables import STATIC_SHARE, BsTable
from dure.ran.sleep_load import SLOT_MS, Bursts, Floats, Windows, slots_of

#: Load levels of the controller: mean share of a carrier's band over the last second.
LEVEL_EDGES = np.array([0.03, 0.07, 0.12, 0.18, 0.25, 0.35, 0.5])
#: How long the learned controller may hold data, in slots, where an occasion does not come first.
HOLDS = (0, 8, 16, 24, 32, 40)
#: Idle slots after which the fixed timers let a carrier sleep (10 ms).
TIMER_SLOTS = 20
#: The learned controller is calibrated so that this share of the work of *each* load level keeps to the delay budget, whatever mix of
#: levels later days bring; 0.95 of all work is asked for.
GUARD_SHARE = 0.96
#: Levels with less work than this in the calibration samples count with the whole alone.
_WORK_MIN = 500
_HISTOGRAM_SLOTS = 4000
#: Uplink work for downlink work: an uplink slot is one of five, a downlink slot four of five.
_DOWN_SHARE, _UP_SHARE = 0.8, 0.2


@dataclass(frozen=True)
class Setting:
    """A site: its powers, its signals' period (ms), how often the uplink is heard (ms), its carriers."""

    table: BsTable
    ssb_ms: int = 20
    num_carriers: int = 1

    @property
    def ssb_slots(self) -> int:
        """The period in slots."""
        return int(self.ssb_ms / SLOT_MS)

    def powers(self) -> Floats:
        """What the kernels take: powers, then energies and times of transitions in slots."""
        t = self.table
        return np.array([
            t.deep.power, t.light.power, t.micro.power, t.downlink, t.uplink,
            t.deep.transition_energy / SLOT_MS, t.light.transition_energy / SLOT_MS,
            t.deep.transition_ms / SLOT_MS, t.light.transition_ms / SLOT_MS,
        ])  # fmt: skip


@dataclass(frozen=True)
class Sample:
    """Slots of one two-minute window: work that arrives down and up, in slots of the whole band of one carrier."""

    down: Floats
    up: Floats


@dataclass(frozen=True)
class SiteRun:
    """What a policy spent.

    Attributes
    ----------
    energy : float
        Relative power × ms, all carriers.
    by_state : dict of str to float
        The same by what it was spent on.
    added_p95_ms : float
        95th percentile of how much later than in the reference the work of a slot left, the worse of down and up.
    added_guard_ms : float
        The same of the share ``GUARD_SHARE``, at the worst load level.
    missed_ssb, unserved : int
        Signals of the coverage carrier that fell into its sleep; slots whose work had not left at the end.
    off_share : float
        Share of the time that capacity carriers were out of service.
    """

    energy: float
    by_state: dict[str, float]
    added_p95_ms: float
    added_guard_ms: float
    missed_ssb: int
    unserved: int
    off_share: float


def make_samples(windows: Windows, bursts: Bursts, setting: Setting, seconds: int, seed: int, stream: int) -> list[Sample]:
    """Slots of each window, as much as `seconds` of it."""
    num_slots = seconds * int(1000 / SLOT_MS)
    out = []
    for at in range(len(windows.down)):
        rng = np.random.default_rng([seed, 3, stream, at])
        carriers = setting.num_carriers
        down = slots_of(float(windows.down[at]), _DOWN_SHARE * carriers, bursts, num_slots, rng)
        up = slots_of(float(windows.up[at]), _UP_SHARE * carriers, bursts, num_slots, rng)
        out.append(Sample(down, up))
    return out


def never_sleeping() -> Floats:
    """The reference: data is sent as it arrives over all carriers, idle slots are micro sleep."""
    return np.tile([0.0, -1.0, 1.0], (len(LEVEL_EDGES) + 1, 1))


def fixed_timers() -> Floats:
    """Data is sent as it arrives; a carrier without any for a fixed time sleeps until the next occasion or data."""
    return np.tile([0.0, float(TIMER_SLOTS), 1.0], (len(LEVEL_EDGES) + 1, 1))


class Site:
    """Samples of a site and what the reference does with them."""

    def __init__(self, setting: Setting, samples: list[Sample], occasion_slots: int) -> None:
        self.setting = setting
        self.samples = samples
        self.occasion_slots = occasion_slots
        self._levels = [self._level(sample) for sample in samples]
        self._reference = [self._served(sample, never_sleeping()) for sample in samples]

    def _level(self, sample: Sample) -> NDArray[np.int64]:
        levels = np.empty(len(sample.down), np.int64)
        k.levels_of(sample.down, self.setting.num_carriers, LEVEL_EDGES, levels)
        return levels

    def _served(self, sample: Sample, actions: Floats) -> tuple[Floats, Floats, Floats]:
        down, up = np.zeros(len(sample.down)), np.zeros(len(sample.up))
        spent = k.run_site(
            sample.down, sample.up, self.setting.ssb_slots, self.occasion_slots, self.setting.num_carriers,
            self.setting.powers(), LEVEL_EDGES, actions, down, up,
        )  # fmt: skip
        return spent, down, up

    def reference(self) -> SiteRun:
        """What is spent without sleep."""
        return self.run(never_sleeping())

    def run(self, actions: Floats) -> SiteRun:
        """What a policy spends: rows of `actions` are load levels, columns ``A_*`` of the kernels."""
        spent = np.zeros(k.NUM_R)
        late = 0
        histograms = np.zeros((2, len(LEVEL_EDGES) + 1, _HISTOGRAM_SLOTS), np.int64)
        for sample, levels, (_, ref_down, ref_up) in zip(self.samples, self._levels, self._reference, strict=True):
            found, down, up = self._served(sample, actions)
            spent += found
            late += k.added_delays(sample.down, down, ref_down, levels, histograms[0])
            late += k.added_delays(sample.up, up, ref_up, levels, histograms[1])
        slots = sum(len(sample.down) for sample in self.samples) * max(self.setting.num_carriers - 1, 1)
        names = ("deep", "light", "micro", "downlink", "uplink", "common", "transitions")
        by_state = {name: float(spent[at]) * SLOT_MS for at, name in enumerate(names)}
        return SiteRun(
            sum(by_state.values()), by_state, max(_quantile_ms(way.sum(axis=0), 0.95) for way in histograms),
            max(_guard_ms(way) for way in histograms),
            int(spent[k.R_MISSED_SSB]), late, float(spent[k.R_OFF_SLOTS]) / slots,
        )  # fmt: skip

    def bound(self) -> float:
        """Energy below which no policy can come, even one that knows all arrivals and may serve them at any time."""
        return sum(clairvoyant_bound(self.setting, sample) for sample in self.samples)


def _quantile_ms(histogram: NDArray[np.int64], share: float) -> float:
    total = int(histogram.sum())
    if total == 0:
        return 0.0
    return float(np.searchsorted(np.cumsum(histogram), share * total)) * SLOT_MS


def _guard_ms(by_level: NDArray[np.int64]) -> float:
    """The guarded delay of the worst load level, and of all together."""
    parts = [level for level in by_level if level.sum() >= _WORK_MIN] + [by_level.sum(axis=0)]
    return max(_quantile_ms(part, GUARD_SHARE) for part in parts)


def clairvoyant_bound(setting: Setting, sample: Sample) -> float:
    """A lower bound of a sample's energy.

    The coverage carrier must send its signals and hear random access. Data costs least in those slots, then in slots that are full,
    at any time and on any carrier. All other time of the coverage carrier costs what a whole gap between signals costs on
    average (that average only falls with a gap's length), that of capacity carriers deep sleep without transitions.
    """
    table, period, slots = setting.table, setting.ssb_slots, len(sample.down)
    dynamic = table.downlink - table.micro.power
    at = np.arange(slots) % period
    num_ssb, num_access = int((at < k.SSB_SLOTS).sum()), int((at == k.ACCESS_SLOT).sum())
    common = num_ssb * table.downlink_power(k.SSB_SHARE) + num_access * table.uplink
    work_down, work_up = float(sample.down.sum()), float(sample.up.sum())
    beside = min(work_down, num_ssb * (1.0 - k.SSB_SHARE))
    rest = work_down - beside
    rest_up = max(work_up - num_access, 0.0)
    gap_slots = period - k.SSB_SLOTS - 1
    gap_power = table.gap_energy(gap_slots * SLOT_MS) / (gap_slots * SLOT_MS)
    free = slots - num_ssb - num_access
    idle = max(free - rest - rest_up, 0.0)
    off = slots * (setting.num_carriers - 1) - max(rest + rest_up - free, 0.0)
    data = beside * dynamic * (1.0 - STATIC_SHARE) + rest * table.downlink + rest_up * table.uplink
    return SLOT_MS * (common + data + idle * gap_power + max(off, 0.0) * table.deep.power)


def learn(site: Site, budget_ms: float, progress: Callable[[int, int], None] | None = None) -> Floats:
    """For each load level how long data is held and whether capacity carriers serve: least energy within the delay budget.

    A search by coordinates over the calibration samples, from a controller that holds nothing: each level is tried with every
    action, twice. While the budget is broken, what is later is refused; then what costs more.
    """
    num = len(LEVEL_EDGES) + 1
    capacities = (0.0, 1.0) if site.setting.num_carriers > 1 else (1.0,)
    options = [np.array([hold, 0.0, capacity]) for hold in HOLDS for capacity in capacities]
    actions = np.tile([0.0, 0.0, 1.0], (num, 1))
    best = site.run(actions)
    rounds, done = 2, 0
    for _ in range(rounds):
        for level in range(num):
            for option in options:
                done += 1
                if np.array_equal(actions[level], option):
                    continue
                tried = actions.copy()
                tried[level] = option
                found = site.run(tried)
                within = found.added_guard_ms <= budget_ms and found.unserved == 0
                was_within = best.added_guard_ms <= budget_ms
                better = found.energy < best.energy if was_within else found.added_guard_ms < best.added_guard_ms
                if better and (within or not was_within):
                    actions, best = tried, found
            if progress is not None:
                progress(done, rounds * num * len(options))
    return actions
