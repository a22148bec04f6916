"""A stand-in for a cell site's radio on the cores of this machine: a process that works off each slot's load by its deadline.

``python -m dure.ran.radio FOLDER STATE_DIR``. Its work is arithmetic of a length that the plan says, spread evenly over the cores in hand: first the
slot's downlink, then its part of the uplink. A slot is on time where its downlink is done within the budget of downlink and all by the slot's end. What
cores it has is the governor's word for the slot; where none comes, those of the last.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import SimpleQueue

import numpy as np
from numpy.typing import NDArray

from dure.policy.kernels.compile import kernel
from dure.ran.beat import DONE_SLOT, HAND_CORES, IS_HANDED_BACK, LATE_SLOT, SLOT, Beat, beat_path
from dure.ran.priority import prioritise

# Rows of a plan, int64[3, slots]: core-nanoseconds of downlink and of uplink; whether the slot counts.
DOWNLINK, UPLINK, IS_COUNTED = range(3)
#: The governor's word for a slot is waited for as long as this part of it.
_WORD_PART = 8
_POLL_S = 50e-6


@dataclass
class Done:
    """What became of the slots that count. ``skipped``: over before they could begin; late as a whole."""

    slots: int = 0
    late_downlink: int = 0
    late_uplink: int = 0
    skipped: int = 0
    cpu_s: float = 0.0


@kernel
def spin(num: int) -> float:
    """Arithmetic that takes a time in proportion to its argument; without Python's lock, as all kernels."""
    x = float(num)
    for _ in range(num):
        x = x * 0.5 + 1.0
    return x


def rounds_per_ns() -> float:
    """How fast a core is when it is not disturbed: the fastest of many millisecond-long runs."""
    num, best = 1_000_000, float("inf")
    spin(1)
    for _ in range(100):
        began = time.perf_counter_ns()
        spin(num)
        best = min(best, (time.perf_counter_ns() - began) / num)
    return 1 / best


class Cores:
    """Threads that work, one held to each core; the first is the caller's. ``priority``: what they have."""

    def __init__(self, cores: list[int], per_ns: float, priority: str) -> None:
        self._per_ns, self._wanted = per_ns, priority
        self._asked: list[SimpleQueue[int]] = [SimpleQueue() for _ in cores[1:]]
        self._answered: SimpleQueue[None] = SimpleQueue()
        for core, asked in zip(cores[1:], self._asked, strict=True):
            threading.Thread(target=self._serve, args=(core, asked), daemon=True).start()
        self.priority = prioritise(priority)
        os.sched_setaffinity(0, {cores[0]})

    def _serve(self, core: int, asked: SimpleQueue[int]) -> None:
        os.sched_setaffinity(0, {core})
        prioritise(self._wanted)
        while True:
            spin(asked.get())
            self._answered.put(None)

    def work(self, core_ns: int, num_cores: int) -> None:
        """So much work, evenly on the first cores; returns when all is done."""
        if core_ns <= 0:
            return
        part = int(core_ns * self._per_ns / num_cores)
        for asked in self._asked[: num_cores - 1]:
            asked.put(part)
        spin(part)
        for _ in range(num_cores - 1):
            self._answered.get()


def run(plan: NDArray[np.int64], beat: Beat, cores: Cores, begin_ns: int, slot_ns: int, budget_ns: int, num_slots: int) -> Done:
    """Work off so many slots (0: no end, plans come round), unless the node is handed back before or the governor's process has ended."""
    done, slot, governor = Done(), 0, os.getppid()
    while (num_slots == 0 or slot < num_slots) and not beat[IS_HANDED_BACK] and os.getppid() == governor:
        start_ns = begin_ns + slot * slot_ns
        downlink, uplink, is_counted = (int(value) for value in plan[:, slot % plan.shape[1]])
        done.slots += is_counted
        if time.monotonic_ns() >= start_ns + slot_ns:
            done.skipped += is_counted
            beat[LATE_SLOT] = beat[DONE_SLOT] = slot
            slot += 1
            continue
        sleep_until(start_ns)
        while beat[SLOT] < slot and time.monotonic_ns() < start_ns + slot_ns // _WORD_PART:
            time.sleep(_POLL_S)
        hand = max(1, beat[HAND_CORES])
        cores.work(downlink, hand)
        is_late_down = downlink > 0 and time.monotonic_ns() > start_ns + budget_ns
        cores.work(uplink, hand)
        is_late_up = time.monotonic_ns() > start_ns + slot_ns
        done.late_downlink += is_counted * is_late_down
        done.late_uplink += is_counted * (is_late_up and not is_late_down)
        if is_late_down or is_late_up:
            beat[LATE_SLOT] = slot
        beat[DONE_SLOT] = slot
        slot += 1
    return done


def sleep_until(at_ns: int) -> None:
    """Until a moment of the monotonic clock, ns; not at all where it is past."""
    left_ns = at_ns - time.monotonic_ns()
    if left_ns > 0:
        time.sleep(left_ns / 1e9)


def main() -> None:
    """Say what priority it has, read when to begin, and say at the end what was done."""
    folder, state_dir = Path(sys.argv[1]), Path(sys.argv[2])
    order = json.loads((folder / "radio.json").read_text(encoding="utf-8"))
    plan = np.load(folder / "plan.npy")
    cores = Cores(order["cores"], rounds_per_ns(), order["priority"])
    gc.disable()
    print(json.dumps({"priority": cores.priority}), flush=True)
    begin_ns = int(sys.stdin.readline())
    before_s = time.process_time()
    done = run(plan, Beat(beat_path(state_dir)), cores, begin_ns, order["slot_ns"], order["budget_ns"], order["num_slots"])
    done.cpu_s = time.process_time() - before_s
    print(json.dumps(asdict(done)), flush=True)


if __name__ == "__main__":
    main()
