"""What every event log must do (`dure.ports.event_log`): a suite that each of them passes."""

from __future__ import annotations

import hashlib
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy import create_engine, text

from dure.model.events import Cancel, Changed, JobRequest, Placement, Released, Start, Step, Submit, Tick
from dure.ports.event_log import LogConflictError, LogUnwritableError
from dure.service.identity import Grant, grants_of
from dure.store import store as store_module
from dure.store.store import Changes, Store, StoreError, canonical, check_chain, sealed
from dure.store.tables import metadata

DOCUMENT = {"alliance": "name: Größe 한국\n", "at": "2026-01-01", "format": 1}


def project_row(name: str) -> dict[str, object]:
    return {"project": f"m/{name}", "member": "m", "weight": 1.0, "made_ms": 1}


class EventLogContract:
    """The suite. Subclasses give `make`: each call, another store on the test's one database."""

    def make(self) -> Store:
        raise NotImplementedError

    @pytest.fixture
    def store(self):
        store = self.make()
        store.open()
        yield store
        store.close()

    @pytest.fixture
    def begun(self, store):
        store.begin(DOCUMENT)
        assert store.lead()
        return store

    @pytest.fixture
    def other(self, begun):
        other = self.make()
        other.open()
        yield other
        other.close()

    @staticmethod
    def following(store: Store, *stimuli, at_ms: int = 5, effects=(), facts=(), actor: str = "user:a"):
        seq, before, _ = store.last()
        return sealed(Step(seq + 1, at_ms, actor, tuple(stimuli) or (Tick(),), tuple(effects), tuple(facts), before))

    def chain(self, store: Store) -> list[tuple[int, list[str]]]:
        begins = hashlib.sha256(canonical(store.document()).encode()).hexdigest()
        return [(seq, list(wrong)) for _, seq, wrong in check_chain(store.entries(), begins)]

    # --- what it began with

    def test_nothing_has_begun_at_first(self, store):
        assert store.document() is None
        assert list(store.read()) == []

    def test_it_begins_once(self, store):
        store.begin(DOCUMENT)
        with pytest.raises(LogConflictError):
            store.begin({**DOCUMENT, "format": 2})
        assert store.document() == DOCUMENT

    def test_the_first_step_follows_the_document(self, begun):
        seq, begins, at_ms = begun.last()
        assert (seq, at_ms) == (0, 0)
        assert len(begins) == 64

    # --- appending

    def test_what_was_appended_is_read_again(self, begun):
        request = JobRequest("j1", "m", "m/p", "u", gpus=2, gpu_types=("H200",), depends_on=(("j0", "afterok"),))
        start = Start("j1", 1, 7, "pool", "site", "owner", "H200", (Placement("n-1", (0, 3), 1000),), True, "lend", 12)
        first = self.following(
            begun, Submit(request), Cancel("j0", "Mädchen\u0000\"'"), effects=(start, Changed("j1", "ADMITTED", 1)),
            facts=({"fact": "token", "name": "이름"},), actor="user:한",
        )  # fmt: skip
        begun.append(first.step)
        second = self.following(begun, at_ms=9, effects=(Released("j1", 1, 5, 0, "exited"),))
        begun.append(second.step)
        assert list(begun.read()) == [first.step, second.step]
        assert list(begun.read(after_seq=1)) == [second.step]
        assert begun.last() == (2, second.step.hash, 9)
        assert begun.has(second.step)
        assert not begun.has(replace(second.step, hash=first.step.hash))
        assert self.chain(begun) == [(1, []), (2, [])]

    def test_many_steps_are_read_in_order_over_pages(self, begun):
        entries, (seq, before, _) = [], begun.last()
        for i in range(2500):
            entries.append(sealed(Step(seq + 1 + i, i, "a", (Tick(),), (), (), before)))
            before = entries[-1].step.hash
        begun.append_all(entries, Changes())
        assert [step.seq for step in begun.read()] == list(range(1, 2501))
        assert [step.seq for step in begun.read(after_seq=2400)] == list(range(2401, 2501))
        assert len(list(begun.entries(10, 1200))) == 1200

    def test_a_step_and_its_changes_are_written_together_or_not_at_all(self, begun):
        changes = Changes()
        changes.add("project", project_row("a"))
        changes.add("project", project_row("a"))
        with pytest.raises(LogConflictError):
            begun.append_all([self.following(begun)], changes)
        assert begun.last()[0] == 0
        assert begun.rows("project") == []

    def test_new_rows_may_change_in_the_same_transaction_and_the_last_word_counts(self, begun):
        changes = Changes()
        changes.add("project", project_row("a"))
        changes.change("project", "m/a", weight=2.0)
        changes.change("project", "m/a", weight=3.0, made_ms=4)
        begun.append_all([self.following(begun)], changes)
        assert begun.row("project", "m/a") == {**project_row("a"), "weight": 3.0, "made_ms": 4}

    @pytest.mark.parametrize("wrong", ["gap", "again", "other chain"])
    def test_a_step_that_does_not_follow_is_refused(self, begun, wrong):
        first = self.following(begun)
        begun.append(first.step)
        step = self.following(begun).step
        bad = {
            "gap": sealed(replace(step, seq=step.seq + 1)).step, "again": first.step,
            "other chain": sealed(replace(step, prev_hash="0" * 64)).step,
        }[wrong]  # fmt: skip
        with pytest.raises(LogConflictError):
            begun.append(bad)
        assert [s.seq for s in begun.read()] == [1]

    # --- the lead

    def test_one_leads_and_the_other_takes_over(self, begun, other):
        assert begun.lead()
        assert not other.lead()
        with pytest.raises(LogConflictError):
            other.append(self.following(other).step)
        begun.append(self.following(begun).step)
        begun.resign()
        assert other.lead()
        assert not begun.lead()
        with pytest.raises(LogConflictError):
            begun.append(self.following(begun).step)
        other.append(self.following(other).step)
        assert [s.seq for s in begun.read()] == [1, 2]

    def test_of_many_that_try_at_once_one_leads(self, begun):
        begun.resign()
        stores = [self.make() for _ in range(6)]
        won = []

        def attempt(store):
            store.open()
            if store.lead():
                won.append(store)

        threads = [threading.Thread(target=attempt, args=(store,)) for store in stores]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1
        for store in stores:
            store.close()

    def test_a_probe_is_refused_without_the_lead(self, begun):
        begun.probe()
        begun.probe()
        begun.resign()
        with pytest.raises(LogConflictError):
            begun.probe()

    # --- migrations

    def test_opening_again_changes_nothing(self, begun, other):
        begun.append(self.following(begun).step)
        other.open()
        assert other.document() == DOCUMENT
        assert other.last() == begun.last()

    def test_many_may_make_the_tables_at_once(self):
        stores, errors = [self.make() for _ in range(5)], []

        def attempt(store):
            try:
                store.open()
            except StoreError as error:
                errors.append(error)

        threads = [threading.Thread(target=attempt, args=(store,)) for store in stores]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []
        stores[0].begin(DOCUMENT)
        assert all(store.document() == DOCUMENT for store in stores)
        for store in stores:
            store.close()

    def test_tables_of_a_later_version_are_refused(self, begun):
        with begun.engine.begin() as connection:
            connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
        later = self.make()
        with pytest.raises(StoreError):
            later.open()

    def test_the_migrations_make_the_tables_that_the_code_has(self, begun):
        with begun.engine.connect() as connection:
            assert compare_metadata(MigrationContext.configure(connection), metadata) == []

    def test_tokens_of_the_first_tables_keep_their_role(self):
        old = self.make()
        engine = create_engine(old.url)
        config = Config()
        config.set_main_option("script_location", str(Path(store_module.__file__).parent / "migrations"))
        with engine.begin() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "0001")
            connection.execute(text(
                "INSERT INTO token (token_id, hash, name, \"user\", role, member, project, site, made_ms, expires_ms, is_revoked)"
                " VALUES ('t', 'h', 'n', 'uma', 'user', 'kaist', 'kaist/main', '', 1, 2, :no)"), {"no": False})  # fmt: skip
        engine.dispose()
        old.open()
        (row,) = old.rows("token", limit=10)
        old.close()
        assert row["user"] == "uma"
        assert grants_of(row) == (Grant("user", "kaist", "kaist/main"),)

    # --- tampering

    @pytest.mark.parametrize(
        ("statements", "found"),
        [
            (["UPDATE event SET body = replace(body, '\"at_ms\":2', '\"at_ms\":1') WHERE seq = 2"], [2]),
            (["UPDATE event SET hash = '{zeros}' WHERE seq = 2"], [2, 3]),
            (["DELETE FROM event WHERE seq = 2"], [3]),
            (["UPDATE event SET seq = 9 WHERE seq = 1", "UPDATE event SET seq = 1 WHERE seq = 2",
              "UPDATE event SET seq = 2 WHERE seq = 9"], [1, 2, 3]),
            (["UPDATE fact SET value = replace(value, '2026', '2025') WHERE key = 'document'"], [1]),
        ],
        ids=["body", "hash", "deleted", "swapped", "document"],
    )  # fmt: skip
    def test_tampering_is_found(self, begun, statements, found):
        for i in range(4):
            begun.append(self.following(begun, at_ms=i + 1).step)
        assert all(not wrong for _, wrong in self.chain(begun))
        with begun.engine.begin() as connection:
            for statement in statements:
                connection.exec_driver_sql(statement.replace("{zeros}", "0" * 64))
        assert [seq for seq, wrong in self.chain(begun) if wrong] == found

    # --- a database that refuses

    def refuse(self, store: Store) -> None:
        """Make writing impossible."""
        raise NotImplementedError

    def allow(self, store: Store) -> None:
        """Make it possible again."""
        raise NotImplementedError

    def test_a_refusing_database_keeps_nothing_and_goes_on_later(self, begun):
        begun.append(self.following(begun).step)
        self.refuse(begun)
        changes = Changes()
        changes.add("project", {**project_row("a"), "member": "m" * 60})
        big = self.following(begun, *[Cancel("j" * 60, "u" * 100)] * 2000)
        with pytest.raises(LogUnwritableError):
            begun.append_all([big], changes)
        with pytest.raises(LogUnwritableError):
            begun.append_all([big], Changes())
        assert not begun.has(big.step)
        assert begun.rows("project") == []
        self.allow(begun)
        begun.append_all([self.following(begun)], changes)
        assert self.chain(begun)[-1][1] == []
        assert len(begun.rows("project")) == 1
