"""What the live core is told and what it answers: the words of the event log (design §2, §4).

A *stimulus* is a fact that a shell has seen, stamped by the shell; an *effect* is what the shell must do about it. Both
are plain values with a JSON form, so that a log of stimuli gives the same effects wherever it is replayed.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any, NewType, get_args

from dure.model.jobs import GRACE_MS

JobId = NewType("JobId", str)
LeaseId = NewType("LeaseId", str)

#: After which outcome of the job it depends on a job may start.
AFTER_OK, AFTER_ANY, AFTER_NOT_OK = "afterok", "afterany", "afternotok"


@dataclass(frozen=True)
class JobRequest:
    """What the policy knows of a job. The command, its environment and files are the shells' business.

    Attributes
    ----------
    job_id : str
        Made by the shell; sortable by time of submission.
    member, project, user : str
        ``project`` names the member's project (`member/name`).
    gpus, gpus_per_node, gpu_milli, min_gpus, max_gpus : int
        As in `model.jobs.JOB_DTYPE`.
    gpu_types, sites : tuple of str
        Allowed names; empty: any.
    cpu_milli, mem_mib, net_mbps : int
        Of the whole job.
    topology : str
        any, node, rack, block or cluster.
    priority : int
        0 best effort, 1 normal, 2 high.
    limit_ms : int
        Time limit of an attempt; -1: none.
    checkpoint_ms : int
        Interval between checkpoints; 0: it writes none and starts anew when it is stopped.
    begin_ms : int
        Not before (or, with ``is_reserved``, reserved from) this moment, epoch ms; -1: as soon as it can.
    depends_on : tuple of (job id, afterok | afterany | afternotok)
    array_id, array_limit : str, int
        Jobs of one array share its id; at most so many of them run at one time (0: no limit).
    retries : int
        How often a failed attempt is tried again.
    grace_ms : int
        From the signal to SIGKILL when it is stopped.
    """

    job_id: str
    member: str
    project: str
    user: str
    gpus: int = 1
    gpus_per_node: int = 0
    gpu_milli: int = 1000
    min_gpus: int = 0
    max_gpus: int = 0
    gpu_types: tuple[str, ...] = ()
    sites: tuple[str, ...] = ()
    cpu_milli: int = 0
    mem_mib: int = 0
    net_mbps: int = 0
    topology: str = "any"
    priority: int = 1
    limit_ms: int = -1
    checkpoint_ms: int = 0
    begin_ms: int = -1
    is_reserved: bool = False
    depends_on: tuple[tuple[str, str], ...] = ()
    array_id: str = ""
    array_limit: int = 0
    retries: int = 0
    grace_ms: int = GRACE_MS


@dataclass(frozen=True)
class Submit:
    """A job has come."""

    job: JobRequest


@dataclass(frozen=True)
class Cancel:
    """The user, or who may speak for it, takes a job back."""

    job_id: str
    by: str = ""


@dataclass(frozen=True)
class Exited:
    """An attempt's processes have all ended. ``exit_code`` 128 + n: by signal n."""

    job_id: str
    attempt: int
    exit_code: int


@dataclass(frozen=True)
class LeaseLost:
    """An attempt will never report again: its agent has lost it, or its time to live has passed.

    Attributes
    ----------
    refused : str
        Why its agent did not start it at all (a full disk); empty: it may have run.
    """

    job_id: str
    attempt: int
    refused: str = ""


@dataclass(frozen=True)
class NodeUp:
    """An agent offers a node (by its name in the fleet)."""

    node: str


@dataclass(frozen=True)
class NodeDown:
    """A node is lost, or with ``is_failure`` False taken out of service; its gangs restart elsewhere."""

    node: str
    is_failure: bool = True


@dataclass(frozen=True)
class NodeSilent:
    """A node's agent is not heard: what runs there goes on, nothing new starts there until it is up again."""

    node: str


@dataclass(frozen=True)
class Cordon:
    """An operator closes a node, or a whole site: nothing new starts there, what runs goes on. One of them is named."""

    node: str = ""
    site: str = ""


@dataclass(frozen=True)
class Drain:
    """As `Cordon`, and what runs there is made to leave, to go on elsewhere.

    Attributes
    ----------
    notice_ms : int
        At most so long it has to save its work and leave; -1: as long as one who is above its share.
    """

    node: str = ""
    site: str = ""
    notice_ms: int = -1


@dataclass(frozen=True)
class Uncordon:
    """A node or site is open again; it takes work once its agent offers it."""

    node: str = ""
    site: str = ""


@dataclass(frozen=True)
class CellsReleased:
    """What a cell site's radio releases until a moment, in place of the hours that are agreed (rule 10).

    Attributes
    ----------
    lent_milli : int
        Part of the site's GPUs, in 1/1000.
    until_ms : int
        Epoch ms. From then on the hours count again; at once, where it is past.
    """

    site: str
    lent_milli: int
    until_ms: int


@dataclass(frozen=True)
class SiteAdded:
    """A site has joined. ``site``: what `model.alliance_growth.text_of` makes of it."""

    site: str


@dataclass(frozen=True)
class Tick:
    """Nothing but time has passed: what was due by now is due."""


Stimulus = (
    Submit | Cancel | Exited | LeaseLost | NodeUp | NodeDown | NodeSilent | Cordon | Drain | Uncordon | CellsReleased
    | SiteAdded | Tick
)  # fmt: skip


@dataclass(frozen=True)
class Placement:
    """A part of a lease: GPUs of one node.

    Attributes
    ----------
    gpus : tuple of int
        Indices on the node.
    gpu_milli : int
        Of each; below 1000 a part of one.
    """

    node: str
    gpus: tuple[int, ...]
    gpu_milli: int = 1000


@dataclass(frozen=True)
class Start:
    """Start an attempt. Its lease is named by job and attempt; ``fence`` grows with every lease ever given.

    Attributes
    ----------
    owner : str
        Member whose GPUs they are.
    is_borrowed : bool
        Beyond the member's own share.
    agreement : str
        Under which it borrows; empty: none.
    promised_ms : int
        Start that had been promised for it, epoch ms; -1: none had.
    """

    job_id: str
    attempt: int
    fence: int
    pool: str
    site: str
    owner: str
    gpu_type: str
    placements: tuple[Placement, ...]
    is_borrowed: bool = False
    agreement: str = ""
    promised_ms: int = -1


@dataclass(frozen=True)
class Vacate:
    """Make an attempt save its work and leave by ``deadline_ms``; ``cause``: the job it leaves for, or why."""

    job_id: str
    attempt: int
    deadline_ms: int
    cause: str


@dataclass(frozen=True)
class Resize:
    """An elastic attempt has other GPUs from now on."""

    job_id: str
    attempt: int
    placements: tuple[Placement, ...]


@dataclass(frozen=True)
class Stop:
    """End an attempt for good: it was cancelled, ran over its limit, or its node is gone."""

    job_id: str
    attempt: int
    cause: str


@dataclass(frozen=True)
class Held:
    """Nodes are held for a waiting job; it is to start by ``promised_ms``."""

    job_id: str
    promised_ms: int


@dataclass(frozen=True)
class Changed:
    """A job is in another state now (design §4), with its attempt and, once ended, its outcome.

    Outcomes: succeeded, failed, cancelled, timeout, dependency (what it waited for ended otherwise), impossible (no
    pool could ever take it).
    """

    job_id: str
    state: str
    attempt: int
    outcome: str = ""


@dataclass(frozen=True)
class Released:
    """A lease is over: so long it ran, so much of that beyond the member's share.

    ``cause``: exited, vacated, failed, lost, refused.
    """

    job_id: str
    attempt: int
    run_ms: int
    borrowed_ms: int
    cause: str


@dataclass(frozen=True)
class Quarantined:
    """A node that kept failing, or refusing what was to start there, stays out until ``until_ms``."""

    node: str
    until_ms: int


Effect = Start | Vacate | Resize | Stop | Held | Changed | Released | Quarantined

STIMULI: dict[str, type[Any]] = {t.__name__: t for t in get_args(Stimulus)}
EFFECTS: dict[str, type[Any]] = {t.__name__: t for t in get_args(Effect)}


def to_json(item: Stimulus | Effect) -> dict[str, Any]:
    """``{"type": …, fields…}``; fields at their default are left out."""
    out: dict[str, Any] = {"type": type(item).__name__}
    for f in fields(item):
        value = getattr(item, f.name)
        if isinstance(value, JobRequest):
            out[f.name] = {x.name: getattr(value, x.name) for x in fields(value) if getattr(value, x.name) != x.default}
        elif f.name == "placements":
            out[f.name] = [asdict(part) for part in value]
        elif value != f.default:
            out[f.name] = value
    return out


def _tuples(value: Any) -> Any:
    return tuple(_tuples(part) for part in value) if isinstance(value, list) else value


def stimulus_from_json(data: dict[str, Any]) -> Stimulus:
    """The inverse of `to_json` for stimuli.

    Raises
    ------
    KeyError, TypeError
        Not such a form: the log is broken.
    """
    values = {key: _tuples(value) for key, value in data.items() if key != "type"}
    if "job" in values:
        values["job"] = JobRequest(**{key: _tuples(value) for key, value in values["job"].items()})
    made: Stimulus = STIMULI[data["type"]](**values)
    return made


def effect_from_json(data: dict[str, Any]) -> Effect:
    """The inverse of `to_json` for effects."""
    values = {key: _tuples(value) for key, value in data.items() if key != "type"}
    if "placements" in values:
        values["placements"] = tuple(
            Placement(part["node"], tuple(part["gpus"]), part["gpu_milli"]) for part in data["placements"]
        )
    made: Effect = EFFECTS[data["type"]](**values)
    return made


@dataclass(frozen=True)
class Step:
    """One entry of the event log: what was seen at one moment, and what was decided.

    Attributes
    ----------
    seq : int
        1, 2, 3, …
    at_ms : int
        Epoch ms by the service's clock; never less than the entry before it.
    actor : str
        Who caused it, for the audit trail: ``user:alice``, ``agent:site-1``, ``service``.
    stimuli : tuple of stimuli
    effects : tuple of effects
    facts : tuple of dict
        What the service records beside the core's business (tokens made, members' changes); the core does not see it.
    prev_hash, hash : str
        SHA-256, hex, over the canonical JSON of all the above: each entry seals those before it.
    """

    seq: int
    at_ms: int
    actor: str
    stimuli: tuple[Stimulus, ...]
    effects: tuple[Effect, ...] = ()
    facts: tuple[dict[str, Any], ...] = field(default=())
    prev_hash: str = ""
    hash: str = ""
