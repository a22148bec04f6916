"""Every job's record of a run as Parquet: what it asked for and what became of it, one row a job.

Rows stand in trace order. Columns, in order; a null says that the thing is unknown or did not happen:

- ``job_id``, ``member``, ``project``, ``user`` (strings);
- every column of ``dure.model.jobs.JOB_DTYPE`` but those three indices, under its own name and unit;
- ``outcome`` (string, one of ``OUTCOMES``) and ``pool`` (string, of the last attempt);
- every other column of ``dure.twin.result.RESULT_JOB_DTYPE``, under its own name and unit.

The file's metadata holds ``dure.records.version`` (RECORDS_VERSION; changed only when a column changes its
meaning) and ``dure.run``, a JSON object: policy, seed, digest, the load's source and digest, the names behind
the bits of ``type_mask`` and ``site_mask``, the end of the run in ms, and versions.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dure.model.errors import InputError
from dure.model.jobs import JOB_DTYPE, UNKNOWN
from dure.twin.result import NEVER, OUTCOMES, RESULT_JOB_DTYPE, RunResult
from dure.whole_file import whole_file

RECORDS_VERSION = "1"

#: Columns of the load in which UNKNOWN stands for null, and of the result in which NEVER does.
_UNKNOWN_COLUMNS = ("duration_ms", "limit_ms", "deadline_ms")
_NEVER_COLUMNS = ("first_start_ms", "end_ms", "predicted_start_ms", "reserved_start_ms")

#: Index columns that are written as names.
_NAMED_LOAD, _NAMED_RESULT = ("member", "project", "user"), ("outcome", "pool")


def write_records(path: Path | str, result: RunResult) -> Path:
    """Write the records; the file appears whole or not at all, and an existing one is replaced.

    Parameters
    ----------
    path : Path or str
        The Parquet file.
    result : RunResult
        The run.

    Returns
    -------
    Path
        The file.
    """
    named = [*_NAMED_LOAD, *_NAMED_RESULT]
    with whole_file(path) as draft:
        pq.write_table(_table(result), draft, compression="zstd", compression_level=1, use_dictionary=named)
    return Path(path)


def read_records(path: Path | str) -> pa.Table:
    """Read records written by `write_records`; ``table.schema.metadata`` says which run they are of.

    Raises
    ------
    InputError
        If the file is not Parquet, is cut short, or holds no records of this version.
    """
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(f"not a readable Parquet file ({error})", str(path)) from error
    version = (table.schema.metadata or {}).get(b"dure.records.version", b"").decode()
    if version != RECORDS_VERSION:
        found = f"version {version}" if version else "none"
        message = f"job records of version {RECORDS_VERSION} are needed, found {found}"
        raise InputError(message, str(path), field="dure.records.version")
    return table


def _table(result: RunResult) -> pa.Table:
    trace, load, jobs = result.trace, result.trace.jobs, result.jobs
    columns: dict[str, pa.Array] = {
        "job_id": pa.array(trace.job_ids, pa.string()),
        "member": _named(load["member"], result.member_names),
        "project": _named(load["project"], trace.projects),
        "user": _named(load["user"], trace.users),
    }
    for name in JOB_DTYPE.names or ():
        if name not in _NAMED_LOAD:
            columns[name] = _numbers(load[name], UNKNOWN if name in _UNKNOWN_COLUMNS else None)
    columns["outcome"] = _named(jobs["outcome"], OUTCOMES)
    columns["pool"] = _named(jobs["pool"], [pool.name for pool in result.terms.pools])
    for name in RESULT_JOB_DTYPE.names or ():
        if name not in _NAMED_RESULT:
            columns[name] = _numbers(jobs[name], NEVER if name in _NEVER_COLUMNS else None)
    run = {
        "policy": result.policy,
        "label": result.name,
        "seed": result.seed,
        "digest": result.digest,
        "trace": {"source": trace.source, "digest": trace.digest()},
        "gpu_types": trace.gpu_types,
        "sites": [site.name for site in result.fleet.sites],
        "end_ms": result.end_ms,
        "versions": result.versions,
    }
    metadata = {
        "dure.records.version": RECORDS_VERSION,
        "dure.run": json.dumps(run, ensure_ascii=False, sort_keys=True),
    }
    return pa.table(columns).replace_schema_metadata(metadata)


def _numbers(values: NDArray[Any], null: int | None) -> pa.Array:
    contiguous = np.ascontiguousarray(values)
    return pa.array(contiguous, mask=None if null is None else contiguous == null)


def _named(index: NDArray[Any], names: Sequence[str]) -> pa.Array:
    """Names by index; a negative index is null."""
    codes = pa.array(index.astype(np.int32), mask=index < 0)
    return pa.DictionaryArray.from_arrays(codes, pa.array(names, pa.string()))
