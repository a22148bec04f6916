"""The folders of attempts, on storage that this machine and the nodes share.

Claims are all in one folder, so that one listing shows what has begun.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path

from dure.executors import far_folder
from dure.executors.far import RankEnd
from dure.executors.process import signal_number
from dure.executors.slurm import script
from dure.ports.executor import Launch

_REVOKED = "revoked"


def write(folder: Path, launch: Launch, addresses: Mapping[str, str], log_max_bytes: int) -> None:
    """Make it, with the scripts of the attempt, and the folders of its logs and checkpoints.

    Raises
    ------
    OSError
        It cannot be made.
    """
    far_folder.make(folder, launch)
    (folder / "attempt.sh").write_text(script.attempt_script(launch, folder, addresses, log_max_bytes))


def claim_of(folder: Path) -> Path:
    """The folder that whoever makes it has claimed an attempt by."""
    return folder.parent.parent / script.CLAIMS / folder.name


def begun(root: Path, names: Collection[str]) -> dict[str, int]:
    """Of some attempts' folders those that a batch script has claimed, and when: epoch milliseconds of the storage."""
    found: dict[str, int] = {}
    with os.scandir(root / script.CLAIMS) as entries:
        for entry in entries:
            if entry.name in names and not (Path(entry.path) / _REVOKED).exists():
                found[entry.name] = entry.stat().st_mtime_ns // 1_000_000
    return found


def revoke(folder: Path) -> bool:
    """Make sure that an attempt which has not begun never will; False: it has begun.

    Raises
    ------
    OSError
        Neither is known.
    """
    claim = claim_of(folder)
    try:
        claim.mkdir()
    except FileExistsError:
        return (claim / _REVOKED).exists()
    (claim / _REVOKED).touch()
    return True


def has_begun_again(folder: Path) -> bool:
    """Whether Slurm has started the batch script a second time, which it does when it has given up the first."""
    return (claim_of(folder) / script.AGAIN).exists()


def remove(folder: Path) -> None:
    """Take away all of an attempt; the claim last: without the scripts it is worth nothing."""
    for path in (folder, claim_of(folder)):
        shutil.rmtree(path, ignore_errors=True)


def note_stop(folder: Path, signal: str) -> None:
    """Let tasks that have not started yet end as if by a signal."""
    with contextlib.suppress(OSError):
        (folder / script.STOP).write_text(f"{128 + signal_number(signal)}\n")


def has_heard(folder: Path, signal: str) -> bool:
    """Whether a signal has come to the tasks."""
    return (folder / f"{script.HEARD}{signal}").exists()


def read_ends(folder: Path) -> dict[int, RankEnd]:
    """How the ranks have ended that have."""
    found: dict[int, RankEnd] = {}
    try:
        names = os.listdir(folder)  # noqa: PTH208 - a Path for each of many files is slow
    except FileNotFoundError:
        return found
    for name in names:
        rank, _, kind = name.partition(".")
        if kind == "exit":
            path = folder / name
            text = path.read_text()
            if text.endswith("\n"):
                found[int(rank)] = RankEnd(int(text), path.stat().st_mtime_ns)
    return found


def gpus_files(folder: Path, num_nodes: int) -> list[Path]:
    """Where each node says which GPUs Slurm has given it."""
    return [folder / f"{node}.{script.GPUS}" for node in range(num_nodes)]
