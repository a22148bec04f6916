"""`dure ran offload`: device alone, site always and Dure's choice over fading and load, in energy and in control.

The link does not depend on the robot, so places are chosen first, period by period; then the robot is driven with the
answers that were on time.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field, replace
from multiprocessing import get_context
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dure.model.errors import InputError
from dure.model.intervals import Interval, mean_interval
from dure.ran import control_task, link
from dure.ran.bounds import rate_upper95
from dure.ran.energy_tables import UeTable
from dure.ran.offload import DEVICE, PLACES, SITE, SPLIT, Chooser, RiskModel, Seen, fit_risk

PERIOD_MS = control_task.PERIOD_S * 1000
PERIOD_SLOTS = int(PERIOD_MS / link.SLOT_MS)
#: What is known at a period's beginning is this old, in slots: the device's measure of the link, the site's word on its load.
MEASURED_SLOTS, REPORT_SLOTS = 2, 10
#: Periods, this one among them, over whose measures the dip is taken: 200 ms.
DIP_PERIODS = 10
#: Slots over which the site says how busy it was: 500 ms.
BUSY_SLOTS = 1000
#: Slots of a link that pass before its first period: the queue and what is known of it have begun.
WARM_SLOTS = 2000
#: Length of a link that the risks are learnt from.
CALIBRATION_SLOTS = 8000
#: What is drawn, as the first part of a seed: links to learn from are never an episode's.
CALIBRATION, EPISODE, COURSE = range(3)
#: Moments after a period's beginning at which the share of requests answered is given.
ANSWERED_BY_MS = tuple(range(8, 21))
POLICIES = ("device", "site", "dure")


@dataclass(frozen=True)
class Fading:
    """Mean SNR at 23 dBm and speed; at 0 km/h the link does not fade."""

    snr_db: float
    speed_kmh: float


FADINGS = (Fading(25.0, 0.0), Fading(20.0, 3.0), Fading(18.0, 30.0), Fading(6.0, 30.0))
LOADS = (0.2, 0.5, 0.8)


@dataclass(frozen=True)
class DevicePower:
    """What a device spends above its idle computer. All are assumptions; the command's options change them.

    Attributes
    ----------
    unit_mw : float
        Power of one relative unit of TR 38.840: 5 mW makes 3.5 W of a transmission at 23 dBm and 0.5 W of listening.
    compute_w : float
        The device's computer at work, above idle.
    plan_ms, head_ms : float
        Time of a whole plan on the device, and of the part that stays there when it is split.
    whole_bits, split_bits : float
        A request with all that was seen, and with what the head made of it.
    """

    unit_mw: float = 5.0
    compute_w: float = 6.0
    plan_ms: float = 12.0
    head_ms: float = 2.0
    whole_bits: float = 48_000.0
    split_bits: float = 4_800.0

    def head_mj(self, place: int) -> float:
        """Computing on the device in a period, by place."""
        return self.compute_w * {DEVICE: self.plan_ms, SITE: 0.0, SPLIT: self.head_ms}[place]

    def listening_mj(self) -> float:
        """Radio in a period without a request: a measurement and a report of the site's load, sleep between them."""
        table = UeTable()
        awake = (table.control + table.receive) * link.SLOT_MS
        return (awake + table.gap_energy(PERIOD_MS - 2 * link.SLOT_MS)) * self.unit_mw / 1000

    def asleep_mj(self) -> float:
        """Radio of a device that never asks: deep sleep."""
        return UeTable().deep.power * PERIOD_MS * self.unit_mw / 1000

    def request_mj(self, outcome: NDArray[np.float64]) -> NDArray[np.float64]:
        """Radio in periods with a request, listening included: float64[N] of `link.outcomes`."""
        table = UeTable()
        tx, rx, awake = (outcome[:, i] for i in (link.TX_SLOTS, link.RX_SLOTS, link.AWAKE_SLOTS))
        busy = table.transmit_23dbm * tx + table.receive * (rx + 1) + table.control * np.maximum(awake - tx - rx, 0)
        rest_ms = np.maximum(PERIOD_SLOTS - awake - 1, 0) * link.SLOT_MS
        lengths, of_length = np.unique(rest_ms, return_inverse=True)
        sleep = np.array([table.gap_energy(float(ms)) for ms in lengths])[of_length]
        found: NDArray[np.float64] = (busy * link.SLOT_MS + sleep) * self.unit_mw / 1000
        return found


@dataclass(frozen=True)
class Offered:
    """What each period of a link would bring: arrays over periods; [2, N] for SITE and SPLIT."""

    seen: NDArray[np.float64]
    is_late: NDArray[np.bool_]
    latency_ms: NDArray[np.float64]
    energy_mj: NDArray[np.float64]


@dataclass(frozen=True)
class Served:
    """What became of an episode's periods under a policy."""

    place: NDArray[np.int64]
    is_late: NDArray[np.bool_]
    energy_mj: NDArray[np.float64]


def offered(
    trace: link.LinkTrace, speed_kmh: float, starts: NDArray[np.int64], model: link.LinkModel, power: DevicePower,
    deadline_ms: float,
) -> Offered:
    """What the site would bring to periods that begin in these slots, whole and split."""
    deadline = int(deadline_ms / link.SLOT_MS)
    head = math.ceil(power.head_ms / link.SLOT_MS)
    whole = link.outcomes(trace, starts, model.constants(power.whole_bits, deadline))
    split = link.outcomes(trace, starts + head, model.constants(power.split_bits, deadline - head))
    split[:, link.LATENCY] += head
    measured = trace.snr_db[starts - MEASURED_SLOTS]
    report = starts - REPORT_SLOTS
    prb = (trace.prb[report] + trace.prb[report - 5]) / 2
    is_busy = np.concatenate([[0], np.cumsum(trace.backlog_ms > 0)])
    busy = (is_busy[report] - is_busy[report - BUSY_SLOTS]) / BUSY_SLOTS
    before = starts[:, None] - MEASURED_SLOTS - PERIOD_SLOTS * np.arange(DIP_PERIODS)
    dip = measured - trace.snr_db[before].min(axis=1)
    seen = np.array([measured, dip, trace.backlog_ms[report], busy, prb, np.full(len(starts), speed_kmh)])
    latency = np.array([whole[:, link.LATENCY], split[:, link.LATENCY]])
    return Offered(
        seen=seen, is_late=latency > deadline, latency_ms=latency * link.SLOT_MS,
        energy_mj=np.array([
            power.request_mj(whole) + power.head_mj(SITE),
            power.request_mj(split) + power.head_mj(SPLIT),
        ]),
    )  # fmt: skip


def calibrate(
    model: link.LinkModel, power: DevicePower, deadline_ms: float, seed: int, num_links: int
) -> RiskModel:
    """The model of risks from links of all kinds, drawn from the same model with other seeds than any episode's."""
    rng = np.random.default_rng([CALIBRATION, seed])
    parts = []
    for i in range(num_links):
        speed = 0.0 if i % 8 < 2 else float(np.exp(rng.uniform(0.0, np.log(90.0))))
        trace = link.draw_link(
            model, CALIBRATION_SLOTS, rng.uniform(-2, 30), speed, rng.uniform(0.05, 0.95), rng
        )
        starts = np.arange(BUSY_SLOTS + REPORT_SLOTS, CALIBRATION_SLOTS - PERIOD_SLOTS - link.PATTERN, link.PATTERN)
        parts.append(offered(trace, speed, starts, model, power, deadline_ms))
    is_fitted = np.concatenate([np.full(parts[i].seen.shape[1], i // 8 % 2 == 0) for i in range(num_links)])
    return fit_risk(
        np.concatenate([p.seen for p in parts], axis=1),
        np.concatenate([p.is_late for p in parts], axis=1),
        np.concatenate([p.energy_mj for p in parts], axis=1),
        is_fitted,
        power.head_mj(DEVICE) + power.listening_mj(),
    )


def serve(policy: str, of: Offered, risks: RiskModel, power: DevicePower, epsilon: float) -> Served:
    """Play one episode's link under a policy of POLICIES."""
    num = of.seen.shape[1]
    place = np.full(num, {"device": DEVICE, "site": SITE, "dure": DEVICE}[policy], np.int64)
    if policy == "dure":
        chooser = Chooser(risks, epsilon)
        for k in range(num):
            place[k] = chooser.choose(Seen(*of.seen[:, k]))
            chooser.learn(int(place[k]), bool(place[k] != DEVICE and of.is_late[place[k] - 1, k]))
    radio_mj = power.asleep_mj() if policy == "device" else power.listening_mj()
    periods = np.arange(num)
    is_remote = place != DEVICE
    column = np.maximum(place - 1, 0)
    return Served(
        place, is_remote & of.is_late[column, periods],
        np.where(is_remote, of.energy_mj[column, periods], power.head_mj(DEVICE) + radio_mj),
    )  # fmt: skip


def clairvoyant_mj(of: Offered, power: DevicePower) -> float:
    """Least mean energy of a period with no late answer at all, by one who knows what comes."""
    remote = np.where(of.is_late, np.inf, of.energy_mj).min(axis=0)
    return float(np.minimum(remote, power.head_mj(DEVICE) + power.listening_mj()).mean())


@dataclass(frozen=True)
class Options:
    """What the command is asked for; see docs/ran-offload.md."""

    fadings: tuple[Fading, ...] = FADINGS
    loads: tuple[float, ...] = LOADS
    episodes: int = 20
    seconds: float = 6.0
    epsilon: float = 0.01
    deadline_ms: float = 20.0
    task: str = "balance"
    seed: int = 0
    calibration_links: int = 1200
    power: DevicePower = field(default_factory=DevicePower)
    link: link.LinkModel = field(default_factory=link.LinkModel)

    def check(self) -> None:
        """Raise InputError for what makes no sense."""
        if not 0 < self.epsilon < 1:
            raise InputError(f"is a share between 0 and 1, not {self.epsilon:g}", field="--epsilon")
        if not 5 <= self.deadline_ms <= PERIOD_MS:
            raise InputError(f"is from 5 to {PERIOD_MS:g} (a control period), not {self.deadline_ms:g}", field="--deadline-ms")
        if any(not 0 <= load < 1 for load in self.loads):
            raise InputError("is a share from 0 to below 1", field="--load")
        if any(f.speed_kmh < 0 or not -20 <= f.snr_db <= 60 for f in self.fadings):
            raise InputError("is SNR:SPEED with an SNR from -20 to 60 dB and a speed of at least 0 km/h", field="--fading")


def run_offload(options: Options, move: Callable[[int, int], None], num_workers: int) -> dict[str, Any]:
    """The whole table: the keys of docs/ran-offload.md.

    Raises
    ------
    InputError
        An option makes no sense, or MuJoCo is asked for and not installed.
    """
    options.check()
    if options.task == "balance":
        control_task.Robot()
    risks = calibrate(options.link, options.power, options.deadline_ms, options.seed, options.calibration_links)
    num_periods = int(options.seconds * 1000 / PERIOD_MS)
    cells, plays = [], {}
    for fading in options.fadings:
        for load in options.loads:
            served: dict[str, list[Served]] = {policy: [] for policy in POLICIES}
            offers = []
            for episode in range(options.episodes):
                of = _episode_link(options, fading, load, episode, num_periods)
                offers.append(of)
                for policy in POLICIES:
                    served[policy].append(serve(policy, of, risks, options.power, options.epsilon))
            cells.append((fading, load, offers, served))
            for policy in POLICIES:
                for episode, one in enumerate(served[policy]):
                    plays[episode, (~one.is_late).tobytes()] = one
    costs = _control_costs(options, plays, move, num_workers) if options.task == "balance" else {}
    rows = [_row(options, *cell, costs) for cell in cells]
    result = {
        "task": options.task, "seed": options.seed, "episodes": options.episodes, "periods_per_episode": num_periods,
        "period_ms": PERIOD_MS, "deadline_ms": options.deadline_ms, "epsilon": options.epsilon, "calibration_links": options.calibration_links,
        "assumed": {**asdict(options.power), **asdict(options.link)}, "cells": rows, **_summary(rows),
    }  # fmt: skip
    result["digest"] = hashlib.sha256(json.dumps(result, sort_keys=True).encode()).hexdigest()[:16]
    return result


def _episode_link(options: Options, fading: Fading, load: float, episode: int, num_periods: int) -> Offered:
    num_slots = WARM_SLOTS + (num_periods + 1) * PERIOD_SLOTS
    trace = link.draw_link(
        options.link, num_slots, fading.snr_db, fading.speed_kmh, load,
        np.random.default_rng([EPISODE, options.seed, episode]),
    )
    starts = WARM_SLOTS + PERIOD_SLOTS * np.arange(num_periods)
    return offered(trace, fading.speed_kmh, starts, options.link, options.power, options.deadline_ms)


def _control_costs(
    options: Options, plays: dict[tuple[int, bytes], Served], move: Callable[[int, int], None], num_workers: int
) -> dict[tuple[int, bytes], float]:
    """Drive the robot once for every episode and pattern of answers on time."""
    by_episode: dict[int, list[bytes]] = {}
    for episode, pattern in plays:
        by_episode.setdefault(episode, []).append(pattern)
    batches = [
        (episode, patterns[i : i + 4]) for episode, patterns in by_episode.items() for i in range(0, len(patterns), 4)
    ]
    costs: dict[tuple[int, bytes], float] = {}
    with ProcessPoolExecutor(num_workers, mp_context=get_context("spawn")) as pool:
        waiting = [pool.submit(_drive, options.seed, e, patterns) for e, patterns in batches]
        for future in as_completed(waiting):
            costs |= future.result()
            move(len(costs), len(plays))
    return costs


def _drive(seed: int, episode: int, patterns: Sequence[bytes]) -> dict[tuple[int, bytes], float]:
    robot = control_task.Robot()
    course = control_task.draw_course(len(patterns[0]), np.random.default_rng([COURSE, seed, episode]))
    return {(episode, p): control_task.run_episode(robot, course, np.frombuffer(p, np.bool_)) for p in patterns}


def _row(
    options: Options, fading: Fading, load: float, offers: list[Offered], served: dict[str, list[Served]],
    costs: dict[tuple[int, bytes], float],
) -> dict[str, Any]:  # fmt: skip
    """One cell of the table."""
    servable = float(np.mean([(~of.is_late).any(axis=0).mean() for of in offers]))
    device_mj = np.array([s.energy_mj.mean() for s in served["device"]])
    best_mj = np.array([clairvoyant_mj(of, options.power) for of in offers])
    latency = _latencies(offers)
    row: dict[str, Any] = {
        "snr_db": fading.snr_db, "speed_kmh": fading.speed_kmh, "load": load, "servable": servable,
        "is_allowed": min(of["late"] for of in latency.values()) <= options.epsilon, "latency_ms": latency,
        "saving_clairvoyant": float(1 - best_mj.mean() / device_mj.mean()),
        "policies": {},
    }  # fmt: skip
    for policy in POLICIES:
        episodes = served[policy]
        num_asked = int(sum((s.place != DEVICE).sum() for s in episodes))
        num_late = int(sum(s.is_late.sum() for s in episodes))
        energy = np.array([s.energy_mj.mean() for s in episodes])
        of_policy: dict[str, Any] = {
            "energy_mj_per_period": _interval(mean_interval(list(energy))),
            "energy_saving": _interval(mean_interval(list(1 - energy / device_mj))),
            "late_of_asked": num_late / num_asked if num_asked else 0.0,
            "late_of_asked_upper95": rate_upper95(num_late, num_asked) if num_asked else None,
            "asked": num_asked, "late": num_late,
            "late_of_periods": num_late / sum(len(s.place) for s in episodes),
            "places": {name: float(np.mean([(s.place == i).mean() for s in episodes])) for i, name in enumerate(PLACES)},
        }
        if costs:
            cost = _costs_of(episodes, costs)
            alone = _costs_of(served["device"], costs)
            of_policy["control_cost"] = _interval(mean_interval(list(cost)))
            change = mean_interval(list(cost - alone))
            scale = float(alone.mean())
            of_policy["control_cost_change"] = _interval(
                replace(change, mean=change.mean / scale, low=change.low / scale, high=change.high / scale)
            )
        row["policies"][policy] = of_policy
    return row


def _costs_of(episodes: list[Served], costs: dict[tuple[int, bytes], float]) -> NDArray[np.float64]:
    return np.array([costs[i, (~one.is_late).tobytes()] for i, one in enumerate(episodes)])


def _latencies(offers: list[Offered]) -> dict[str, Any]:
    """Quantiles of the latency of requests, late ones included (null: later than the deadline), by place."""
    found = {}
    for place in (SITE, SPLIT):
        all_ms = np.concatenate([of.latency_ms[place - 1] for of in offers])
        values = np.quantile(all_ms, (0.5, 0.9, 0.99), method="higher")
        found[PLACES[place]] = {
            **{key: float(v) if math.isfinite(v) else None for key, v in zip(("p50", "p90", "p99"), values, strict=True)},
            "answered_by": [float((all_ms <= ms).mean()) for ms in ANSWERED_BY_MS],
            "late": float(np.mean(np.concatenate([of.is_late[place - 1] for of in offers]))),
        }
    return found


def _summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The two claims over all cells: energy where the link allows, control everywhere."""
    allowed = [row["policies"]["dure"] for row in rows if row["is_allowed"]]
    other = [row["policies"]["dure"] for row in rows if not row["is_allowed"]]
    out: dict[str, Any] = {
        "allowed_cells": len(allowed),
        "saving_where_allowed_low": min((of["energy_saving"]["low"] for of in allowed), default=None),
        "late_of_asked_allowed": _late_of_asked(allowed), "late_of_asked_not_allowed": _late_of_asked(other),
    }
    for name, cells in (("allowed", allowed), ("not_allowed", other)):
        changes = [of["control_cost_change"]["high"] for of in cells if "control_cost_change" in of]
        out[f"control_cost_change_{name}_high"] = max(changes, default=None)
    return out


def _late_of_asked(cells: list[dict[str, Any]]) -> float | None:
    num_asked = sum(of["asked"] for of in cells)
    return sum(of["late"] for of in cells) / num_asked if num_asked else None


def _interval(of: Interval) -> dict[str, float | None]:
    return {key: value if math.isfinite(value) else None for key, value in (("mean", of.mean), ("low", of.low), ("high", of.high))}
