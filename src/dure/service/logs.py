"""Jobs' output as files: one a rank of a lease, appended by offset so that what comes twice does no harm."""

from __future__ import annotations

import fcntl
import os
import re
from pathlib import Path

from dure.service.errors import Problem

_LEASE = re.compile(r"[0-9a-z_]{1,70}\.[0-9]{1,9}")
#: Largest log of one rank; what is beyond is dropped, and its last line says so.
LOG_MAX = 1 << 30
_CUT = b"\ndure: the rest of this output was dropped: longer than a log may be\n"


class LogFiles:
    """The folder of logs; several services may share it."""

    def __init__(self, root: Path, max_bytes: int = LOG_MAX) -> None:
        self._root, self._max_bytes = root, max_bytes

    def _path(self, lease_id: str, rank: int) -> Path:
        if not _LEASE.fullmatch(lease_id):
            raise Problem(404, "Not found", "no such lease")
        return self._root / lease_id / f"{rank}.log"

    def size(self, lease_id: str, rank: int) -> int:
        """Bytes that are kept."""
        path = self._path(lease_id, rank)
        return path.stat().st_size if path.is_file() else 0

    def append(self, lease_id: str, rank: int, offset: int, data: bytes) -> int:
        """Keep bytes that begin at an offset of the rank's output; the offset at which to go on.

        Raises
        ------
        Problem
            409: bytes before the offset are missing; 507: the disk is full.
        """
        path = self._path(lease_id, rank)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab") as file:
                # The same piece may come twice at one moment, also through two services.
                fcntl.flock(file, fcntl.LOCK_EX)
                have = file.seek(0, os.SEEK_END)
                if have >= self._max_bytes:
                    return offset + len(data)
                if offset > have:
                    raise Problem(
                        409, "Conflict", f"{have} bytes are here, not {offset}", headers={"Dure-Next-Offset": str(have)}
                    )
                new = data[have - offset :]
                file.write(new[: self._max_bytes - have])
                if have + len(new) > self._max_bytes:
                    file.write(_CUT)
                return max(have, offset + len(data))
        except OSError as error:
            raise Problem(507, "Insufficient storage", f"the log cannot be kept: {error.strerror}") from None

    def read(self, lease_id: str, rank: int, offset: int, most: int = 1 << 20) -> bytes:
        """Bytes from an offset, as many as there are, up to `most`."""
        path = self._path(lease_id, rank)
        if not path.is_file():
            return b""
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(most)

    def ranks(self, lease_id: str) -> list[int]:
        """Ranks of which there is a log."""
        folder = self._path(lease_id, 0).parent
        return sorted(int(p.stem) for p in folder.glob("*.log")) if folder.is_dir() else []
