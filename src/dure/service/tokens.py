"""Tokens that were looked up lately, so that not every request asks the database."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dure.service.writer import Writer
    from dure.store.store import Store

#: Tokens that are remembered at most.
KEPT_MAX = 10_000


class KnownTokens:
    """Rows of tokens by their hash; forgotten whenever a token changes, and unused where another service may change one."""

    def __init__(self, store: Store, writer: Writer) -> None:
        self._store, self._writer = store, writer
        self._version, self._rows = -1, dict[str, dict[str, Any]]()

    def known(self, hashed: str) -> dict[str, Any] | None:
        """The row, if it is remembered."""
        return self._rows.get(hashed) if self._is_current() else None

    def look_up(self, hashed: str) -> dict[str, Any] | None:
        """The row as the database has it; None: there is no such token."""
        version = self._writer.tokens_version
        found = self._store.rows("token", limit=1, where={"hash": hashed})
        if not found:
            return None
        if self._is_current() and version == self._version and len(self._rows) < KEPT_MAX:
            self._rows[hashed] = found[0]
        return found[0]

    def _is_current(self) -> bool:
        if not self._writer.is_leading:
            return False
        version = self._writer.tokens_version
        if version != self._version:
            self._rows, self._version = {}, version
        return True
