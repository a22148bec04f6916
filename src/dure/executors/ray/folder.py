"""The folders of attempts, on storage that this machine and the nodes share (`dure.executors.ray.runner` is the other side)."""

from __future__ import annotations

import shutil
from pathlib import Path

from dure.executors.far import RankEnd
from dure.executors.ray.runner import CLAIM, GONE, GPUS, RANK, REVOKED, claim
from dure.executors.shim import read_rank
from dure.executors.shim import revoke as revoke_rank


def begun_ms(folder: Path) -> int | None:
    """When the attempt began, epoch milliseconds of the storage; None: it has not."""
    path = folder / CLAIM
    try:
        found = path.stat().st_mtime_ns // 1_000_000
        return None if path.read_text() == REVOKED else found
    except FileNotFoundError:
        return None


def revoke(folder: Path) -> bool:
    """Make sure that an attempt which has not begun never will; False: it has begun.

    Raises
    ------
    OSError
        Neither is known.
    """
    return claim(folder, REVOKED) or (folder / CLAIM).read_text() == REVOKED


def revoke_ranks(folder: Path, world: int) -> None:
    """Make sure that no rank starts which has not."""
    for rank in range(world):
        revoke_rank(folder / RANK.format(rank))


def read_ends(folder: Path, world: int) -> dict[int, RankEnd]:
    """How the ranks have ended that have."""
    found: dict[int, RankEnd] = {}
    for rank in range(world):
        path = folder / RANK.format(rank)
        record = read_rank(path)
        if record is not None and record.exit_code is not None:
            found[rank] = RankEnd(record.exit_code, path.stat().st_mtime_ns)
    return found


def gpus_files(folder: Path, nodes: int) -> list[Path]:
    """Where each node says which GPUs Ray has given it."""
    return [folder / GPUS.format(place) for place in range(nodes)]


def gone(folder: Path, nodes: int) -> set[int]:
    """Places of the nodes on which nothing of the attempt is left."""
    return {place for place in range(nodes) if (folder / GONE.format(place)).exists()}


def remove(folder: Path) -> None:
    """Take away all of an attempt: without its folder, nobody can begin it."""
    shutil.rmtree(folder, ignore_errors=True)
