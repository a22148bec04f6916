"""Dure's own trace file: Parquet, one row a job, names and version in the metadata."""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dure.model.errors import InputError
from dure.model.jobs import JOB_DTYPE, TOPOLOGY_ANY, TOPOLOGY_CLUSTER, UNKNOWN, Trace, WorkProfile
from dure.twin.traces.text import COUNT_MAX, TIME_S_MAX

VERSION = 1
_KEY = b"dure.trace"
#: Columns that files of earlier versions do not have.
_LATER = {"net_mbps": 0, "begin_ms": UNKNOWN, "profile": UNKNOWN, "grace_ms": UNKNOWN}
#: Most that a speed may be, in 1/1000.
SPEED_MAX = 1_000_000
#: Most that the exponent of scaling may be: beyond linear, as caches give it, but not far.
SCALING_MAX = 2.0
_EXTRA = "extra."  # before the name of a column that has no place in JOB_DTYPE


def write_trace(path: str | Path, trace: Trace) -> Path:
    """Write a trace; the file appears whole or not at all."""
    path = Path(path)
    columns = {name: pa.array(np.ascontiguousarray(trace.jobs[name])) for name in JOB_DTYPE.names or ()}
    columns["job_id"] = pa.array(trace.job_ids, pa.string())
    for name, values in trace.extra.items():
        columns[_EXTRA + name] = pa.array(values, pa.string() if values.dtype.kind == "U" else None)
    meta = {
        "version": VERSION, "members": trace.members, "projects": trace.projects, "users": trace.users,
        "gpu_types": trace.gpu_types, "source": trace.source,
        "profiles": [asdict(profile) for profile in trace.profiles],
        "extra": {name: values.dtype.str for name, values in trace.extra.items()},
    }  # fmt: skip
    table = pa.table(columns).replace_schema_metadata({_KEY: json.dumps(meta).encode()})
    part = path.with_name(path.name + f".{os.getpid()}.part")
    try:
        # ids rarely repeat: a dictionary of them costs time and saves nothing
        pq.write_table(table, part, compression="zstd", compression_level=1,
                       use_dictionary=[name for name in columns if name != "job_id"])  # fmt: skip
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path


def read_trace(path: Path) -> Trace:
    """Read a trace that `write_trace` wrote.

    Raises
    ------
    InputError
        Damaged, not a trace of Dure's, of another version, or with values out of range.
    """
    try:
        table = pq.read_table(path)
        text = (table.schema.metadata or {}).get(_KEY)
        meta = json.loads(text) if text is not None else None
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InputError(f"damaged Parquet: {str(error)[:100]}", str(path)) from None
    if not isinstance(meta, dict):
        raise InputError("a Parquet file, but not a trace of Dure's", str(path))
    if meta.get("version") != VERSION:
        raise InputError(f"version {meta.get('version')}, this program reads {VERSION}", str(path), field="version")
    for name in ("members", "projects", "users", "gpu_types"):
        if not (isinstance(meta.get(name), list) and all(isinstance(x, str) for x in meta[name])):
            raise InputError("not a list of names", str(path), field=name)
    if not isinstance(meta.get("source"), str):
        raise InputError("not a text", str(path), field="source")
    columns = {
        name: _column(path, table, name, pa.from_numpy_dtype(JOB_DTYPE[name])).to_numpy()
        for name in JOB_DTYPE.names or ()
        if name in table.column_names or name not in _LATER
    }
    columns = {name: np.full(table.num_rows, value, JOB_DTYPE[name]) for name, value in _LATER.items()} | columns
    profiles = _profiles(path, meta)
    _check(path, columns, meta, len(profiles))
    jobs = np.zeros(table.num_rows, JOB_DTYPE)
    for name, values in columns.items():
        jobs[name] = values
    ids = _column(path, table, "job_id", pa.string()).to_numpy(zero_copy_only=False).tolist()
    if len(set(ids)) != len(ids):
        raise InputError("used twice", str(path), field="job_id")
    return Trace(
        jobs, ids, meta["members"], meta["projects"], meta["users"], meta["gpu_types"], meta["source"],
        _extra(path, table, meta), profiles,
    )  # fmt: skip


def _profiles(path: Path, meta: dict[str, Any]) -> tuple[WorkProfile, ...]:
    """Kinds of work; files of before they were written have none, older ones only names and speeds."""
    rows = meta.get("profiles", [])
    try:
        made = tuple(WorkProfile(**row) if isinstance(row, dict) else WorkProfile(*row) for row in rows)
        if not all(map(_is_sound, made)):
            raise ValueError
    except (TypeError, ValueError):
        raise InputError("not a list of kinds of work", str(path), field="profiles") from None
    return made


def _is_sound(profile: WorkProfile) -> bool:
    """Whether every value is of its type and in range."""
    speeds, times = profile.speed_milli, (profile.save_ms, profile.restart_ms)
    return (
        isinstance(profile.name, str) and isinstance(speeds, dict)
        and all(isinstance(milli, int) and 0 < milli <= SPEED_MAX for milli in speeds.values())
        and isinstance(profile.scaling, float) and 0 <= profile.scaling <= SCALING_MAX
        and all(isinstance(ms, int) and 0 <= ms <= int(TIME_S_MAX * 1000) for ms in times)
        and isinstance(profile.failures_per_day, float) and 0 <= profile.failures_per_day < math.inf
        and isinstance(profile.busy, float) and 0 <= profile.busy <= 1
    )  # fmt: skip


def _column(path: Path, table: Any, name: str, kind: Any) -> Any:
    """A column of the wanted type without gaps."""
    if table.column_names.count(name) != 1:
        raise InputError("missing column", str(path), field=name)
    column = table[name]
    if column.type != kind:
        raise InputError(f"type {column.type}, must be {kind}", str(path), field=name)
    if column.null_count:
        raise InputError(f"{column.null_count:,} empty values", str(path), field=name)
    return column


def _check(path: Path, columns: dict[str, NDArray[Any]], meta: dict[str, Any], num_profiles: int) -> None:
    """Refuse values that no loader makes."""
    if (columns["submit_ms"][1:] < columns["submit_ms"][:-1]).any():
        raise InputError("not sorted", str(path), field="submit_ms")
    most_ms = int(TIME_S_MAX * 1000) * 2  # a deadline may stand one longest time after the last submission
    ranges = {
        "submit_ms": (0, most_ms), "duration_ms": (-1, most_ms), "limit_ms": (-1, most_ms),
        "deadline_ms": (-1, most_ms), "checkpoint_ms": (0, most_ms), "cpu_milli": (0, 1 << 50),
        "mem_mib": (0, 1 << 50), "net_mbps": (0, 1 << 50), "begin_ms": (-1, most_ms), "grace_ms": (-1, most_ms),
        "profile": (-1, num_profiles - 1), "member": (0, len(meta["members"]) - 1), "project": (0, len(meta["projects"]) - 1),
        "user": (0, len(meta["users"]) - 1), "num_gpus": (0, COUNT_MAX), "gpu_milli": (1, 1000),
        "gpus_per_node": (0, COUNT_MAX), "min_gpus": (0, COUNT_MAX), "max_gpus": (0, COUNT_MAX),
        "priority": (0, 2), "topology": (TOPOLOGY_ANY, TOPOLOGY_CLUSTER),
    }  # fmt: skip
    for name, (low, high) in ranges.items():
        if len(columns[name]) and not (low <= columns[name].min() and columns[name].max() <= high):
            raise InputError(f"not all in {low} to {high:.0f}", str(path), field=name)


def _extra(path: Path, table: Any, meta: dict[str, Any]) -> dict[str, NDArray[Any]]:
    """The source's own columns, in the types they had."""
    kinds = meta.get("extra")
    if not isinstance(kinds, dict):
        raise InputError("not a table of types", str(path), field="extra")
    out = {}
    for name, kind in kinds.items():
        if table.column_names.count(_EXTRA + name) != 1 or table[_EXTRA + name].null_count:
            raise InputError("missing column, or empty values in it", str(path), field=_EXTRA + name)
        try:
            out[name] = table[_EXTRA + name].to_numpy(zero_copy_only=False).astype(np.dtype(kind))
        except (TypeError, ValueError):
            raise InputError(f"not of type {kind!r}", str(path), field=_EXTRA + name) from None
    return out
