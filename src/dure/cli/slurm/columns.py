"""Slurm's ways to say which columns: ``%.18i %.9P`` of squeue and sinfo, ``jobid,state%20`` of sacct and sshare."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from dure.cli.slurm.getopt import Given
from dure.cli.table import fitted, width
from dure.model.errors import InputError

T = TypeVar("T")

_LETTER = re.compile(r"%(\.?)(\d{0,4})([A-Za-z])([^%]*)")
_FIELD = re.compile(r"([A-Za-z]+)(?:%(-?)(\d{1,4}))?", re.ASCII)


@dataclass(frozen=True)
class Field(Generic[T]):
    """A column that can be asked for."""

    heading: str
    value: Callable[[T], str]
    size: int = 10


@dataclass(frozen=True)
class _Column(Generic[T]):
    field: Field[T]
    size: int  # 0: whatever is needed
    is_right: bool
    suffix: str = ""
    mark: str = ""  # where it is too long


def by_letters(fields: Mapping[str, Field[T]], text: str, given: Given | None = None) -> list[_Column[T]]:
    """Columns of a ``%``-format; ``given`` is the option for errors."""
    first = text.find("%")
    if first < 0 or _LETTER.sub("", text[first:]):
        raise _wrong(f"must be such as '%.18i %.8u', not {text[:60]!r}", given)
    columns = []
    for dot, size, letter, suffix in _LETTER.findall(text[first:]):
        if letter not in fields:
            raise _wrong(f"%{letter} is not honoured; known: {' '.join('%' + key for key in fields)}", given)
        columns.append(_Column(fields[letter], int(size or 0), bool(dot), suffix))
    return columns


def by_names(fields: Mapping[str, Field[T]], text: str, given: Given | None = None) -> list[_Column[T]]:
    """Columns of a list of names, upper or lower case alike."""
    known = {key.lower(): field for key, field in fields.items()}
    columns = []
    for part in text.split(","):
        found = _FIELD.fullmatch(part.strip())
        if not found or found[1].lower() not in known:
            raise _wrong(f"{part.strip()[:40]!r} is not honoured; known: {' '.join(fields)}", given)
        field = known[found[1].lower()]
        columns.append(_Column(field, int(found[3] or field.size), not found[2], " ", "+"))
    return columns


def _wrong(message: str, given: Given | None) -> InputError:
    return given.wrong(message) if given else InputError(message)


def fixed_lines(columns: Sequence[_Column[T]], rows: Sequence[T], has_head: bool, has_rule: bool = False) -> list[str]:
    """Lines of fixed columns; with ``has_rule`` dashes under the headings, as sacct draws them."""
    cells = [[column.field.heading for column in columns]] if has_head else []
    if has_head and has_rule:
        cells.append(["-" * column.size for column in columns])
    cells += [[column.field.value(row) for column in columns] for row in rows]
    return ["".join(map(_cell, columns, line)).rstrip() for line in cells]


def _cell(column: _Column[T], text: str) -> str:
    size = column.size or width(text)
    if width(text) > size:
        text = fitted(text, size - len(column.mark)).rstrip() + column.mark
    blanks = " " * (size - width(text))
    return (blanks + text if column.is_right else text + blanks) + column.suffix


def parsable_lines(columns: Sequence[_Column[T]], rows: Sequence[T], has_head: bool, mark: str, at_end: bool) -> list[str]:
    """Lines with a mark between the values, and with ``at_end`` after the last."""
    lines = [[column.field.heading for column in columns]] if has_head else []
    lines += [[column.field.value(row) for column in columns] for row in rows]
    return [mark.join(line) + (mark if at_end else "") for line in lines]
