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
from pathlib import Path
from typing import Any

import numpy as np

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
    Beat,
)
from dure.ran.bounds import rate_upper95
from dure.ran.governor import Governor
from dure.ran.guard import LEASE_SLOTS
from dure.ran.planned import Planned, Site
from dure.ran.priority import ABOVE_RADIO, be_plain, prioritise
from dure.ran.radio import sleep_until
from dure.ran.site import SLOT_MS
from dure.ran.site_plan import radio_plan
from dure.ran.watchdog import Watched

#: Between two looks whether those told to stop stand.
_LOOK_S = 0.0002
#: From the order to begin to slot 0.
_LEAD_NS = 100_000_000
#: A radio that has not done a slot for so long is dead.
_RADIO_SILENT_S = 10.0


class RadioEndedError(DureError):
    """The radio's process has ended, or does not do its slots."""


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
    """Run so many slots under a policy. All tenants go on afterwards; but where the guard ends in disorder, the watchdog holds them (G4).

    Parameters
    ----------
    policy : str
        ``guard``; ``none``: tenants always run, wherever they like; ``stopped``: they never do.
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
    if policy == "guard":
        watched.wait()
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
            loop = _Loop(policy, site, beat, tenants, governor, watched)
            gc.collect()
            beat[BEAT_NS] = time.monotonic_ns()
            governor.release(present)
            before_s = {tenant.lease_id: tenant.cpu_s() for tenant in tenants.look()}
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
    except BaseException:
        if policy != "guard":
            governor.release(tenants.look())
        raise
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
        self._watched, self._plan = watched, Planned(site)
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
                sleep_until(self.begin_ns + slot * self._site.slot_ns)
                now_ns = time.monotonic_ns()
                slot = max(slot, (now_ns - self.begin_ns) // self._site.slot_ns)
                self._check(slot, radio)
                self._decide(slot, now_ns)
                self.lost += slot - last - 1
                last, slot = slot, slot + 1
                self._settle(self.begin_ns + slot * self._site.slot_ns)
            sleep_until(self.begin_ns + slot * self._site.slot_ns)
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
