"""The way of a request from a device to its cell site and back, slot by slot: fading, grant, HARQ, queue, inference.

A slot is 0.5 ms; the pattern DDDSUUDDDD repeats. A request goes: scheduling request in the next uplink slot; grant; transport
blocks in uplink slots, each again when it could not be decoded (HARQ with soft combining); the site's queue; inference; the
answer in downlink slots, with HARQ too. Everything here is a model: nothing is measured on a radio.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dure.policy.kernels.compile import kernel

SLOT_MS = 0.5
PATTERN = 10
#: Slots of the pattern that carry uplink; the special slot 3 is left out, the others carry downlink.
FIRST_UPLINK, LAST_UPLINK, SPECIAL = 4, 5, 3
#: From the scheduling request to the grant, from the grant to its block, from a block's end to its verdict, in slots.
GRANT_SLOTS, K2_SLOTS, DECODE_SLOTS = 3, 2, 2
#: From a failed downlink block to its next try, and the device's own decoding, in slots.
DOWN_RTT_SLOTS, DEVICE_SLOTS = 4, 1
#: Tries of a block before it is sent as a new one.
TRIES_MAX = 4
#: Resource elements of a resource block that carry data in a slot (12 subcarriers × 12 symbols), bits a symbol at most.
RB_ELEMENTS, BITS_MAX = 144.0, 5.5
#: Plane waves that a path's fading is the sum of, in each of two quadratures.
NUM_WAVES = 16
#: Distance from Shannon's bound in dB, and how steep the block error rate falls (dB for a factor e in the odds).
GAP_DB, STEEP_DB = 3.0, 0.6
#: Fields of what a request's way returns.
LATENCY, TX_SLOTS, RX_SLOTS, AWAKE_SLOTS, BLOCKS, FAILED = range(6)
NUM_FIELDS = 6
#: Fields of the constants that `serve` takes.
(C_BITS, C_TIMEOUT, C_INFERENCE, C_BACKOFF, C_DOWN_GAIN, C_PRB_MAX) = range(6)


@dataclass(frozen=True)
class LinkModel:
    """Constants of the link.

    Attributes
    ----------
    carrier_ghz : float
        Carrier frequency, for the Doppler shift.
    num_paths : int
        Independent Rayleigh paths that the site's antennas add up.
    shadow_db, shadow_m : float
        Standard deviation of the shadow fading and the distance over which its correlation falls to 1/e (Gudmundson 1991).
    backoff_db : float
        How far below the SNR that it knows the site chooses a block's rate.
    down_gain_db : float
        The downlink's SNR above the uplink's.
    prb_all, prb_max : int
        Resource blocks of the carrier, and of one grant.
    inference_ms : float
        Time of one inference at the site.
    """

    carrier_ghz: float = 3.5
    num_paths: int = 2
    shadow_db: float = 4.0
    shadow_m: float = 25.0
    backoff_db: float = 4.0
    down_gain_db: float = 6.0
    prb_all: int = 273
    prb_max: int = 50
    inference_ms: float = 2.0

    def constants(self, bits: float, timeout_slots: int) -> NDArray[np.float64]:
        """What `serve` takes, for requests of so many bits that are given up after so many slots."""
        return np.array([bits, timeout_slots, self.inference_ms, self.backoff_db, self.down_gain_db, self.prb_max])


@dataclass(frozen=True)
class LinkTrace:
    """What happens on a link and at its site, slot by slot; all arrays have the same length.

    Attributes
    ----------
    snr_db : ndarray, float64
        Uplink SNR.
    prb : ndarray, float64
        Resource blocks left for the device by others, before the limit of a grant.
    backlog_ms : ndarray, float64
        Work in the site's inference queue.
    draw_up, draw_down : ndarray, float64
        Uniform draws that decide whether a block of that slot is decoded.
    """

    snr_db: NDArray[np.float64]
    prb: NDArray[np.float64]
    backlog_ms: NDArray[np.float64]
    draw_up: NDArray[np.float64]
    draw_down: NDArray[np.float64]


def draw_link(
    model: LinkModel, num_slots: int, snr_db: float, speed_kmh: float, load: float, rng: np.random.Generator
) -> LinkTrace:
    """A link with this mean SNR, speed and load of its site (0..1: of resource blocks and of the inference queue)."""
    doppler_hz = speed_kmh / 3.6 / 0.299792458 * model.carrier_ghz
    gain = jakes(rng, num_slots, doppler_hz, model.num_paths) if speed_kmh > 0 else np.ones(num_slots)
    shadow = shadow_fading(rng, num_slots, speed_kmh / 3.6 * SLOT_MS / 1000 / model.shadow_m) * model.shadow_db
    is_moving = 1.0 if speed_kmh > 0 else 0.0
    use = other_use(rng, num_slots, load)
    arrivals = rng.poisson(load * SLOT_MS / model.inference_ms, num_slots)
    return LinkTrace(
        snr_db=snr_db + 10 * np.log10(np.maximum(gain, 1e-6)) + is_moving * shadow,
        prb=np.floor(model.prb_all * (1 - use)),
        backlog_ms=queue(arrivals.astype(np.float64), model.inference_ms),
        draw_up=rng.random(num_slots), draw_down=rng.random(num_slots),
    )  # fmt: skip


def jakes(rng: np.random.Generator, num_slots: int, doppler_hz: float, num_paths: int) -> NDArray[np.float64]:
    """Power of Rayleigh fading with Jakes' spectrum, the mean over independent paths; its mean is 1 (Zheng and Xiao 2003)."""
    power = np.zeros(num_slots)
    turn = 2 * np.pi * doppler_hz * SLOT_MS / 1000
    for _ in range(num_paths):
        angle = (2 * np.pi * np.arange(1, NUM_WAVES + 1) - np.pi + rng.uniform(-np.pi, np.pi)) / (4 * NUM_WAVES)
        phase = rng.uniform(-np.pi, np.pi, (2, NUM_WAVES))
        for turns, phases in ((turn * np.cos(angle), phase[0]), (turn * np.sin(angle), phase[1])):
            power += sum_of_waves(turns, phases, num_slots) ** 2 / NUM_WAVES
    return power / num_paths


def shadow_fading(rng: np.random.Generator, num_slots: int, step: float) -> NDArray[np.float64]:
    """A stationary Gauss-Markov process of variance 1 whose correlation falls by e^-step a slot."""
    return gauss_markov(rng.standard_normal(num_slots), float(np.exp(-step)))


def other_use(rng: np.random.Generator, num_slots: int, load: float) -> NDArray[np.float64]:
    """Share of resource blocks that others take, around `load`; correlated over about 10 ms."""
    wave = gauss_markov(rng.standard_normal(num_slots), float(np.exp(-SLOT_MS / 10.0)))
    return np.clip(load + 0.5 * load * (1 - load) * wave, 0.0, 1.0)


@kernel
def sum_of_waves(turns: Any, phases: Any, num: int) -> Any:
    """The sum over i of cos(turns[i] × t + phases[i]) for t = 0..num-1, each wave turned on from the slot before."""
    total = np.zeros(num)
    for i in range(len(turns)):
        c, s = np.cos(phases[i]), np.sin(phases[i])
        turn_c, turn_s = np.cos(turns[i]), np.sin(turns[i])
        for t in range(num):
            total[t] += c
            c, s = c * turn_c - s * turn_s, s * turn_c + c * turn_s
    return total


@kernel
def gauss_markov(noise: Any, keep: float) -> Any:
    """x[t] = keep × x[t-1] + sqrt(1 - keep²) × noise[t], begun from its stationary law: variance 1."""
    x = np.empty_like(noise)
    spread = np.sqrt(max(0.0, 1.0 - keep * keep))
    x[0] = noise[0]
    for t in range(1, len(noise)):
        x[t] = keep * x[t - 1] + spread * noise[t]
    return x


@kernel
def queue(arrivals: Any, service_ms: float) -> Any:
    """Backlog in ms at the beginning of each slot, after the arrivals of the slot before (Lindley's recursion)."""
    backlog = np.empty(len(arrivals))
    work = 0.0
    for t in range(len(arrivals)):
        backlog[t] = work
        work = max(0.0, work + arrivals[t] * service_ms - SLOT_MS)
    return backlog


@kernel
def error_rate(snr_db: float, rate_db: float) -> float:
    """Block error rate at an SNR of a block whose rate is made for `rate_db`, where it is one half."""
    return 1.0 / (1.0 + np.exp((snr_db - rate_db) / STEEP_DB))


@kernel
def bits_a_block(rate_db: float) -> float:
    """Bits that a resource block carries in a slot at the rate made for `rate_db`."""
    return RB_ELEMENTS * min(BITS_MAX, np.log2(1.0 + 10.0 ** ((rate_db - GAP_DB) / 10.0)))


@kernel
def next_uplink(slot: int) -> int:
    """The first uplink slot that is not before `slot`."""
    phase = slot % PATTERN
    if phase < FIRST_UPLINK:
        return slot - phase + FIRST_UPLINK
    if phase <= LAST_UPLINK:
        return slot
    return slot - phase + PATTERN + FIRST_UPLINK


@kernel
def next_downlink(slot: int) -> int:
    """The first downlink slot that is not before `slot`."""
    phase = slot % PATTERN
    if SPECIAL <= phase <= LAST_UPLINK:
        return slot - phase + LAST_UPLINK + 1
    return slot


@kernel
def serve(start: int, constants: Any, snr_db: Any, prb: Any, backlog_ms: Any, draw_up: Any, draw_down: Any, out: Any) -> None:
    """Follow one request from slot `start`; LATENCY in `out` is in slots, infinite where it was given up."""
    out[:] = 0.0
    out[LATENCY] = np.inf
    end = min(start + int(constants[C_TIMEOUT]), len(snr_db))
    out[AWAKE_SLOTS] = end - start
    ask = next_uplink(start)
    if ask >= end:
        return
    out[TX_SLOTS] = 1.0
    granted = next_downlink(ask + GRANT_SLOTS)
    arrived = _send_up(next_uplink(granted + K2_SLOTS), end, constants, snr_db, prb, draw_up, out)
    if arrived < 0:
        return
    ready = arrived + (backlog_ms[arrived] + constants[C_INFERENCE]) / SLOT_MS
    done = _send_down(int(np.ceil(ready)), end, constants, snr_db, draw_down, out)
    if done >= 0:
        out[LATENCY] = done - start
        out[AWAKE_SLOTS] = done - start


@kernel
def _send_up(first: int, end: int, constants: Any, snr_db: Any, prb: Any, draw_up: Any, out: Any) -> int:
    """Send the request's blocks; the slot in which the site has them all, or -1."""
    rate = np.zeros(64)
    size = np.zeros(64)
    combined = np.zeros(64)
    tries = np.zeros(64, np.int64)
    due = np.zeros(64, np.int64)
    left = constants[C_BITS]
    num, num_open = 0, 0
    t = first
    last = first
    while t < end:
        block = -1
        for i in range(num):
            if tries[i] > 0 and due[i] <= t:
                block = i
                break
        if block < 0 and left > 0 and num < 64 and prb[t] >= 1.0:
            rate[num] = snr_db[max(0, t - K2_SLOTS - 1)] - constants[C_BACKOFF]
            size[num] = min(left, bits_a_block(rate[num]) * min(prb[t], constants[C_PRB_MAX]))
            combined[num] = 0.0
            left -= size[num]
            block = num
            num += 1
            num_open += 1
            out[BLOCKS] += 1
        if block >= 0:
            out[TX_SLOTS] += 1.0
            combined[block] += 10.0 ** (snr_db[t] / 10.0)
            tries[block] += 1
            last = t
            if draw_up[t] >= error_rate(10.0 * np.log10(combined[block]), rate[block]):
                tries[block] = 0
                num_open -= 1
            else:
                out[FAILED] += 1
                due[block] = next_uplink(next_downlink(t + 1 + DECODE_SLOTS) + K2_SLOTS)
                if tries[block] == TRIES_MAX:
                    tries[block] = 0
                    num_open -= 1
                    left += size[block]
        if left <= 0 and num_open == 0:
            arrived = last + 1 + DECODE_SLOTS
            return arrived if arrived < end else -1
        t = next_uplink(t + 1)
    return -1


@kernel
def _send_down(first: int, end: int, constants: Any, snr_db: Any, draw_down: Any, out: Any) -> int:
    """Send the answer; the slot at whose beginning the device has decoded it, or -1."""
    combined = 0.0
    t = next_downlink(first)
    rate = 0.0
    while t < end:
        if combined == 0.0:
            rate = snr_db[max(0, t - K2_SLOTS - 1)] + constants[C_DOWN_GAIN] - constants[C_BACKOFF] * 2.0
        combined += 10.0 ** ((snr_db[t] + constants[C_DOWN_GAIN]) / 10.0)
        out[RX_SLOTS] += 1.0
        if draw_down[t] >= error_rate(10.0 * np.log10(combined), rate):
            done = t + 1 + DEVICE_SLOTS
            return done if done <= end else -1
        t = next_downlink(t + DOWN_RTT_SLOTS)
    return -1


@kernel
def serve_all(
    starts: Any, constants: Any, snr_db: Any, prb: Any, backlog_ms: Any, draw_up: Any, draw_down: Any
) -> Any:
    """Each request on its own, as if the others were not: float64[N, NUM_FIELDS]."""
    out = np.empty((len(starts), NUM_FIELDS))
    for i in range(len(starts)):
        serve(starts[i], constants, snr_db, prb, backlog_ms, draw_up, draw_down, out[i])
    return out


def outcomes(trace: LinkTrace, starts: NDArray[np.int64], constants: NDArray[np.float64]) -> NDArray[np.float64]:
    """What becomes of requests that begin in these slots: float64[N, NUM_FIELDS]; columns LATENCY and so on."""
    found: NDArray[np.float64] = serve_all(
        starts, constants, trace.snr_db, trace.prb, trace.backlog_ms, trace.draw_up, trace.draw_down
    )
    return found
