"""The audit: every entry's seal is checked and every decision made again from the log alone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from dure.core.snapshot import SnapshotError, expand, pack
from dure.model.errors import DureError
from dure.model.events import stimulus_from_json, to_json
from dure.service.writer import alliance_of
from dure.store.store import Store, canonical, check_chain

#: Mismatches that are told in full.
SHOWN_MAX = 100


@dataclass
class AuditResult:
    """What was found.

    Attributes
    ----------
    events, decisions, verified : int
        Entries, decisions in them, decisions that came out the same.
    mismatches : int
        Seals that are broken and decisions that differ.
    findings : list of dict
        Of the first: ``seq``, ``what``, and where a decision differs ``logged`` and ``again``.
    """

    events: int = 0
    decisions: int = 0
    verified: int = 0
    mismatches: int = 0
    findings: list[dict[str, Any]] = field(default_factory=list)


def audit(store: Store) -> AuditResult:
    """Prove a log.

    Raises
    ------
    DureError
        The log has not begun.
    """
    return Auditor(store).go_on(store)


class Auditor:
    """Proves a log from its beginning, and later what was added to it since.

    Raises
    ------
    DureError
        The log has not begun.
    """

    def __init__(self, store: Store) -> None:
        document = store.document()
        if document is None:
            raise DureError("the log has not begun: there is nothing to prove")
        self.result = AuditResult()
        self._snapshot = store.snapshot()
        self._alliance = alliance_of(document)
        self._seq, self._hash = 0, hashlib.sha256(canonical(document).encode()).hexdigest()

    def go_on(self, store: Store) -> AuditResult:
        """Prove all entries after those proved before; what was found in all."""
        for row, seq, wrong in check_chain(store.entries(self._seq), self._hash, self._seq):
            self._seq, self._hash = seq, row["hash"]
            self._prove(row, seq, wrong)
            if self._snapshot is not None and seq == self._snapshot[0]:
                self._compare(seq, self._snapshot[1])
        return self.result

    def _compare(self, seq: int, kept: bytes) -> None:
        """A snapshot must be the state to which the log leads; one of another form is not used, and proves nothing."""
        mine = pack(self._alliance)
        try:
            is_same = expand(kept) == mine
        except SnapshotError:
            is_same = False
        if not is_same:
            _note(self.result, seq, "the snapshot of the state after it is another state")

    def _prove(self, row: dict[str, Any], seq: int, wrong: Sequence[str]) -> None:
        result = self.result
        result.events += 1
        for reason in wrong:
            _note(result, seq, reason)
        try:
            body = json.loads(row["body"])
            stimuli = [stimulus_from_json(s) for s in body["stimuli"]]
            again = [to_json(e) for e in self._alliance.apply(int(body["at_ms"]), stimuli)] if stimuli else []
        except (KeyError, TypeError, ValueError, DureError) as error:
            _note(result, seq, f"cannot be replayed: {error}")
            return
        logged = body["effects"]
        result.decisions += len(logged)
        for i in range(max(len(logged), len(again))):
            mine = json.loads(canonical(again[i])) if i < len(again) else None
            theirs = logged[i] if i < len(logged) else None
            if mine == theirs:
                result.verified += 1
            else:
                _note(result, seq, "another decision", logged=theirs, again=mine)


def _note(result: AuditResult, seq: int, what: str, **more: Any) -> None:
    result.mismatches += 1
    if len(result.findings) < SHOWN_MAX:
        result.findings.append({"seq": seq, "what": what, **more})
