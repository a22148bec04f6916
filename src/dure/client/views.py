"""What the service answers, as frozen values. Keys that this client does not know are passed over, so that a newer service
may say more.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict

#: States of a job (design §4) and outcomes of an ended one.
STATES = ("PENDING", "ADMITTED", "RUNNING", "SUSPENDED", "COMPLETING", "ENDED")
OUTCOMES = ("succeeded", "failed", "cancelled", "timeout", "dependency")


class View(BaseModel):
    """Base of the answers."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Role(View):
    """What a person may do, and where; empty: everywhere."""

    role: str
    member: str | None = None
    project: str | None = None
    site: str | None = None

    @property
    def words(self) -> str:
        """For people."""
        return f"{self.role} of {self.project or self.member or self.site or 'the alliance'}"


class WhoAmI(View):
    """Whose token this is."""

    user: str
    token_id: str = ""
    roles: tuple[Role, ...] = ()
    default_project: str | None = None
    expires_at: datetime | None = None


class Submitted(View):
    """A job was taken; of an array, ``job_id`` is the array's and ``job_ids`` its tasks'."""

    job_id: str
    job_ids: tuple[str, ...] = ()


class SubmittedBatch(View):
    """Jobs were taken, in the order given."""

    job_ids: tuple[str, ...]


class SubmittedPipeline(View):
    """A pipeline was taken; ``job_ids``: by the jobs' names."""

    pipeline_id: str
    job_ids: dict[str, str]


class JobView(View):
    """A job as it stands now.

    Attributes
    ----------
    state, outcome : str
        One of `STATES`; once ENDED one of `OUTCOMES`.
    reason : str
        Why it waits, in one line; empty where it does not.
    expected_start : datetime or None
        None: not foreseen, or it has started.
    attempt : int
        The latest; 0 before the first.
    exit_code : int or None
        Of the latest attempt; 128 + n: by signal n.
    progress : dict or None
        What the job last said of itself.
    nodes : tuple of str
        Where its latest attempt runs or ran.
    limit_s : float or None
        Time limit of an attempt, in s; None: none, or (see `is_limit_known`) not said.
    """

    job_id: str
    name: str = ""
    project: str = ""
    member: str = ""
    user: str = ""
    state: str
    reason: str | None = None
    expected_start: datetime | None = None
    attempt: int = 0
    gpus: int = 0
    gpu_type: str | None = None
    site: str | None = None
    submitted_at: datetime | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    exit_code: int | None = None
    outcome: str | None = None
    array_id: str | None = None
    array_index: int | None = None
    pipeline_id: str | None = None
    progress: dict[str, Any] | None = None
    nodes: tuple[str, ...] = ()
    limit_s: float | None = None

    @property
    def is_limit_known(self) -> bool:
        """Whether the service has said the limit."""
        return "limit_s" in self.model_fields_set

    @property
    def is_ended(self) -> bool:
        """Nothing of it runs any more, and nothing will."""
        return self.state == "ENDED"


class JobPage(View):
    """Some jobs, newest first; ``next`` is the cursor of those after them."""

    jobs: tuple[JobView, ...]
    next: str | None = None


class AttemptView(View):
    """One attempt of a job: whose GPUs, on what terms, how long.

    Attributes
    ----------
    cause : str
        Why it left, where it was made to.
    owner, agreement : str or None
        Whose GPUs, and under which agreement they were borrowed; empty: none.
    """

    attempt: int
    lease_id: str = ""
    state: str = ""
    cause: str = ""
    site: str | None = None
    gpu_type: str | None = None
    gpus: float = 0
    nodes: tuple[str, ...] = ()
    leased_at: datetime | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    run_s: float | None = None
    borrowed_s: float | None = None
    energy_kwh: float | None = None
    exit_code: int | None = None
    owner: str | None = None
    agreement: str | None = None


class TimelineEntry(View):
    """Something that happened to a job; ``at_ms``: epoch ms."""

    at_ms: int
    what: str
    detail: Any = None


class JobDetail(JobView):
    """A job with its specification, attempts and story."""

    spec: dict[str, Any] = {}
    attempts: tuple[AttemptView, ...] = ()
    timeline: tuple[TimelineEntry, ...] = ()


class Explanation(View):
    """Why a job waits. ``rule`` is a number of docs/policy.md."""

    state: str
    rule: int | str | None = None
    missing: Any = None
    held_by: Any = None
    expected_start: datetime | None = None
    would_start_if: tuple[Any, ...] = ()
    message: str | None = None
    pools: tuple[Any, ...] = ()


class LogPart(View):
    """Bytes of a log. ``is_ended``: no more will come after ``next_offset``."""

    data: bytes
    next_offset: int
    is_ended: bool


class UsageRow(View):
    """What one member, project or user used of one GPU type in a month."""

    key: str
    gpu_type: str | None = None
    gpu_seconds: float = 0
    own_gpu_seconds: float = 0
    borrowed_gpu_seconds: float = 0
    lent_gpu_seconds: float = 0
    energy_kwh: float | None = None
    attempts: int = 0


class Usage(View):
    """The month's use."""

    month: str | None = None
    rows: tuple[UsageRow, ...] = ()


class Member(View):
    """An organisation: what it is guaranteed, uses, borrows and lends now, in GPUs."""

    name: str
    kind: str = ""
    guarantee_gpus: float = 0
    online_gpus: float | None = None
    used_gpus: float = 0
    borrowed_gpus: float = 0
    lent_gpus: float = 0
    waiting_jobs: int = 0
    credits: float | None = None


class Endpoint(View):
    """Where a service runs: ``trip_ms``, of the area asked for, is the round trip between its radio and the site."""

    url: str
    job_id: str
    attempt: int = 0
    site: str = ""
    trip_ms: float | None = None


class Site(View):
    """A site of the fleet. ``state``: open, cordoned, draining or drained.

    ``released``: the part of a cell site that is; ``released_until``: how long its radio has said so, None: its hours do.
    """

    name: str
    state: str = ""
    gpus: int = 0
    used_gpus: float = 0
    nodes: int = 0
    nodes_up: int = 0
    online_gpus: int | None = None
    power_w: int | None = None
    cap_w: int | None = None
    agent: str | None = None
    seen_at: datetime | None = None
    released: float | None = None
    released_until: datetime | None = None


class SiteJoined(View):
    """A site that has joined; with ``token``, shown this once, its agent enrols."""

    site: Site
    token_id: str
    token: str
    expires_at: datetime | None = None


class Node(View):
    """A machine. ``state``: up, down, quarantined, spare, offline, silent; closed by its operators: cordoned, draining, drained."""

    name: str
    site: str = ""
    gpu_type: str | None = None
    gpus: int = 0
    used_gpus: float = 0
    state: str = ""
    owner: str | None = None
    pool: str | None = None
    cpu_milli: int | None = None
    mem_mib: int | None = None
    jobs: tuple[str, ...] = ()


class Agent(View):
    """What runs at a site and was last heard of at ``seen_at``."""

    site: str
    agent_id: str = ""
    state: str = ""
    seen_at: datetime | None = None
    nodes: int = 0
    runs: int = 0


class Project(View):
    """What jobs belong to: ``member/name``."""

    name: str
    member: str = ""
    weight: float = 1


class Token(View):
    """A token, without its secret."""

    token_id: str
    name: str | None = None
    user: str = ""
    roles: tuple[Role, ...] = ()
    created_at: datetime | None = None
    expires_at: datetime | None = None
    is_revoked: bool = False

    @property
    def role_words(self) -> str:
        """Its roles, for people."""
        return ", ".join(role.words for role in self.roles)


class LoginOffer(View):
    """How people sign in: ``path`` below the service's address; empty: with tokens only."""

    issuer: str = ""
    path: str = ""


class NewToken(View):
    """A token just made; ``token`` is shown this once."""

    token_id: str
    token: str
    expires_at: datetime | None = None


class Audit(View):
    """What replaying the whole log has shown; ``findings``: what the first mismatches are."""

    events: int
    decisions: int
    verified: int
    mismatches: int
    findings: tuple[dict[str, Any], ...] = ()


class Event(View):
    """An entry of the log."""

    seq: int
    at: datetime
    actor: str
    hash: str
    body: dict[str, Any]


class EventPage(View):
    """Entries in their order; ``next`` is the number of the last."""

    events: tuple[Event, ...]
    next: int
