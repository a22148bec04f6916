"""Dure's own trace file: Parquet, one row a job, names and version in the metadata."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dure.model.errors import InputError
from dure.model.jobs import JOB_DTYPE, Trace

VERSION = 1
_KEY = b"dure.trace"


def write_trace(path: str | Path, trace: Trace) -> Path:
    """Write a trace; the file appears whole or not at all."""
    path = Path(path)
    columns = {name: pa.array(np.ascontiguousarray(trace.jobs[name])) for name in JOB_DTYPE.names or ()}
    columns["job_id"] = pa.array(trace.job_ids, pa.string())
    for name, values in trace.extra.items():
        columns[f"extra.{name}"] = pa.array(values.tolist() if values.dtype.kind == "U" else values)
    meta = {
        "version": VERSION, "members": trace.members, "projects": trace.projects, "users": trace.users,
        "gpu_types": trace.gpu_types, "source": trace.source,
    }  # fmt: skip
    table = pa.table(columns).replace_schema_metadata({_KEY: json.dumps(meta).encode()})
    part = path.with_name(path.name + f".{os.getpid()}.part")
    try:
        pq.write_table(table, part, compression="zstd", compression_level=1)
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
        meta = json.loads((table.schema.metadata or {})[_KEY])
    except KeyError:
        raise InputError("a Parquet file, but not a trace of Dure's", str(path)) from None
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InputError(f"damaged Parquet: {str(error)[:100]}", str(path)) from None
    if meta.get("version") != VERSION:
        raise InputError(f"version {meta.get('version')}, this program reads {VERSION}", str(path), field="version")
    jobs = np.zeros(table.num_rows, JOB_DTYPE)
    for name in (*(JOB_DTYPE.names or ()), "job_id"):
        if name not in table.column_names:
            raise InputError("missing column", str(path), field=name)
    for name in JOB_DTYPE.names or ():
        jobs[name] = table[name].to_numpy()
    if (np.diff(jobs["submit_ms"]) < 0).any() or (jobs["submit_ms"] < 0).any():
        raise InputError("not sorted, or below 0", str(path), field="submit_ms")
    for name, names in (("member", "members"), ("project", "projects"), ("user", "users")):
        if len(jobs) and not 0 <= jobs[name].min() <= jobs[name].max() < len(meta[names]):
            raise InputError("index outside the names", str(path), field=name)
    extra = {}
    for name in table.column_names:
        if name.startswith("extra."):
            values = table[name].to_numpy(zero_copy_only=False)
            extra[name[6:]] = values.astype(str) if values.dtype == object else values
    ids = table["job_id"].to_pylist()
    return Trace(jobs, ids, meta["members"], meta["projects"], meta["users"], meta["gpu_types"], meta["source"], extra)
