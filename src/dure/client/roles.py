"""Runs a rank's own command in a job of unlike processes: ``python -m dure.client.roles COMMAND…``.

The agent puts this before the command of a job with `roles`. The last ranks are the roles', in the order of the file; all before them run the job's own
command.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

#: What the agent says: the roles as the job file has them (JSON).
ROLES = "DURE_ROLES"
#: Of ranks that have no other.
MAIN = "main"


@dataclass(frozen=True)
class Part:
    """What a rank is: ``rank`` of ``size`` in its role."""

    role: str
    rank: int
    size: int
    command: tuple[str, ...]
    env: dict[str, str]


def part_of(rank: int, world_size: int, command: Sequence[str], roles: Sequence[dict[str, Any]]) -> Part:
    """The part of a rank.

    Raises
    ------
    ValueError
        The roles leave no rank for the job's own command.
    """
    first = world_size - sum(role["tasks"] for role in roles)
    if first < 1:
        raise ValueError(f"roles of {world_size - first} tasks leave none of {world_size} for the command")
    if rank < first:
        return Part(MAIN, rank, first, tuple(command), {})
    for role in roles:
        if rank < first + role["tasks"]:
            break
        first += role["tasks"]
    return Part(role["name"], rank - first, role["tasks"], tuple(role["command"]), dict(role["env"]))


def main(command: list[str]) -> int:
    """Become the part's command; an exit code only where that cannot be."""
    roles = json.loads(os.environ[ROLES])
    try:
        part = part_of(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), command, roles)
    except ValueError as error:
        print(f"dure: {error}", file=sys.stderr)
        return 2
    os.environ |= part.env | {"DURE_ROLE": part.role, "DURE_ROLE_RANK": str(part.rank), "DURE_ROLE_SIZE": str(part.size)}
    try:
        os.execvp(part.command[0], part.command)
    except OSError as error:
        print(f"dure: {part.command[0]}: {error.strerror}", file=sys.stderr)
        return 127 if isinstance(error, FileNotFoundError) else 126


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
