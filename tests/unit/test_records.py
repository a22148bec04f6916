"""The Parquet of every job's record: whole, named, and read back as it was."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dure.model.errors import InputError
from dure.model.jobs import JOB_DTYPE, UNKNOWN
from dure.twin.records import RECORDS_VERSION, read_records, write_records
from dure.twin.result import NEVER, OUTCOMES, RESULT_JOB_DTYPE

synthetic_result = runpy.run_path(str(Path(__file__).parents[1] / "synthetic_result.py"))["synthetic_result"]


@pytest.fixture(scope="module")
def result():
    return synthetic_result(num_jobs=1_000, num_members=5, num_samples=30)


def column(table, name, null):
    return np.array([null if value is None else value for value in table[name].to_pylist()])


def test_every_column_is_read_back_as_it_was(result, tmp_path):
    table = read_records(write_records(tmp_path / "records.parquet", result))
    load = result.trace.jobs
    assert table["job_id"].to_pylist() == result.trace.job_ids
    assert table["member"].to_pylist() == [result.member_names[m] for m in load["member"]]
    assert table["project"].to_pylist() == [result.trace.projects[p] for p in load["project"]]
    assert table["outcome"].to_pylist() == [OUTCOMES[code] for code in result.jobs["outcome"]]
    assert table["pool"].to_pylist() == [None if p < 0 else "pool" for p in result.jobs["pool"]]
    for name in set(JOB_DTYPE.names) - {"member", "project", "user"}:
        assert (column(table, name, UNKNOWN) == load[name]).all(), name
    for name in set(RESULT_JOB_DTYPE.names) - {"outcome", "pool"}:
        assert (column(table, name, NEVER) == result.jobs[name]).all(), name


def test_what_did_not_happen_is_null_and_not_minus_one(result, tmp_path):
    table = read_records(write_records(tmp_path / "records.parquet", result))
    never = int((result.jobs["first_start_ms"] == NEVER).sum())
    assert never > 0
    assert table["first_start_ms"].null_count == never
    assert table["limit_ms"].null_count == 1_000
    assert table["wait_ms"].null_count == 0


def test_the_file_says_which_run_it_is_of(result, tmp_path):
    metadata = read_records(write_records(tmp_path / "records.parquet", result)).schema.metadata
    run = json.loads(metadata[b"dure.run"])
    assert metadata[b"dure.records.version"].decode() == RECORDS_VERSION
    assert (run["policy"], run["seed"], run["digest"]) == (result.policy, result.seed, result.digest)
    assert run["trace"] == {"source": "synthetic", "digest": result.trace.digest()}
    assert run["sites"][1] == "NAVER Gak Sejong"


def test_columns_end_in_their_units_and_are_compressed_with_zstd(result, tmp_path):
    path = write_records(tmp_path / "records.parquet", result)
    group = pq.ParquetFile(path).metadata.row_group(0)
    assert {group.column(i).compression for i in range(group.num_columns)} == {"ZSTD"}
    names = read_records(path).column_names
    assert len(names) == len(set(names)) == 1 + len(JOB_DTYPE.names) + len(RESULT_JOB_DTYPE.names)
    assert all(
        name.endswith("_ms") for name in names if "wait" in name or "start" in name or "duration" in name
    )


def test_a_job_table_of_no_rows_keeps_its_schema(result, tmp_path):
    import dataclasses

    trace = dataclasses.replace(result.trace, jobs=result.trace.jobs[:0], job_ids=[])
    none = dataclasses.replace(result, trace=trace, jobs=result.jobs[:0])
    schema = read_records(write_records(tmp_path / "records.parquet", result)).schema
    assert read_records(write_records(tmp_path / "none.parquet", none)).schema.equals(schema)


def test_what_is_no_file_of_records_is_refused_with_its_name(tmp_path):
    text = tmp_path / "text.parquet"
    text.write_text("job_id,member\n")
    with pytest.raises(InputError, match=r"text\.parquet: not a readable Parquet file"):
        read_records(text)
    with pytest.raises(InputError, match=r"absent\.parquet"):
        read_records(tmp_path / "absent.parquet")
    other = tmp_path / "other.parquet"
    pq.write_table(pa.table({"a": [1]}), other)
    with pytest.raises(InputError, match=r"other\.parquet: dure\.records\.version: .* found none"):
        read_records(other)


def test_a_file_cut_short_is_refused(result, tmp_path):
    path = write_records(tmp_path / "records.parquet", result)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"records\.parquet"):
        read_records(path)


def test_a_failure_leaves_the_old_file_and_no_draft(result, tmp_path, monkeypatch):
    path = tmp_path / "records.parquet"
    path.write_text("old")

    def broken(*_):
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", broken)
    with pytest.raises(OSError, match="disk full"):
        write_records(path, result)
    monkeypatch.undo()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
