"""Traces that are one CSV file with a header: each recognised by its columns."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dure.model.errors import InputError
from dure.model.jobs import UNKNOWN, Trace, make_jobs
from dure.twin.traces.text import COUNT_MAX, Table, coded, finish, read_table

#: What a reader returns beside the trace: what it left out, in words.
Read = tuple[Trace, list[str]]


def _keep(table: Table, keep: Any) -> Table:
    rows = [i for i, k in enumerate(keep) if k]
    return Table(
        table.path,
        {n: [v[i] for i in rows] for n, v in table.columns.items()},
        [table.lines[i] for i in rows],
    )


def _dropped(keep: Any, why: str) -> list[str]:
    gone = int((~np.asarray(keep, bool)).sum())
    return [f"{gone:,} rows left out: {why}."] if gone else []


def _philly(table: Table) -> Read:
    """Microsoft Philly (ATC'19) as adaptdl has it: a member is a virtual cluster."""
    jobs = make_jobs(len(table))
    at = np.empty(len(table), np.int64)
    for row, text in enumerate(table.columns["timestamp"]):
        try:
            at[row] = np.datetime64(datetime.fromisoformat(text).replace(tzinfo=None), "ms").astype(np.int64)
        except ValueError:
            raise table.error(row, "timestamp", f"not a time: {text[:40]!r}") from None
    jobs["submit_ms"] = at
    jobs["duration_ms"] = np.maximum(table.numbers("duration") * 1000, 1)
    jobs["num_gpus"] = table.counts("num_gpus", 1)
    members, jobs["member"] = coded(table.columns["cluster"])
    return finish(jobs, [str(i) for i in range(len(jobs))], "philly", members=members), []


#: openb's columns of time: all there, or (re-sampled lists of the placement study) none.
_OPENB_TIMES = ("creation_time", "deletion_time", "scheduled_time")


def _openb(table: Table) -> Read:
    """Alibaba openb pods (FGD, ATC'23): the run is from scheduling to deletion."""
    ids = table.ids("name")
    jobs = make_jobs(len(table))
    notes = []
    timed = [name in table.columns for name in _OPENB_TIMES]
    if any(timed):
        if not all(timed):
            raise InputError("missing column", table.path, 1, _OPENB_TIMES[timed.index(False)])
        created = table.numbers("creation_time")
        deleted = table.numbers("deletion_time")
        scheduled = table.numbers("scheduled_time", empty=-1, low=-1)
        started = np.where(scheduled < 0, created, scheduled)
        for row in np.flatnonzero(deleted < started)[:1]:
            raise table.error(int(row), "deletion_time", "ends before it starts")
        jobs["submit_ms"] = created * 1000
        jobs["duration_ms"] = np.maximum((deleted - started) * 1000, 1)
        if (scheduled < 0).any():
            notes.append(f"{int((scheduled < 0).sum()):,} pods were never scheduled: run time from their creation.")
    else:
        notes.append("Times are not recorded: all pods arrive at once and have no run time.")
    jobs["num_gpus"] = table.counts("num_gpu")
    milli = table.counts("gpu_milli", 0, 1000)
    for row in np.flatnonzero((milli < 1000) & (jobs["num_gpus"] > 1))[:1]:
        raise table.error(int(row), "gpu_milli", "a part of a GPU goes with num_gpu 1 only")
    for row in np.flatnonzero((milli == 0) & (jobs["num_gpus"] > 0))[:1]:
        raise table.error(int(row), "gpu_milli", "must be 1 to 1000 where num_gpu is above 0")
    jobs["gpu_milli"] = np.where((jobs["num_gpus"] == 0) | (milli == 0), 1000, milli)
    jobs["cpu_milli"] = table.counts("cpu_milli", 0, 1e9)
    jobs["mem_mib"] = table.counts("memory_mib", 0, 1e9)
    kinds: list[str] = []
    for row, text in enumerate(table.columns.get("gpu_spec", [])):
        mask = 0
        for name in filter(None, text.split("|")):
            if name not in kinds:
                kinds.append(name)
            if len(kinds) > 64:
                raise table.error(row, "gpu_spec", "more than 64 GPU models")
            mask |= 1 << kinds.index(name)
        jobs["type_mask"][row] = mask
    labels: tuple[str, ...] = ("qos", "pod_phase")
    extra = {name: np.array(table.columns[name], dtype=str) for name in labels if name in table.columns}
    return finish(jobs, ids, "openb", gpu_types=kinds, extra=extra), notes


def _by_columns(
    source: str,
    unit_ms: float,
    submit: str,
    duration: str,
    deadline: str = "",
    deadlines: Callable[[Table], NDArray[Any]] | None = None,
) -> Callable[[Table], Read]:
    """Reader of the simulators' own tables, which differ in names and unit of time."""

    def read(table: Table) -> Read:
        gpus = table.counts("num_gpu")
        keep = gpus > 0
        notes = _dropped(keep, "no GPU asked for")
        table = _keep(table, keep)
        ids = table.ids("job_id")
        jobs = make_jobs(len(table))
        top = 4e12 / unit_ms
        jobs["submit_ms"] = table.numbers(submit, high=top) * unit_ms
        jobs["duration_ms"] = np.maximum(table.numbers(duration, high=top) * unit_ms, 1)
        jobs["num_gpus"] = gpus[keep]
        if deadline:
            jobs["deadline_ms"] = table.numbers(deadline, high=top) * unit_ms
        if deadlines is not None:
            after_ms = deadlines(table) * unit_ms
            jobs["deadline_ms"] = np.where(after_ms < 0, UNKNOWN, jobs["submit_ms"] + after_ms)
        extra: dict[str, Any] = {
            name: np.array(table.columns[name], dtype=str)
            for name in ("model_name", "job_type", "expect_time_list", "expect_value_list") if name in table.columns
        }  # fmt: skip
        for name in ("resource_time_0", "resource_time_1", "resource_time_2", "iterations", "batch_size"):
            if name in table.columns:
                extra[name] = table.numbers(name, high=1e15)
        members = None
        if "user" in table.columns:
            members, jobs["member"] = coded(table.columns["user"])
        return finish(jobs, ids, source, members=members, extra=extra), notes

    return read


def _chronus_deadlines(table: Table) -> NDArray[Any]:
    """Time from submission to the deadline, -1 for best effort; of a soft one's steps the first, worth the whole."""
    out = np.full(len(table), -1.0)
    is_best = table.counts("best_effort", 0, 1)
    for row in np.flatnonzero(is_best == 0):
        text = table.columns["expect_time_list"][row]
        try:
            steps = [float(step) for step in text.split("-")]
        except ValueError:
            steps = [-1.0]
        if not all(0 <= step <= 4e12 / 60_000 for step in steps):
            raise table.error(int(row), "expect_time_list", f"not times joined by '-': {text[:40]!r}")
        out[row] = steps[0]
    return out


def _elastic(table: Table) -> Read:
    """Sia and Pollux workloads: applications whose run time depends on where they run."""
    ids = table.ids("name")
    jobs = make_jobs(len(table))
    jobs["submit_ms"] = table.numbers("time") * 1000
    jobs["num_gpus"] = table.counts("num_replicas", 1)
    extra = {
        "application": np.array(table.columns["application"], dtype=str),
        "batch_size": table.counts("batch_size", 0, 1e9),
    }
    return finish(jobs, ids, "sia", extra=extra), [
        "Run times are not recorded: an application's depends on where it runs; a replay refuses such a trace."
    ]


def _acme(table: Table) -> Read:
    """Kalos (Acme, NSDI'24) as converted: run time = iterations × (computing + networking)."""
    ids = table.ids("job_id")
    jobs = make_jobs(len(table))
    jobs["submit_ms"] = table.numbers("arrival_time") * 1000
    step = table.numbers("iteration_computing_time") + table.numbers("iteration_networking_time")
    jobs["duration_ms"] = np.maximum(table.counts("num_iteration", 0, 1e9) * step * 1000, 1)
    jobs["num_gpus"] = table.counts("gpu_workers", 1)
    jobs["cpu_milli"] = table.numbers("cpu_per_gpu_worker", high=1e4) * jobs["num_gpus"] * 1000
    return finish(jobs, ids, "acme"), []


#: Format → (columns that tell it, reader). The first whose columns are all there is taken.
TABLES: dict[str, tuple[tuple[str, ...], Callable[[Table], Read]]] = {
    "philly": (("timestamp", "duration", "num_gpus", "cluster"), _philly),
    "openb": (
        ("name", "cpu_milli", "memory_mib", "num_gpu", "gpu_milli", "gpu_spec", "qos", "creation_time",
         "deletion_time", "scheduled_time"), _openb,
    ),
    "openb_untimed": (("name", "cpu_milli", "memory_mib", "num_gpu", "gpu_milli"), _openb),
    "chronus": (
        ("job_id", "user", "num_gpu", "submit_time", "duration", "expect_time_list", "best_effort", "job_type"),
        _by_columns("chronus", 60_000, "submit_time", "duration", deadlines=_chronus_deadlines),
    ),
    "muri": (
        ("job_id", "num_gpu", "submit_time", "duration", "iteration_time", "resource_time_0"),
        _by_columns("muri", 1, "submit_time", "duration"),
    ),
    "elasticflow": (
        ("job_id", "submit_time", "model_name", "ddl", "num_gpu", "duration"),
        _by_columns("elasticflow", 1000, "submit_time", "duration", "ddl"),
    ),
    "acme": (
        ("job_id", "arrival_time", "num_iteration", "iteration_computing_time", "iteration_networking_time",
         "gpu_workers", "cpu_per_gpu_worker"), _acme,
    ),
    "sia": (("name", "time", "application", "num_replicas", "batch_size"), _elastic),
    "tiresias": (
        ("job_id", "num_gpu", "submit_time", "iterations", "model_name", "duration", "interval"),
        _by_columns("tiresias", 1000, "submit_time", "duration"),
    ),
}  # fmt: skip


def table_format(header: str) -> str | None:
    """The format whose columns a header line has."""
    names = {name.strip() for name in header.split(",")}
    return next((f for f, (columns, _) in TABLES.items() if names.issuperset(columns)), None)


def read_format(path: Path, lines: list[str], name: str) -> Read:
    """Read a table of a known format."""
    columns, reader = TABLES[name]
    table = read_table(path, lines, columns)
    if len(table) == 0:
        raise InputError("no jobs: only a header", str(path))
    if len(table) > COUNT_MAX:
        raise InputError(f"more than {COUNT_MAX:,.0f} jobs", str(path))
    return reader(table)
