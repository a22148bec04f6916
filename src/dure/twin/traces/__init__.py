"""Recorded load: one function reads every format that is known, told apart by content."""

from __future__ import annotations

from pathlib import Path

from dure.model.errors import InputError
from dure.model.jobs import Trace
from dure.twin.traces.gavel import read_gavel
from dure.twin.traces.nodes import load_nodes
from dure.twin.traces.shape import capacity_for_load, head, rescale_arrivals, select_members
from dure.twin.traces.shockwave import NUM_FIELDS, read_shockwave
from dure.twin.traces.swf import read_swf
from dure.twin.traces.tables import TABLES, read_format, table_format
from dure.twin.traces.text import read_lines

__all__ = [
    "FORMATS", "capacity_for_load", "head", "load_nodes", "load_trace", "load_trace_with_notes", "rescale_arrivals",
    "select_members",
]  # fmt: skip

FORMATS = (*TABLES, "gavel", "shockwave", "swf", "parquet")


def load_trace(path: str | Path, *, format: str | None = None) -> Trace:
    """Read a trace, plain or gzip; see docs/traces.md for the formats and what each leaves out.

    Raises
    ------
    InputError
        With file, line and field.
    """
    return load_trace_with_notes(path, format=format)[0]


def load_trace_with_notes(path: str | Path, *, format: str | None = None) -> tuple[Trace, list[str]]:
    """The same, with what was left out, in words."""
    path = Path(path)
    if format is not None and format not in FORMATS:
        raise InputError(f"unknown format {format!r}; known: {', '.join(FORMATS)}", str(path), field="format")
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise InputError(f"cannot read: {error.strerror}", str(path)) from None
    if magic == b"PAR1" or format == "parquet":
        from dure.twin.traces.parquet import read_trace

        return read_trace(path), []
    lines = read_lines(path)
    found = format or _recognise(lines)
    if found == "swf":
        return read_swf(path, lines)
    if found == "gavel":
        return read_gavel(path, lines)
    if found == "shockwave":
        return read_shockwave(path, lines)
    if found is None:
        raise InputError(f"not a trace that is known ({', '.join(FORMATS)})", str(path), 1)
    return read_format(path, lines, found)


def _recognise(lines: list[str]) -> str | None:
    first = next((line for line in lines if not line.lstrip().startswith(";")), "")
    if lines[0].lstrip().startswith(";"):
        return "swf"
    if first.count("\t") == 6:
        return "gavel"
    if first.count("\t") == NUM_FIELDS - 1:
        return "shockwave"
    if len(first.split()) >= 18 and all(c in "0123456789.-+eE" for c in first.split()[1]):
        return "swf"
    return table_format(lines[0])
