"""What a local executor must remember: every lease that it was ever told to launch, durably, before it launches it."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dure.model.errors import DureError

#: So many forgotten leases are remembered by name; older ones by one number, the highest fence among them.
_REMEMBERED = 200_000

_SCHEMA = """
create table if not exists lease (
    lease_id text primary key, fence integer not null, intent text, stop text
) without rowid;
create index if not exists live on lease (lease_id) where intent is not null;
create table if not exists floor (fence integer not null);
"""


_LIVE = "select lease_id, intent, stop from lease where intent is not null order by fence"


class BookUnwritableError(DureError):
    """Nothing could be written: the disk is full, or gone."""


@dataclass
class _Write:
    sql: str
    values: tuple[Any, ...]
    done: asyncio.Future[bool]


def read_live(path: Path) -> list[tuple[str, str, str | None]]:
    """`LeaseBook.live` for a process that has not got the book: nothing is written. Empty where there is none yet."""
    try:
        with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as db:
            return list(db.execute(_LIVE))
    except sqlite3.OperationalError:
        return []


class LeaseBook:
    """Writes of one moment share one transaction, and one fsync; each is durable when its call returns."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._db.execute("pragma journal_mode=wal")
        self._db.execute("pragma synchronous=full")
        self._db.executescript(_SCHEMA)
        self._thread = ThreadPoolExecutor(1, "lease-book")
        self._waiting: list[_Write] = []
        self._writer: asyncio.Task[None] | None = None
        self._prune()

    def _prune(self) -> None:
        (floor,) = self._db.execute(
            "select coalesce(max(fence), -1) from (select fence from lease where intent is null "
            "order by fence desc limit -1 offset ?)", (_REMEMBERED,),
        ).fetchone()  # fmt: skip
        self._db.execute("begin")
        self._db.execute("delete from lease where intent is null and fence <= ?", (floor,))
        self._db.execute("insert into floor select ? where ? > coalesce((select max(fence) from floor), -1)", (floor, floor))
        self._db.execute("commit")
        (self.floor,) = self._db.execute("select coalesce(max(fence), -1) from floor").fetchone()

    def live(self) -> Iterator[tuple[str, str, str | None]]:
        """(lease id, intent, stop order) of each lease not forgotten."""
        yield from self._db.execute(_LIVE)

    async def intend(self, lease_id: str, fence: int, intent: str) -> bool:
        """Write down that a lease is about to be launched; False: it has been, or is older than all that are remembered.

        Raises
        ------
        BookUnwritableError
            It is not written.
        """
        if fence <= self.floor:
            return False
        return await self._write(
            "insert or ignore into lease (lease_id, fence, intent) values (?, ?, ?)", (lease_id, fence, intent)
        )

    async def order_stop(self, lease_id: str, order: str) -> None:
        """Remember that an attempt has been told to leave, and by when."""
        await self._write("update lease set stop = ? where lease_id = ?", (order, lease_id))

    async def forget(self, lease_id: str) -> None:
        """Keep nothing but the name."""
        await self._write("update lease set intent = null, stop = null where lease_id = ?", (lease_id,))

    async def _write(self, sql: str, values: tuple[Any, ...]) -> bool:
        write = _Write(sql, values, asyncio.get_running_loop().create_future())
        self._waiting.append(write)
        if self._writer is None:
            self._writer = asyncio.create_task(self._write_all())
        return await write.done

    async def _write_all(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            batch, self._waiting = self._waiting, []
            try:
                changed = await loop.run_in_executor(self._thread, self._commit, batch)
            except sqlite3.Error as error:
                for write in batch:
                    if not write.done.done():
                        write.done.set_exception(BookUnwritableError(f"the executor's book: {error}"))
            else:
                for write, is_changed in zip(batch, changed, strict=True):
                    if not write.done.done():
                        write.done.set_result(is_changed)
        self._writer = None

    def _commit(self, batch: list[_Write]) -> list[bool]:
        self._db.execute("begin immediate")
        try:
            changed = [self._db.execute(write.sql, write.values).rowcount > 0 for write in batch]
            self._db.execute("commit")
        except sqlite3.Error:
            if self._db.in_transaction:
                self._db.execute("rollback")
            raise
        return changed

    async def close(self) -> None:
        """Finish what is being written."""
        if self._writer is not None:
            await self._writer
        self._thread.shutdown()
        self._db.close()
