"""Routes of identity, projects, the log and its audit."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated

from fastapi import APIRouter, Body, Path, Query

from dure.service import commands, examples
from dure.service.access import Caller, KnownQuery, Running, carry_out, need
from dure.service.app import described
from dure.service.audit import audit
from dure.service.identity import grants_of
from dure.service.schemas import (
    AuditForm,
    EventForm,
    EventPage,
    NewProject,
    NewToken,
    ProjectView,
    TokenMade,
    TokenView,
    WhoAmI,
)
from dure.service.views import iso

router = APIRouter(prefix="/api/v1", tags=["administration"], dependencies=[KnownQuery])


@router.get("/whoami", responses=described(401))
def who_am_i(service: Running, who: Caller) -> WhoAmI:
    """The caller, and what the token allows."""
    return WhoAmI(
        user=who.user, token_id=who.token_id, default_project=who.default_project(sorted(service.writer.projects)),
        roles=[grant.form() for grant in who.grants],
        expires_at=iso(who.expires_ms) or "",
    )  # fmt: skip


@router.get("/projects", responses=described(401))
def list_projects(service: Running, who: Caller) -> list[ProjectView]:
    """Projects that the caller may see."""
    return [
        ProjectView(name=row["project"], member=row["member"], weight=row["weight"])
        for row in service.store.rows("project", limit=10**6)
        if who.may_see(row["project"], row["member"])
    ]


@router.post("/projects", status_code=201, responses=described(401, 403, 404, 409, 413, 422, 503))
async def make_project(service: Running, who: Caller, new: Annotated[NewProject, Body(openapi_examples=examples.PROJECT)]) -> ProjectView:
    """Make a project of a member."""
    row = await carry_out(service, commands.make_project(new, who), who)
    return ProjectView(name=row["project"], member=row["member"], weight=row["weight"])


@router.get("/tokens", responses=described(401))
def list_tokens(service: Running, who: Caller) -> list[TokenView]:
    """Tokens: one's own, those of members that one administers; an operator's view is of all."""
    return [
        TokenView(
            **{name: row[name] for name in ("token_id", "name", "user", "is_revoked")},
            roles=[grant.form() for grant in grants_of(row)],
            created_at=iso(row["made_ms"]) or "", expires_at=iso(row["expires_ms"]) or "",
        )
        for row in service.store.rows("token", limit=10**6)
        if who.may_see_token(row["user"], grants_of(row))
    ]  # fmt: skip


@router.post("/tokens", status_code=201, responses=described(401, 403, 404, 413, 422, 503))
async def make_token(service: Running, who: Caller, new: Annotated[NewToken, Body(openapi_examples=examples.TOKEN)]) -> TokenMade:
    """Make a token; its text is shown this once."""
    token_id, secret, expires_ms = await carry_out(service, commands.make_token(new, who), who)
    return TokenMade(token_id=token_id, token=secret, expires_at=iso(expires_ms) or "")


@router.delete("/tokens/{token_id}", status_code=204, responses=described(401, 404, 422, 503))
async def revoke_token(
    service: Running, who: Caller, token_id: Annotated[str, Path(max_length=32, pattern=r"^[0-9a-z]+$")]
) -> None:
    """End a token at once."""
    await carry_out(service, commands.revoke_token(token_id, who), who)


@router.get("/audit", responses=described(401, 403, 503))
async def run_audit(service: Running, who: Caller) -> AuditForm:
    """Check every seal of the log and make every decision again."""
    need(who, "operator", "auditor")
    found = await asyncio.to_thread(audit, service.store)
    return AuditForm(**vars(found))


@router.get("/events", responses=described(401, 403, 422))
def list_events(
    service: Running, who: Caller, after: Annotated[int, Query(ge=0, le=2**53)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> EventPage:  # fmt: skip
    """Entries of the log, in order."""
    need(who, "operator", "auditor")
    rows = list(service.store.entries(after, limit))
    events = [
        EventForm(seq=row["seq"], at=iso(row["at_ms"]) or "", actor=row["actor"], hash=row["hash"], body=json.loads(row["body"]))
        for row in rows
    ]  # fmt: skip
    return EventPage(events=events, next=rows[-1]["seq"] if rows else after)
