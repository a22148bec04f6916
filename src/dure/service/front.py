"""What stands before all routes: bounds on bodies, and the count of requests."""

from __future__ import annotations

import asyncio
import time
from http import HTTPStatus
from typing import TYPE_CHECKING

from fastapi import HTTPException

from dure.service.errors import Problem, problem_response

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from dure.service.metrics import Metrics

#: Largest body of a request, in bytes, and longest pause between two parts of it, in seconds.
BODY_MAX, PAUSE_MAX_S = 32 * 1024 * 1024, 30.0


class Front:
    """ASGI middleware; written by hand because it sees each part of a body as it comes.

    Parameters
    ----------
    body_max : int
        Bytes.
    pause_max_s : float
        A body whose next part takes longer is refused.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, body_max: int = BODY_MAX, pause_max_s: float = PAUSE_MAX_S) -> None:
        self._app, self._metrics = app, metrics
        self._body_max, self._pause_max_s = body_max, pause_max_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 500

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            if self._is_too_long(scope):
                await problem_response(self._too_large())(scope, receive, counted)
            else:
                await self._app(scope, self._bounded(receive), counted)
        finally:
            self._metrics.count_request(scope, status, time.perf_counter() - began)

    def _is_too_long(self, scope: Scope) -> bool:
        for name, value in scope["headers"]:
            if name == b"content-length":
                return not value.isdigit() or len(value) > 15 or int(value) > self._body_max
        return False

    def _too_large(self) -> Problem:
        return Problem(413, HTTPStatus(413).phrase, f"a request has at most {self._body_max} bytes")

    def _bounded(self, receive: Receive) -> Receive:
        size, is_whole = 0, False

        async def next_part() -> Message:
            nonlocal size, is_whole
            if is_whole:
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), self._pause_max_s)
            except TimeoutError:
                raise HTTPException(408, "the body did not come in time") from None
            size += len(message.get("body", b""))
            is_whole = not message.get("more_body", False)
            if size > self._body_max:
                raise HTTPException(413, self._too_large().detail)
            return message

        return next_part
