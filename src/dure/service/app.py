"""The HTTP service: wiring of store, writer, views and routes."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from starlette.exceptions import HTTPException

from dure import __version__
from dure.ports.event_log import LogConflictError, LogUnwritableError
from dure.service.commands import expire_silent
from dure.service.errors import MEDIA_TYPE, Problem, internal, problem_response, unavailable
from dure.service.front import Front
from dure.service.logs import LogFiles
from dure.service.metrics import Metrics
from dure.service.oidc import Codes, OidcConfig
from dure.service.schemas import ProblemForm
from dure.service.tokens import KnownTokens
from dure.service.views import Views
from dure.service.writer import SERVICE, Writer
from dure.store.store import Store, StoreError

#: Errors that one refusal names at most.
ERRORS_MAX = 100
#: How often the lead and the agents are looked at.
WATCH_S = 1.0


@dataclass(frozen=True)
class Settings:
    """How a service runs.

    Attributes
    ----------
    database : str
        SQLAlchemy's URL.
    data_dir : Path
        Jobs' logs are kept here.
    url : str
        Where others reach this service; empty: not known.
    silent_ms, ttl_ms, margin_ms : int
        An agent not heard for so long gets no new work; its leases live so long without contact; and so much longer
        before they are given up.
    oidc : OidcConfig or None
        The provider that people sign in with.
    """

    database: str
    data_dir: Path
    silent_ms: int = 60_000
    ttl_ms: int = 7_200_000
    margin_ms: int = 60_000
    oidc: OidcConfig | None = None
    url: str = ""


class Service:
    """The parts of one running service."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.store = Store(settings.database)
        self.logs = LogFiles(settings.data_dir / "logs")
        self.changed: dict[str, asyncio.Event] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self.writer = Writer(self.store, self._wake)
        self.views = Views(self.store, self.writer, time.monotonic)
        self.metrics = Metrics(self)
        self.tokens = KnownTokens(self.store, self.writer)
        self.codes = Codes(time.monotonic)
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def open(self) -> None:
        """Open the store; lead it, or wait in the background until the leader is gone."""
        self.store.open()
        self._take_lead()
        self._thread = threading.Thread(target=self._watch, name="dure-watch", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Finish what was begun, and let go."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        self.writer.stop()
        self.store.close()

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Let waiting requests be woken on this loop; all is loaded by now, and stays."""
        self._loop = loop
        # The alliance is hundreds of thousands of objects that the collector would look through again and again.
        gc.collect()
        gc.freeze()

    def _wake(self, sites: set[str]) -> None:
        if self._loop is None or self._loop.is_closed():
            return

        def wake() -> None:
            for site in sites:
                event = self.changed.pop(site, None)
                if event is not None:
                    event.set()

        self._loop.call_soon_threadsafe(wake)

    def wake(self, site: str) -> None:
        """Answer a site's agent if it waits for news: it is to say anew what it has."""
        self._wake({site})

    def wake_all(self) -> None:
        """Answer every agent that waits for news: the service is about to stop."""
        self._wake(set(self.changed))

    def change_of(self, site: str) -> asyncio.Event:
        """Set when the site's leases change next."""
        return self.changed.setdefault(site, asyncio.Event())

    def _watch(self) -> None:
        """Become the leader when that is possible; note agents that are silent."""
        while not self._stop.wait(WATCH_S):
            try:
                self._look()
            except Exception as error:
                structlog.get_logger("dure").error("watch failed", error=str(error))

    def _take_lead(self) -> bool:
        """Begin to lead, where nobody else does; otherwise remember who does."""
        if not self.store.lead():
            self.writer.leader = self.store.leader()
            return False
        self.writer.start()
        try:
            self.store.note_leader(self.settings.url)
        except (LogConflictError, LogUnwritableError) as error:
            structlog.get_logger("dure").warning("others are not told who leads", error=str(error))
        return True

    def _look(self) -> None:
        settings, writer = self.settings, self.writer
        if not writer.is_leading:
            writer.stop()
            if self._take_lead():
                structlog.get_logger("dure").info("leading")
        elif not self.store.still_leads():
            structlog.get_logger("dure").error("the lead is lost")
            writer.stop()
        else:
            command = expire_silent(settings.silent_ms, settings.ttl_ms, settings.margin_ms)
            writer.do(command, SERVICE).result(timeout=30)


def create_app(service: Service) -> FastAPI:
    """The ASGI application of a service."""
    from dure.service import routes_admin, routes_agents, routes_alliance, routes_blueprints, routes_jobs, routes_login

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        service.attach(asyncio.get_running_loop())
        yield

    app = FastAPI(
        title="Dure", version=__version__, lifespan=lifespan,
        summary="One GPU fleet, many organisations.",
        description="Errors are problem documents (RFC 9457, `application/problem+json`).",
        openapi_url="/openapi.json", docs_url="/docs", redoc_url=None, redirect_slashes=False,
    )  # fmt: skip
    app.state.service = service
    for module in (routes_jobs, routes_alliance, routes_admin, routes_agents, routes_blueprints, routes_login):
        app.include_router(module.router)
    if service.settings.oidc is not None:
        app.mount(routes_login.PATH, routes_login.browser_app(service, service.settings.oidc))

    app.add_exception_handler(Problem, _refused)
    app.add_exception_handler(RequestValidationError, _malformed)
    app.add_exception_handler(HTTPException, _other)
    app.add_exception_handler(StoreError, _unreadable)
    app.add_exception_handler(Exception, _failed)
    app.add_middleware(Front, metrics=service.metrics)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return app


def _openapi(app: FastAPI) -> dict[str, Any]:
    """The API's description, with the form of refusals, and FastAPI's own form of them left out."""
    if app.openapi_schema is None:
        made = get_openapi(title=app.title, version=app.version, summary=app.summary, description=app.description,
                           routes=app.routes)  # fmt: skip
        forms = made["components"]["schemas"]
        forms["ProblemForm"] = ProblemForm.model_json_schema(ref_template="#/components/schemas/{model}")
        for name in ("HTTPValidationError", "ValidationError"):
            forms.pop(name, None)
        app.openapi_schema = made
    return app.openapi_schema


async def _refused(_request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return problem_response(error)


async def _malformed(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    errors = [
        {"field": ".".join(str(part) for part in e["loc"] if part not in ("body", "query", "path")), "message": e["msg"]}
        for e in error.errors()[:ERRORS_MAX]
    ]  # fmt: skip
    return problem_response(Problem(422, "Invalid request", errors[0]["message"] if errors else "", errors))


async def _other(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    title = HTTPStatus(error.status_code).phrase
    return problem_response(Problem(error.status_code, title, str(error.detail), headers=dict(error.headers or {})))


async def _unreadable(_request: Request, error: Exception) -> Response:
    return problem_response(unavailable(str(error)))


async def _failed(_request: Request, _error: Exception) -> Response:
    return problem_response(internal())


def described(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The refusals that a route may give, for its OpenAPI description."""
    words = {
        400: "Not to be read.", 401: "No good token.", 403: "Not the caller's to do.", 404: "There is none that the caller may see.",
        408: "The body did not come in time.",
        409: "In the way of what is there.", 413: "Too large.", 422: "Understood, and wrong.",
        503: "This service cannot write now.", 507: "The disk is full.",
    }  # fmt: skip
    form = {"content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemForm"}}}}
    # Every route refuses unknown parameters and may find no database; one that takes a body may get none that can be read.
    found = {*statuses, 422, 503, *((400, 408) if 413 in statuses else ())}
    return {s: {"description": words[s], **form} for s in sorted(found)}
