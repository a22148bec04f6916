"""The clients: one that blocks and one that is awaited, over the same calls."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, Generic, ParamSpec, Self, TypeVar, overload

import httpx
from pydantic import ValidationError

from dure import __version__
from dure.client import calls, courses
from dure.client.calls import Call
from dure.client.courses import Course, Pause
from dure.client.errors import ApiError, UnreachableError, api_error
from dure.client.settings import Settings, load_settings
from dure.client.trust import check_encrypted, trust_of
from dure.model.errors import InputError

P = ParamSpec("P")
T = TypeVar("T")

#: Pause before the second try, doubled for each further one, up to the last.
RETRY_FIRST_S, RETRY_LAST_S = 0.1, 5.0

#: However long the service wants to be left alone, s.
RETRY_LATER_S_MAX = 60.0

#: A service that leads and has refused for want of time says so in this header.
_BUSY_HEADER = "Dure-Busy"

#: An idle connection is given up before the service does so (after 5 s), or a submission could run into its end.
IDLE_S = 2.0

#: The service, or what stands before it, is changing over: worth another try.
_BUSY = (502, 503, 504)


class _Method(Generic[P, T]):
    """A call as a method: of `Client` it gives the answer, of `AsyncClient` something to await."""

    def __init__(self, build: Callable[P, Call[T]]) -> None:
        self.build = build
        self.__doc__ = build.__doc__

    @overload
    def __get__(self, client: Client, owner: type) -> Callable[P, T]: ...
    @overload
    def __get__(self, client: AsyncClient, owner: type) -> Callable[P, Awaitable[T]]: ...
    def __get__(self, client: Any, owner: type) -> Any:
        def method(*args: P.args, **kwargs: P.kwargs) -> Any:
            return client.send(self.build(*args, **kwargs))

        return method


class _Course(Generic[P, T]):
    """A course of calls as a method: of `Client` an iterator, of `AsyncClient` an asynchronous one."""

    def __init__(self, build: Callable[P, Course[T]]) -> None:
        self.build = build
        self.__doc__ = build.__doc__

    @overload
    def __get__(self, client: Client, owner: type) -> Callable[P, Iterator[T]]: ...
    @overload
    def __get__(self, client: AsyncClient, owner: type) -> Callable[P, AsyncIterator[T]]: ...
    def __get__(self, client: Any, owner: type) -> Any:
        def method(*args: P.args, **kwargs: P.kwargs) -> Any:
            return client.drive(self.build(*args, **kwargs))

        return method


class _Calls:
    """What both clients can do."""

    whoami = _Method(calls.whoami)
    submit = _Method(calls.submit)
    submit_batch = _Method(calls.submit_batch)
    submit_pipeline = _Method(calls.submit_pipeline)
    jobs = _Method(calls.jobs)
    job = _Method(calls.job)
    cancel = _Method(calls.cancel)
    explain = _Method(calls.explain)
    logs = _Method(calls.logs)
    report_progress = _Method(calls.report_progress)
    usage = _Method(calls.usage)
    members = _Method(calls.members)
    find_service = _Method(calls.find_service)
    sites = _Method(calls.sites)
    nodes = _Method(calls.nodes)
    add_site = _Method(calls.add_site)
    make_enrolment = _Method(calls.make_enrolment)
    cordon_site = _Method(calls.cordon_site)
    drain_site = _Method(calls.drain_site)
    uncordon_site = _Method(calls.uncordon_site)
    release_site = _Method(calls.release_site)
    cordon_node = _Method(calls.cordon_node)
    drain_node = _Method(calls.drain_node)
    uncordon_node = _Method(calls.uncordon_node)
    agents = _Method(calls.agents)
    projects = _Method(calls.projects)
    create_project = _Method(calls.create_project)
    tokens = _Method(calls.tokens)
    create_token = _Method(calls.create_token)
    revoke_token = _Method(calls.revoke_token)
    login_offer = _Method(calls.login_offer)
    redeem_login = _Method(calls.redeem_login)
    events = _Method(calls.events)
    audit = _Method(calls.audit)
    all_jobs = _Course(courses.all_jobs)
    follow = _Course(courses.follow)
    changes = _Course(courses.changes)

    def __init__(self, url: str = "", token: str = "", *, timeout_s: float = 30.0, retry_s: float = 5.0) -> None:
        """Without ``url`` the settings are read (`load_settings`).

        Parameters
        ----------
        url : str
            Several, of which one leads: parted by commas. What the one in use surely has not taken goes to the next.
        timeout_s : float
            For an answer, beyond what a call waits on purpose.
        retry_s : float
            For so long an idempotent call is tried again when no connection comes about or the service is changing over;
            with several addresses any call that surely was not taken.

        Raises
        ------
        InputError
            Address or token cannot be ones.
        """
        self.settings = Settings(url, token) if url else load_settings()
        self.timeout_s, self.retry_s = timeout_s, retry_s
        self._bases = [_base_of(address) for address in self.settings.urls or [self.settings.url]]
        self._at = 0
        self._options = _http_options(self._bases, self.settings)

    def _request(self, call: Call[Any], at: int) -> dict[str, Any]:
        return {
            "method": call.method, "url": f"{self._bases[at]}{call.path}", "params": dict(call.params), "content": call.content,
            "headers": {"Content-Type": "application/json"} if call.content is not None else {},
            "timeout": httpx.Timeout(self.timeout_s + call.wait_s, connect=self.timeout_s),
        }  # fmt: skip

    def _again(self, call: Call[Any], at: int, got: httpx.Response | httpx.RequestError, pauses: Iterator[float]) -> float | None:
        """After how many seconds to try again, from then on with another address where there is one; None: not at all."""
        if isinstance(got, httpx.Response) and got.status_code not in _BUSY:
            return None
        if isinstance(got, httpx.Response) and _BUSY_HEADER in got.headers:
            # It leads, and nothing was done: the same one is asked again, when it wants.
            pause_s = next(pauses, None)
            return None if pause_s is None else max(pause_s, _later_s(got))
        if self._at == at:
            self._at = (at + 1) % len(self._bases)
        if call.is_idempotent or (len(self._bases) > 1 and _is_surely_not_taken(got)):
            return next(pauses, None)
        return None

    def _pauses(self) -> Iterator[float]:
        """Before each further try: a little less than the doubled pause, so that not all come back at one moment."""
        left_s, pause_s = self.retry_s, RETRY_FIRST_S
        while left_s > 0:
            yield min(left_s, pause_s * random.uniform(0.5, 1.0))
            left_s, pause_s = left_s - pause_s, min(2 * pause_s, RETRY_LAST_S)

    def _unreachable(self, call: Call[Any], error: httpx.RequestError) -> UnreachableError:
        said = str(error) or type(error).__name__
        doubt = ""
        if not call.is_idempotent and not isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
            doubt = "; it may have taken the request all the same: look before you repeat it"
        return UnreachableError(f"no answer from {self.settings.url}: {said}{doubt}")


def _later_s(got: httpx.Response) -> float:
    """For how long the service does not want to be asked, s; never for longer than a minute."""
    after = got.headers.get("Retry-After", "")
    return min(float(after), RETRY_LATER_S_MAX) if after.isdecimal() else 0.0


def _is_surely_not_taken(got: httpx.Response | httpx.RequestError) -> bool:
    """Whether nothing was done: nobody was reached, or one that does not lead."""
    if isinstance(got, httpx.Response):
        return "Dure-Leader" in got.headers
    return isinstance(got, httpx.ConnectError | httpx.ConnectTimeout)


def _base_of(address: str) -> httpx.URL:
    try:
        url = httpx.URL(address.rstrip("/") + "/api/v1")
    except httpx.InvalidURL as error:
        raise InputError(f"{address!r} is no address: {error}", field="DURE_URL") from None
    if not url.host:
        raise InputError(f"{address!r} names no host", field="DURE_URL")
    return url


def _http_options(bases: Sequence[httpx.URL], settings: Settings) -> dict[str, Any]:
    """What httpx is told once: proxies of the environment hold, but not for this machine itself."""
    token = settings.token
    if not (token.isascii() and token.isprintable()):
        raise InputError("has characters that no token has", field="DURE_TOKEN")
    for url in bases:
        check_encrypted(url.scheme, url.host, settings.is_insecure)
    headers = {"User-Agent": f"dure/{__version__}"}
    headers |= {"Authorization": f"Bearer {token}"} if token else {}
    return {
        "headers": headers, "trust_env": not all(url.host in ("127.0.0.1", "::1", "localhost") for url in bases),
        **({"verify": trust_of(settings.ca_file)} if any(url.scheme == "https" for url in bases) else {}),
        "limits": httpx.Limits(max_connections=100, max_keepalive_connections=20, keepalive_expiry=IDLE_S),
    }  # fmt: skip


def _read(call: Call[T], response: httpx.Response) -> T:
    if response.status_code >= 300:
        raise api_error(response)
    try:
        return call.read(response)
    except (ValidationError, ValueError) as error:
        said = str(error).splitlines()[0]
        raise ApiError(response.status_code, "not an answer of Dure", f"{call.path} was not answered by Dure: {said}") from None


class Client(_Calls):
    """Blocks until each answer is there. Close it, or use it in a ``with``; one thread at a time."""

    def __init__(self, url: str = "", token: str = "", *, timeout_s: float = 30.0, retry_s: float = 5.0) -> None:
        super().__init__(url, token, timeout_s=timeout_s, retry_s=retry_s)
        self._http = httpx.Client(**self._options)

    def send(self, call: Call[T]) -> T:
        """Carry out a call.

        Raises
        ------
        ApiError
            The service refused it.
        UnreachableError
            No answer came.
        """
        pauses = self._pauses()
        while True:
            at = self._at
            try:
                response = self._http.request(**self._request(call, at))
            except httpx.RequestError as error:
                pause_s = self._again(call, at, error, pauses)
                if pause_s is None:
                    raise self._unreachable(call, error) from None
            else:
                pause_s = self._again(call, at, response, pauses)
                if pause_s is None:
                    return _read(call, response)
            time.sleep(pause_s)

    def drive(self, course: Course[T]) -> Iterator[T]:
        """Carry out a course of calls."""
        answer: Any = None
        try:
            while True:
                wanted = course.send(answer)
                answer = None
                if isinstance(wanted, Call):
                    answer = self.send(wanted)
                elif isinstance(wanted, Pause):
                    time.sleep(wanted.seconds)
                else:
                    yield wanted
        except StopIteration:
            return

    def close(self) -> None:
        """Let go of the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class AsyncClient(_Calls):
    """As `Client`, with methods to await; many calls may be under way at one time."""

    def __init__(self, url: str = "", token: str = "", *, timeout_s: float = 30.0, retry_s: float = 5.0) -> None:
        super().__init__(url, token, timeout_s=timeout_s, retry_s=retry_s)
        self._http = httpx.AsyncClient(**self._options)

    async def send(self, call: Call[T]) -> T:
        """Carry out a call; raises as `Client.send` does."""
        pauses = self._pauses()
        while True:
            at = self._at
            try:
                response = await self._http.request(**self._request(call, at))
            except httpx.RequestError as error:
                pause_s = self._again(call, at, error, pauses)
                if pause_s is None:
                    raise self._unreachable(call, error) from None
            else:
                pause_s = self._again(call, at, response, pauses)
                if pause_s is None:
                    return _read(call, response)
            await asyncio.sleep(pause_s)

    async def drive(self, course: Course[T]) -> AsyncIterator[T]:
        """Carry out a course of calls."""
        answer: Any = None
        while True:
            try:
                wanted = course.send(answer)
            except StopIteration:
                return
            answer = None
            if isinstance(wanted, Call):
                answer = await self.send(wanted)
            elif isinstance(wanted, Pause):
                await asyncio.sleep(wanted.seconds)
            else:
                yield wanted

    async def close(self) -> None:
        """Let go of the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
