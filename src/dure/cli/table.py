"""Tables of text for a terminal, where a Korean character is two columns wide."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from datetime import datetime
from typing import Any

#: A cell: text, or a number (set to the right).
Cell = str | int | float | None


def width(text: str) -> int:
    """Columns that a text takes on a terminal."""
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text
    )


def fitted(text: str, columns: int) -> str:
    """As much of a text as fits, and blanks up to ``columns``."""
    while width(text) > columns:
        text = text[:-1]
    return text + " " * (columns - width(text))


def shown(cell: Cell | datetime) -> str:
    """A value as a person reads it: thousands apart, at most one decimal, local time, ``-`` where there is none."""
    match cell:
        case None | "":
            return "-"
        case bool():
            return "yes" if cell else "no"
        case float():
            return f"{cell:,.0f}" if cell == int(cell) else f"{cell:,.1f}"
        case int():
            return f"{cell:,}"
        case datetime():
            local = cell.astimezone()
            return local.strftime("%m-%d %H:%M:%S" if local.year == datetime.now().year else "%Y-%m-%d %H:%M")
        case _:
            return " ".join("".join(char if char.isprintable() else " " for char in cell).split())


def table(headers: Sequence[str], rows: Sequence[Sequence[Cell | datetime]]) -> list[str]:
    """Lines of a table: numbers to the right, everything else to the left, two blanks between the columns."""
    cells = [[shown(cell) for cell in row] for row in rows]
    columns = [max(width(line[i]) for line in [list(headers), *cells]) for i in range(len(headers))]
    is_right = [bool(rows) and all(isinstance(row[i], int | float | None) for row in rows) for i in range(len(headers))]
    return [
        "  ".join(
            " " * (columns[i] - width(cell)) + cell if is_right[i] else fitted(cell, columns[i])
            for i, cell in enumerate(line)
        ).rstrip()
        for line in [list(headers), *cells]
    ]


def said(value: Any) -> str:
    """A JSON value in words: its message where it has one, who has how many GPUs, otherwise its keys and values."""
    match value:
        case None | "" | [] | ():
            return ""
        case {"message": str(message), **rest}:
            pool = str(rest.get("pool") or "")
            return message if pool in message else f"{pool}: {message}"
        case {"member": str(member), "gpus": gpus, **rest}:
            borrowed = rest.get("borrowed_gpus")
            return f"{member} {said(gpus)}" + (f" ({said(borrowed)} borrowed)" if borrowed else "")
        case dict():
            parts = ((key, part / 1000) if key.endswith("_milli") else (key, part) for key, part in value.items())
            return ", ".join(f"{key.removesuffix('_milli')} {said(part)}" for key, part in parts if part not in (None, ""))
        case list() | tuple():
            return "; ".join(said(part) for part in value)
        case int() | float():
            return shown(value)
        case _:
            return str(value)
