"""Forms of the API's answers and of requests that are not files."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from dure.model.blueprint_file import Blueprint
from dure.model.job_file import JobSpec, Pipeline, TaskRole
from dure.service.errors import Problem
from dure.service.identity import Role

#: Jobs of one batch.
BATCH_JOBS_MAX = 10_000


#: Nesting of JSON that means something.
DEPTH_MAX = 32


def plain(value: Any, depth: int = 0, bad: str = "\0") -> Any:
    """JSON with arrays as tuples; refused: nesting too deep, numbers that are none, text with half or bad characters.

    Raises
    ------
    ValueError
        It is refused.
    """
    if isinstance(value, str):
        if (bad and bad in value) or not _is_whole(value):
            raise ValueError("text with a NUL or half a character")
        return value
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("a number that is none")
    if isinstance(value, list | dict):
        if depth >= DEPTH_MAX:
            raise ValueError(f"nested more than {DEPTH_MAX} deep")
        if isinstance(value, list):
            return tuple(plain(part, depth + 1, bad) for part in value)
        return {plain(key, 0, bad): plain(part, depth + 1, bad) for key, part in value.items()}
    return value


def _is_whole(text: str) -> bool:
    return text.isascii() or not any("\ud800" <= c <= "\udfff" for c in text)


JobBody = Annotated[JobSpec, BeforeValidator(plain)]
PipelineBody = Annotated[Pipeline, BeforeValidator(plain)]


Progress = Annotated[dict[str, Any], BeforeValidator(lambda value: plain(value, bad=""))]
#: Text of a request that goes into a column of the database.
_TEXT = r"^[^\x00-\x1f]*$"


class Answer(BaseModel):
    """Base of answers."""

    model_config = ConfigDict(frozen=True)


class Request(BaseModel):
    """Base of requests: unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


#: Protocols of agents that are understood: this version's and the one before.
PROTOCOLS = (1, 2)
#: From this one on an agent needs no launch of a lease that it has.
BRIEF_FROM = 2


class Message(BaseModel):
    """Base of what agents say: keys that only a later version knows are passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class ProblemForm(Answer):
    """Why a request was refused (RFC 9457)."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str = ""
    errors: list[dict[str, str]] = []


class Submitted(Answer):
    """Ids of new jobs; of an array, `job_id` names all of it."""

    job_id: str
    job_ids: list[str]


class Batch(Request):
    """Jobs that are taken in together, or not at all."""

    jobs: list[JobBody] = Field(min_length=1, max_length=BATCH_JOBS_MAX)


class BatchSubmitted(Answer):
    """Ids, one for each job of the batch in order (an array's own id for an array)."""

    job_ids: list[str]


class PipelineSubmitted(Answer):
    """Ids by the jobs' names."""

    pipeline_id: str
    job_ids: dict[str, str]


class JobView(Answer):
    """A job as lists show it. Moments are ISO 8601 in UTC."""

    job_id: str
    name: str
    project: str
    member: str
    user: str
    state: str
    reason: str | None = Field(description="Why it waits (rule 11), where it does.")
    expected_start: str | None
    attempt: int
    gpus: int
    gpu_type: str | None
    site: str | None
    submitted_at: str
    started_at: str | None
    ended_at: str | None
    exit_code: int | None
    outcome: str | None
    array_id: str | None
    array_index: int | None
    pipeline_id: str | None
    progress: dict[str, Any] | None
    nodes: list[str] = Field(description="Of the latest attempt.")
    limit_s: float | None = Field(description="Time limit of an attempt.")


class AttemptView(Answer):
    """One lease of a job: whose GPUs, on what terms, how long."""

    lease_id: str
    attempt: int
    state: str
    cause: str
    site: str
    owner: str
    agreement: str
    gpu_type: str
    gpus: float
    nodes: list[str]
    placements: list[dict[str, Any]]
    engine_gpus: dict[str, list[int]] | None = Field(
        description="GPUs by node as the site's engine gave them, where it chooses; null: those of the placements."
    )
    leased_at: str
    started_at: str | None
    ended_at: str | None
    run_s: float | None
    borrowed_s: float | None
    exit_code: int | None
    energy_kwh: float | None
    engine_gpu_seconds: float | None = Field(
        description="GPU time by the accounts of the site's engine, beside `run_s` times `gpus`; null: it has none, or none yet."
    )


class TimelineEntry(Answer):
    """Something that happened to a job."""

    at_ms: int = Field(description="Epoch ms.")
    what: str
    detail: str
    attempt: int | None = Field(description="Of which attempt, where it is of one.")


class JobDetail(JobView):
    """A job with its file, its attempts and what happened to it."""

    spec: dict[str, Any]
    attempts: list[AttemptView]
    timeline: list[TimelineEntry]


class JobList(Answer):
    """A page of jobs, newest first; `next` is the cursor of the page after it."""

    jobs: list[JobView]
    next: str | None


class ExplanationForm(Answer):
    """Why a job waits, who holds what it needs, when it is to start and what would make it start sooner."""

    job_id: str
    state: str
    reason: str | None
    rule: int | None
    message: str
    missing: dict[str, int]
    held_by: list[dict[str, Any]]
    expected_start: str | None
    would_start_if: list[dict[str, Any]]
    pools: list[dict[str, Any]]


class UsageRow(Answer):
    """What was used under one key: GPU-seconds by type. Lent: of the key's own GPUs, by others."""

    key: str
    gpu_type: str
    gpu_seconds: float
    own_gpu_seconds: float
    borrowed_gpu_seconds: float
    lent_gpu_seconds: float
    energy_kwh: float | None
    attempts: int


class Usage(Answer):
    """Usage of a month, attempts that still run counted up to now."""

    month: str
    by: str
    rows: list[UsageRow]


class MemberView(Answer):
    """A member: what it is guaranteed, uses, borrows and lends now, in GPUs."""

    name: str
    kind: str
    guarantee_gpus: float
    online_gpus: float
    used_gpus: float
    borrowed_gpus: float
    lent_gpus: float
    waiting_jobs: int
    credits: float


class Endpoint(Answer):
    """Where a service is running: its address, its job, and how far it is from the area that was asked for."""

    url: str
    job_id: str
    attempt: int
    site: str
    trip_ms: float | None


class SiteView(Answer):
    """A site: its GPUs, those that an agent offers, those in use; its agent; whether its operators have closed it.

    Of a cell site with hours also which part of it is released, and until when its radio has said so (null: its hours do).
    """

    name: str
    state: Literal["open", "cordoned", "draining", "drained"]
    gpus: int
    online_gpus: int
    used_gpus: float
    nodes: int
    nodes_up: int
    power_w: int
    cap_w: int
    agent: str
    seen_at: str | None
    released: float | None
    released_until: str | None


class NewSite(Request):
    """A site that joins: YAML, in the keys of a site in an alliance's file."""

    file: Annotated[str, Field(min_length=1, max_length=1_000_000)]


class SiteJoined(Answer):
    """A site that has joined, and the token with which its agent enrols: shown this once."""

    site: SiteView
    token_id: str
    token: str
    expires_at: str


class NodeView(Answer):
    """A node. One that its operators have closed is cordoned; draining, while what runs there leaves; then drained. One that
    its agent offers closed (drained by Slurm, say) is closed.
    """

    name: str
    site: str
    pool: str
    gpu_type: str
    gpus: int
    used_gpus: float
    state: Literal["up", "down", "quarantined", "spare", "offline", "silent", "closed", "radio", "cordoned", "draining", "drained"]
    owner: str
    cpu_milli: int
    mem_mib: int
    jobs: list[str]


class AgentView(Answer):
    """An agent and when it was last heard."""

    site: str
    agent_id: str
    seen_at: str
    state: Literal["connected", "silent"]
    nodes: int
    runs: int


class ProjectView(Answer):
    """A project of a member."""

    name: str
    member: str
    weight: float


class NewProject(Request):
    """A project to make; its full name is `member/name`."""

    name: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[^\s,#/\x00-\x1f]+$")]
    member: Annotated[str, Field(min_length=1, max_length=64)]
    weight: Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)] = 1.0


class NewToken(Request):
    """A token to make."""

    user: Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\s\x00-\x1f]+$")]
    role: Role
    member: Annotated[str, Field(max_length=64)] = ""
    project: Annotated[str, Field(max_length=129)] = ""
    site: Annotated[str, Field(max_length=64)] = ""
    name: Annotated[str, Field(max_length=200, pattern=_TEXT)] = ""
    expires_in_s: Annotated[int, Field(ge=60, le=366 * 86_400)] = 30 * 86_400


class TokenMade(Answer):
    """A new token; its text is shown this once."""

    token_id: str
    token: str
    expires_at: str


class NewKey(Message):
    """A key that an agent has made for itself."""

    key: Annotated[str, Field(pattern=r"^dure_[A-Za-z0-9_-]{43,100}$")]


class Enrolment(NewKey):
    """An agent's key, and which agent it is."""

    agent_id: Annotated[str, Field(min_length=1, max_length=64, pattern=_TEXT)]


class KeyKept(Answer):
    """An agent's key is good from now on; it is a token of role agent."""

    token_id: str
    expires_at: str


class LoginOffer(Answer):
    """How people sign in; both empty: with tokens only."""

    issuer: str
    path: str


class LoginCode(Request):
    """The code that a sign-in ended with, and the PKCE verifier (RFC 7636) that it began with."""

    code: Annotated[str, Field(min_length=1, max_length=200)]
    verifier: Annotated[str, Field(min_length=43, max_length=128, pattern=r"^[A-Za-z0-9._~-]+$")]


class TokenView(Answer):
    """A token without its text."""

    token_id: str
    name: str
    user: str
    roles: list[dict[str, str]]
    created_at: str
    expires_at: str
    is_revoked: bool


class WhoAmI(Answer):
    """The caller."""

    user: str
    token_id: str
    roles: list[dict[str, str]]
    default_project: str
    expires_at: str


class AuditForm(Answer):
    """What the audit found; where all is proved there are no mismatches. `findings`: what the first of them are."""

    events: int
    decisions: int
    verified: int
    mismatches: int
    findings: list[dict[str, Any]]


class EventForm(Answer):
    """An entry of the log."""

    seq: int
    at: str
    actor: str
    hash: str
    body: dict[str, Any]


class EventPage(Answer):
    """Entries in order; `next` is the last one's place."""

    events: list[EventForm]
    next: int


class Health(Answer):
    """Whether the service lives, or is ready to write."""

    status: Literal["ok", "starting", "follower"]
    seq: int


class AgentNode(Message):
    """A node as an agent offers it."""

    name: Annotated[str, Field(min_length=1, max_length=200)]
    gpus: Annotated[int, Field(ge=0, le=16)]
    gpu_type: Annotated[str, Field(max_length=64)] = ""
    gpu_uuids: list[Annotated[str, Field(max_length=100)]] = Field(default=[], max_length=112)
    cpu_milli: Annotated[int, Field(ge=0, le=10**9)] = 0
    mem_mib: Annotated[int, Field(ge=0, le=10**9)] = 0
    is_open: bool = Field(default=True, description="Whether it takes new work; on one that does not, what runs goes on.")


class AgentRun(Message):
    """An attempt as its agent sees it."""

    lease_id: Annotated[str, Field(min_length=1, max_length=80)]
    fence: Annotated[int, Field(ge=0, le=2**62)] = 0
    state: Literal["starting", "running", "stopping", "exited", "lost"]
    exit_code: Annotated[int, Field(ge=-1, le=255)] = -1
    started_ms: Annotated[int, Field(ge=-1, le=2**53)] = -1
    ended_ms: Annotated[int, Field(ge=-1, le=2**53)] = -1
    progress: Progress | None = None
    gpu_energy_mj: Annotated[int, Field(ge=-1, le=2**62)] = -1
    log_bytes: list[Annotated[int, Field(ge=0, le=2**53)]] | None = Field(
        default=None, description="Of what is over: final size of each rank's log; null: all of them were sent."
    )
    refused: Annotated[str, Field(max_length=1000)] = Field(
        default="", description="Of what is lost: why it was not started at all; empty: it may have run."
    )
    gpu_idxs: dict[Annotated[str, Field(min_length=1, max_length=200)], list[Annotated[int, Field(ge=0, le=1023)]]] | None = Field(
        default=None, description="GPUs that it has by node, where the site's engine chooses them; null: those of its lease."
    )
    engine_gpu_ms: Annotated[int, Field(ge=-1, le=2**53)] = Field(
        default=-1, description="Of what is over: GPU-milliseconds by the engine's own record; -1: it has none."
    )


class AgentAccount(Request):
    """What the accounts of a site's engine say, after its end, that an attempt has used."""

    lease_id: Annotated[str, Field(min_length=1, max_length=80)]
    engine_gpu_ms: Annotated[int, Field(ge=0, le=2**53)] = Field(description="GPU-milliseconds.")


class Sync(Message):
    """An agent's whole picture."""

    protocol: Annotated[int, Field(ge=1, le=2**31)] = Field(default=1, description="Its version; one that is not known is refused with 400.")
    agent_id: Annotated[str, Field(min_length=1, max_length=64, pattern=_TEXT)]
    boot: Annotated[str, Field(min_length=1, max_length=64, pattern=_TEXT)]
    seq: Annotated[int, Field(ge=0, le=2**62)]
    nodes: list[AgentNode] = Field(max_length=4096)
    runs: list[AgentRun] = Field(max_length=100_000)
    accounts: list[AgentAccount] = Field(default=[], max_length=100_000)
    wait_s: Annotated[float, Field(ge=0, le=30, allow_inf_nan=False)] = 0

    @model_validator(mode="before")
    @classmethod
    def _is_understood(cls, said: Any) -> Any:
        """Before all else: what else there is in a message, its protocol says."""
        protocol = said.get("protocol", 1) if isinstance(said, dict) else 1
        if isinstance(protocol, int) and protocol >= 1 and protocol not in PROTOCOLS:
            behind = "the agent" if protocol < PROTOCOLS[0] else "this service"
            known = " and ".join(map(str, PROTOCOLS))
            detail = f"the agent speaks protocol {protocol}, this service {known}: upgrade {behind} first"
            raise Problem(400, "Unknown protocol", detail)
        return said


class InputForm(Answer):
    """A file that an earlier job of the pipeline has left: found under `name/path`."""

    job_id: str
    name: str
    path: str


class LaunchForm(Answer):
    """What the agent must know to start an attempt."""

    argv: list[str]
    env: dict[str, str]
    setup: str
    cwd: str
    tasks_per_node: int
    limit_ms: int
    cpu_milli: int
    mem_mib: int
    array_index: int | None
    inputs: list[InputForm]
    outputs: list[str]
    cache: list[str] = []
    roles: list[TaskRole] = []
    project: str


class LeaseForm(Answer):
    """A lease that the agent should have now; of one that it has, and that goes on, only who it is (``launch``: null)."""

    lease_id: str
    fence: int
    job_id: str
    attempt: int
    action: Literal["run", "vacate", "stop"]
    deadline_ms: int
    signal: str
    grace_ms: int
    launch: LaunchForm | None
    placements: list[dict[str, Any]]


class SyncAnswer(Answer):
    """All leases that the agent should have now."""

    now_ms: int
    ttl_ms: int
    seq: int
    leases: list[LeaseForm]


class BlueprintOnFleet(Answer):
    """What the twin says of a blueprint on the reference fleet: s from handing in to the last end, and its GPU-hours' price."""

    time_p50_s: float
    time_p95_s: float
    gpu_hours: float
    cost: float
    currency: str


class BlueprintRow(Answer):
    """A blueprint in the catalogue. ``expected_cpu_s``: CPU-seconds at its reference size, measured."""

    name: str
    field: str
    stages: list[str]
    metric: str
    expected_cpu_s: float
    extra: str
    on_fleet: BlueprintOnFleet | None


class BlueprintDetail(BlueprintRow):
    """A blueprint with its parameters and what it hands in: one of ``job`` and ``pipeline``."""

    about: Blueprint
    job: JobSpec | None
    pipeline: Pipeline | None
