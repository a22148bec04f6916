"""The HTTP service: wiring of store, writer, views and routes."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from dure import __version__
from dure.service.commands import expire_silent
from dure.service.errors import MEDIA_TYPE, Problem
from dure.service.logs import LogFiles
from dure.service.metrics import Metrics
from dure.service.views import Views
from dure.service.writer import Writer
from dure.store.store import Store

#: Largest body of a request.
BODY_MAX = 64 * 1024 * 1024
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
    silent_ms, ttl_ms, margin_ms : int
        An agent not heard for so long gets no new work; its leases live so long without contact; and so much longer
        before they are given up.
    """

    database: str
    data_dir: Path
    silent_ms: int = 60_000
    ttl_ms: int = 3_600_000
    margin_ms: int = 60_000


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
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def open(self) -> None:
        """Open the store; lead it, or wait in the background until the leader is gone."""
        self.store.open()
        if self.store.lead():
            self.writer.start()
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
        """Let waiting requests be woken on this loop."""
        self._loop = loop

    def _wake(self, sites: set[str]) -> None:
        if self._loop is None or self._loop.is_closed():
            return

        def wake() -> None:
            for site in sites:
                event = self.changed.pop(site, None)
                if event is not None:
                    event.set()

        self._loop.call_soon_threadsafe(wake)

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

    def _look(self) -> None:
        settings, writer = self.settings, self.writer
        if not writer.is_leading:
            writer.stop()
            if self.store.lead():
                writer.start()
                structlog.get_logger("dure").info("leading")
        elif not self.store.lead():
            structlog.get_logger("dure").error("the lead is lost")
            writer.stop()
        else:
            command = expire_silent(settings.silent_ms, settings.ttl_ms, settings.margin_ms)
            writer.do(command, "service").result(timeout=30)


def configure_logging(is_json: bool | None = None) -> None:
    """Structured logs on standard error: JSON, or readable on a terminal."""
    plain = sys.stderr.isatty() if is_json is None else not is_json
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.dev.ConsoleRenderer() if plain else structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )


def problem_response(problem: Problem) -> Response:
    """A refusal as HTTP says it."""
    return JSONResponse(problem.document(), problem.status, headers=problem.headers, media_type=MEDIA_TYPE)


def create_app(service: Service) -> FastAPI:
    """The ASGI application of a service."""
    from dure.service import routes_admin, routes_agents, routes_alliance, routes_jobs

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        service.attach(asyncio.get_running_loop())
        yield

    app = FastAPI(
        title="Dure", version=__version__, lifespan=lifespan,
        summary="One GPU fleet, many organisations.",
        description="Errors are problem documents (RFC 9457, `application/problem+json`).",
        openapi_url="/openapi.json", docs_url="/docs", redoc_url=None,
    )  # fmt: skip
    app.state.service = service
    for module in (routes_jobs, routes_alliance, routes_admin, routes_agents):
        app.include_router(module.router)

    @app.exception_handler(Problem)
    async def refused(_request: Request, error: Problem) -> Response:
        return problem_response(error)

    @app.exception_handler(RequestValidationError)
    async def malformed(_request: Request, error: RequestValidationError) -> Response:
        errors = [
            {"field": ".".join(str(part) for part in e["loc"] if part not in ("body", "query", "path")), "message": e["msg"]}
            for e in error.errors()[:100]
        ]  # fmt: skip
        return problem_response(Problem(422, "Invalid request", errors[0]["message"] if errors else "", errors))

    @app.exception_handler(HTTPException)
    async def other(_request: Request, error: HTTPException) -> Response:
        return problem_response(Problem(error.status_code, str(error.detail), headers=dict(error.headers or {})))

    @app.middleware("http")
    async def bounded(request: Request, follow: Callable[[Request], Awaitable[Response]]) -> Response:
        length = request.headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > BODY_MAX:
            return problem_response(Problem(413, "Content too large", f"a request has at most {BODY_MAX} bytes"))
        began = time.perf_counter()
        response = await follow(request)
        service.metrics.count_request(request, response.status_code, time.perf_counter() - began)
        return response

    return app


def described(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The refusals that a route may give, for its OpenAPI description."""
    from dure.service.schemas import ProblemForm

    words = {
        401: "No good token.", 403: "Not the caller's to do.", 404: "There is none that the caller may see.",
        409: "In the way of what is there.", 413: "Too large.", 422: "Understood, and wrong.",
        503: "This service cannot write now.", 429: "Too much at once.",
    }  # fmt: skip
    return {s: {"model": ProblemForm, "description": words[s]} for s in statuses}
