"""Every call of the API once, for the sync client and the async one alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar
from urllib.parse import quote

import httpx
from pydantic import TypeAdapter

from dure.client import views
from dure.model.job_file import JobSpec, Pipeline

T = TypeVar("T")

#: A value of a query; several stand for each of them.
Param = str | int | Sequence[str]

#: Longest that the service lets a reader wait for more of a log.
LOG_WAIT_S_MAX = 30


@dataclass(frozen=True)
class Call(Generic[T]):
    """One request and how its answer is read.

    Attributes
    ----------
    path : str
        Below ``/api/v1``.
    is_idempotent : bool
        Asked twice it does what it does once, so it may be sent again when the connection breaks.
    wait_s : float
        How long the service may take on purpose before it answers.
    """

    method: str
    path: str
    read: Callable[[httpx.Response], T]
    params: Mapping[str, Param] = field(default_factory=dict)
    content: bytes | None = None
    is_idempotent: bool = True
    wait_s: float = 0


def _reader(form: type[T]) -> Callable[[httpx.Response], T]:
    adapter = TypeAdapter(form)

    def read(response: httpx.Response) -> T:
        return adapter.validate_json(response.content)

    return read


def _nothing(response: httpx.Response) -> None:
    return None


def _path(*parts: str) -> str:
    return "".join("/" + quote(part, safe="") for part in parts)


def _params(**values: Param | None) -> dict[str, Param]:
    """Those that were given."""
    return {key: value for key, value in values.items() if value not in (None, "", (), [])}


def _notice(notice_s: float | None) -> dict[str, Param]:
    return {} if notice_s is None else {"notice_s": str(notice_s)}


def _json(form: object) -> bytes:
    return TypeAdapter(Any).dump_json(form)


def _spec(spec: JobSpec) -> dict[str, Any]:
    return spec.model_dump(mode="json", exclude_defaults=True)


_READ_WHOAMI = _reader(views.WhoAmI)
_READ_SUBMITTED = _reader(views.Submitted)
_READ_BATCH = _reader(views.SubmittedBatch)
_READ_PIPELINE = _reader(views.SubmittedPipeline)
_READ_PAGE = _reader(views.JobPage)
_READ_JOB = _reader(views.JobView)
_READ_DETAIL = _reader(views.JobDetail)
_READ_EXPLANATION = _reader(views.Explanation)
_READ_USAGE = _reader(views.Usage)
_READ_MEMBERS = _reader(tuple[views.Member, ...])
_READ_ENDPOINTS = _reader(tuple[views.Endpoint, ...])
_READ_SITES = _reader(tuple[views.Site, ...])
_READ_NODES = _reader(tuple[views.Node, ...])
_READ_JOINED = _reader(views.SiteJoined)
_READ_SITE = _reader(views.Site)
_READ_NODE = _reader(views.Node)
_READ_AGENTS = _reader(tuple[views.Agent, ...])
_READ_PROJECTS = _reader(tuple[views.Project, ...])
_READ_PROJECT = _reader(views.Project)
_READ_TOKENS = _reader(tuple[views.Token, ...])
_READ_NEW_TOKEN = _reader(views.NewToken)
_READ_LOGIN_OFFER = _reader(views.LoginOffer)
_READ_EVENTS = _reader(views.EventPage)
_READ_AUDIT = _reader(views.Audit)


def whoami() -> Call[views.WhoAmI]:
    """Whose token this is."""
    return Call("GET", "/whoami", _READ_WHOAMI)


def submit(spec: JobSpec) -> Call[views.Submitted]:
    """Hand in a job, or an array of them."""
    return Call("POST", "/jobs", _READ_SUBMITTED, content=_json(_spec(spec)), is_idempotent=False)


def submit_batch(specs: Sequence[JobSpec]) -> Call[views.SubmittedBatch]:
    """Hand in up to 10,000 jobs, all or none."""
    content = _json({"jobs": [_spec(spec) for spec in specs]})
    return Call("POST", "/jobs/batch", _READ_BATCH, content=content, is_idempotent=False)


def submit_pipeline(pipeline: Pipeline) -> Call[views.SubmittedPipeline]:
    """Hand in jobs that follow one another."""
    content = _json(pipeline.model_dump(mode="json", exclude_defaults=True))
    return Call("POST", "/pipelines", _READ_PIPELINE, content=content, is_idempotent=False)


def jobs(
    *,
    state: str | Sequence[str] = "",
    member: str = "",
    project: str = "",
    user: str = "",
    array: str = "",
    name: str = "",
    limit: int = 100,
    after: str = "",
) -> Call[views.JobPage]:
    """A page of jobs, newest first; empty filters let all pass. ``state``: one or several."""
    params = _params(
        state=state, member=member, project=project, user=user, array=array, name=name, limit=limit, after=after
    )
    return Call("GET", "/jobs", _READ_PAGE, params)


def job(job_id: str) -> Call[views.JobDetail]:
    """A job with its attempts and story."""
    return Call("GET", _path("jobs", job_id), _READ_DETAIL)


def cancel(job_id: str) -> Call[views.JobView]:
    """Take a job (an array: all of its tasks) back; one that has ended stays as it is."""
    return Call("POST", _path("jobs", job_id, "cancel"), _READ_JOB)


def explain(job_id: str) -> Call[views.Explanation]:
    """Why a job waits, until when, and what would let it start sooner."""
    return Call("GET", _path("jobs", job_id, "explain"), _READ_EXPLANATION)


def logs(
    job_id: str, *, attempt: int | None = None, rank: int = 0, offset: int = 0, wait_s: int = 0
) -> Call[views.LogPart]:
    """A log's bytes from ``offset`` on; where there are none yet, the service waits up to ``wait_s`` (≤ 30) for them."""

    def read(response: httpx.Response) -> views.LogPart:
        ended = response.headers.get("Dure-Log-Ended", "0") == "1"
        following = int(response.headers.get("Dure-Next-Offset", offset + len(response.content)))
        return views.LogPart(data=response.content, next_offset=following, is_ended=ended)

    params = _params(attempt=attempt, rank=rank, offset=offset, wait_s=wait_s)
    return Call("GET", _path("jobs", job_id, "logs"), read, params, wait_s=wait_s)


def report_progress(job_id: str, progress: Mapping[str, Any]) -> Call[None]:
    """Say how far a job has come; a job itself prints a line instead (`dure.client.job`)."""
    return Call("POST", _path("jobs", job_id, "progress"), _nothing, content=_json(dict(progress)))


def usage(by: str = "member", month: str = "") -> Call[views.Usage]:
    """GPU time and energy by member, project or user in a month (``YYYY-MM``; default: this one)."""
    return Call("GET", "/usage", _READ_USAGE, _params(by=by, month=month))


def members() -> Call[tuple[views.Member, ...]]:
    """The members: shares, use, loans."""
    return Call("GET", "/members", _READ_MEMBERS)


def find_service(name: str, *, area: str = "", within_ms: float | None = None) -> Call[tuple[views.Endpoint, ...]]:
    """Where a service is running: with ``area`` those that reach devices there, the nearest first."""
    within = None if within_ms is None else str(within_ms)
    return Call("GET", _path("services", name), _READ_ENDPOINTS, _params(area=area, within_ms=within))


def sites() -> Call[tuple[views.Site, ...]]:
    """The sites."""
    return Call("GET", "/sites", _READ_SITES)


def nodes() -> Call[tuple[views.Node, ...]]:
    """The nodes."""
    return Call("GET", "/nodes", _READ_NODES)


def add_site(file: str) -> Call[views.SiteJoined]:
    """Let a site join, as a file says; the token with which its agent enrols is shown this once."""
    return Call("POST", "/sites", _READ_JOINED, content=_json({"file": file}), is_idempotent=False)


def make_enrolment(site: str) -> Call[views.NewToken]:
    """Make a token with which a site's agent enrols once; its secret is shown this once."""
    return Call("POST", _path("sites", site, "enrolment"), _READ_NEW_TOKEN, is_idempotent=False)


def cordon_site(site: str) -> Call[views.Site]:
    """Close a site: nothing new starts there, what runs goes on."""
    return Call("POST", _path("sites", site, "cordon"), _READ_SITE)


def drain_site(site: str, notice_s: float | None = None) -> Call[views.Site]:
    """Close a site, and make what runs there leave, within a notice, and go on elsewhere."""
    return Call("POST", _path("sites", site, "drain"), _READ_SITE, _notice(notice_s))


def uncordon_site(site: str) -> Call[views.Site]:
    """Open a site again."""
    return Call("POST", _path("sites", site, "uncordon"), _READ_SITE)


def release_site(site: str, part: float, for_s: float) -> Call[views.Site]:
    """Say what part of a cell site its radio releases for so long, in place of its hours."""
    return Call("POST", _path("sites", site, "release"), _READ_SITE, {"part": str(part), "for_s": str(for_s)})


def cordon_node(node: str) -> Call[views.Node]:
    """Close a node: nothing new starts there, what runs goes on."""
    return Call("POST", _path("nodes", node, "cordon"), _READ_NODE)


def drain_node(node: str, notice_s: float | None = None) -> Call[views.Node]:
    """Close a node, and make what runs there leave, within a notice, and go on elsewhere."""
    return Call("POST", _path("nodes", node, "drain"), _READ_NODE, _notice(notice_s))


def uncordon_node(node: str) -> Call[views.Node]:
    """Open a node again."""
    return Call("POST", _path("nodes", node, "uncordon"), _READ_NODE)


def agents() -> Call[tuple[views.Agent, ...]]:
    """The agents."""
    return Call("GET", "/agents", _READ_AGENTS)


def projects() -> Call[tuple[views.Project, ...]]:
    """The projects that the caller may see."""
    return Call("GET", "/projects", _READ_PROJECTS)


def create_project(name: str, member: str, weight: float | None = None) -> Call[views.Project]:
    """Make a project of a member's."""
    content = _json({"name": name, "member": member, **({} if weight is None else {"weight": weight})})
    return Call("POST", "/projects", _READ_PROJECT, content=content, is_idempotent=False)


def tokens() -> Call[tuple[views.Token, ...]]:
    """The tokens that the caller may see, without their secrets."""
    return Call("GET", "/tokens", _READ_TOKENS)


def create_token(
    user: str,
    role: str,
    *,
    member: str = "",
    project: str = "",
    site: str = "",
    expires_in_s: int | None = None,
    name: str = "",
) -> Call[views.NewToken]:
    """Make a token for someone; its secret is shown this once."""
    content = _json(
        {"user": user, "role": role}
        | _params(member=member, project=project, site=site, expires_in_s=expires_in_s, name=name)
    )
    return Call("POST", "/tokens", _READ_NEW_TOKEN, content=content, is_idempotent=False)


def login_offer() -> Call[views.LoginOffer]:
    """Whether people sign in with a provider, and where."""
    return Call("GET", "/login", _READ_LOGIN_OFFER)


def redeem_login(code: str, verifier: str) -> Call[views.NewToken]:
    """Give the code that a sign-in ended with for a token."""
    return Call("POST", "/login", _READ_NEW_TOKEN, content=_json({"code": code, "verifier": verifier}), is_idempotent=False)


def revoke_token(token_id: str) -> Call[None]:
    """End a token's life."""
    return Call("DELETE", _path("tokens", token_id), _nothing)


def events(after: int = 0, limit: int = 100) -> Call[views.EventPage]:
    """Entries of the log that come after entry number ``after``."""
    return Call("GET", "/events", _READ_EVENTS, _params(after=after, limit=limit))


def audit() -> Call[views.Audit]:
    """Replay the service's whole log and compare every decision."""
    return Call("GET", "/audit", _READ_AUDIT, wait_s=3600)
