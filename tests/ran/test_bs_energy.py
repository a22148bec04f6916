"""A base station's energy: the reader, the measure, base stations apart, the contract's keys."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from dure.cli.main import cli
from dure.model.errors import InputError
from dure.ran.bs_energy import fit_naive, fit_physical, wmape
from dure.ran.itu import read_folder, split_stations

HOURS = 24
TYPES = ("A", "B")


def folder(path: Path, stations: range, change: dict[str, dict[str, Any]] | None = None) -> Path:
    """Stations whose energy is 10 or 20 by type, plus 30 × load, less 4 × mode 1; each third has a second cell of type B."""
    rng = np.random.default_rng(7)
    info: dict[str, list[Any]] = {name: [] for name in ("BS", "CellName", "RUType", "Mode", "Frequency", "Bandwidth", "Antennas", "TXpower")}
    load: dict[str, list[Any]] = {name: [] for name in ("Time", "BS", "CellName", "load", *(f"ESMode{i}" for i in range(1, 7)))}
    energy: dict[str, list[Any]] = {"Time": [], "BS": [], "Energy": []}
    for station in stations:
        cells = [TYPES[station % 2], "B"][: 2 if station % 3 == 0 else 1]
        for cell, kind in enumerate(cells):
            for name, value in zip(info, (f"B_{station}", f"Cell{cell}", kind, "M", 500.0, 20, 4, 6.5), strict=True):
                info[name].append(value)
        for hour in range(HOURS):
            time = np.datetime64("2023-01-01T00:00:00") + np.timedelta64(hour, "h")
            total = 0.0
            for cell, kind in enumerate(cells):
                at, mode = rng.random(), float(rng.random() < 0.2)
                total += {"A": 10, "B": 20}[kind] + 30 * at - 4 * mode
                for name, value in zip(load, (time, f"B_{station}", f"Cell{cell}", at, mode, 0.0, 0.0, 0, 0.0, 0.0), strict=True):
                    load[name].append(value)
            for name, value in zip(energy, (time, f"B_{station}", total), strict=True):
                energy[name].append(value)
    path.mkdir()
    for name, columns in (("bs_info", info), ("cell_load", load), ("bs_energy", energy)):
        columns = columns | (change or {}).get(name, {})
        pq.write_table(pa.table({key: values for key, values in columns.items() if values is not None}), path / f"{name}.parquet")
    return path


def test_wmape_by_hand() -> None:
    assert wmape(np.array([1.0, 3.0]), np.array([2.0, 2.5])) == pytest.approx(1.5 / 4)


def test_reading(tmp_path: Path) -> None:
    hours = read_folder(str(folder(tmp_path / "d", range(12))))
    assert hours.names == [f"B_{i}" for i in range(12)]
    assert len(hours.energy) == 12 * HOURS
    assert hours.ru_type[3].tolist() == ["B", "B", "", ""]
    assert np.isnan(hours.load[hours.station == 1][:, 1]).all()
    train, test = split_stations(hours, 0.25, 3)
    assert not set(train.names) & set(test.names)
    assert len(test.names) == 3
    assert split_stations(hours, 0.25, 3)[1].names == test.names


def test_the_physical_model_finds_a_physical_world(tmp_path: Path) -> None:
    train, test = split_stations(read_folder(str(folder(tmp_path / "d", range(30)))), 0.3, 0)
    assert wmape(test.energy, fit_physical(train, 0)(test)) < 0.005
    naive = wmape(test.energy, fit_naive(train, 0)(test))
    assert 0.1 < naive < 0.6


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"cell_load": {"load": None}}, ("cell_load.parquet", "load")),
        ({"cell_load": {"load": [1.5] * (6 * HOURS)}}, ("cell_load.parquet", "load", "row 1")),
        ({"bs_energy": {"Energy": ["x"] * (4 * HOURS)}}, ("bs_energy.parquet", "Energy")),
        ({"bs_energy": {"Energy": [None] + [1.0] * (4 * HOURS - 1)}}, ("bs_energy.parquet", "Energy", "1 empty")),
        ({"bs_info": {"CellName": ["Cell9"] * 6}}, ("bs_info.parquet", "CellName", "twice")),
        ({"cell_load": {"CellName": ["Cell7"] * (6 * HOURS)}}, ("cell_load.parquet", "CellName", "Cell7")),
    ],
)  # fmt: skip
def test_bad_folders_are_named(tmp_path: Path, change: dict[str, dict[str, Any]], words: tuple[str, ...]) -> None:
    with pytest.raises(InputError) as found:
        read_folder(str(folder(tmp_path / "d", range(4), change)))
    for word in words:
        assert word in str(found.value)


def test_missing_and_damaged_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a folder"):
        read_folder(str(tmp_path / "none"))
    path = folder(tmp_path / "d", range(4))
    (path / "bs_info.parquet").write_bytes(b"nonsense")
    with pytest.raises(InputError, match=r"bs_info.parquet: cannot be read"):
        read_folder(str(path))
    (path / "bs_info.parquet").unlink()
    with pytest.raises(InputError, match=r"bs_info.parquet: no such file"):
        read_folder(str(path))


@pytest.mark.slow
def test_command(tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="scikit-learn is not here (the extra dure[ran])")
    train, test = folder(tmp_path / "a", range(40)), folder(tmp_path / "b", range(40, 50))
    asked = ["ran", "bs-energy", "--train", str(train), "--test", str(test), "--json"]
    first = CliRunner().invoke(cli, asked, catch_exceptions=False)
    found = json.loads(first.output)
    assert set(found) == {"wmape", "wmape_naive", "wmape_gbm", "base_stations", "rows"}
    assert (found["base_stations"], found["rows"]) == (10, 10 * HOURS)
    assert found["wmape"] < found["wmape_gbm"] < found["wmape_naive"]
    assert CliRunner().invoke(cli, asked).output == first.output
    same = CliRunner().invoke(cli, ["ran", "bs-energy", "--train", str(train), "--test", str(train), "--json"], catch_exceptions=False)
    assert json.loads(same.output)["base_stations"] == 8


def test_stations_of_the_test_are_not_trained_with(tmp_path: Path) -> None:
    path = folder(tmp_path / "a", range(6))
    other = folder(tmp_path / "b", range(6))
    found = CliRunner().invoke(cli, ["ran", "bs-energy", "--train", str(path), "--test", str(other)])
    assert isinstance(found.exception, InputError)
    assert "0 base stations" in str(found.exception)
