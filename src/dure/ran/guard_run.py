"""Replay of a cell site over slots under the guard and its baselines."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dure.model.errors import InputError
from dure.ran import kernels as k
from dure.ran.bounds import rate_upper95
from dure.ran.calibrate import (
    Drawn,
    Move,
    calibrate_guard,
    calibrate_mig,
    calibrate_static,
    segments,
)
from dure.ran.failover import new_failover
from dure.ran.forecast import FenceForecast, calibrate_fence
from dure.ran.guard import CLASSES, Calibration, new_memory
from dure.ran.loads import WINDOW_S, CellLoads, deal_cells, read_known, read_load
from dure.ran.site import PERIOD, SLOT_MS, SiteModel

POLICIES = ("dure", "static", "mig", "per-slot", "fence")
FAULTS = {
    "surge": k.SURGE, "predictor": k.PREDICTOR, "tenant": k.TENANT, "heartbeat": k.HEARTBEAT, "clock": k.CLOCK, "gpu": k.GPU,
}  # fmt: skip
#: Bursts of the calibration and of the replay are other ones: the calibration's seed is the replay's and this.
CALIBRATION_SEED = 0x5EED


@dataclass(frozen=True)
class GuardRun:
    """What became of a replay.

    Attributes
    ----------
    policy : str
        One of `POLICIES`.
    counts : int64[segments, COUNTS]
        Of `dure.ran.kernels`: slots, hard, soft, cut, held, reserve-all.
    moves : int64[segments, MOVES]
        Of `dure.ran.kernels`: cells failed over, slots in which one was interrupted.
    sums : float64[segments, SUMS]
        Of `dure.ran.kernels`: SM-slots lent, idle, kept, used.
    windows : int64[segments]
        Window of each segment in the loads; sites follow each other.
    loads : CellLoads
        Loads of the first site's cells.
    cpu_s : float
        Processor seconds of reading, calibrating and replaying.
    """

    policy: str
    counts: NDArray[np.int64]
    moves: NDArray[np.int64]
    sums: NDArray[np.float64]
    windows: NDArray[np.int64]
    loads: CellLoads
    cpu_s: float

    def summary(self) -> dict[str, object]:
        """The keys of ``dure ran guard --json``."""
        total = self.counts.sum(axis=0)
        slots, hard, soft = int(total[k.SLOTS]), int(total[k.HARD]), int(total[k.SOFT])
        cells_failed_over, interrupted = self.moves.sum(axis=0).tolist()
        sums = self.sums.sum(axis=0)
        return {
            "policy": self.policy,
            "slots": slots,
            "on_time": 1 - (hard + soft) / slots,
            "miss_rate_upper95": rate_upper95(hard + soft, slots),
            "idle_lent": float(sums[k.LENT] / sums[k.IDLE]),
            "lent_by_hour": self.lent_by_hour(),
            "hard_misses": hard,
            "soft_misses": soft,
            "cells_failed_over": cells_failed_over,
            "interrupted_slots": interrupted,
            "synthetic_below_s": WINDOW_S,
            "cpu_s": self.cpu_s,
            "digest": self.digest(),
        }

    def lent_by_hour(self) -> list[float | None]:
        """Part of the site's GPU on offer in each hour of the day, 0..1, as `cells` of an alliance file wants it; None: no slot fell there."""
        hours = self.loads.hour[self.windows]
        lent, idle, used = (np.bincount(hours, weights=self.sums[:, name], minlength=24) for name in (k.LENT, k.IDLE, k.USED))
        return [float(some / of) if of else None for some, of in zip(lent, idle + used, strict=True)]

    def causes(self) -> dict[str, object]:
        """What stands beside the summary where a person reads it."""
        total = self.counts.sum(axis=0)
        sums = self.sums.sum(axis=0)
        return {
            "uplink_cut_slots": int(total[k.CUT]),
            "downlink_held_back_slots": int(total[k.HELD]),
            "reserve_all_slots": int(total[k.RESERVE_ALL]),
            "sms_kept_mean": float(sums[k.KEPT] / total[k.SLOTS]),
            "sms_busy_mean": float(sums[k.USED] / total[k.SLOTS]),
            "load_down_mean": float(self.loads.down.mean()),
        }

    def digest(self) -> str:
        """SHA-256 of everything counted."""
        sha = hashlib.sha256(self.policy.encode())
        # Where no cell moved there is nothing of moves in it.
        for part in (self.windows, self.counts, self.sums, self.moves[self.moves.any(axis=1)]):
            sha.update(np.ascontiguousarray(part).tobytes())
        return sha.hexdigest()


def run_guard(
    calibrate: Sequence[str], load: Sequence[str], *, policy: str, num_cells: int, num_slots: int, vacate_ms: float,
    seed: int, fault: str | None, gpu_left: float | None, standby_cells: int, interruption_ms: float, calibrate_slots: int,
    num_sites: int, model: SiteModel, move: Move,
) -> GuardRun:  # fmt: skip
    """Read, calibrate and replay.

    Parameters
    ----------
    calibrate, load : sequence of str
        Files; all that is calibrated comes from the former.
    num_slots, calibrate_slots : int
        Slots to replay and to calibrate on.
    vacate_ms : float
        v, a multiple of half a millisecond.
    num_sites : int
        Sites among which the slots are dealt, each with cells and bursts of its own and one calibration for all.
    fault : str or None
        One of `FAULTS`, in the middle of each segment.
    gpu_left : float or None
        Part of the GPU that the fault ``gpu`` leaves, 0..1; None with other faults.
    standby_cells : int
        Cells of each site for which a standby has room.
    interruption_ms : float
        How long a cell that fails over is interrupted.

    Raises
    ------
    InputError
        A file cannot be used; ``vacate_ms`` is no multiple of a slot; the policy does not know the fault, or moves no cells; ``gpu_left`` is no part, or
        stands without its fault; ``interruption_ms`` is no time.
    """
    began = time.process_time()
    slots = vacate_ms / SLOT_MS
    if slots != int(slots):
        raise InputError(f"{vacate_ms} is no multiple of a slot's {SLOT_MS} ms", field="--vacate-ms")
    if fault not in (None, "surge") and policy in ("static", "mig", "fence"):
        raise InputError(f"{policy} has nothing that a {fault} fault could hit; it knows surge", field="--fault")
    if (fault == "gpu") != (gpu_left is not None):
        raise InputError("it says what the fault gpu leaves: the one goes with the other", field="--gpu-left")
    if gpu_left is not None and not 0 <= gpu_left <= 1:
        raise InputError(f"{gpu_left} is no part of a GPU, 0 to 1", field="--gpu-left")
    if not math.isfinite(interruption_ms):
        raise InputError(f"{interruption_ms} is no time", field="--interruption-ms")
    if standby_cells and policy in ("static", "mig", "fence"):
        raise InputError(f"{policy} moves no cells", field="--standby-cells")
    vacate_slots = 0 if policy == "per-slot" else int(slots)
    plan, known = read_known(calibrate, num_cells)
    measured = [read_load(path) for path in load]
    rule = _calibrated(policy, model, known, vacate_slots, calibrate_slots, seed ^ CALIBRATION_SEED, move)
    failing = _Failing(
        FAULTS[fault] if fault else k.NONE, model.num_sms if gpu_left is None else int(gpu_left * model.num_sms / model.grain_sms) * model.grain_sms,
        standby_cells, math.ceil(interruption_ms / SLOT_MS),
    )  # fmt: skip
    sites = [deal_cells(measured, plan, num_cells, site) for site in range(num_sites)]
    parts = []
    for i, loads in enumerate(sites):
        own = (i + 1) * num_slots // num_sites - i * num_slots // num_sites
        parts.append(
            _replay(
                model, loads, rule, vacate_slots, own, seed + i, failing,
                _part_of(move, i, num_sites),
            )
        )
    counts, moves, sums, windows = (np.concatenate(each) for each in zip(*parts, strict=True))
    return GuardRun(policy, counts, moves, sums, windows, sites[0], time.process_time() - began)


def _part_of(move: Move, part: int, parts: int) -> Move:
    return lambda done, of: move(part * of + done, parts * of)


#: What a policy has learnt: the guard's calibration, a fence's forecast, or reserves by the hour of the day.
Rule = Calibration | FenceForecast | NDArray[np.float64]


def _calibrated(
    policy: str, model: SiteModel, known: CellLoads, vacate_slots: int, num_slots: int, seed: int, move: Move
) -> Rule:
    match policy:
        case "static":
            return np.full(24, calibrate_static(model, known, num_slots, seed, move))
        case "mig":
            return calibrate_mig(model, known, num_slots, seed, move)
        case "fence":
            return calibrate_fence(model, known, num_slots, seed, move)
        case "dure" | "per-slot":
            return calibrate_guard(model, known, vacate_slots, num_slots, seed, move)
    raise InputError(f"no such policy: {policy!r}; there are {', '.join(POLICIES)}", field="--policy")


@dataclass(frozen=True)
class _Failing:
    """What fails in every stretch, of `FAULTS`; SMs that a GPU's fault leaves; cells that a standby takes; slots in which a cell is interrupted that fails over."""

    fault: int
    left_sms: int
    standby_cells: int
    interruption_slots: int


def _replay(
    model: SiteModel, loads: CellLoads, rule: Rule, vacate_slots: int, num_slots: int, seed: int, failing: _Failing, move: Move
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
    drawn = Drawn(model, loads, vacate_slots, seed)
    parts = segments(range(len(loads.hour)), num_slots)
    floor = model.floor_sms(loads.down.shape[1])
    is_guard = isinstance(rule, Calibration)
    reserves = _reserves(rule, loads, model)
    table = rule if isinstance(rule, Calibration) else _no_table(vacate_slots)
    rules = table.rules(model.num_sms, floor, model.grain_sms)
    counts, moves = np.zeros((len(parts), k.COUNTS), np.int64), np.zeros((len(parts), k.MOVES), np.int64)
    sums = np.zeros((len(parts), k.SUMS))
    for i, part in enumerate(parts):
        surge_at = k.WARM_SLOTS + part.num_slots // 3 if failing.fault == k.SURGE else None
        needs = drawn.draw(part, surge_at)
        cells = drawn.draw_cells(part, surge_at) if failing.standby_cells else np.empty((0, *needs.shape))
        k.play(
            drawn.constants, drawn.dl_share, drawn.is_uplink, needs, cells, rules, table.weights, table.edges, table.spread,
            new_memory(vacate_slots, model.num_sms, 0), new_failover(failing.standby_cells), reserves[part.window], part.num_slots,
            failing.fault if is_guard else k.NONE, failing.left_sms, failing.interruption_slots, drawn.stream, counts[i], moves[i], sums[i],
        )  # fmt: skip
        move(i + 1, len(parts))
    return counts, moves, sums, np.array([part.window for part in parts], np.int64)


def _reserves(rule: Rule, loads: CellLoads, model: SiteModel) -> NDArray[np.float64]:
    """SMs that a fixed reserve keeps in each window; 0 under the guard."""
    if isinstance(rule, Calibration):
        return np.zeros(len(loads.hour))
    if isinstance(rule, FenceForecast):
        return rule.fences(loads, model)
    return np.array([fenced(rule, loads.hour, window) for window in range(len(loads.hour))])


def fenced(reserves: NDArray[np.float64], hours: NDArray[np.int64], window: int) -> float:
    """SMs that a fence by the hour keeps in a window: in an hour's last window the next hour's too, for it is drained by then."""
    now, then = hours[window], hours[min(window + 1, len(hours) - 1)]
    return float(max(reserves[now], reserves[then]))


def _no_table(vacate_slots: int) -> Calibration:
    return Calibration(
        vacate_slots, np.zeros((PERIOD, 3)), np.zeros(CLASSES - 1), np.zeros((PERIOD, CLASSES)), 0.0, 0.0, 0.0, 0.0, 0
    )
