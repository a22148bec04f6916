"""Signing in with an OpenID Connect provider: what its claims allow here, and the codes that are redeemed.

OpenID Connect Core 1.0, authorization code flow with PKCE (RFC 7636); Authlib speaks it. What comes of it is a token of
Dure's own, so that everything else knows one kind of caller.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dure.model.errors import InputError
from dure.model.oidc_file import OidcFile, load_oidc_file
from dure.service.errors import Problem, unavailable
from dure.service.identity import Grant

#: A code must be redeemed within this time, and so many may wait for it.
CODE_S, CODES_MAX = 120.0, 10_000


@dataclass(frozen=True)
class OidcConfig:
    """The settings, and the client's secret (empty: a public client)."""

    file: OidcFile
    secret: str = ""


def load_oidc(path: Path) -> OidcConfig:
    """The settings in a file.

    Raises
    ------
    InputError
        With path, line and field of what is wrong.
    """
    try:
        file = load_oidc_file(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot be read: {error}", str(path)) from None
    if not file.client_secret_file:
        return OidcConfig(file)
    secret = path.parent / file.client_secret_file
    try:
        return OidcConfig(file, secret.read_text(encoding="utf-8").strip())
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot be read: {error}", str(secret), field="client_secret_file") from None


@dataclass(frozen=True)
class Person:
    """Whom the provider vouches for, and what that allows here."""

    user: str
    grants: tuple[Grant, ...]


def person_of(claims: dict[str, Any], file: OidcFile) -> Person:
    """What a provider's claims say of a person.

    Raises
    ------
    Problem
        403: they name nobody, or nobody with a role here.
    """
    user = claims.get(file.user_claim)
    if not isinstance(user, str) or not user or any(c.isspace() or not c.isprintable() for c in user) or len(user) > 200:
        raise Problem(403, "Forbidden", f"the provider's claim {file.user_claim!r} names nobody that can be used")
    found: Any = claims
    for part in file.groups_claim.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    groups = {found} if isinstance(found, str) else set(filter(lambda g: isinstance(g, str), found or ()))
    grants = tuple(Grant(g.role, g.member, g.project) for g in file.grants if g.group in groups)
    if not grants:
        raise Problem(403, "Forbidden", f"{user} is in no group that has a role here")
    return Person(user, tuple(dict.fromkeys(grants)))


def challenge_of(verifier: str) -> str:
    """PKCE's S256 (RFC 7636, 4.2)."""
    return base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()


class Codes:
    """People who have just signed in, by a code that is good once and only with the verifier that the sign-in began with."""

    def __init__(self, clock_s: Callable[[], float]) -> None:
        self._clock_s = clock_s
        self._waiting: dict[str, tuple[Person, str, float]] = {}

    def give(self, person: Person, challenge: str) -> str:
        """A code for someone.

        Raises
        ------
        Problem
            503: too many wait to be redeemed.
        """
        now = self._clock_s()
        self._waiting = {code: kept for code, kept in self._waiting.items() if kept[2] > now}
        if len(self._waiting) >= CODES_MAX:
            raise unavailable("too many sign-ins at once")
        code = secrets.token_urlsafe(16)
        self._waiting[code] = (person, challenge, now + CODE_S)
        return code

    def redeem(self, code: str, verifier: str) -> Person:
        """Whom the code was given for; it is used up, whatever comes of it.

        Raises
        ------
        Problem
            401: no such code, used, too old, or begun by someone else.
        """
        person, challenge, until_s = self._waiting.pop(code, (None, "", 0.0))
        if person is None or self._clock_s() > until_s or not secrets.compare_digest(challenge, challenge_of(verifier)):
            raise Problem(401, "Unauthorized", "the code is unknown, used or too old: sign in again")
        return person
