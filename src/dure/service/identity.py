"""Who may do what: roles, tokens and the rules between them. No I/O."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from dure.service.errors import Problem, forbidden

Role = Literal["operator", "member_admin", "project_lead", "user", "auditor", "agent"]
ROLES: tuple[str, ...] = get_args(Role)
TOKEN_PREFIX = "dure_"
#: The role of a token with which an agent enrols; it may do nothing else, and nobody gets it otherwise.
ENROL = "enrol"


@dataclass(frozen=True)
class Grant:
    """A role and where it holds: everywhere (operator, auditor), in a member, in a project, at a site (agent)."""

    role: str
    member: str = ""
    project: str = ""
    site: str = ""

    def form(self) -> dict[str, str]:
        """As tables and answers show it."""
        return {"role": self.role, "member": self.member, "project": self.project, "site": self.site}


@dataclass(frozen=True)
class Principal:
    """A caller whose token is good."""

    user: str
    grants: tuple[Grant, ...]
    token_id: str = ""
    expires_ms: int = 0

    def has(self, *roles: str) -> bool:
        """Whether the caller has one of the roles anywhere."""
        return any(g.role in roles for g in self.grants)

    @property
    def is_operator(self) -> bool:
        """Operators may do everything that people may."""
        return self.has("operator")

    @property
    def actor(self) -> str:
        """As the log names the caller."""
        site = next((g.site for g in self.grants if g.role in ("agent", ENROL)), "")
        return f"agent:{site}" if site else f"user:{self.user}"

    def may_submit(self, project: str, member: str) -> bool:
        """To a project: its own people, its member's admins, operators."""
        return self.is_operator or any(
            (g.role in ("project_lead", "user") and g.project == project)
            or (g.role in ("member_admin", "user") and not g.project and g.member == member)
            for g in self.grants
        )

    def may_change(self, project: str, member: str, owner: str) -> bool:
        """A job: whoever submitted it, its project's leads, its member's admins, operators."""
        return self.is_operator or any(
            (g.role == "project_lead" and g.project == project)
            or (g.role == "member_admin" and g.member == member)
            or (g.role == "user" and self.user == owner and (g.project == project or (not g.project and g.member == member)))
            for g in self.grants
        )

    def may_see(self, project: str, member: str) -> bool:
        """A job and its logs: people of the project or of the member, auditors, operators."""
        return self.has("operator", "auditor") or any(
            g.project == project or (g.member == member and not g.project) for g in self.grants if g.role != "agent"
        )

    def may_administer(self, member: str) -> bool:
        """A member's projects and tokens."""
        return self.is_operator or any(g.role == "member_admin" and g.member == member for g in self.grants)

    def may_see_token(self, user: str, grants: Sequence[Grant]) -> bool:
        """A token, and end it: one's own, one whose every role is in a member that one administers; operators: any.

        Names of people are each member's business, so another member's of the same name is someone else.
        """
        members = {g.member for g in grants}
        is_own = self.user == user and bool(members & {g.member for g in self.grants})
        return self.is_operator or is_own or all(m and self.may_administer(m) for m in members)

    def visible(self) -> tuple[list[str], list[str]] | None:
        """Members and projects whose jobs the caller may see; None: all."""
        if self.has("operator", "auditor"):
            return None
        members = [g.member for g in self.grants if g.role != "agent" and not g.project and g.member]
        return members, [g.project for g in self.grants if g.project]

    def default_project(self, known: Sequence[str]) -> str:
        """The one project that the caller can mean when it names none."""
        own = sorted({g.project for g in self.grants if g.project})
        if len(own) == 1:
            return own[0]
        members = {g.member for g in self.grants if g.member}
        mine = own or [p for p in known if p.partition("/")[0] in members]
        return mine[0] if len(mine) == 1 else ""


def new_secret() -> str:
    """A token's text: shown once, kept as its hash."""
    return TOKEN_PREFIX + secrets.token_urlsafe(32)


def hash_of(secret: str) -> str:
    """What is kept of a token: SHA-256, enough for 256 random bits."""
    return hashlib.sha256(secret.encode()).hexdigest()


def principal_of(row: dict[str, Any] | None, now_ms: int) -> Principal:
    """The caller of a token's row.

    Raises
    ------
    Problem
        401: no such token, revoked or expired, or one to enrol with.
    """
    found = _holder_of(row, now_ms)
    if found.has(ENROL):
        raise _unauthorized("with this token an agent enrols, and nothing else")
    return found


def enrolling_of(row: dict[str, Any] | None, now_ms: int, site: str) -> Principal:
    """The agent that enrols at a site with a token's row.

    Raises
    ------
    Problem
        401: no such token, revoked or expired; 403: not one to enrol with there.
    """
    found = _holder_of(row, now_ms)
    if Grant(ENROL, site=site) not in found.grants:
        raise forbidden(f"this needs a token to enrol at {site}")
    return found


def _holder_of(row: dict[str, Any] | None, now_ms: int) -> Principal:
    if row is None or row["is_revoked"] or row["expires_ms"] <= now_ms:
        raise _unauthorized("the token is unknown, revoked or expired")
    return Principal(row["user"], grants_of(row), row["token_id"], row["expires_ms"])


def _unauthorized(detail: str) -> Problem:
    return Problem(401, "Unauthorized", detail, headers={"WWW-Authenticate": "Bearer"})


def grants_of(row: dict[str, Any]) -> tuple[Grant, ...]:
    """The roles of a token's row."""
    return tuple(Grant(**form) for form in json.loads(row["grants"]))


def check_grant(by: Principal, grant: Grant) -> None:
    """Whether a caller may hand out a role there.

    Raises
    ------
    Problem
        403: beyond what the caller may do itself.
    """
    if by.is_operator:
        return
    if grant.role in ("operator", "auditor", "agent") or not grant.member or not by.may_administer(grant.member):
        raise forbidden(f"only an operator may make a token of role {grant.role} there")
