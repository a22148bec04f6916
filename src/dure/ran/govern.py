"""Runs a site on this machine: the guard over real tenants, slot by slot by a clock, beside a radio that works for its deadlines.

Three processes that the operating system parts: this one, which decides and stops (the governor), the radio (`dure.ran.radio`) and the watchdog
(`dure.ran.watchdog`).
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dure.executors.tenants import Tenant, Tenants
from dure.model.errors import DureError
from dure.ran.beat import (
    BEAT_NS,
    DONE_SLOT,
    HAND_CORES,
    IS_HANDED_BACK,
    LATE_SLOT,
    LEASE_NS,
    SLOT,
    WATCH_NS,
    Beat,
)
from dure.ran.bounds import rate_upper95
from dure.ran.governor import Governor
from dure.ran.guard import LEASE_SLOTS, Calibration, LendingGuard
from dure.ran.priority import ABOVE_RADIO, be_plain, prioritise
from dure.ran.site import KNOWN_SLOTS, PERIOD, SLOT_MS, SiteModel, downlink_shares
from dure.ran.site_plan import Stretch, radio_plan

#: guard; none: tenants always run, wherever they like; stopped: they never do.
POLICIES = ("none", "guard", "stopped")
#: Between two looks whether those told to stop stand.
_LOOK_S = 0.0002
#: Of slots that were lost the guard is told so many of the last.
_TOLD_LATER = 50
#: From the order to begin to slot 0.
_LEAD_NS = 100_000_000
#: A radio that has not done a slot for so long is dead.
_RADIO_SILENT_S = 10.0


class RadioEndedError(DureError):
    """The radio's process has ended, or does not do its slots."""


@dataclass(frozen=True)
class Site:
    """What is run.

    Attributes
    ----------
    model : SiteModel
        Of `site_model`, for so many cores.
    calibration : Calibration
        Of the guard, for this model.
    stretches : list of Stretch
        The load, all of it of one model.
    cores : list of int
        The machine's, as the operating system numbers them.
    slot_ns : int
        Length of a slot.
    priority : str
        What the radio is to have: ``plain``, ``nice`` or ``fifo``.
    """

    model: SiteModel
    calibration: Calibration
    stretches: list[Stretch]
    cores: list[int]
    slot_ns: int
    priority: str

    @property
    def num_cells(self) -> int:
        """Cells of the site."""
        return int(self.stretches[0].cell_sms.shape[1])

    @property
    def num_slots(self) -> int:
        """Slots of all stretches."""
        return sum(stretch.num_slots for stretch in self.stretches)

    def cores_of(self, sms: float) -> int:
        """Whole cores that stand for so many SMs."""
        return round(sms / self.model.grain_sms)


class Plan:
    """Tells the guard of each slot what is planned; comes round after the last stretch.

    The load jumps from stretch to stretch, which no radio's does: each has a guard that has seen the slots before it and lent nothing yet.
    """

    def __init__(self, site: Site) -> None:
        self._site = site
        self._share = downlink_shares()
        self._next = 0
        # Compiled, or read from the cache, before the first slot.
        none = np.zeros(KNOWN_SLOTS + 2)
        LendingGuard(site.calibration, 1, 1, 1, 1, 0).step(0, none, none, none, 1.0, is_missed=False)
        self._places: list[tuple[LendingGuard, Stretch, int]] = []
        for stretch in site.stretches:
            guard = LendingGuard(
                site.calibration, site.num_cells, site.model.num_sms, site.model.floor_sms(site.num_cells), site.model.grain_sms,
                len(self._places),
            )  # fmt: skip
            for t in range(-len(stretch.before_sms), KNOWN_SLOTS):
                self._track(guard, t, stretch.before_sms[t] if t < 0 else stretch.cell_sms[t])
            self._places += [(guard, stretch, at) for at in range(stretch.num_slots)]

    def keep(self, slot: int, num_in_hand: int, *, is_missed: bool, is_told: bool) -> int:
        """Cores that the radio keeps from this slot on. Not ``is_told``: as if there were no plan (G4)."""
        # What the guard was not told of slots that were lost it is told now.
        for lost in range(max(self._next, slot - _TOLD_LATER), slot):
            guard, stretch, at = self._place(lost)
            self._track(guard, at + KNOWN_SLOTS, stretch.cell_sms[at + KNOWN_SLOTS])
        self._next = slot + 1
        guard, stretch, at = self._place(slot)
        self._track(guard, at + KNOWN_SLOTS, stretch.cell_sms[at + KNOWN_SLOTS])
        plan = slice(at, at + KNOWN_SLOTS + 2) if is_told else slice(0)
        sms = guard.step(
            slot, stretch.dl_sms[plan], stretch.ul_sms[plan], stretch.ul_risk_sms[plan],
            num_in_hand * self._site.model.grain_sms, is_missed=is_missed,
        )  # fmt: skip
        return self._site.cores_of(sms)

    def _place(self, slot: int) -> tuple[LendingGuard, Stretch, int]:
        return self._places[slot % len(self._places)]

    def _track(self, guard: LendingGuard, t: int, sms: NDArray[np.float64]) -> None:
        if self._share[t % PERIOD] == 1.0:
            guard.track(sms)


class Watched:
    """The watchdog's process: started where there is none, and again where it falls silent."""

    def __init__(self, state_dir: Path, beat: Beat) -> None:
        self._dir, self._beat = state_dir, beat
        self._started: subprocess.Popen[bytes] | None = None

    def is_watched(self) -> bool:
        """Whether it has looked within the lease; if not, another is on its way."""
        if time.monotonic_ns() - self._beat[WATCH_NS] <= self._beat[LEASE_NS]:
            return True
        if self._started is None or self._started.poll() is not None:
            # In a session of its own: what ends the governor's group does not end it.
            self._started = subprocess.Popen(
                [sys.executable, "-P", "-m", "dure.ran.watchdog", str(self._dir)], start_new_session=True, stdin=subprocess.DEVNULL
            )
        return False

    def wait(self) -> None:
        """Until it is at work."""
        while not self.is_watched():
            self._beat[BEAT_NS] = time.monotonic_ns()
            time.sleep(0.01)

    def end(self) -> None:
        """Wait until it has let all go on and ended, where it is this process's."""
        if self._started is not None:
            self._started.wait()


@contextmanager
def _radio(site: Site, state_dir: Path, num_slots: int) -> Iterator[subprocess.Popen[str]]:
    with tempfile.TemporaryDirectory(prefix="dure-radio-") as name:
        folder = Path(name)
        np.save(folder / "plan.npy", radio_plan(site.stretches, len(site.cores), site.slot_ns))
        order = {
            "cores": site.cores, "slot_ns": site.slot_ns, "num_slots": num_slots, "priority": site.priority,
            "budget_ns": int(site.slot_ns * site.model.dl_budget_us / (SLOT_MS * 1000)),
        }  # fmt: skip
        (folder / "radio.json").write_text(json.dumps(order), encoding="utf-8")
        command = [sys.executable, "-P", "-m", "dure.ran.radio", str(folder), str(state_dir)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
            try:
                yield process
            finally:
                process.kill()


def govern(
    policy: str, site: Site, state_dir: Path, beat: Beat, num_slots: int, told_to_end: Sequence[int] = (), work: Callable[[], float] = float
) -> dict[str, Any]:
    """Run so many slots under a policy; all tenants go on afterwards.

    Parameters
    ----------
    state_dir : Path
        Of the executor whose leases are the tenants.
    beat : Beat
        Of the same; this process has claimed to govern.
    num_slots : int
        0: until something is in ``told_to_end``, or the node is handed back.
    work : callable
        What tenants have done so far, by a measure of their own.

    Returns
    -------
    dict
        See docs/ran.md; ``tenant_work`` by the second.

    Raises
    ------
    RadioEndedError
        There is no radio any more.
    """
    tenants = Tenants(state_dir)
    watched = Watched(state_dir, beat)
    governor = Governor(site.cores, site.cores_of(site.model.floor_sms(site.num_cells)), site.calibration.vacate_slots)
    beat[LEASE_NS], beat[BEAT_NS], beat[IS_HANDED_BACK] = LEASE_SLOTS * site.slot_ns, time.monotonic_ns(), 0
    beat[SLOT], beat[HAND_CORES], beat[LATE_SLOT], beat[DONE_SLOT] = -1, len(site.cores), -1, -1
    present = tenants.look()
    # The radio finds out how fast a core is when nobody disturbs it.
    for tenant in present:
        tenant.stop()
    try:
        with _radio(site, state_dir, num_slots) as radio:
            assert radio.stdin is not None
            assert radio.stdout is not None
            priority = json.loads(radio.stdout.readline() or "{}").get("priority")
            if priority is None:
                raise RadioEndedError("the radio did not start")
            governor.release(present)
            if policy == "guard":
                watched.wait()
            before_s = {tenant.lease_id: tenant.cpu_s() for tenant in tenants.look()}
            loop = _Loop(policy, site, beat, tenants, governor, watched)
            gc.collect()
            begin_ns = loop.begin_ns = time.monotonic_ns() + _LEAD_NS
            radio.stdin.write(f"{begin_ns}\n")
            radio.stdin.flush()
            work_before, work_began = work(), time.monotonic()
            loop.run(num_slots, told_to_end, radio)
            tenant_work = (work() - work_before) / (time.monotonic() - work_began)
            ended_ns = time.monotonic_ns()
            used_s = sum(tenant.cpu_s() - before_s.get(tenant.lease_id, 0.0) for tenant in tenants.look())
            if told_to_end:
                beat[IS_HANDED_BACK] = 1
            done = json.loads(radio.stdout.readline() or "null")
            if done is None:
                raise RadioEndedError("the radio said nothing at its end")
    finally:
        beat[IS_HANDED_BACK] = 1
        governor.release(tenants.look())
        watched.end()
    idle_s = len(site.cores) * (ended_ns - begin_ns) / 1e9 - done["cpu_s"]
    late = done["late_downlink"] + done["late_uplink"] + done["skipped"]
    stops_ms = np.array(governor.stop_ns or [0]) / 1e6
    return {
        "policy": policy, "slots": done["slots"], "slot_ms": site.slot_ns / 1e6, "slowed_by": site.slot_ns / 1e6 / SLOT_MS,
        "priority": priority, "on_time": 1 - late / max(done["slots"], 1),
        "miss_rate_upper95": rate_upper95(late, done["slots"]) if done["slots"] else 1.0,
        "late_downlink": done["late_downlink"], "late_uplink": done["late_uplink"], "skipped": done["skipped"],
        "idle_lent": used_s / idle_s, "radio_share": done["cpu_s"] / (idle_s + done["cpu_s"]), "kept_all": loop.kept_all / max(loop.decided, 1),
        "tenant_work": tenant_work, "lost_slots": loop.lost, "stops": governor.num_stops,
        **{f"stop_ms_{name}": float(np.quantile(stops_ms, part)) for name, part in (("p50", 0.5), ("p99", 0.99), ("max", 1.0))},
        "late_tenants": governor.num_late, "evicted": governor.num_evicted,
    }  # fmt: skip


class _Loop:
    """The governor's slots. ``lost``: those that began before it came to them; they are not decided."""

    def __init__(
        self, policy: str, site: Site, beat: Beat, tenants: Tenants, governor: Governor, watched: Watched
    ) -> None:
        self._policy, self._site, self._beat, self._tenants, self._governor = policy, site, beat, tenants, governor
        self._watched, self._plan = watched, Plan(site)
        self.begin_ns = 0
        self._late = -1
        self.decided = self.lost = self.kept_all = 0

    def run(self, num_slots: int, told_to_end: Sequence[int], radio: subprocess.Popen[str]) -> None:
        """Until the last slot is over."""
        prioritise("fifo", ABOVE_RADIO)
        gc.disable()
        slot, last = 0, -1
        try:
            while not told_to_end and not self._beat[IS_HANDED_BACK] and (num_slots == 0 or slot < num_slots):
                _sleep_until(self.begin_ns + slot * self._site.slot_ns)
                now_ns = time.monotonic_ns()
                slot = max(slot, (now_ns - self.begin_ns) // self._site.slot_ns)
                self._check(slot, radio)
                self._decide(slot, now_ns)
                self.lost += slot - last - 1
                last, slot = slot, slot + 1
                self._settle(self.begin_ns + slot * self._site.slot_ns)
            _sleep_until(self.begin_ns + slot * self._site.slot_ns)
        finally:
            gc.enable()
            be_plain()

    def _check(self, slot: int, radio: subprocess.Popen[str]) -> None:
        behind_ns = (slot - self._beat[DONE_SLOT]) * self._site.slot_ns
        if radio.poll() is not None or behind_ns > _RADIO_SILENT_S * 1e9 + 20 * self._site.slot_ns:
            raise RadioEndedError(f"the radio has done no slot after {self._beat[DONE_SLOT]}; it is slot {slot}")

    def _decide(self, slot: int, now_ns: int) -> None:
        num_cores = len(self._site.cores)
        if self._policy != "none":
            tenants: list[Tenant] = self._tenants.look()
            keep = num_cores
            if self._policy == "guard":
                late = self._beat[LATE_SLOT]
                is_missed, self._late = late > self._late, late
                keep = self._plan.keep(
                    slot, self._governor.num_in_hand(), is_missed=is_missed, is_told=self._watched.is_watched()
                )
            self._governor.apply(tenants, keep, slot, now_ns)
            self.kept_all += keep == num_cores
        self.decided += 1
        # What nobody runs on and what was just taken back, of which the next word tells: until it stands the radio does without it.
        self._beat[HAND_CORES] = num_cores if self._policy == "none" else max(1, self._governor.num_in_hand())
        self._beat[SLOT], self._beat[BEAT_NS] = slot, time.monotonic_ns()

    def _settle(self, until_ns: int) -> None:
        """Watch those that were told to stop until they do, or the next slot begins; the radio has their cores from the next on."""
        while self._policy != "none" and not self._governor.settle(time.monotonic_ns()):
            left_ns = until_ns - time.monotonic_ns()
            if left_ns <= 0:
                return
            time.sleep(min(_LOOK_S, left_ns / 1e9))


def _sleep_until(at_ns: int) -> None:
    left_ns = at_ns - time.monotonic_ns()
    if left_ns > 0:
        time.sleep(left_ns / 1e9)
