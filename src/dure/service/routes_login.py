"""Signing in through a browser: the two stops at the service, and the code that a console or a command line redeems."""

from __future__ import annotations

import asyncio
import html
import secrets
from typing import Annotated, Any
from urllib.parse import urlencode

import structlog
from fastapi import APIRouter, Body
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from dure.service import commands, examples
from dure.service.access import KnownQuery, Running
from dure.service.app import Service, described
from dure.service.errors import Problem, not_found
from dure.service.oidc import OidcConfig, person_of
from dure.service.schemas import LoginCode, LoginOffer, TokenMade
from dure.service.views import iso

router = APIRouter(prefix="/api/v1", tags=["identity"], dependencies=[KnownQuery])

#: Where a browser begins, below the service's address.
PATH = "/login"
#: A sign-in that takes longer has to begin anew.
SESSION_S = 600


@router.get("/login", responses=described())
def how_to_sign_in(service: Running) -> LoginOffer:
    """Whether people sign in with a provider here, and where."""
    oidc = service.settings.oidc
    return LoginOffer(issuer=oidc.file.issuer if oidc else "", path=f"{PATH}/" if oidc else "")


@router.post("/login", status_code=201, responses=described(401, 403, 404, 413, 422, 503))
async def redeem(service: Running, given: Annotated[LoginCode, Body(openapi_examples=examples.LOGIN)]) -> TokenMade:
    """Give the code that a sign-in ended with, and the verifier that it began with, for a token."""
    oidc = service.settings.oidc
    if oidc is None:
        raise not_found("provider to sign in with", "")
    token_id, secret, expires_ms = await redeem_code(service, oidc, given.code, given.verifier)
    return TokenMade(token_id=token_id, token=secret, expires_at=iso(expires_ms) or "")


async def redeem_code(service: Service, oidc: OidcConfig, code: str, verifier: str) -> tuple[str, str, int]:
    """Id, text and end (epoch ms) of a token for whom the code was given.

    Raises
    ------
    Problem
        401: not a good code; 403: no role here.
    """
    person = service.codes.redeem(code, verifier)
    command = commands.make_session(person.user, person.grants, int(oidc.file.session_hours * 3600))
    made: tuple[str, str, int] = await asyncio.wrap_future(service.writer.do(command, f"user:{person.user}"))
    return made


def browser_app(service: Service, oidc: OidcConfig) -> Starlette:
    """What a browser visits; needs the packages of ``dure[oidc]``."""
    from authlib.integrations.base_client import OAuthError
    from authlib.integrations.starlette_client import OAuth

    file = oidc.file
    registry = OAuth()
    provider: Any = registry.register(
        "provider", client_id=file.client_id, client_secret=oidc.secret or None,
        server_metadata_url=f"{file.issuer.rstrip('/')}/.well-known/openid-configuration",
        client_kwargs={
            "scope": " ".join(file.scopes), "code_challenge_method": "S256", "timeout": 10,
            **({} if oidc.secret else {"token_endpoint_auth_method": "none"}),
        },
    )  # fmt: skip

    def back(request: Request) -> str:
        base = file.public_url.rstrip("/") or str(request.base_url).rstrip("/").removesuffix(PATH)
        return f"{base}{PATH}/callback"

    async def begin(request: Request) -> Response:
        challenge, is_console = request.query_params.get("challenge", ""), request.query_params.get("for") == "console"
        if not 43 <= len(challenge) <= 128:
            return _page("Sign in", "This address is used by the console and by <code>dure login</code>.", 400)
        request.session.clear()
        request.session["dure"] = {"challenge": challenge, "is_console": is_console}
        try:
            answer: Response = await provider.authorize_redirect(request, back(request))
        except Exception as error:  # whatever keeps the provider from answering: the reader is told, the log says what
            return _failed("the provider cannot be reached", error, 502)
        return answer

    async def callback(request: Request) -> Response:
        begun = request.session.get("dure")
        if not begun:
            return _page("Sign in", "This sign-in is too old, or began in another browser. Please begin again.", 400)
        try:
            token = await provider.authorize_access_token(request)
            claims = dict(token.get("userinfo") or {})
            if claims.get("iss", "").rstrip("/") != file.issuer.rstrip("/"):
                return _page("Sign in", "The provider is not the one that was set.", 400)
            more = dict(await provider.userinfo(token=token)) if provider.server_metadata.get("userinfo_endpoint") else {}
            # The userinfo answer is not signed: it counts only for the person whom the signed token names (Core 5.3.2).
            claims = {**(more if more.get("sub") == claims.get("sub") else {}), **claims}
            code = service.codes.give(person_of(claims, file), begun["challenge"])
        except Problem as refusal:
            return _page("Sign in", html.escape(refusal.detail), refusal.status)
        except OAuthError as error:
            return _failed(f"the provider refused: {error.error}", error, 400)
        except Exception as error:
            return _failed("the provider's answer is not good", error, 502)
        finally:
            request.session.clear()
        if begun["is_console"]:
            return RedirectResponse(f"/console/sign-in?{urlencode({'code': code})}", 303)
        return _page("Signed in", f"Give this code to <code>dure login</code>:<pre>{html.escape(code)}</pre>")

    return Starlette(
        routes=[Route("/", begin), Route("/callback", callback)],
        middleware=[
            Middleware(SessionMiddleware, secret_key=secrets.token_urlsafe(48), session_cookie="dure_login", path=PATH,
                       max_age=SESSION_S, same_site="lax", https_only=file.public_url.startswith("https://"))
        ],
    )  # fmt: skip


def _failed(words: str, error: Exception, status: int) -> Response:
    structlog.get_logger("dure").warning("sign-in failed", why=words, error=str(error), kind=type(error).__name__)
    return _page("Sign in", f"This did not work: {html.escape(words)}.", status)


def _page(title: str, body: str, status: int = 200) -> Response:
    """A small page; `body` is markup."""
    headers = {"Cache-Control": "no-store", "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}
    style = "body{font:16px system-ui;max-width:36rem;margin:4rem auto;padding:0 1rem;color-scheme:light dark}pre{font-size:1.2rem}"
    return HTMLResponse(
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{title} · Dure</title><style>{style}</style>"
        f"<h1>{title}</h1><p>{body}</p>", status, headers,
    )  # fmt: skip
