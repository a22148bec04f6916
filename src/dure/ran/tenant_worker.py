"""A greedy tenant: ``python -m dure.ran.tenant_worker FILE PROCESSES`` counts in FILE what each of its processes gets done, until it is ended."""

from __future__ import annotations

import mmap
import os
import sys
from pathlib import Path

_ROUND = 2_000


def rounds_done(path: Path) -> int:
    """What the tenant that counts there has done."""
    return sum(memoryview(path.read_bytes()).cast("q")) if path.exists() else 0


def main() -> None:
    """One process of it is this one, the others its children."""
    num = int(sys.argv[2])
    fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o600)
    os.ftruncate(fd, 8 * num)
    counts = memoryview(mmap.mmap(fd, 8 * num)).cast("q")
    own = next((number for number in range(1, num) if os.fork() == 0), 0)
    x = 1
    while True:
        for _ in range(_ROUND):
            x = (x * 6_364_136_223_846_793_005 + 1) & 0xFFFF_FFFF_FFFF_FFFF
        counts[own] += 1


if __name__ == "__main__":
    main()
