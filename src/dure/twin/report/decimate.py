"""Long series made short enough to draw, without losing their peaks."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray


def envelope(t: NDArray[Any], y: NDArray[Any], num_points: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """At most ``num_points`` samples that keep each interval's minimum and maximum, the first and the last.

    Parameters
    ----------
    t, y : ndarray, shape (n,)
        ``t`` increasing.
    num_points : int
        At least 4.

    Returns
    -------
    (t, y) of the kept samples, in order of time; all of them where n <= num_points.
    """
    if len(t) <= num_points:
        return t, y
    edges = np.linspace(0, len(t), (num_points - 2) // 2 + 1).astype(np.int64)
    kept = [0, len(t) - 1]
    for start, end in pairwise(edges):
        kept += [start + int(np.argmin(y[start:end])), start + int(np.argmax(y[start:end]))]
    picked = np.unique(kept)
    return t[picked], y[picked]


def interval_means(t: NDArray[Any], y: NDArray[Any], num_bins: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Means over equal intervals of time of a series that holds each value until the next sample.

    Parameters
    ----------
    t, y : ndarray, shape (n,)
        ``t`` strictly increasing.
    num_bins : int
        At least 1.

    Returns
    -------
    (middles, means) of ``min(num_bins, n - 1)`` intervals; the samples themselves where n < 2.
    """
    if len(t) < 2:
        return t.astype(float), y.astype(float)
    edges = np.linspace(t[0], t[-1], min(num_bins, len(t) - 1) + 1)
    integral = np.concatenate([[0.0], np.cumsum(y[:-1] * np.diff(t).astype(float))])
    means = np.diff(np.interp(edges, t, integral)) / np.diff(edges)
    return (edges[:-1] + edges[1:]) / 2, means
