"""Load within two minutes, slot by slot: **synthetic below two minutes**.

The measurements are means over 120 s and a guard lives by what happens within milliseconds, so that part is modelled.
Each cell's two directions are bursts: on for 16 ms in the mean (the order of a video frame or a web object at 100 MHz, and of
a scheduler's queue that it fills), off for as long as the mean asks. A cell with mean load ``r`` is on for ``√r`` of the time and
fills ``√r`` of its blocks then, give or take half from slot to slot, so that the mean is ``r`` and a busy cell bursts
both more often and higher. Cells are independent given their means. LDPC iterations are 0.7 to 1.3 of their mean, and one
decode in twenty needs 1.6 times (the decoder's limit). None of it is fitted to slot-level data, of which none is published for these sites.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dure.policy.kernels.compile import kernel

#: Mean slots of a burst: 16 ms.
BURST_SLOTS = 32.0
#: Most LDPC iterations over their mean; with `MIN_ITERATIONS` a decode is cut short.
MAX_ITERATIONS = 1.6
MIN_ITERATIONS = 0.5
_HARD_DECODES = 0.05

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_S30, _S27, _S31, _S11 = np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(11)


@kernel
def _mixed(word: Any) -> Any:
    """SplitMix64's finaliser (Steele et al., OOPSLA 2014)."""
    word = (word ^ (word >> _S30)) * _MIX_1
    word = (word ^ (word >> _S27)) * _MIX_2
    return word ^ (word >> _S31)


@kernel
def seed_stream(stream: Any, seed: int, window: int, cell: int) -> None:
    """Begin the random numbers of one cell in one window: ``stream`` is uint64[1]."""
    word = _mixed(np.uint64(seed) + _GAMMA)
    word = _mixed(word ^ (np.uint64(window) + _GAMMA))
    stream[0] = _mixed(word ^ (np.uint64(cell) + _GAMMA))


@kernel
def uniform(stream: Any) -> float:
    """A number in (0, 1)."""
    stream[0] = stream[0] + _GAMMA
    return (float(_mixed(stream[0]) >> _S11) + 0.5) / 9007199254740992.0


@kernel
def sojourn(stream: Any, mean: float) -> int:
    """Slots until a state is left: geometric with this mean, 1 or more."""
    if mean <= 1.0:
        return 1
    return 1 + int(np.log(uniform(stream)) / np.log(1.0 - 1.0 / mean))


@kernel
def draw_bursts(stream: Any, load: float, first: int, shares: Any) -> None:
    """Shares of resource blocks, slot by slot from ``first`` on, of one cell and direction whose mean is ``load``."""
    shares[first:] = 0.0
    if load <= 0.0:
        return
    on = np.sqrt(load)
    half_width = min(0.5 * on, 1.0 - on)
    is_on = uniform(stream) < on
    t = first
    while t < len(shares):
        mean = BURST_SLOTS if is_on else BURST_SLOTS * (1.0 - on) / on
        end = min(len(shares), t + sojourn(stream, mean)) if on < 1.0 else len(shares)
        if is_on:
            for s in range(t, end):
                shares[s] = on + half_width * (2.0 * uniform(stream) - 1.0)
        is_on = not is_on
        t = end


@kernel
def draw_iterations(stream: Any) -> float:
    """LDPC iterations of one slot's decode over their mean in easy decodes."""
    if uniform(stream) < _HARD_DECODES:
        return MAX_ITERATIONS
    return 0.7 + 0.6 * uniform(stream)
