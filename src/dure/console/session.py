"""Who reads: the token that a reader signed in with, asked anew each time; and how the reader wants things shown.

NiceGUI's user storage keeps the token's id, never its text; the browser holds a signed session id.
"""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlencode

from nicegui import app

from dure.console.feed import Feed
from dure.console.words import Words, preferred
from dure.service.app import Service
from dure.service.errors import Problem, forbidden
from dure.service.identity import Principal, hash_of, principal_of
from dure.service.oidc import challenge_of
from dure.service.routes_login import PATH, redeem_code

#: Where the application serves the console.
MOUNT = "/console"


@dataclass(frozen=True)
class Running:
    """The one service of this process that the pages show."""

    service: Service
    feed: Feed


def running() -> Running:
    """What the pages show."""
    found: Running = app.state.dure
    return found


def begin_login() -> str:
    """Where a reader signs in with the provider, below the service's address; empty: there is none."""
    if running().service.settings.oidc is None:
        return ""
    verifier = app.storage.user["login_verifier"] = secrets.token_urlsafe(48)
    return f"{PATH}/?{urlencode({'challenge': challenge_of(verifier), 'for': 'console'})}"


async def end_login(code: str) -> None:
    """Note who has come back from the provider.

    Raises
    ------
    Problem
        401: not a good code, or another browser's; 403: someone without a role.
    """
    service = running().service
    assert service.settings.oidc is not None
    verifier = app.storage.user.pop("login_verifier", "")
    token_id, _, _ = await redeem_code(service, service.settings.oidc, code, verifier)
    app.storage.user["token_id"] = token_id


def sign_in(secret: str) -> Principal:
    """Note whose token it is.

    Raises
    ------
    Problem
        401: not a good token; 403: an agent's.
    """
    service = running().service
    rows = service.store.rows("token", limit=1, where={"hash": hash_of(secret)})
    who = principal_of(rows[0] if rows else None, service.writer.now_ms())
    if who.has("agent"):
        raise forbidden("an agent's token opens no console")
    app.storage.user["token_id"] = who.token_id
    return who


def sign_out() -> None:
    """Forget whose token it was."""
    app.storage.user.pop("token_id", None)


async def caller() -> Principal | None:
    """Who reads now; None: nobody, or the token has expired or was revoked."""
    token_id = app.storage.user.get("token_id")
    if not token_id:
        return None
    service = running().service

    def read() -> Principal | None:
        try:
            return principal_of(service.store.row("token", token_id), service.writer.now_ms())
        except Problem:
            return None

    return await asyncio.to_thread(read)


def words(accept_language: str) -> Words:
    """The reader's language and time zone."""
    kept = app.storage.user
    return Words(kept.get("language") or preferred(accept_language), kept.get("zone", "UTC"))


def is_dark() -> bool | None:
    """The reader's theme; None: as the browser has it."""
    found: bool | None = app.storage.user.get("dark")
    return found


def remember(setting: Literal["language", "zone", "dark"], value: Any) -> None:
    """Keep a setting of the reader's."""
    app.storage.user[setting] = value
