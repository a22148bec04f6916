"""Learn a city's demand, then run its fleet over days that were not learnt from; a round of trees, then a day, is a step."""

from __future__ import annotations

import argparse
import csv
import json
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from city import BINS, SLOTS, SLOTS_A_BIN, City, Day
from rebalance import most_served
from result import draw

from dure.client import job
from dure.client.saved import Saved
from dure.whole_file import whole_file
from forecast import HORIZON, WEEK, Forecast, History, destinations, lessons
from simulation import AHEAD, PATIENCE, Expect, play

#: Trees that are grown between two looks at whether to leave.
ROUND = 10
WAYS = ("none", "reactive", "seasonal", "forecast", "clairvoyant")


def read_options() -> argparse.Namespace:
    """The command line; 2 is the exit code of a bad one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--days", type=int, default=14, help="days that the fleet is run for")
    parser.add_argument("--train-days", type=int, default=42, help="days before them that are learnt from")
    parser.add_argument("--trees", type=int, default=100, help=f"of the forecast, in rounds of {ROUND}")
    parser.add_argument("--fleet", type=int, default=100, help="vehicles")
    parser.add_argument("--trips", type=float, default=4000.0, help="asked for on a mean weekday")
    parser.add_argument("--grid", type=int, default=5, help="zones along each side of the city")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--save-every-s", type=float, default=10.0, help="time between checkpoints")
    options = parser.parse_args()
    if min(options.days, options.fleet) < 1 or options.grid < 2 or options.trips <= 0:
        parser.error("--days and --fleet must be at least 1, --grid at least 2, --trips above 0")
    if options.train_days < 14 or options.trees < ROUND or options.trees % ROUND:
        parser.error(f"--train-days must be at least 14, --trees a multiple of {ROUND}")
    return options


def spread(by_bin: np.ndarray, shares: np.ndarray, slot: int) -> np.ndarray:
    """Trips by origin and bin as trips by slot, origin and destination.

    Parameters
    ----------
    by_bin : ndarray, shape (HORIZON, num_zones)
    shares : ndarray, shape (24, num_zones, num_zones)
        Of the destinations, by the hour since the day began.
    """
    hours = np.minimum(slot + np.arange(AHEAD), SLOTS - 1) * 24 // SLOTS
    return np.repeat(by_bin, SLOTS_A_BIN, axis=0)[:, :, None] / SLOTS_A_BIN * shares[hours]


class Operator:
    """What each way of rebalancing expects of the coming hour."""

    def __init__(self, shares: np.ndarray, day: Day, forecast: np.ndarray, naive: np.ndarray) -> None:
        self.shares, self.day, self.said = shares, day, {"forecast": forecast, "seasonal": naive}

    def expect(self, way: str) -> Expect | None:
        """None for the way that moves nothing."""
        match way:
            case "none":
                return None
            case "reactive":
                return self._reactive
            case "clairvoyant":
                return self._clairvoyant
            case _:
                return partial(self._by_bin, self.said[way])

    def _by_bin(self, said: np.ndarray, slot: int, _asked: np.ndarray) -> np.ndarray:
        return spread(said[slot // SLOTS_A_BIN], self.shares, slot)

    def _reactive(self, slot: int, asked: np.ndarray) -> np.ndarray:
        """The last hour goes on."""
        last = asked[max(0, slot - AHEAD) : slot].sum((0, 2)) / HORIZON
        return spread(np.tile(last, (HORIZON, 1)), self.shares, slot)

    def _clairvoyant(self, slot: int, _asked: np.ndarray) -> np.ndarray:
        coming = np.zeros((AHEAD, *self.day.requests.shape[1:]))
        there = self.day.requests[slot : slot + AHEAD]
        coming[: len(there)] = there
        return coming


def wmape(said: np.ndarray, truth: np.ndarray) -> float:
    """Sum of the absolute errors over the sum of what came."""
    return float(np.abs(said - truth).sum() / truth.sum())


def errors(history: History, day: Day, number: int, forecast: np.ndarray, naive: np.ndarray) -> dict[str, float]:
    """Of the forecasts whose hour lies in the day, beside those of one who knows the true rate: chance alone."""
    bins = np.arange(BINS - HORIZON + 1)[:, None] + np.arange(HORIZON)
    truth = history.departures[number * BINS + bins]
    rate = day.rate.sum(2).reshape(BINS, SLOTS_A_BIN, -1).sum(1)[bins]
    said = {"wmape": forecast[: len(bins)], "wmape_seasonal": naive[: len(bins)], "wmape_chance": rate}
    return {name: wmape(values, truth) for name, values in said.items()}


def start_of(fleet: int, days: list[Day]) -> np.ndarray:
    """Where vehicles stand in the morning: as many as were asked for there between four and ten."""
    asked = sum(day.departures[: BINS // 4].sum(0) for day in days).astype(float)
    exact = fleet * asked / asked.sum()
    start = np.floor(exact).astype(np.int64)
    start[np.argsort(start - exact, kind="stable")[: fleet - start.sum()]] += 1
    return start


def mean_gain(rows: list[dict[str, Any]], seed: int = 1) -> tuple[float, float, float]:
    """What forecasting gains over none in served share: mean over days and its 95% by the bootstrap (Efron 1979)."""
    by_day = np.array([(row["forecast"]["served"] - row["none"]["served"]) / row["none"]["asked"] for row in rows])
    drawn = np.random.default_rng(seed).choice(by_day, (2000, len(by_day))).mean(1)
    return float(by_day.mean()), *(float(value) for value in np.quantile(drawn, (0.025, 0.975)))


def summed_up(rows: list[dict[str, Any]]) -> dict[str, float]:
    """The metrics, over all days."""
    asked = sum(row["none"]["asked"] for row in rows)
    share = {way: sum(row[way]["served"] for row in rows) / asked for way in WAYS}
    bound = sum(row["bound"] for row in rows) / asked
    gain, low, high = mean_gain(rows)
    served = {way: sum(row[way]["served"] for row in rows) for way in WAYS}
    return {
        "served_share": share["forecast"],
        **{f"served_share_{way}": share[way] for way in WAYS if way != "forecast"},
        "served_share_bound": bound,
        "gap_to_clairvoyant": share["clairvoyant"] - share["forecast"],
        "gain": gain,
        "gain_low": low,
        "gain_high": high,
        **{name: float(np.mean([row["errors"][name] for row in rows])) for name in rows[0]["errors"]},
        **{
            f"wait_mean_min_{way}": sum(row[way]["wait_mean_min"] * row[way]["served"] for row in rows) / served[way]
            for way in WAYS
        },
        **{f"empty_km_a_trip_{way}": sum(row[way]["empty_km"] for row in rows) / served[way] for way in WAYS},
    }


def write(folder: Path, rows: list[dict[str, Any]], example: dict[str, Any]) -> None:
    """Table, metrics and picture."""
    with whole_file(folder / "days.csv") as draft, draft.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["day", "way", *rows[0]["none"]])
        writer.writeheader()
        for row in rows:
            writer.writerows({"day": row["day"], "way": way, **row[way]} for way in WAYS)
            writer.writerow({"day": row["day"], "way": "bound", "asked": row["none"]["asked"], "served": row["bound"]})
    with whole_file(folder / "metrics.json") as draft:
        draft.write_text(json.dumps(summed_up(rows), indent=1))
    with whole_file(folder / "result.png") as draft:
        draw(rows, summed_up(rows), example).savefig(draft, format="png", dpi=75)


def main() -> None:
    """Learn, run, compare."""
    options = read_options()
    job.watch_signals()
    settings = {key: value for key, value in vars(options).items() if key not in ("save_every_s", "days")}
    saved = Saved(job.checkpoint_dir("state/checkpoint") / "operate.pickle", settings, options.save_every_s)
    state = saved.load() or {"forecast": Forecast(options.seed), "trees": 0, "rows": [], "half": {}}

    city = City(options.seed, options.grid, options.trips)
    # One day more: the last forecasts look at its calendar.
    days = [city.day(number) for number in range(options.train_days + options.days + 1)]
    history, learnt = History(days), days[: options.train_days]
    forecast: Forecast = state["forecast"]
    num_rounds = options.trees // ROUND
    if state["trees"] < options.trees:
        features, truth = lessons(history, options.train_days)
        while state["trees"] < options.trees:
            begun_s = time.monotonic()
            forecast.grow(features, truth, ROUND)
            state["trees"] += ROUND
            job.report_progress(
                step=state["trees"] // ROUND,
                deviance=forecast.deviance(features, truth),
                round_s=time.monotonic() - begun_s,
            )
            saved.after_step(state)
    shares, start = destinations(learnt, 0), start_of(options.fleet, learnt)
    while len(state["rows"]) < options.days:
        begun_s = time.monotonic()
        number = options.train_days + len(state["rows"])
        day = days[number]
        said, naive = forecast.day(history, number), history.naive(number)
        operator = Operator(shares[int(number % 7 >= 5)], day, said, naive)
        # A day is left between two ways of running it, so that leaving takes no longer than the longest of them.
        half = state["half"]
        for way in WAYS:
            if way not in half:
                outcome = play(city, start, day.requests, operator.expect(way))
                half[way] = outcome.row()
                half.setdefault("by_hour", {})[way] = (outcome.served_by_hour.tolist(), outcome.asked_by_hour.tolist())
                saved.leave_if_told(state)
        if "bound" not in half:
            half["bound"] = most_served(city, start, day.requests, PATIENCE)
        state["rows"].append({"day": number, **half, "errors": errors(history, day, number, said, naive)})
        state["half"] = {}
        row = state["rows"][-1]
        job.report_progress(
            step=num_rounds + len(state["rows"]),
            asked=row["none"]["asked"],
            **{f"served_{way}": row[way]["served"] for way in WAYS},
            served_bound=round(row["bound"], 3),
            wmape=row["errors"]["wmape"],
            day_s=time.monotonic() - begun_s,
        )
        saved.after_step(state)
    saved.save(state)
    last = options.train_days + options.days - 1
    busiest = int(days[last].departures.sum(0).argmax())
    example = {
        "zone": busiest,
        "truth": days[last].departures[:, busiest],
        "rate": days[last].rate.sum(2).reshape(BINS, SLOTS_A_BIN, -1).sum(1)[:, busiest],
        "said": forecast.day(history, last)[:, 0, busiest],
        "seasonal": history.departures[last * BINS - WEEK : last * BINS - WEEK + BINS, busiest],
    }
    write(job.output_dir("state/output"), state["rows"], example)
    job.report_metrics(**summed_up(state["rows"]))


if __name__ == "__main__":
    job.run_program(main)
