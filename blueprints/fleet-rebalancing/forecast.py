"""How many will ask where in the coming hour: gradient boosting beside last week's same bin."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from city import BINS, Day
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.metrics import mean_poisson_deviance

#: Bins ahead that are forecast (0: the one that begins now), and bins of a week.
HORIZON, WEEK = 4, 7 * BINS


class History:
    """What was seen of a row of days, the first of them a Monday."""

    def __init__(self, days: Sequence[Day]) -> None:
        self.departures = np.concatenate([day.departures for day in days]).astype(float)
        self.is_raining = np.concatenate([day.is_raining for day in days])
        self.event = np.concatenate([day.event for day in days])

    def features(self, now: np.ndarray, ahead: np.ndarray, zone: np.ndarray) -> np.ndarray:
        """What is known at the begin of bin `now` about bin `now + ahead`; one row for each entry of the three.

        Nothing that was asked for in `now` or later goes in; of the future only the calendar does.
        """
        aim = now + ahead
        city = self.departures.sum(1)
        recent = self.departures[now[:, None] - np.arange(1, 5), zone[:, None]]
        city_now = sum(city[now - k] for k in range(1, 5))
        city_then = sum(city[now - WEEK - k] for k in range(1, 5))
        return np.column_stack(
            [
                zone,
                aim % BINS,
                aim // BINS % 7,
                ahead,
                recent,
                self.departures[aim - WEEK, zone],
                self.departures[aim - WEEK - 1, zone],
                self.departures[aim - WEEK + 1, zone],
                self.departures[aim - BINS, zone],
                city_now / np.maximum(1, city_then),
                self.is_raining[now - 1],
                self.is_raining[aim - WEEK],
                self.event[aim, zone],
                self.event[aim - WEEK, zone],
            ]
        )

    def naive(self, day: int) -> np.ndarray:
        """Last week's, as `Forecast.day`."""
        aim = day * BINS + np.arange(BINS)[:, None] + np.arange(HORIZON)
        return self.departures[aim - WEEK]


def lessons(history: History, num_days: int) -> tuple[np.ndarray, np.ndarray]:
    """Features and truth of all days but the first eight; each bin and zone once, the horizons in turn."""
    bins, zones = np.meshgrid(np.arange(8 * BINS, num_days * BINS - HORIZON), np.arange(history.departures.shape[1]), indexing="ij")
    now, zone = bins.ravel(), zones.ravel()
    ahead = (now + zone) % HORIZON
    return history.features(now, ahead, zone), history.departures[now + ahead, zone]


class Forecast:
    """Boosted trees under a Poisson loss, grown in rounds so that training can be left and gone on with."""

    def __init__(self, seed: int) -> None:
        self.model = HistGradientBoostingRegressor(
            loss="poisson", learning_rate=0.08, max_leaf_nodes=31, min_samples_leaf=40, early_stopping=False,
            categorical_features=[0, 2], warm_start=True, max_iter=0, random_state=seed,
        )  # fmt: skip

    def grow(self, features: np.ndarray, truth: np.ndarray, num_trees: int) -> None:
        """So many trees more."""
        self.model.set_params(max_iter=self.model.max_iter + num_trees)
        self.model.fit(features, truth)

    def deviance(self, features: np.ndarray, truth: np.ndarray) -> float:
        """Mean Poisson deviance."""
        return float(mean_poisson_deviance(truth, self.model.predict(features)))

    def day(self, history: History, day: int) -> np.ndarray:
        """Trips expected, shape (BINS, HORIZON, num_zones): said at the begin of each bin, of it and those after it."""
        num_zones = history.departures.shape[1]
        now, ahead, zone = np.meshgrid(day * BINS + np.arange(BINS), np.arange(HORIZON), np.arange(num_zones), indexing="ij")
        said = self.model.predict(history.features(now.ravel(), ahead.ravel(), zone.ravel()))
        return said.reshape(BINS, HORIZON, num_zones)


def destinations(days: Sequence[Day], first: int) -> np.ndarray:
    """Shares of the destinations, shape (2 kinds of day, 24 hours since the day began, origin, destination).

    Parameters
    ----------
    first : int
        Number of the first of `days`.
    """
    hours = np.stack([day.requests.reshape(24, -1, *day.requests.shape[1:]).sum(1) for day in days])
    is_weekend = np.array([(first + i) % 7 >= 5 for i in range(len(days))])
    counts = np.stack([hours[is_weekend == kind].sum(0) for kind in (False, True)])
    # Where little was seen, what was seen at any hour counts too.
    counts = counts + 5 * hours.sum((0, 1)) / np.maximum(1, hours.sum((0, 1, 3)))[:, None]
    return counts / np.maximum(1e-9, counts.sum(-1, keepdims=True))
