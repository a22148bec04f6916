"""Text files of traces: read whole, plain or gzip, with errors that name line and field."""

from __future__ import annotations

import csv
import gzip
import io
import math
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dure.model.errors import InputError
from dure.model.jobs import Trace

#: Largest time and count that a trace may name; beyond it sums could overflow.
TIME_S_MAX, COUNT_MAX = 4e9, 1e7


def read_lines(path: Path) -> list[str]:
    """Lines of a text file, unpacked if it is gzip.

    Raises
    ------
    InputError
        Not there, not readable, not text, or a gzip that ends too early.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read: {error.strerror}", str(path)) from None
    if data[:2] == b"\x1f\x8b":
        try:
            data = gzip.decompress(data)
        except (EOFError, OSError, zlib.error) as error:
            raise InputError(f"damaged gzip: {error}", str(path)) from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError("not UTF-8 text", str(path), line) from None
    lines = text.split("\n")
    while lines and not lines[-1].strip():
        lines.pop()
    if not lines:
        raise InputError("the file is empty", str(path))
    return [line.rstrip("\r") for line in lines]


@dataclass
class Table:
    """Columns of a delimited file, still text, with the line of each row."""

    path: str
    columns: dict[str, list[str]]
    lines: list[int]

    def __len__(self) -> int:
        return len(self.lines)

    def error(self, row: int, field: str, message: str) -> InputError:
        """The error of one cell."""
        return InputError(message, self.path, self.lines[row], field)

    def numbers(
        self, field: str, low: float = 0.0, high: float = TIME_S_MAX, empty: float | None = None
    ) -> NDArray[Any]:
        """A column as float64, every value in [low, high]; ``empty`` stands for an empty cell."""
        out = np.empty(len(self.lines))
        for row, text in enumerate(self.columns[field]):
            if empty is not None and not text.strip():
                out[row] = empty
                continue
            try:
                value = float(text)
            except ValueError:
                raise self.error(row, field, f"not a number: {text[:40]!r}") from None
            if not math.isfinite(value) or not low <= value <= high:
                raise self.error(row, field, f"must be {low:g} to {high:g}, not {text[:40]}")
            out[row] = value
        return out

    def counts(self, field: str, low: int = 0, high: float = COUNT_MAX) -> NDArray[Any]:
        """A column of whole numbers as int64."""
        values = self.numbers(field, low, high)
        wrong = np.flatnonzero(values != np.floor(values))
        if len(wrong):
            raise self.error(int(wrong[0]), field, f"not a whole number: {self.columns[field][int(wrong[0])]}")
        return values.astype(np.int64)

    def ids(self, field: str) -> list[str]:
        """A column of unique, non-empty names."""
        seen: dict[str, int] = {}
        for row, text in enumerate(self.columns[field]):
            if not text:
                raise self.error(row, field, "empty")
            if text in seen:
                raise self.error(row, field, f"duplicate of line {self.lines[seen[text]]}: {text[:60]!r}")
            seen[text] = row
        return self.columns[field]


def read_table(path: Path, lines: list[str], required: tuple[str, ...]) -> Table:
    """A comma-separated file with a header line.

    Raises
    ------
    InputError
        A required column is missing or named twice, or a row has too few or too many cells.
    """
    try:
        reader = csv.reader(io.StringIO("\n".join(lines)), strict=True)
        rows, ends = [], [0]  # a quoted cell may hold line breaks: rows and lines are counted apart
        for row in reader:
            rows.append(row)
            ends.append(reader.line_num)
    except csv.Error as error:
        raise InputError(f"not a CSV file: {error}", str(path)) from None
    header = [name.strip() for name in rows[0]]
    for name in required:
        if header.count(name) != 1:
            raise InputError("missing column" if name not in header else "column given twice", str(path), 1, name)
    body, at = [], []
    for row, end in zip(rows[1:], ends[1:], strict=False):
        i = end + 1
        if not row:
            continue
        if len(row) != len(header):
            raise InputError(f"{len(row)} cells, but the header has {len(header)}", str(path), i)
        body.append(row)
        at.append(i)
    columns = {name: [row[k] for row in body] for k, name in enumerate(header)}
    return Table(str(path), columns, at)


def coded(values: list[str]) -> tuple[list[str], NDArray[Any]]:
    """Distinct names in order of appearance, and the index of each value."""
    where: dict[str, int] = {}
    index = np.array([where.setdefault(v, len(where)) for v in values], np.int32)
    return list(where) or ["default"], index


def finish(
    jobs: NDArray[Any], ids: list[str], source: str, *, members: list[str] | None = None,
    projects: list[str] | None = None, users: list[str] | None = None, gpu_types: list[str] | None = None,
    extra: dict[str, NDArray[Any]] | None = None,
) -> Trace:  # fmt: skip
    """Sort by submission and make the first one the start."""
    order = np.argsort(jobs["submit_ms"], kind="stable")
    jobs = jobs[order]
    if len(jobs):
        first = int(jobs["submit_ms"][0])
        jobs["submit_ms"] -= first
        late = jobs["deadline_ms"] >= 0
        jobs["deadline_ms"][late] -= first
    for name in ("min_gpus", "max_gpus"):
        jobs[name] = jobs["num_gpus"]
    return Trace(
        jobs, [ids[i] for i in order], members or ["default"], projects or ["default"], users or ["default"],
        gpu_types or [], source, {k: v[order] for k, v in (extra or {}).items()},
    )  # fmt: skip
