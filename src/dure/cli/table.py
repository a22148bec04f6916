"""Tables of text for a terminal, where a Korean character is two columns wide."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from datetime import datetime

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
            return cell.astimezone().strftime("%m-%d %H:%M:%S")
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
