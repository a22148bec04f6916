"""Standard Workload Format 2.2 (Chapin et al., JSSPP 1999; the Parallel Workloads Archive's definition)."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from dure.model.errors import InputError
from dure.model.jobs import Trace, make_jobs
from dure.twin.traces.text import COUNT_MAX, TIME_S_MAX, coded, finish

#: Fields of a line, in order.
FIELDS = (
    "job", "submit_s", "wait_s", "run_s", "allocated", "cpu_s", "memory_kb", "requested", "requested_s",
    "requested_kb", "status", "user", "group", "executable", "queue", "partition", "preceding", "think_s",
)  # fmt: skip

#: Status 2, 3, 4 are parts of a job that was checkpointed and swapped out; its whole is a line of status 0 or 1.
_PARTS = (2, 3, 4)
_CANCELLED = 5

#: Times that a log measured: real logs hold a few negative ones, from clocks that were set; they count as unknown.
_MEASURED = ("wait_s", "run_s", "cpu_s")


def header_of(lines: list[str]) -> dict[str, list[str]]:
    """Header directives: ``; Label: value`` → label → values, in order; free comments under ``""``."""
    out: dict[str, list[str]] = {}
    for line in lines:
        if not line.lstrip().startswith(";"):
            continue
        label, colon, value = line.lstrip().lstrip(";").strip().partition(":")
        known = colon and label.replace(" ", "").isalnum()
        out.setdefault(label.strip() if known else "", []).append(value.strip() if known else label.strip())
    return out


def read_swf(path: Path, lines: list[str]) -> tuple[Trace, list[str]]:
    """Read a log; a processor counts as a GPU. Columns after the 18 are not looked at.

    Raises
    ------
    InputError
        A line with fewer than 18 fields, a field that is no number or out of range, a job number used twice.
    """
    rows: list[list[float]] = []
    at: list[int] = []
    for i, line in enumerate(lines, start=1):
        cells = line.split()
        if not cells or cells[0].startswith(";"):
            continue
        if len(cells) < len(FIELDS):
            raise InputError(f"{len(cells)} fields, a line has {len(FIELDS)}", str(path), i)
        row = []
        for name, text in zip(FIELDS, cells, strict=False):
            try:
                value = float(text)
            except ValueError:
                raise InputError(f"not a number: {text[:40]!r}", str(path), i, name) from None
            low = -4e12 if name in _MEASURED else -1
            if not math.isfinite(value) or not low <= value <= 4e12:
                raise InputError(f"must be {low:g} to 4e12, not {text[:40]}", str(path), i, name)
            row.append(value)
        rows.append(row)
        at.append(i)
    if not rows:
        raise InputError("no jobs: only comments", str(path))
    table = np.array(rows)
    col = {name: table[:, i] for i, name in enumerate(FIELDS)}
    for r in np.flatnonzero(col["job"] != np.floor(col["job"]))[:1]:
        raise InputError(f"not a whole number: {table[r, 0]:g}", str(path), at[r], "job")
    part = np.isin(col["status"], _PARTS)
    procs = np.where(col["allocated"] > 0, col["allocated"], col["requested"])
    orphan = part & ~np.isin(col["job"], col["job"][~part])
    is_run = (col["run_s"] >= 0) & (col["run_s"] <= 4e9)
    causes = (  # each row counts under the first cause that fits
        (part & ~orphan, "parts of a swapped-out job whose whole is kept (status 2, 3, 4)"),
        (orphan, "parts of a swapped-out job without a row for the whole (status 2, 3, 4)"),
        (~is_run & (col["status"] == _CANCELLED), "cancelled before it started"),
        (~is_run, "no (or a negative) run time recorded"),
        ((procs <= 0) | (procs > COUNT_MAX), "no (or more than 10 million) processors recorded"),
        ((col["submit_s"] < 0) | (col["submit_s"] > TIME_S_MAX), "no submit time recorded"),
    )
    left = np.zeros(len(table), bool)
    notes = []
    for is_so, why in causes:
        num_rows = int((is_so & ~left).sum())
        if num_rows:
            notes.append(f"{num_rows:,} rows left out: {why}.")
        left |= is_so
    keep = np.flatnonzero(~left)
    seen: dict[float, int] = {}
    for r in keep:
        number = table[r, 0]
        if number in seen:
            raise InputError(f"duplicate of line {seen[number]}: {number:g}", str(path), at[r], "job")
        seen[number] = at[r]
    jobs = make_jobs(len(keep))
    jobs["submit_ms"] = col["submit_s"][keep] * 1000
    jobs["duration_ms"] = np.maximum(col["run_s"][keep] * 1000, 1)
    jobs["num_gpus"] = procs[keep]
    limit = col["requested_s"][keep]
    jobs["limit_ms"] = np.where((limit > 0) & (limit <= 4e9), limit * 1000, -1)
    groups, jobs["member"] = coded([f"group{v:g}" for v in col["group"][keep]])
    users, jobs["user"] = coded([f"user{v:g}" for v in col["user"][keep]])
    extra = {name: col[name][keep] for name in ("wait_s", "cpu_s", "memory_kb", "requested", "requested_kb", "status",
             "executable", "queue", "partition", "preceding", "think_s")}  # fmt: skip
    ids = [f"{int(v)}" for v in table[keep, 0]]
    return finish(jobs, ids, "swf", members=groups, users=users, extra=extra), notes
