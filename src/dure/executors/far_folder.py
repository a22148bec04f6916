"""What is alike in the folders of attempts that run on other machines, on storage that this machine and those share."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from dure.ports.executor import Launch


def make(folder: Path, launch: Launch) -> None:
    """Make an attempt's folder, with its setup, and the folders of its logs and checkpoints.

    Raises
    ------
    OSError
        They cannot be made.
    """
    for path in (launch.log_dir, launch.checkpoint_dir, folder):
        Path(path).mkdir(parents=True, exist_ok=True)
    if launch.setup:
        (folder / "setup.sh").write_text(launch.setup)


def read_gpus(paths: Iterable[Path]) -> tuple[tuple[int, ...], ...] | None:
    """The GPUs that an engine has given on each node, by a file of each; None: not all have said it yet, or they have
    names and no numbers.
    """
    found = []
    for path in paths:
        try:
            text = path.read_text()
        except FileNotFoundError:
            return None
        names = text.removesuffix("\n").split(",") if len(text) > 1 else []
        if not text.endswith("\n") or not all(name.isdecimal() for name in names):
            return None
        found.append(tuple(map(int, names)))
    return tuple(found)
