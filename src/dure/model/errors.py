"""Errors that a person can act on."""

from __future__ import annotations

from dataclasses import dataclass


class DureError(Exception):
    """Base of every error that Dure raises on purpose; the CLI prints it and exits with code 2."""


@dataclass(eq=False)
class InputError(DureError):
    """Bad input: says which file, which line and which field.

    Attributes
    ----------
    message : str
        What is wrong and what would be right.
    path : str
        File (or other source) as the user named it; empty where there is none.
    line : int
        1-based line of the file, 0 where unknown.
    field : str
        Column, key or dotted path of the value; empty where the whole file is meant.
    """

    message: str
    path: str = ""
    line: int = 0
    field: str = ""

    def __str__(self) -> str:
        """``path:line: field: message`` with the unknown parts left out."""
        place = self.path + (f":{self.line}" if self.line else "")
        return ": ".join(part for part in (place, self.field, self.message) if part)
