"""Two-level bitmaps: find the first set bit of a range in a few words, whatever the range's length."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dure.policy.kernels.compile import kernel

ONE = np.uint64(1)
ALL = np.uint64(0xFFFFFFFFFFFFFFFF)
DE_BRUIJN = np.uint64(0x03F79D71B4CB0A89)
_TABLE = np.zeros(64, np.int64)
for _i in range(64):
    _TABLE[(((1 << _i) * 0x03F79D71B4CB0A89) & 0xFFFFFFFFFFFFFFFF) >> 58] = _i


def make_bits(num_rows: int, size: int) -> NDArray[Any]:
    """Empty bitmaps: shape (num_rows, words + summary words) of uint64, the summary backwards from the row's end."""
    words = (size + 63) // 64
    return np.zeros((num_rows, words + (words + 63) // 64), np.uint64)


@kernel
def lowest(word: np.uint64) -> int:
    """Index of the lowest set bit of a word that is not 0."""
    return _TABLE[((word & (~word + ONE)) * DE_BRUIJN) >> np.uint64(58)]


@kernel
def gpus_in(mask: int) -> int:
    """Number of set bits of a mask of GPUs."""
    count = 0
    while mask:
        mask &= mask - 1
        count += 1
    return count


@kernel
def set_bit(bits: NDArray[Any], row: int, i: int) -> None:
    """Set bit i of a row."""
    w = i >> 6
    bits[row, w] |= ONE << np.uint64(i & 63)
    bits[row, bits.shape[1] - 1 - (w >> 6)] |= ONE << np.uint64(w & 63)


@kernel
def clear_bit(bits: NDArray[Any], row: int, i: int) -> None:
    """Clear bit i of a row."""
    w = i >> 6
    bits[row, w] &= ~(ONE << np.uint64(i & 63))
    if bits[row, w] == 0:
        bits[row, bits.shape[1] - 1 - (w >> 6)] &= ~(ONE << np.uint64(w & 63))


@kernel
def next_bit(bits: NDArray[Any], row: int, start: int, stop: int) -> int:
    """First set bit in [start, stop), or -1."""
    if start >= stop:
        return -1
    w = start >> 6
    word = bits[row, w] & (ALL << np.uint64(start & 63))
    if word == 0:
        w += 1
        last = (stop - 1) >> 6
        if w > last:
            return -1
        s, end = w >> 6, bits.shape[1] - 1
        summary = bits[row, end - s] & (ALL << np.uint64(w & 63))
        while summary == 0:
            s += 1
            if s > last >> 6:
                return -1
            summary = bits[row, end - s]
        w = (s << 6) + lowest(summary)
        if w > last:
            return -1
        word = bits[row, w]
    i = (w << 6) + lowest(word)
    return i if i < stop else -1
