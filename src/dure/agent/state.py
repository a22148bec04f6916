"""What an agent must not forget: who it is, the highest fence of each job, and when the service last spoke."""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from dure.agent.contact import TTL_MS
from dure.agent.reconcile import Seen
from dure.agent.wire import LeaseOrder
from dure.model.errors import DureError

#: Fences of older jobs are dropped; the executor still knows their leases.
_JOBS_MAX = 200_000

_SCHEMA = """
create table if not exists agent (agent_id text not null);
create table if not exists seen (job_id text primary key, fence integer not null, lease_id text not null) without rowid;
create table if not exists abandoned (lease_id text primary key) without rowid;
create table if not exists contact (one integer primary key, boot text, last_boot_ms integer, ttl_ms integer);
"""


class StateUnwritableError(DureError):
    """Nothing could be written: the disk is full, or gone."""


class AgentState:
    """A small database in the agent's folder."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._db.execute("pragma journal_mode=wal")
        self._db.execute("pragma synchronous=full")
        self._db.executescript(_SCHEMA)
        self._db.execute("insert into agent select ? where not exists (select 1 from agent)", (str(uuid.uuid4()),))
        self._db.execute("delete from seen where fence <= (select fence from seen order by fence desc limit 1 offset ?)", (_JOBS_MAX,))
        (self.agent_id,) = self._db.execute("select agent_id from agent").fetchone()
        self.abandoned = {lease_id for (lease_id,) in self._db.execute("select lease_id from abandoned")}
        self.seen = {job: Seen(fence, lease) for job, fence, lease in self._db.execute("select * from seen")}

    def note_fences(self, leases: Iterable[LeaseOrder]) -> None:
        """Before they are launched: from now on nothing below their fences is. One fsync for all.

        Raises
        ------
        StateUnwritableError
            None of them is noted.
        """
        rows = [
            (lease.job_id, lease.fence, lease.lease_id)
            for lease in leases if self.seen.get(lease.job_id) != Seen(lease.fence, lease.lease_id)
        ]  # fmt: skip
        if not rows:
            return
        self._write("insert or replace into seen values (?, ?, ?)", rows)
        self.seen.update({job: Seen(fence, lease) for job, fence, lease in rows})

    def note_abandoned(self, leases: Collection[str]) -> None:
        """The agent stops them of its own accord: however they end, the service has lost them.

        Raises
        ------
        StateUnwritableError
            A next process of this agent will not know.
        """
        self.abandoned.update(leases)
        self._write("insert or ignore into abandoned values (?)", [(lease_id,) for lease_id in leases])

    def forget(self, leases: Collection[str]) -> None:
        """They are over, and the service knows.

        Raises
        ------
        StateUnwritableError
            They are remembered for longer than need be.
        """
        gone = self.abandoned & set(leases)
        if gone:
            self._write("delete from abandoned where lease_id = ?", [(lease_id,) for lease_id in gone])
            self.abandoned -= gone

    def note_contact(self, boot: str, last_boot_ms: int, ttl_ms: int) -> None:
        """The service has answered; a next process of this agent counts from there.

        Raises
        ------
        StateUnwritableError
            It is not noted.
        """
        self._write("insert or replace into contact values (1, ?, ?, ?)", [(boot, last_boot_ms, ttl_ms)])

    def last_contact(self, boot: str) -> tuple[int, int] | None:
        """(boot ms, ttl ms) of the last answer; None: none in this boot of the machine."""
        row = self._db.execute("select last_boot_ms, ttl_ms from contact where boot = ?", (boot,)).fetchone()
        return None if row is None else (row[0], row[1] or TTL_MS)

    def _write(self, sql: str, rows: Sequence[tuple[object, ...]]) -> None:
        try:
            self._db.execute("begin immediate")
            self._db.executemany(sql, rows)
            self._db.execute("commit")
        except sqlite3.Error as error:
            if self._db.in_transaction:
                self._db.execute("rollback")
            raise StateUnwritableError(f"the agent's state: {error}") from error

    def close(self) -> None:
        """Let go."""
        self._db.close()
