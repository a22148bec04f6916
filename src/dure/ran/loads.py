"""Loads of cells: files in the format of the Barcelona control-channel measurements, and what a planned cell makes of them.

The format is that of Perifanis et al., "Federated learning for 5G base station traffic forecasting" (Computer
Networks 235, 2023): a CSV file, plain or gzipped, with a row for every two minutes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dure.model.errors import InputError
from dure.ran.csv_file import read_rows

#: Seconds of one row; what happens within them the files do not tell.
WINDOW_S = 120
WINDOWS_PER_DAY = 86_400 // WINDOW_S
_SHARES = ("rb_down", "rb_up")
_MCS = "mcs_up"
_MCS_MAX = 31.0
#: Used where a file has no MCS at all: the files' median.
_MCS_DEFAULT = 15.0
#: A cell is planned so that this quantile of its two-minute loads over the calibration days fills it.
PLANNED_QUANTILE = 0.99


@dataclass(frozen=True)
class SiteLoad:
    """What was measured at one site.

    Attributes
    ----------
    name : str
        The file as the user named it.
    start_window : int
        The first row's window of the day, 0..719.
    down, up : float64[n]
        Mean share of resource blocks in use, 0..1; gaps filled by straight lines in time.
    mcs_up : float64[n]
        Mean modulation-and-coding index of the uplink, 0..31.
    num_filled : int
        Values that were absent or impossible (a share outside 0..1) and were filled.
    """

    name: str
    start_window: int
    down: NDArray[np.float64]
    up: NDArray[np.float64]
    mcs_up: NDArray[np.float64]
    num_filled: int


def read_load(path: str) -> SiteLoad:
    """Read one site's file, ``.csv`` or ``.csv.gz``.

    Raises
    ------
    InputError
        The file cannot be read, lacks a column, or a value is no number or time; names file, line and field.
    """
    times: list[float] = []
    columns: dict[str, list[float]] = {name: [] for name in (*_SHARES, _MCS)}
    for line, row in read_rows(path, ("time", *_SHARES, _MCS)):
        times.append(_time_s(path, line, row["time"], times[-1] if times else None))
        for name, values in columns.items():
            values.append(_number(path, line, name, row[name]))
    if len(times) < 2:
        raise InputError(f"has {len(times)} rows; two or more are needed", path)
    filled = {name: _fill(path, name, np.array(values)) for name, values in columns.items()}
    first = datetime.fromtimestamp(times[0], UTC)
    return SiteLoad(
        path,
        (first.hour * 3600 + first.minute * 60 + first.second) // WINDOW_S,
        filled["rb_down"][0],
        filled["rb_up"][0],
        filled[_MCS][0],
        sum(num for _, num in filled.values()),
    )


def _time_s(path: str, line: int, text: str, before: float | None) -> float:
    try:
        at_s = datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()
    except ValueError:
        raise InputError(f"not a time: {text!r}; write 2018-03-28 15:56:00", path, line, "time") from None
    if before is not None and at_s <= before:
        raise InputError(f"{text} is not after the row before; rows go forward in time", path, line, "time")
    return at_s


def _number(path: str, line: int, field: str, text: str) -> float:
    if text.strip().lower() in ("", "nan", "null", "none"):
        return float("nan")
    try:
        value = float(text)
    except ValueError:
        raise InputError(f"not a number: {text!r}", path, line, field) from None
    highest = _MCS_MAX if field == _MCS else 1.0
    return value if 0.0 <= value <= highest else float("nan")


def _fill(path: str, field: str, values: NDArray[np.float64]) -> tuple[NDArray[np.float64], int]:
    is_known = np.isfinite(values)
    if not is_known.any():
        if field != _MCS:
            raise InputError("no row has a share between 0 and 1", path, field=field)
        return np.full(len(values), _MCS_DEFAULT), len(values)
    at = np.arange(len(values))
    return np.interp(at, at[is_known], values[is_known]), int((~is_known).sum())


@dataclass(frozen=True)
class Plan:
    """For what load each site's cells are planned: what the calibration files say and nothing later.

    Attributes
    ----------
    names : tuple of str
        The calibration files.
    down, up : tuple of float
        For each of them the share of resource blocks, 0..1, that fills a planned cell.
    """

    names: tuple[str, ...]
    down: tuple[float, ...]
    up: tuple[float, ...]

    def of(self, loads: Sequence[SiteLoad], idx: int) -> tuple[float, float]:
        """The planned loads (down, up) of a file: those of the calibration file whose name begins with the same word;
        else of that at the same place, where there are as many files; else the mean of all.
        """
        word = _first_word(loads[idx].name)
        same = [i for i, name in enumerate(self.names) if word and _first_word(name) == word]
        if len(same) != 1 and len(loads) == len(self.names):
            same = [idx]
        found = same if len(same) == 1 else range(len(self.names))
        return (
            float(np.mean([self.down[i] for i in found])),
            float(np.mean([self.up[i] for i in found])),
        )


def _first_word(path: str) -> str:
    found = re.match("[a-z]+", Path(path).name.lower())
    return found[0] if found else ""


def plan_cells(loads: Sequence[SiteLoad]) -> Plan:
    """Plan each site's cells so that the ``PLANNED_QUANTILE`` of its loads fills them."""
    return Plan(
        tuple(load.name for load in loads),
        tuple(planned_share(load.down) for load in loads),
        tuple(planned_share(load.up) for load in loads),
    )


def planned_share(values: NDArray[np.float64]) -> float:
    """The share of resource blocks that fills a planned cell, from the loads of the calibration days."""
    return max(float(np.quantile(values, PLANNED_QUANTILE)), 1e-6)


def hours_of(start_window: int, num: int) -> NDArray[np.int64]:
    """Hours of the day of so many windows, the first of which is the day's ``start_window``-th: int64[num], 0..23."""
    return ((start_window + np.arange(num)) % WINDOWS_PER_DAY * WINDOW_S // 3600).astype(np.int64)


@dataclass(frozen=True)
class CellLoads:
    """Loads of a site's cells, window by window.

    Attributes
    ----------
    down, up : float64[windows, cells]
        Mean share of a planned cell's resource blocks, 0..1.
    mcs_up : float64[windows, cells]
        Mean MCS index of the uplink, 0..31.
    hour : int64[windows]
        Hour of the day, 0..23.
    """

    down: NDArray[np.float64]
    up: NDArray[np.float64]
    mcs_up: NDArray[np.float64]
    hour: NDArray[np.int64]


def read_known(paths: Sequence[str], num_cells: int) -> tuple[Plan, CellLoads]:
    """What the calibration files say: how cells are planned, and the loads of so many planned cells on those days.

    Raises
    ------
    InputError
        A file cannot be used.
    """
    seen = [read_load(path) for path in paths]
    plan = plan_cells(seen)
    return plan, deal_cells(seen, plan, num_cells)


#: Cells of one file lag each other by this many windows: neighbours share the day's shape, not its every minute.
CELL_LAG_WINDOWS = 3
#: Sites of one city lag each other by 0 to this many windows less one.
SITE_LAGS = 15


def deal_cells(loads: Sequence[SiteLoad], plan: Plan, num_cells: int, site: int = 0) -> CellLoads:
    """Deal the files to the cells in turn, the same hour of the day for all, as many windows as the longest file has.

    A shorter file begins anew, after whole days where it has any. Sites of a city lag by up to half an hour.
    """
    start = loads[0].start_window
    num = max(len(load.down) for load in loads)
    shape = (num, num_cells)
    down, up, mcs = np.empty(shape), np.empty(shape), np.empty(shape)
    for cell in range(num_cells):
        idx = cell % len(loads)
        load = loads[idx]
        down_full, up_full = plan.of(loads, idx)
        length = len(load.down) // WINDOWS_PER_DAY * WINDOWS_PER_DAY or len(load.down)
        if len(load.down) == num:
            length = num
        first = (start - load.start_window) % WINDOWS_PER_DAY + cell // len(loads) * CELL_LAG_WINDOWS + site % SITE_LAGS
        rows = (first + np.arange(num)) % length
        down[:, cell] = np.minimum(load.down[rows] / down_full, 1.0)
        up[:, cell] = np.minimum(load.up[rows] / up_full, 1.0)
        mcs[:, cell] = load.mcs_up[rows]
    return CellLoads(down, up, mcs, hours_of(start, num))
