"""Loads, settings and energy of base stations, in the format of the ITU's 5G energy challenge (2023).

A folder holds ``cell_load.parquet`` (Time, BS, CellName, load, ESMode1..6), ``bs_energy.parquet`` (Time, BS, Energy) and
``bs_info.parquet`` (BS, CellName, RUType, Mode, Frequency, Bandwidth, Antennas, TXpower).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dure.model.errors import InputError

#: Energy-saving modes of the format.
NUM_ES_MODES = 6
#: Cells that a base station may have.
CELLS_MAX = 4
_ES = tuple(f"ESMode{mode}" for mode in range(1, NUM_ES_MODES + 1))
_SETTINGS = ("Frequency", "Bandwidth", "Antennas", "TXpower")


@dataclass(frozen=True)
class StationHours:
    """Hours of base stations, sorted by station and time.

    Attributes
    ----------
    station : int64[rows]
        Index into `names`.
    names : list of str
        Stations that have at least one hour with load, settings and energy.
    hour : int64[rows]
        Hours since 1970.
    energy : float64[rows]
        In the format's normalised unit, above 0.
    load : float64[rows, CELLS_MAX]
        Mean load of each cell, 0..1; nan where none is reported: the cell is not there, or was not in service in that hour.
    es : float64[rows, CELLS_MAX, NUM_ES_MODES]
        Share of the hour in which a cell was in an energy-saving mode, 0..1; 0 where no load is reported.
    ru_type, mode : str[stations, CELLS_MAX]
        Type of the radio unit and transmission mode; empty where there is no such cell.
    settings : float64[stations, CELLS_MAX, 4]
        Frequency (MHz), bandwidth (MHz), antennas, transmit power (scaled); 0 where there is no such cell.
    """

    station: NDArray[np.int64]
    names: list[str]
    hour: NDArray[np.int64]
    energy: NDArray[np.float64]
    load: NDArray[np.float64]
    es: NDArray[np.float64]
    ru_type: NDArray[np.str_]
    mode: NDArray[np.str_]
    settings: NDArray[np.float64]

    def of_stations(self, wanted: NDArray[np.bool_]) -> StationHours:
        """The hours of some stations: `wanted` is a mask over `names`."""
        new = np.cumsum(wanted) - 1
        rows = wanted[self.station]
        return StationHours(
            new[self.station[rows]], [name for name, is_in in zip(self.names, wanted, strict=True) if is_in],
            self.hour[rows], self.energy[rows], self.load[rows], self.es[rows],
            self.ru_type[wanted], self.mode[wanted], self.settings[wanted],
        )  # fmt: skip


def read_folder(folder: str) -> StationHours:
    """Read a folder; hours without energy or without the load of any cell are left out.

    Raises
    ------
    InputError
        A file is missing or damaged, lacks a column, has empty or impossible values, or nothing is left; names file and field.
    """
    if not Path(folder).is_dir():
        raise InputError("is not a folder", folder)
    info = _table(folder, "bs_info", {"BS": str, "CellName": str, "RUType": str, "Mode": str} | dict.fromkeys(_SETTINGS, float))
    loads = _table(folder, "cell_load", {"Time": int, "BS": str, "CellName": str, "load": float} | dict.fromkeys(_ES, float))
    energy = _table(folder, "bs_energy", {"Time": int, "BS": str, "Energy": float})
    _in_range(folder, "cell_load", loads, ("load", *_ES), 0.0, 1.0)
    _in_range(folder, "bs_energy", energy, ("Energy",), 0.0, np.inf)
    _in_range(folder, "bs_info", info, _SETTINGS, 0.0, np.inf)
    names = sorted(set(energy["BS"]) & set(info["BS"]), key=lambda name: (len(name), name))
    index = {name: idx for idx, name in enumerate(names)}
    cells, ru_type, mode, settings = _cells(folder, info, index)
    rows, row_of = _rows(folder, energy, index)
    load = np.full((len(rows), CELLS_MAX), np.nan)
    es = np.zeros((len(rows), CELLS_MAX, NUM_ES_MODES))
    es_in = np.stack([loads[name] for name in _ES], axis=1)
    for at, (time, name, cell) in enumerate(zip(loads["Time"], loads["BS"], loads["CellName"], strict=True)):
        row = row_of.get((name, time))
        if row is None:
            continue
        place = cells.get((name, cell))
        if place is None:
            raise InputError(f"cell {cell!r} of {name!r} is not in bs_info", _path(folder, "cell_load"), field="CellName")
        if not np.isnan(load[row, place]):
            raise InputError(f"{cell!r} of {name!r} stands twice in one hour", _path(folder, "cell_load"), field="CellName")
        load[row, place] = loads["load"][at]
        es[row, place] = es_in[at]
    station = np.array([index[energy["BS"][at]] for at in rows], np.int64)
    known = ~np.isnan(load).all(axis=1)
    if not known.any():
        raise InputError("no hour of a base station has load, settings and energy", folder)
    hours = StationHours(
        station[known], names, np.array([energy["Time"][at] for at in rows], np.int64)[known],
        energy["Energy"][rows][known], load[known], es[known], ru_type, mode, settings,
    )  # fmt: skip
    return hours.of_stations(np.bincount(hours.station, minlength=len(names)) > 0)


def split_stations(hours: StationHours, test_share: float, seed: int) -> tuple[StationHours, StationHours]:
    """Split by base stations, drawn with `seed`: those to train with and those to test on.

    Raises
    ------
    InputError
        There are not enough stations for both.
    """
    num = len(hours.names)
    num_test = round(num * test_share)
    if not 0 < num_test < num:
        raise InputError(f"{num} base stations cannot be split so that both parts have some", field="--test-share")
    is_test = np.zeros(num, bool)
    is_test[np.random.default_rng(seed).permutation(num)[:num_test]] = True
    return hours.of_stations(~is_test), hours.of_stations(is_test)


def _path(folder: str, name: str) -> str:
    return str(Path(folder) / f"{name}.parquet")


def _table(folder: str, name: str, kinds: dict[str, type]) -> dict[str, Any]:
    """Columns as arrays: times in hours, numbers as float64, names as lists."""
    path = _path(folder, name)
    try:
        table = pq.read_table(path)
    except FileNotFoundError:
        raise InputError("no such file", path) from None
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InputError(f"cannot be read as Parquet: {str(error)[:100]}", path) from None
    out: dict[str, Any] = {}
    for field, kind in kinds.items():
        if table.column_names.count(field) != 1:
            raise InputError(f"no such column; the file has {', '.join(table.column_names)}", path, field=field)
        column = table[field]
        if column.null_count:
            raise InputError(f"{column.null_count:,} empty values", path, field=field)
        try:
            out[field] = _values(column, kind)
        except (pa.ArrowException, ValueError):
            raise InputError(f"cannot be read as {_WORD[kind]}: its type is {column.type}", path, field=field) from None
    return out


_WORD = {int: "times", float: "numbers", str: "names"}


def _values(column: Any, kind: type) -> Any:
    if kind is str:
        return column.cast(pa.string()).to_pylist()
    if kind is int:
        if not pa.types.is_timestamp(column.type):
            column = pc.strptime(column, format="%Y-%m-%d %H:%M:%S", unit="s")
        hours = column.cast(pa.timestamp("s"), safe=False).cast(pa.int64()).to_numpy() // 3600
        return hours.tolist()
    values = column.cast(pa.float64()).to_numpy()
    if not np.isfinite(values).all():
        raise ValueError
    return values


def _in_range(folder: str, name: str, table: dict[str, Any], fields: tuple[str, ...], low: float, high: float) -> None:
    for field in fields:
        wrong = np.flatnonzero((table[field] < low) | (table[field] > high))
        if len(wrong):
            raise InputError(
                f"row {wrong[0] + 1}: {table[field][wrong[0]]:g} is not in {low:g} to {high:g}", _path(folder, name), field=field
            )


def _cells(
    folder: str, info: dict[str, Any], index: dict[str, int]
) -> tuple[dict[tuple[str, str], int], NDArray[np.str_], NDArray[np.str_], NDArray[np.float64]]:
    """The place of each cell at its station, by name, and the settings there."""
    path = _path(folder, "bs_info")
    ru_type = np.full((len(index), CELLS_MAX), "", "<U16")
    mode = np.full((len(index), CELLS_MAX), "", "<U16")
    settings = np.zeros((len(index), CELLS_MAX, len(_SETTINGS)))
    places: dict[tuple[str, str], int] = {}
    num = np.zeros(len(index), np.int64)
    for at in sorted(range(len(info["BS"])), key=lambda at: (info["BS"][at], info["CellName"][at])):
        key = (info["BS"][at], info["CellName"][at])
        if key in places:
            raise InputError(f"cell {key[1]!r} of {key[0]!r} stands twice", path, field="CellName")
        station = index.get(key[0])
        if station is None:
            continue
        if num[station] == CELLS_MAX:
            raise InputError(f"{key[0]!r} has more than {CELLS_MAX} cells", path, field="CellName")
        place = places[key] = int(num[station])
        num[station] += 1
        ru_type[station, place] = info["RUType"][at]
        mode[station, place] = info["Mode"][at]
        settings[station, place] = [info[name][at] for name in _SETTINGS]
    return places, ru_type, mode, settings


def _rows(
    folder: str, energy: dict[str, Any], index: dict[str, int]
) -> tuple[list[int], dict[tuple[str, int], int]]:
    """Rows of bs_energy whose station is known, sorted by station and hour, and where each then stands."""
    known = [at for at, name in enumerate(energy["BS"]) if name in index]
    known.sort(key=lambda at: (index[energy["BS"][at]], energy["Time"][at]))
    row_of: dict[tuple[str, int], int] = {}
    for row, at in enumerate(known):
        key = (energy["BS"][at], energy["Time"][at])
        if key in row_of:
            raise InputError(f"{key[0]!r} stands twice in one hour", _path(folder, "bs_energy"), field="Time")
        row_of[key] = row
    return known, row_of
