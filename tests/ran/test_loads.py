"""Reading the Barcelona format, planning cells and dealing files to them."""

import gzip
from datetime import datetime

import numpy as np
import pytest
from tests.ran.loads_files import HEADER, row, write_days

from dure.model.errors import InputError
from dure.ran.loads import deal_cells, plan_cells, read_load
from dure.twin.data import data_dir


def file_of(tmp_path, *rows, name="Site.csv"):
    path = tmp_path / name
    path.write_text("\n".join([HEADER, *rows]) + "\n")
    return str(path)


def at(minute, hour=1):
    return datetime(2018, 3, 1, hour, minute)


def test_gaps_and_impossible_shares_are_filled_by_straight_lines(tmp_path):
    load = read_load(
        file_of(tmp_path, row(at(0), 0.1, 0.0), row(at(2), "", 0.1), row(at(4), 7.5, 0.2), row(at(6), 0.4, "nan"))
    )
    assert load.down == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert load.up == pytest.approx([0.0, 0.1, 0.2, 0.2])
    assert (load.num_filled, load.start_window) == (3, 30)


def test_gzipped_and_plain_files_read_alike(tmp_path):
    plain = write_days(tmp_path / "a.csv", days=1)
    zipped = tmp_path / "a.csv.gz"
    zipped.write_bytes(gzip.compress(plain.read_bytes()))
    assert np.array_equal(read_load(str(plain)).down, read_load(str(zipped)).down)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([row(at(0), 0.1, 0), row(at(2), "much", 0)], r":3: rb_down: not a number: 'much'"),
        ([row(at(0), 0.1, 0), row(at(0), 0.1, 0)], r":3: time: .* forward"),
        (["yesterday" + row(at(0), 0.1, 0)[19:]], r":2: time: not a time"),
        ([row(at(0), 0.1, 0), "1,2"], r":3: has 2 values where the header has 12"),
        ([row(at(0), 0.1, 0)], r"two or more"),
        ([row(at(0), 2, 0), row(at(2), 3, 0)], r"rb_down: no row has a share between 0 and 1"),
    ],
)
def test_bad_files_are_named_by_line_and_field(tmp_path, rows, said):
    with pytest.raises(InputError, match=said):
        read_load(file_of(tmp_path, *rows))


def test_absent_columns_files_and_broken_gzip_are_refused(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("time,rb_down\n")
    with pytest.raises(InputError, match=":1: rb_up: no such column"):
        read_load(str(path))
    with pytest.raises(InputError, match="cannot be read"):
        read_load(str(tmp_path / "none.csv"))
    path.write_bytes(gzip.compress(b"time")[:-6])
    with pytest.raises(InputError, match="neither UTF-8 text nor such text gzipped"):
        read_load(str(path))


def test_a_cell_is_planned_for_its_own_site_and_by_the_calibration_alone(tmp_path):
    calm = read_load(str(write_days(tmp_path / "Calm-1.csv", peak=0.1)))
    busy = read_load(str(write_days(tmp_path / "Busy-1.csv", peak=0.6)))
    plan = plan_cells([calm, busy])
    later = [read_load(str(write_days(tmp_path / f"{n}-2.csv", days=1, first_day=5, peak=p)))
             for n, p in (("Busy", 0.6), ("Calm", 0.1))]  # fmt: skip
    assert plan.of(later, 0) == (plan.down[1], plan.up[1])
    assert plan.of(later, 1) == (plan.down[0], plan.up[0])
    stranger = read_load(str(write_days(tmp_path / "Other.csv", days=1)))
    assert plan.of([stranger], 0)[0] == pytest.approx(np.mean(plan.down))
    cells = deal_cells(later, plan, 4)
    assert cells.down.shape == (720, 4)
    assert cells.down.min() >= 0
    assert cells.down.max() == 1.0


def test_cells_of_files_that_begin_at_other_hours_share_the_hour_of_the_day(tmp_path):
    one = read_load(str(write_days(tmp_path / "a.csv", days=1)))
    lines = write_days(tmp_path / "b.csv", days=2).read_text().splitlines()
    (tmp_path / "b.csv").write_text("\n".join([lines[0], *lines[301:1021]]) + "\n")
    cells = deal_cells([one, read_load(str(tmp_path / "b.csv"))], plan_cells([one]), 2)
    assert cells.down[:, 0] == pytest.approx(cells.down[:, 1], abs=0.06)
    assert list(cells.hour[[0, 29, 30, 719]]) == [0, 0, 1, 23]


def test_the_recorded_sites_read_whole():
    folder = data_dir()
    if folder is None or not (folder / "ran" / "lte_barcelona").is_dir():
        pytest.skip("the recorded loads are not here (DURE_DATA)")
    loads = [read_load(str(p)) for p in sorted((folder / "ran" / "lte_barcelona").glob("*.csv.gz"))]
    assert [len(load.down) for load in loads] == [4192, 6892, 15927]
    assert [load.num_filled for load in loads] == [39, 195 + 195 + 217, 11]
