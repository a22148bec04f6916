"""Files shipped with Dure: the reference alliance, a small one, and scenarios on them."""

from __future__ import annotations

from pathlib import Path

from dure.model.errors import InputError
from dure.model.yaml_file import nearest

#: Before the name of a shipped file where a command wants a path.
EXAMPLE = "example:"


def example_names() -> list[str]:
    """Names of the shipped files without ``.yaml``, ascending."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.yaml"))


def example_path(name: str) -> Path:
    """Path of a shipped file.

    Parameters
    ----------
    name : str
        With or without ``.yaml``: ``alliance``, ``village.yaml``…

    Raises
    ------
    InputError
        No such example.
    """
    stem = name.removesuffix(".yaml")
    if stem not in example_names():
        raise InputError(f"unknown example{nearest(stem, example_names())}", name)
    return Path(__file__).parent / f"{stem}.yaml"
