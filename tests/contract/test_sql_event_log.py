"""The event log in SQLite and in a real PostgreSQL."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest
from sqlalchemy import event
from tests.contract.event_log_contract import EventLogContract

from dure.model.events import Step, Tick
from dure.ports.event_log import LogConflictError, LogUnwritableError
from dure.store.store import Store, StoreError, sealed


def holder_of_lead(url: str) -> subprocess.Popen[str]:
    """Another process that leads."""
    script = textwrap.dedent(
        """
        import sys, time
        from dure.store.store import Store
        store = Store(sys.argv[1])
        store.open()
        print(store.lead(), flush=True)
        time.sleep(60)
        """
    )
    process = subprocess.Popen([sys.executable, "-c", script, url], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "True\n"
    return process


class TestSqlite(EventLogContract):
    @pytest.fixture(autouse=True)
    def _database(self, tmp_path):
        self.url = f"sqlite:///{tmp_path / 'dure.db'}"
        self.pages = None

    def make(self) -> Store:
        return Store(self.url)

    def refuse(self, store: Store) -> None:
        with store.engine.connect() as connection:
            pages = connection.exec_driver_sql("PRAGMA page_count").scalar()

        @event.listens_for(store.engine, "checkout")
        def bound(raw, *_):
            raw.execute(f"PRAGMA max_page_count = {pages + 4 if self.pages is None else self.pages}")

    def allow(self, store: Store) -> None:
        self.pages = 1 << 30

    def test_the_lead_ends_with_the_process(self, begun):
        begun.resign()
        process = holder_of_lead(self.url)
        assert not begun.lead()
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert begun.lead()

    def test_a_folder_that_is_not_there_is_said(self, tmp_path):
        with pytest.raises(StoreError):
            Store(f"sqlite:///{tmp_path / 'none' / 'dure.db'}").open()

    def test_a_file_that_is_no_database_is_said(self, tmp_path):
        (tmp_path / "dure.db").write_bytes(os.urandom(8192))
        with pytest.raises(StoreError):
            self.make().open()


class TestPostgres(EventLogContract):
    @pytest.fixture(autouse=True)
    def _database(self, postgres):
        self.server = postgres
        self.name = postgres.new_database()
        self.url = postgres.url(self.name)

    def make(self) -> Store:
        return Store(self.url)

    def refuse(self, store: Store) -> None:
        assert store._lead is not None
        store._lead.exec_driver_sql("SET default_transaction_read_only = on")
        store._lead.commit()

    def allow(self, store: Store) -> None:
        assert store._lead is not None
        store._lead.exec_driver_sql("SET default_transaction_read_only = off")
        store._lead.commit()

    def cut(self) -> None:
        """End all of the database's connections, as a lost network does; back once they are gone."""
        self.server.sql(f"SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = '{self.name}'")

    def test_the_lead_ends_with_the_process(self, begun):
        begun.resign()
        process = holder_of_lead(self.url)
        assert not begun.lead()
        process.send_signal(signal.SIGKILL)
        process.communicate()
        for _ in range(100):
            if begun.lead():
                return
        raise AssertionError("the dead leads on")

    def test_a_leader_that_hangs_loses_the_lead_and_one_that_is_idle_does_not(self, begun):
        begun.resign()
        hasty = Store(self.url, hung_s=2.5)
        hasty.open()
        process = holder_of_lead(self.url)
        try:
            for _ in range(40):
                assert not hasty.lead()
                time.sleep(0.1)
            process.send_signal(signal.SIGSTOP)
            until = time.monotonic() + 30
            while not hasty.lead():
                assert time.monotonic() < until
                time.sleep(0.1)
            hasty.append(self.following(hasty).step)
        finally:
            process.kill()
            process.communicate()
            hasty.close()

    def test_a_lead_that_was_lost_and_is_free_is_not_taken_again_unawares(self, begun, other):
        assert begun.still_leads()
        self.cut()
        assert not begun.still_leads()
        assert not begun.still_leads()
        assert other.lead()
        other.append(self.following(other).step)
        other.resign()
        assert not begun.still_leads()
        assert begun.lead()

    def test_who_lost_its_connection_leads_no_longer_and_writes_no_more(self, begun, other):
        step = self.following(begun).step
        self.cut()
        assert other.lead()
        with pytest.raises((LogUnwritableError, LogConflictError)):
            begun.append(step)
        assert not begun.lead()
        with pytest.raises(LogConflictError):
            begun.append(step)
        other.append(step)
        assert [s.seq for s in begun.read()] == [1]

    def test_the_lead_is_taken_again_after_a_restart_of_the_server(self, begun):
        begun.append(self.following(begun).step)
        self.server.stop(signal.SIGQUIT)
        with pytest.raises(LogUnwritableError):
            begun.append(sealed(Step(2, 9, "a", (Tick(),), (), (), "0" * 64)).step)
        assert not begun.lead()
        self.server.start()
        assert begun.lead()
        begun.append(self.following(begun).step)
        assert [s.seq for s in begun.read()] == [1, 2]


def test_a_server_that_is_not_there_is_said():
    with pytest.raises(StoreError):
        Store("postgresql+psycopg://nobody@127.0.0.1:1/none").open()
