"""The numbers that Go's `math/rand` draws from a seed, so that runs of published Go simulators can be repeated.

An additive lagged Fibonacci generator of Mitchell and Reeds, x(n) = x(n-607) + x(n-273) mod 2^64, whose seeded state
is xored with the state that a first generator has after 7.8e12 steps. Those 607 constants are worked out here by
jumping ahead: x^N modulo the recurrence's polynomial tells how x(N) depends on the first 607 values.

Source: golang/go, src/math/rand (rng.go, gen_cooked.go, rand.go), the sequence that Go 1 promises to keep for a seed.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

LENGTH = 607
TAP = 273
NUM_COOKING_STEPS = 7_800_000_000_000
MODULUS = (1 << 31) - 1
LOW_64 = (1 << 64) - 1
LOW_63 = (1 << 63) - 1

T = TypeVar("T")


def seeded_state(seed: int, shift_high: int, shift_low: int) -> list[int]:
    """607 values, each of three steps of x -> 48271 x mod 2^31 - 1 laid over one another."""
    x = seed % MODULUS or 89482311
    for _ in range(20):
        x = 48271 * x % MODULUS
    state = []
    for _ in range(LENGTH):
        first = x = 48271 * x % MODULUS
        second = x = 48271 * x % MODULUS
        x = 48271 * x % MODULUS
        state.append((first << shift_high ^ second << shift_low ^ x) & LOW_64)
    return state


def product(a: NDArray[np.uint64], b: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Product of two polynomials modulo x^607 = x^334 + 1, coefficients modulo 2^64, lowest first."""
    whole = np.zeros(2 * LENGTH, np.uint64)
    for i in range(LENGTH):
        whole[i : i + LENGTH] += a[i] * b
    while whole[LENGTH:].any():
        high = whole[LENGTH:].copy()
        whole[LENGTH:] = 0
        whole[:LENGTH] += high
        whole[LENGTH - TAP : 2 * LENGTH - TAP] += high
    return whole[:LENGTH]


@lru_cache(maxsize=1)
def cooked_state() -> tuple[int, ...]:
    """The 607 constants, as the generator holds them."""
    start = seeded_state(1, 20, 10)
    values = [start[(LENGTH - TAP - n) % LENGTH] for n in range(1, LENGTH + 1)]
    for n in range(LENGTH, 2 * LENGTH):
        values.append((values[n - LENGTH] + values[n - TAP]) & LOW_64)
    power = np.zeros(LENGTH, np.uint64)
    square = np.zeros(LENGTH, np.uint64)
    power[0] = 1
    square[1] = 1
    steps = NUM_COOKING_STEPS
    while steps:
        if steps & 1:
            power = product(power, square)
        square = product(square, square)
        steps >>= 1
    first = np.array(values, np.uint64)
    state = [0] * LENGTH
    for n in range(1, LENGTH + 1):
        value = (power * first[n - 1 : n - 1 + LENGTH]).sum(dtype=np.uint64)
        state[(LENGTH - TAP - NUM_COOKING_STEPS - n) % LENGTH] = int(value)
    return tuple(state)


class GoRandom:
    """`rand.New(rand.NewSource(seed))` of Go: the same numbers for the same seed."""

    def __init__(self, seed: int) -> None:
        self._state = [a ^ b for a, b in zip(seeded_state(seed, 40, 20), cooked_state(), strict=True)]
        self._tap = 0
        self._feed = LENGTH - TAP

    def int63(self) -> int:
        """A number from 0 to 2^63 - 1 (`Int63`)."""
        self._tap = (self._tap - 1) % LENGTH
        self._feed = (self._feed - 1) % LENGTH
        x = (self._state[self._feed] + self._state[self._tap]) & LOW_64
        self._state[self._feed] = x
        return x & LOW_63

    def below(self, n: int) -> int:
        """A number from 0 to n - 1, n up to 2^31 - 1 (`Intn`)."""
        if n & (n - 1) == 0:
            return self.int63() >> 32 & (n - 1)
        most = (1 << 31) - 1 - (1 << 31) % n
        while True:
            value = self.int63() >> 32
            if value <= most:
                return value % n

    def shuffle(self, items: list[T]) -> None:
        """Shuffle in place (`Shuffle`, which draws in another way than `Intn`)."""
        for i in range(len(items) - 1, 0, -1):
            n = i + 1
            scaled = (self.int63() >> 31) * n
            while scaled & 0xFFFFFFFF < n and scaled & 0xFFFFFFFF < (1 << 32) % n:
                scaled = (self.int63() >> 31) * n
            j = scaled >> 32
            items[i], items[j] = items[j], items[i]

    def permutation(self, n: int) -> list[int]:
        """0 … n - 1 in random order (`Perm`)."""
        order = [0] * n
        for i in range(n):
            j = self.below(i + 1)
            order[i] = order[j]
            order[j] = i
        return order
