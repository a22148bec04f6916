"""Bounds on rates from counts."""

from __future__ import annotations

import numpy as np


def rate_upper95(num: int, of: int) -> float:
    """The one-sided 95% upper bound of a rate (Clopper and Pearson 1934) after ``num`` events in ``of`` trials.

    Raises
    ------
    ValueError
        ``of`` is below 1 or ``num`` not within 0..of.
    """
    if of < 1 or not 0 <= num <= of:
        raise ValueError(f"{num} of {of}")
    if num == of:
        return 1.0
    # log of P(X = i) for the terms that matter: all, or those within 40 deviations below num.
    lowest = max(0, num - int(40 * (num + 1) ** 0.5))
    i = np.arange(lowest, num + 1)
    steps = np.log((of - i[1:] + 1) / i[1:])
    first = float(np.log((of - np.arange(lowest)) / np.arange(1, lowest + 1)).sum()) if lowest else 0.0
    log_choose = first + np.concatenate([[0.0], np.cumsum(steps)])

    def below(rate: float) -> float:
        logs = log_choose + i * np.log(rate) + (of - i) * np.log1p(-rate)
        return float(np.exp(logs).sum())

    low, high = num / of, 1.0 - 1e-16
    for _ in range(200):
        middle = (low + high) / 2
        if below(middle) > 0.05:
            low = middle
        else:
            high = middle
    return high
