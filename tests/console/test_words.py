"""Every text of the console has its Korean, and every word of the service its text."""

from __future__ import annotations

import ast
import string
from datetime import UTC, datetime
from pathlib import Path
from typing import get_args

import pytest
from babel.messages.pofile import read_po

import dure.console
from dure.console.terms import (
    AGENT_STATES,
    CHANGES,
    MEMBER_KINDS,
    NODE_STATES,
    REASONS,
    SENTENCES,
    STATES,
    change_sentence,
    reason_sentence,
)
from dure.console.words import CATALOGUES, LANGUAGES, Words, preferred
from dure.core.explain import RULE, Reason
from dure.model.alliance import MemberKind
from dure.service.routes_jobs import State
from dure.service.schemas import AgentView, NodeView

#: Calls whose first argument is a text for readers.
MARKS = {"_", "N_", "say"}


def texts() -> set[str]:
    """All texts that the console's code says, also those inside f-strings."""
    found = set()
    for path in Path(dure.console.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
                name = getattr(node.func, "id", getattr(node.func, "attr", ""))
                if name in MARKS and isinstance(node.args[0].value, str):
                    found.add(node.args[0].value)
    return found


def fields(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


@pytest.mark.parametrize("language", [code for code in LANGUAGES if code != "en"])
def test_a_catalogue_has_every_text_and_no_other(language):
    with (CATALOGUES / language / "console.po").open("rb") as file:
        catalogue = {m.id: m for m in read_po(file, locale=language) if m.id}
    assert len(texts()) > 150
    assert texts() - set(catalogue) == set()
    assert set(catalogue) - texts() == set()
    assert [m.id for m in catalogue.values() if not m.string or m.fuzzy] == []
    assert [m.id for m in catalogue.values() if fields(m.id) != fields(m.string)] == []


def test_every_word_of_the_service_has_a_text():
    assert set(STATES) == set(get_args(State))
    assert set(MEMBER_KINDS) == set(get_args(MemberKind))
    assert set(NODE_STATES) == set(get_args(NodeView.model_fields["state"].annotation))
    assert set(AGENT_STATES) == {"", *get_args(AgentView.model_fields["state"].annotation)}
    assert set(REASONS) == set(SENTENCES) == {*map(str, Reason), "dependency", "array_limit", "begin_time", "refused"}
    assert set(RULE) == set(Reason)


#: Facts as core.explain documents them for each reason.
FACTS = {
    Reason.NEVER: {}, Reason.RESERVED: {"begin_ms": 5}, Reason.BEHIND: {"job": "34hd"}, Reason.CPU_OR_MEMORY: {"cpu_milli": 8000},
    Reason.HELD: {"missing_nodes": 1, "nodes": 3, "promised_ms": 7},
    Reason.SHARE_USED: {"needed_milli": 4000, "free_milli": 1500, "used_milli": 8000, "guarantee_milli": 8000},
    Reason.AGREEMENT_LIMIT: {"needed_milli": 4000, "used_milli": 3000, "limit_milli": 4000},
    Reason.AGREEMENT_NOT_IN_FORCE: {"start_ms": 1, "end_ms": 2},
    Reason.GPUS_BUSY: {"needed_milli": 4000, "free_milli": 1500},
    Reason.FRAGMENTED: {"needed_milli": 4000, "free_milli": 4000, "nodes": 1, "gpus_per_node": 4, "nodes_that_fit": 0},
    Reason.CLOSED: {"needed_milli": 4000, "nodes": 2, "free_milli": 16_000},
    Reason.RADIO: {"needed_milli": 4000, "nodes": 2, "free_milli": 16_000},
    Reason.POWER_CAP: {"power_w": 900, "needed_w": 200, "reserve_w": 0, "cap_w": 1000},
}  # fmt: skip


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("reason", list(Reason))
def test_a_reason_is_told_with_its_numbers(language, reason):
    said = reason_sentence(Words(language), reason, FACTS[reason])
    assert said
    assert "{" not in said
    if "needed_milli" in FACTS[reason] and reason is not Reason.FRAGMENTED:
        assert "4" in said
    if reason is Reason.SHARE_USED:
        assert "1.5" in said
        assert "8" in said


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("kind", list(CHANGES))
def test_a_change_is_told_with_its_pool(language, kind):
    assert "site-a" in change_sentence(Words(language), {"kind": kind, "pool": "site-a", "amount": 2})


def test_numbers_moments_and_spans_are_written_as_the_language_does():
    en, ko = Words("en", "Asia/Seoul"), Words("ko", "Asia/Seoul")
    at, now = "2026-11-25T14:30:05+00:00", datetime(2026, 11, 25, 14, 25, 5, tzinfo=UTC)
    assert (en.number(29264.04), en.number(0.12345, 4), en.number(3)) == ("29,264", "0.1235", "3")
    assert (en.moment(at), ko.moment(at)) == ("Nov 25, 2026, 23:30:05", "2026년 11월 25일 23:30:05")
    assert (en.short_moment(at), ko.short_moment(at)) == ("Nov 25, 23:30", "11월 25일 23:30")
    assert en.moment(None) == en.short_moment(None) == en.distance(None) == en.span(None) == ""
    assert (en.distance(at, now), ko.distance(at, now)) == ("in 5 minutes", "5분 후")
    assert (en.span(7_500), en.span(0), ko.span(90_061)) == ("2 hr 5 min", "0 sec", "1일 1시간")


def test_what_is_not_known_falls_back():
    assert Words("ko", "Nowhere/Land").moment("2026-11-25T14:30:05+00:00").endswith("14:30:05")
    assert Words("fr").language == "en"
    assert [preferred(header) for header in ("ko-KR,ko;q=0.9", "fr, ko;q=0.5", "", "de")] == ["ko", "ko", "en", "en"]
