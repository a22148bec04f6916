"""Event log and read models in one database: a step and all that follows from it are written in one transaction."""

from __future__ import annotations

import fcntl
import hashlib
import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

from alembic import command
from alembic.config import Config
from alembic.util.exc import CommandError
from sqlalchemy import (
    Connection,
    Engine,
    Table,
    and_,
    bindparam,
    create_engine,
    delete,
    event,
    func,
    insert,
    or_,
    select,
    text,
    update,
)
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError

from dure.model.errors import DureError
from dure.model.events import Step, effect_from_json, stimulus_from_json, to_json
from dure.ports.event_log import LogConflictError, LogUnwritableError
from dure.store import tables

#: Key of PostgreSQL's advisory lock: "dure".
LEADER_LOCK = 0x64757265
#: So often a leader gives a sign of life on its connection, and after so long without one it is taken to hang.
PULSE_S, HUNG_S = 1.0, 15.0
#: The connection of a leader that has given no sign of life is ended; the lock goes with it, and so does its right to write.
_END_HUNG = """
SELECT pg_terminate_backend(a.pid) FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
WHERE l.locktype = 'advisory' AND l.granted AND l.classid = 0 AND l.objid = :key AND l.objsubid = 1
AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
AND a.state LIKE 'idle%' AND clock_timestamp() - a.state_change > make_interval(secs => :hung_s)
"""
#: Rows of one page at most.
PAGE_MAX = 1000
#: Key of each read model.
_KEYS = {"job": "job_id", "attempt": "lease_id", "token": "token_id", "project": "project", "agent": "site"}
#: Size of a trial of whether there is room.
PROBE_CHARS = 4096


class StoreError(DureError):
    """The database cannot be opened or read."""


@dataclass
class Changes:
    """What a step changes in the read models.

    New rows are whole; changed ones are a key and the columns that change. Rows of one table are written in order.
    """

    new: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    changed: dict[str, list[tuple[str, dict[str, Any]]]] = field(default_factory=dict)

    def add(self, table: str, row: dict[str, Any]) -> None:
        """A new row."""
        self.new.setdefault(table, []).append(row)

    def change(self, table: str, key: str, **columns: Any) -> None:
        """Other values in a row that exists, or that is new in these same changes."""
        self.changed.setdefault(table, []).append((key, columns))


    def is_empty(self) -> bool:
        """Whether nothing changes."""
        return not self.new and not self.changed

    def extend(self, other: Changes) -> None:
        """All of another's changes, after these."""
        for table, rows in other.new.items():
            self.new.setdefault(table, []).extend(rows)
        for table, found in other.changed.items():
            self.changed.setdefault(table, []).extend(found)


@dataclass(frozen=True)
class Entry:
    """A sealed step and the text that its hash seals."""

    step: Step
    body: str


def sealed(step: Step) -> Entry:
    """The step with its hash."""
    body = body_of(step)
    return Entry(replace(step, hash=seal(step.seq, step.prev_hash, body)), body)


def canonical(value: Any) -> str:
    """The one JSON text of a value."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def body_of(step: Step) -> str:
    """What the hash seals beside the step's place: moment, actor, stimuli, effects, facts."""
    return canonical(
        {
            "at_ms": step.at_ms, "actor": step.actor, "stimuli": [to_json(s) for s in step.stimuli],
            "effects": [to_json(e) for e in step.effects], "facts": list(step.facts),
        }
    )  # fmt: skip


def seal(seq: int, prev_hash: str, body: str) -> str:
    """Hash of an entry: SHA-256 over its place, the entry before it and its body."""
    return hashlib.sha256(f"{seq}\n{prev_hash}\n{body}".encode()).hexdigest()


class Store:
    """The database of one alliance; implements `ports.event_log.EventLog`.

    Parameters
    ----------
    url : str
        SQLAlchemy's: ``sqlite:////path/dure.db`` or ``postgresql+psycopg://…``.
    hung_s : float
        On PostgreSQL: the lead is taken from a leader that has given no sign of life for so long.
    """

    def __init__(self, url: str, hung_s: float = HUNG_S) -> None:
        self.url, self._hung_s = url, hung_s
        self.is_sqlite = url.startswith("sqlite")
        self._engine: Engine | None = None
        self._lock: IO[str] | None = None
        self._lead: Connection | None = None
        self._leading = threading.RLock()

    # --- life

    def open(self) -> None:
        """Connect and bring the tables to this version; nothing happens where that was done.

        Raises
        ------
        StoreError
            The database cannot be reached or is of a later version.
        """
        if self._engine is not None:
            return
        options: dict[str, Any] = {"pool_pre_ping": True}
        if self.is_sqlite:
            options = {"connect_args": {"timeout": 30, "check_same_thread": False}}
        try:
            engine = create_engine(self.url, **options)
        except (SQLAlchemyError, ImportError) as error:
            raise StoreError(f"the database cannot be opened: {_said(error)}") from None
        if self.is_sqlite:
            event.listen(engine, "connect", _tune_sqlite)
        try:
            config = Config()
            config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
            with self._alone(engine) as connection:
                config.attributes["connection"] = connection
                command.upgrade(config, "head")
        except (SQLAlchemyError, CommandError, OSError) as error:
            engine.dispose()
            raise StoreError(f"the database cannot be opened: {_said(error)}") from None
        self._engine = engine

    @contextmanager
    def _alone(self, engine: Engine) -> Iterator[Connection]:
        """A transaction beside which no other service makes tables."""
        if not self.is_sqlite:
            with engine.begin() as connection:
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": LEADER_LOCK + 1})
                yield connection
            return
        with Path(f"{engine.url.database}.migrating").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            with engine.begin() as connection:
                yield connection

    def close(self) -> None:
        """Give the lead and the connections back."""
        self.resign()
        if self._engine is not None:
            self._engine.dispose()
            self._engine = None

    @property
    def engine(self) -> Engine:
        """The open database."""
        assert self._engine is not None, "the store is not open"
        return self._engine

    def lead(self) -> bool:
        """Try to become the one writer; True: this store is, or still is. Ends with the process or its connection.

        What was known of the log before a lead was lost need not hold after it was taken again; see `still_leads`.
        """
        with self._leading:
            if self.is_sqlite:
                return self._lead_file()
            if self.still_leads():
                return True
            try:
                self._lead = self._lead_connection()
            except DBAPIError:
                return False
            if self._lead is not None:
                threading.Thread(target=self._pulse, args=(self._lead,), name="dure-pulse", daemon=True).start()
            return self._lead is not None

    def still_leads(self) -> bool:
        """Whether this store has led without a break since it began to; a lead that was lost is given up, not taken again."""
        with self._leading:
            if self._lead is not None:
                try:
                    self._lead.scalar(text("SELECT 1"))
                    self._lead.commit()
                except DBAPIError:
                    self.resign()
            return self._lead is not None or self._lock is not None

    def _pulse(self, lead: Connection) -> None:
        """Signs of life while this store leads through a connection, also while its service is busy with other things."""
        while True:
            time.sleep(PULSE_S)
            with self._leading:
                if self._lead is not lead or not self.still_leads():
                    return

    def _lead_file(self) -> bool:
        if self._lock is None:
            lock = Path(f"{self.engine.url.database}.leader").open("w")  # noqa: SIM115  # held while this store leads
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                lock.close()
                return False
            self._lock = lock
        return True

    def _lead_connection(self) -> Connection | None:
        """A connection of its own that has the lock: whatever is written, is written through it."""
        connection = self.engine.connect()
        connection.detach()
        try:
            for name, value in (("idle", 5), ("interval", 5), ("count", 3)):
                connection.execute(text(f"SET tcp_keepalives_{name} = {value}"))
            found = connection.scalar(text("SELECT pg_try_advisory_lock(:key)"), {"key": LEADER_LOCK})
            connection.commit()
            if not found:
                connection.execute(text(_END_HUNG), {"key": LEADER_LOCK, "hung_s": self._hung_s})
                connection.commit()
        except DBAPIError:
            connection.close()
            raise
        if found:
            return connection
        connection.close()
        return None

    def resign(self) -> None:
        """Give the lead back."""
        with self._leading:
            if self._lead is not None:
                with suppress(DBAPIError):
                    self._lead.close()
                self._lead = None
            if self._lock is not None:
                self._lock.close()
                self._lock = None

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        try:
            with self.engine.connect() as connection:
                yield connection
        except DBAPIError as error:
            raise StoreError(f"the database cannot be read: {_said(error)}") from None

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        """A transaction of the leader's."""
        with self._leading:
            if self.is_sqlite:
                if self._lock is None:
                    raise LogConflictError("this store does not lead")
                with self.engine.begin() as connection:
                    yield connection
                return
            if self._lead is None:
                raise LogConflictError("this store does not lead")
            try:
                with self._lead.begin():
                    yield self._lead
            except DBAPIError as error:
                if error.connection_invalidated:
                    self.resign()
                raise

    # --- log

    def document(self) -> dict[str, Any] | None:
        """What the log began with."""
        with self._reading() as connection:
            found = connection.scalar(select(tables.fact.c.value).where(tables.fact.c.key == "document"))
        return None if found is None else json.loads(found)

    def note_leader(self, url: str) -> None:
        """Let others know where this store's service is, which leads.

        Raises
        ------
        LogConflictError, LogUnwritableError
            As of `append_all`.
        """
        self._note("leader", url)

    def leader(self) -> str:
        """Where the service is that has led last; empty: not known."""
        with self._reading() as connection:
            return connection.scalar(select(tables.fact.c.value).where(tables.fact.c.key == "leader")) or ""

    def begin(self, document: dict[str, Any]) -> None:
        """Write what the log begins with, once.

        Raises
        ------
        LogConflictError
            It has begun.
        """
        try:
            with self.engine.begin() as connection:
                connection.execute(insert(tables.fact).values(key="document", value=canonical(document)))
        except IntegrityError:
            raise LogConflictError("the log has begun already") from None

    def last(self) -> tuple[int, str, int]:
        """(seq, hash, at_ms) of the last step; the document's hash and 0 of an empty log."""
        with self._reading() as connection:
            row = connection.execute(
                select(tables.event.c.seq, tables.event.c.hash, tables.event.c.at_ms)
                .order_by(tables.event.c.seq.desc()).limit(1)
            ).first()  # fmt: skip
            if row is not None:
                return int(row.seq), str(row.hash), int(row.at_ms)
            found = connection.scalar(select(tables.fact.c.value).where(tables.fact.c.key == "document"))
        return 0, hashlib.sha256((found or "").encode()).hexdigest(), 0

    def has(self, step: Step) -> bool:
        """Whether the log has that very step."""
        with self._reading() as connection:
            found = connection.scalar(select(tables.event.c.hash).where(tables.event.c.seq == step.seq))
        return found is not None and found == step.hash

    def append(self, step: Step) -> None:
        """Write a sealed step, or nothing; see `append_all`."""
        self.append_all([Entry(step, body_of(step))], Changes())

    def append_all(self, entries: Sequence[Entry], changes: Changes) -> None:
        """Write steps, in order, with what they change, in one transaction.

        Raises
        ------
        LogConflictError
            This store does not lead, or another writer was there first.
        LogUnwritableError
            The database refused (a full disk, a lost connection).
        """
        rows = [
            {"seq": e.step.seq, "at_ms": e.step.at_ms, "actor": e.step.actor, "body": e.body, "prev_hash": e.step.prev_hash, "hash": e.step.hash}
            for e in entries
        ]  # fmt: skip
        try:
            with self._writing() as connection:
                if rows:
                    self._expect(connection, entries[0].step)
                    connection.execute(insert(tables.event), rows)
                self._write(connection, changes)
        except IntegrityError as error:
            raise LogConflictError(f"another service has written: {_said(error)}") from None
        except DBAPIError as error:
            raise LogUnwritableError(f"the log cannot be written: {_said(error)}") from None

    @staticmethod
    def _expect(connection: Connection, step: Step) -> None:
        """Raise LogConflictError unless the step follows the last one."""
        newest = select(tables.event.c.seq, tables.event.c.hash).order_by(tables.event.c.seq.desc()).limit(1)
        row = connection.execute(newest).first()
        if row is None:
            begun = connection.scalar(select(tables.fact.c.value).where(tables.fact.c.key == "document"))
            last, last_hash = 0, hashlib.sha256((begun or "").encode()).hexdigest()
        else:
            last, last_hash = int(row.seq), str(row.hash)
        if (last + 1, last_hash) != (step.seq, step.prev_hash):
            raise LogConflictError(f"step {step.seq} does not follow step {last}")

    def probe(self) -> None:
        """Write a little, to learn whether it can be done.

        Raises
        ------
        LogConflictError, LogUnwritableError
            As of `append_all`.
        """
        self._note("probe", "." * PROBE_CHARS)

    def _note(self, key: str, value: str) -> None:
        try:
            with self._writing() as connection:
                connection.execute(delete(tables.fact).where(tables.fact.c.key == key))
                connection.execute(insert(tables.fact).values(key=key, value=value))
        except DBAPIError as error:
            raise LogUnwritableError(f"the log cannot be written: {_said(error)}") from None

    def _write(self, connection: Connection, changes: Changes) -> None:
        for name, rows in changes.new.items():
            if rows:
                connection.execute(insert(_table(name)), rows)
        for name, found in changes.changed.items():
            table, key = _table(name), _KEYS[name]
            merged: dict[str, dict[str, Any]] = {}
            for value, columns in found:
                merged.setdefault(value, {}).update(columns)
            alike: dict[tuple[str, ...], list[dict[str, Any]]] = {}
            for value, columns in merged.items():
                alike.setdefault(tuple(columns), []).append({"the_key": value, **columns})
            for names, rows in alike.items():
                statement = update(table).where(table.c[key] == bindparam("the_key"))
                connection.execute(statement.values({n: bindparam(n) for n in names}), rows)

    def read(self, after_seq: int = 0) -> Iterator[Step]:
        """The steps after one, in order, each as it was written."""
        for row in self.entries(after_seq):
            body = json.loads(row["body"])
            yield Step(
                row["seq"], body["at_ms"], body["actor"], tuple(stimulus_from_json(s) for s in body["stimuli"]),
                tuple(effect_from_json(e) for e in body["effects"]), tuple(body["facts"]), row["prev_hash"], row["hash"],
            )  # fmt: skip

    def entries(self, after_seq: int = 0, limit: int | None = None) -> Iterator[dict[str, Any]]:
        """The raw rows of the log after one, in order."""
        with self._reading() as connection:
            while True:
                page = PAGE_MAX if limit is None else min(limit, PAGE_MAX)
                rows = connection.execute(
                    select(tables.event).where(tables.event.c.seq > after_seq).order_by(tables.event.c.seq).limit(page)
                ).mappings().all()  # fmt: skip
                for row in rows:
                    yield dict(row)
                if len(rows) < page or (limit is not None and limit <= page):
                    return
                after_seq = int(rows[-1]["seq"])
                limit = None if limit is None else limit - len(rows)

    # --- snapshots

    def keep_snapshot(self, seq: int, log_hash: str, body: bytes) -> None:
        """Keep the state after a step, and none before it.

        Raises
        ------
        LogConflictError, LogUnwritableError
            As of `append_all`; also where the log has not that step.
        """
        row = {"seq": seq, "hash": log_hash, "digest": _digest(seq, log_hash, body), "body": body}
        try:
            with self._writing() as connection:
                if connection.scalar(select(tables.event.c.hash).where(tables.event.c.seq == seq)) != log_hash:
                    raise LogConflictError(f"step {seq} is another one in the log")
                connection.execute(delete(tables.snapshot))
                connection.execute(insert(tables.snapshot).values(row))
        except DBAPIError as error:
            raise LogUnwritableError(f"the snapshot cannot be written: {_said(error)}") from None

    def snapshot(self) -> tuple[int, bytes] | None:
        """(seq, state after it) of the last snapshot that is whole and of this log; None: there is none."""
        s, e = tables.snapshot.c, tables.event.c
        query = select(tables.snapshot).join(tables.event, and_(e.seq == s.seq, e.hash == s.hash)).order_by(s.seq.desc()).limit(1)
        with self._reading() as connection:
            row = connection.execute(query).first()
        if row is None or _digest(row.seq, row.hash, row.body) != row.digest:
            return None
        return int(row.seq), bytes(row.body)

    # --- read models

    def rows(self, name: str, *, limit: int = PAGE_MAX, descending: bool = False, after: str | None = None,
             where: Mapping[str, Any] | None = None, containing: tuple[Sequence[str], str] | None = None) -> list[dict[str, Any]]:  # fmt: skip
        """Rows of a read model by equal columns (a list: any of them), in order of its key.

        `containing`: columns of which one must contain the text, in whatever case.
        """
        table = _table(name)
        key = table.c[_KEYS[name]]
        query = select(table).where(*self._conditions(table, where or {}))
        if containing is not None:
            columns, part = containing
            query = query.where(or_(*(table.c[name].icontains(part, autoescape=True) for name in columns)))
        if after is not None:
            query = query.where(key < after if descending else key > after)
        query = query.order_by(key.desc() if descending else key).limit(limit)
        with self._reading() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    def row(self, name: str, key: str) -> dict[str, Any] | None:
        """One row of a read model, or None."""
        found = self.rows(name, limit=1, where={_KEYS[name]: key})
        return found[0] if found else None

    def _conditions(self, table: Table, where: Mapping[str, Any]) -> list[Any]:
        out = []
        for column, value in where.items():
            is_many = isinstance(value, list | tuple | set)
            out.append(table.c[column].in_(list(value)) if is_many else table.c[column] == value)
        return out

    def count(self, name: str, where: Mapping[str, Any] | None = None) -> int:
        """How many rows of a read model."""
        table = _table(name)
        with self._reading() as connection:
            return int(connection.scalar(select(func.count()).select_from(table).where(*self._conditions(table, where or {}))) or 0)

    def ended_between(self, from_ms: int, to_ms: int) -> list[dict[str, Any]]:
        """Attempts of which a part lies in [from_ms, to_ms), those still open too."""
        a = tables.attempt.c
        query = select(tables.attempt).where(
            and_(a.leased_ms < to_ms, (a.ended_ms.is_(None)) | (a.ended_ms >= from_ms))
        ).order_by(a.lease_id)  # fmt: skip
        with self._reading() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]


def _digest(seq: int, log_hash: str, body: bytes) -> str:
    return hashlib.sha256(f"{seq}\n{log_hash}\n".encode() + body).hexdigest()


def _table(name: str) -> Table:
    return tables.metadata.tables[name]


def _said(error: BaseException) -> str:
    """The database's own words, on one line."""
    return " ".join(str(getattr(error, "orig", None) or error).split())[:300]


def _tune_sqlite(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=30000", "mmap_size=268435456"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def check_chain(
    entries: Iterator[dict[str, Any]], first_hash: str, first_seq: int = 0
) -> Iterator[tuple[dict[str, Any], int, Sequence[str]]]:
    """Each entry with its place and what is wrong with its seal: nothing, or why. First: of the entry before them."""
    before, seq = first_hash, first_seq
    for row in entries:
        seq += 1
        wrong = []
        if row["seq"] != seq:
            wrong.append(f"entry {seq} is missing")
            seq = row["seq"]
        if row["prev_hash"] != before:
            wrong.append("does not follow the entry before it")
        if seal(row["seq"], row["prev_hash"], row["body"]) != row["hash"]:
            wrong.append("its body was changed")
        before = row["hash"]
        yield row, seq, wrong
