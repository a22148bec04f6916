"""The service as its agent sees it: two calls over HTTP, to whichever of its addresses leads."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from datetime import datetime
from typing import Any
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ValidationError

from dure.agent.logs import NotTakenError, UnknownLogError
from dure.agent.wire import Answer
from dure.model.errors import DureError

_CONNECT_S, _ANSWER_S = 5.0, 15.0
#: However long the service wants to be left alone, s.
RETRY_S_MAX = 60.0


class NoAnswerError(DureError):
    """No answer that could be used: no connection, an error of the service, a token that it does not take.

    ``retry_s``: so long the service wants not to be asked again.
    """

    def __init__(self, message: str, retry_s: float = 0.0) -> None:
        super().__init__(message)
        self.retry_s = retry_s


class RefusedError(DureError):
    """The service has understood, and does not do it."""


class _KeyKept(BaseModel):
    expires_at: datetime


class Service:
    """A connection to the service on behalf of a site.

    Parameters
    ----------
    urls : sequence of str
        Of the services of which one leads; what one does not take is tried with the next.
    token : str
        To come with; empty: `use` says it later.
    trust : ssl.SSLContext or None
        Whose certificates are good; None: what is asked is not encrypted.
    """

    def __init__(self, urls: Sequence[str], token: str, site: str, trust: ssl.SSLContext | None = None) -> None:
        self._roots = [f"{url.rstrip('/')}/api/v1/agents/{quote(site, safe='')}" for url in urls]
        self._at = 0
        self._http = httpx.AsyncClient(
            headers=_bearer(token) if token else {}, verify=trust or True,
            timeout=httpx.Timeout(_ANSWER_S, connect=_CONNECT_S),
            limits=httpx.Limits(max_connections=32),
        )

    async def sync(self, report: dict[str, Any]) -> Answer:
        """Report, and hear which leases there should be.

        Raises
        ------
        NoAnswerError
            There is no answer to this report.
        """
        timeout = httpx.Timeout(_ANSWER_S + report["wait_s"], connect=_CONNECT_S)
        at = self._at
        try:
            got = await self._http.post(f"{self._roots[at]}/sync", json=report, timeout=timeout)
        except httpx.HTTPError as error:
            self._leave(at)
            raise NoAnswerError(_said(error)) from error
        if got.status_code != 200:
            self._leave_unless_busy(at, got)
            raise _no_answer(got)
        try:
            answer = Answer.model_validate_json(got.content)
        except ValidationError as error:
            raise NoAnswerError(f"an answer that is none: {error}") from error
        if answer.seq != report["seq"]:
            raise NoAnswerError(f"an answer to report {answer.seq}, not to {report['seq']}")
        return answer

    def use(self, key: str) -> None:
        """Come with this key from now on."""
        self._http.headers.update(_bearer(key))

    async def enrol(self, agent_id: str, key: str, token: str) -> int:
        """Give a one-time token for a key of one's own; when that ends, epoch ms.

        Raises
        ------
        NoAnswerError
            Whether it is kept is not known: the same may be asked again.
        RefusedError
            It is not.
        """
        return await self._keep("enrol", {"agent_id": agent_id, "key": key}, _bearer(token))

    async def renew(self, key: str) -> int:
        """Give the key in use for another; raises as `enrol` does."""
        return await self._keep("renew", {"key": key}, {})

    async def _keep(self, what: str, body: dict[str, str], headers: dict[str, str]) -> int:
        at = self._at
        try:
            got = await self._http.post(f"{self._roots[at]}/{what}", json=body, headers=headers)
        except httpx.HTTPError as error:
            self._leave(at)
            raise NoAnswerError(_said(error)) from error
        if got.status_code in (401, 403, 404, 409, 422):
            raise RefusedError(f"the service refuses to {what}: {got.status_code}: {got.text[:300]}")
        if got.status_code != 201:
            self._leave_unless_busy(at, got)
            raise _no_answer(got)
        try:
            return int(_KeyKept.model_validate_json(got.content).expires_at.timestamp() * 1000)
        except ValidationError as error:
            raise NoAnswerError(f"an answer that is none: {error}") from error

    async def post_log(self, lease_id: str, rank: int, offset: int, piece: bytes) -> int:
        """Hand over a piece of a log; the offset that the service has then."""
        at = self._at
        url = f"{self._roots[at]}/logs/{quote(lease_id, safe='')}/{rank}"
        try:
            got = await self._http.post(url, params={"offset": offset}, content=piece)
        except httpx.HTTPError as error:
            self._leave(at)
            raise NotTakenError(_said(error)) from error
        if got.status_code == 204:
            return offset + len(piece)
        if got.status_code == 409 and got.headers.get("Dure-Next-Offset", "").isdigit():
            return int(got.headers["Dure-Next-Offset"])
        if got.status_code in (404, 410):
            raise UnknownLogError(f"{got.status_code}: {got.text[:300]}")
        raise NotTakenError(f"{got.status_code}: {got.text[:300]}")

    def _leave_unless_busy(self, at: int, got: httpx.Response) -> None:
        # One that is busy leads, and wants to be asked later.
        if "Dure-Busy" not in got.headers:
            self._leave(at)

    def _leave(self, at: int) -> None:
        """An address did not do; what asks next asks the one after it."""
        if at == self._at:
            self._at = (at + 1) % len(self._roots)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()


def _bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def _no_answer(got: httpx.Response) -> NoAnswerError:
    after = got.headers.get("Retry-After", "")
    return NoAnswerError(f"{got.status_code}: {got.text[:300]}", min(float(after), RETRY_S_MAX) if after.isdecimal() else 0.0)


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".removesuffix(": ")
