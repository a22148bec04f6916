"""Means of independent values with Student's confidence interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Interval:
    """Mean of ``n`` values and its Student confidence interval; low and high are nan where ``n`` < 2."""

    mean: float
    low: float
    high: float
    n: int


def mean_interval(values: Sequence[float], level: float = 0.95) -> Interval:
    """Mean of independent values with Student's interval; mean nan where there is none."""
    n = len(values)
    if n == 0:
        return Interval(math.nan, math.nan, math.nan, 0)
    mean = math.fsum(values) / n
    if n == 1:
        return Interval(mean, math.nan, math.nan, 1)
    variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1)
    half = student_quantile(level, n - 1) * math.sqrt(variance / n)
    return Interval(mean, mean - half, mean + half, n)


def student_quantile(level: float, degrees: int) -> float:
    """The t with ``P(|T| <= t) = level`` for Student's T, ``degrees`` >= 1 degrees of freedom."""
    low, high = 0.0, 1.0
    while _student_coverage(high, degrees) < level:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        if _student_coverage(middle, degrees) < level:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _student_coverage(t: float, degrees: int) -> float:
    """``P(|T| <= t)``, exact for whole degrees (Abramowitz and Stegun 26.7.3 and 26.7.4)."""
    theta = math.atan(t / math.sqrt(degrees))
    is_odd = degrees % 2 == 1
    if degrees == 1:
        return 2 * theta / math.pi
    term = total = math.cos(theta) if is_odd else 1.0
    for k in range(3 if is_odd else 2, degrees - 1, 2):
        term *= math.cos(theta) ** 2 * (k - 1) / k
        total += term
    return 2 / math.pi * (theta + math.sin(theta) * total) if is_odd else math.sin(theta) * total
