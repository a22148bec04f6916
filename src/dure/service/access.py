"""What routes need of a request: the service and the caller."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, cast

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from dure.service.app import Service
from dure.service.errors import Problem, following, forbidden
from dure.service.identity import Principal, hash_of, principal_of
from dure.service.writer import Command

_bearer = HTTPBearer(auto_error=False, description="A token of Dure's, or of a job.")


def service_of(request: Request) -> Service:
    """The running service."""
    return cast(Service, request.app.state.service)


async def token_of(
    request: Request, given: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)] = None
) -> dict[str, Any] | None:
    """The row of the token that came with the request; None: it is not known.

    Raises
    ------
    Problem
        401: there is none.
    """
    service = service_of(request)
    if given is None:
        raise Problem(401, "Unauthorized", "send a token: `Authorization: Bearer …`", headers={"WWW-Authenticate": "Bearer"})
    hashed = hash_of(given.credentials)
    return service.tokens.known(hashed) or await asyncio.to_thread(service.tokens.look_up, hashed)


TokenRow = Annotated[dict[str, Any] | None, Depends(token_of)]


async def caller_of(request: Request, row: TokenRow) -> Principal:
    """Whose token came with the request.

    Raises
    ------
    Problem
        401: none, or not a good one.
    """
    return principal_of(row, service_of(request).writer.now_ms())


def refuse_unknown_query(request: Request) -> None:
    """Raise 422 for a query parameter that the route does not know: a mistyped filter must not be left out in silence."""
    known = {p.alias for p in request.scope["route"].dependant.query_params}
    unknown = sorted(set(request.query_params) - known)
    if unknown:
        raise Problem(422, "Invalid request", f"no parameter {unknown[0]!r}",
                      [{"field": name, "message": "no such parameter"} for name in unknown[:100]])  # fmt: skip


KnownQuery = Depends(refuse_unknown_query)
Running = Annotated[Service, Depends(service_of)]
Caller = Annotated[Principal, Depends(caller_of)]


async def carry_out(service: Service, command: Command, who: Principal) -> Any:
    """Give a command to the writer and wait until it is durable."""
    return await asyncio.wrap_future(service.writer.do(command, who.actor))


def need(who: Principal, *roles: str) -> None:
    """Raise 403 unless the caller has one of the roles."""
    if not who.has(*roles):
        raise forbidden(f"this needs a token of role {' or '.join(roles)}")


def need_state(service: Service) -> None:
    """Raise 503 while this service has no live state (it follows, or is starting)."""
    if not service.writer.is_leading:
        raise following(service.writer.leader)
