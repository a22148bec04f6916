"""Columns of squeue, sinfo, sacct and sshare, with Slurm's letters, names, headings and defaults."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from dure.cli.slurm.columns import Field
from dure.cli.slurm.times import duration
from dure.cli.slurm.words import NODE_SHORT, host_list, node_state, reason_word, state_words
from dure.client.views import JobView, Member, Node, Usage


def _moment(moment: datetime | None) -> str:
    return moment.astimezone().strftime("%Y-%m-%dT%H:%M:%S") if moment else "N/A"


def _used_s(job: JobView) -> float:
    if job.started_at is None or job.state == "PENDING":
        return 0.0
    return ((job.ended_at or datetime.now(UTC)) - job.started_at).total_seconds()


def _elapsed(job: JobView) -> str:
    """As sacct shows it: hours always."""
    text = duration(_used_s(job))
    head, dash, clock = text.rpartition("-")
    return head + dash + ":".join(f"{int(part):02}" for part in ["0", *clock.split(":")][-3:])


def _limit(job: JobView) -> str:
    if not job.is_limit_known:
        return "NOT_SET"
    return "UNLIMITED" if job.limit_s is None else duration(job.limit_s)


def _exit_code(job: JobView) -> str:
    """``code:signal``; 128 + n is signal n."""
    code = job.exit_code or 0
    return f"0:{code - 128}" if 128 < code < 193 else f"{code}:0"


def _place(job: JobView) -> str:
    """Where it is; of a waiting or failed job why, in parentheses."""
    if job.state == "PENDING" or (job.state == "ENDED" and reason_word(job) != "None"):
        return f"({reason_word(job)})"
    return _nodes(job)


def _nodes(job: JobView) -> str:
    """Also of a job that waits for its next attempt there are none."""
    return "" if job.state == "PENDING" else host_list(job.nodes)


def _num_nodes(job: JobView) -> str:
    return str(len(job.nodes)) if _nodes(job) else "N/A"


def _gres(job: JobView) -> str:
    return f"gres/gpu:{job.gpus}" if job.gpus else "N/A"


#: Also the letters that ``%i`` of an array's task is made of.
def _slurm_id(job: JobView) -> str:
    return job.job_id if job.array_id is None else f"{job.array_id}_{job.array_index}"


SQUEUE_SHORT = "%.18i %.9P %.8j %.8u %.2t %.10M %.6D %R"
SQUEUE_LONG = "%.18i %.9P %.8j %.8u %.8T %.10M %.9l %.6D %R"
SQUEUE_START = "%.18i %.9P %.8j %.8u %.2t %.19S %.6D %R"

SQUEUE_FIELDS: dict[str, Field[JobView]] = {
    "a": Field("ACCOUNT", lambda job: job.project),
    "A": Field("JOBID", lambda job: job.job_id),
    "b": Field("TRES_PER_NODE", _gres),
    "D": Field("NODES", _num_nodes),
    "e": Field("END_TIME", lambda job: _moment(job.ended_at)),
    "F": Field("ARRAY_JOB_ID", lambda job: job.array_id or job.job_id),
    "i": Field("JOBID", _slurm_id),
    "j": Field("NAME", lambda job: job.name),
    "K": Field("ARRAY_TASK_ID", lambda job: "N/A" if job.array_index is None else str(job.array_index)),
    "l": Field("TIME_LIMIT", _limit),
    "M": Field("TIME", lambda job: duration(_used_s(job))),
    "N": Field("NODELIST", _nodes),
    "P": Field("PARTITION", lambda job: job.site or "any"),
    "r": Field("REASON", reason_word),
    "R": Field("NODELIST(REASON)", _place),
    "S": Field("START_TIME", lambda job: _moment(job.started_at or job.expected_start)),
    "t": Field("ST", lambda job: state_words(job)[0]),
    "T": Field("STATE", lambda job: state_words(job)[1]),
    "u": Field("USER", lambda job: job.user),
    "V": Field("SUBMIT_TIME", lambda job: _moment(job.submitted_at)),
}


@dataclass(frozen=True)
class NodeGroup:
    """Nodes on one line of sinfo, at least one, all of one site."""

    nodes: tuple[Node, ...]

    @property
    def site(self) -> str:
        """Their site."""
        return self.nodes[0].site

    @property
    def state(self) -> str:
        """Of the first: they share it where it is shown."""
        return node_state(self.nodes[0])

    def counts(self) -> str:
        """Nodes in use, idle, neither, all."""
        states = [node_state(node) for node in self.nodes]
        used, idle = sum(state in ("allocated", "mixed") for state in states), states.count("idle")
        return f"{used}/{idle}/{len(states) - used - idle}/{len(states)}"

    def gres(self) -> str:
        """GPUs of each node."""
        return ",".join(sorted({f"gpu:{n.gpu_type}:{n.gpus}" if n.gpu_type else f"gpu:{n.gpus}" for n in self.nodes}))

    def each(self, values: Sequence[int | None]) -> str:
        """The least of them, with a + where they differ."""
        known = sorted(value for value in values if value is not None)
        return "N/A" if not known else f"{known[0]}{'+' if known[-1] > known[0] else ''}"


SINFO_SHORT = "%10P %.5a %.10l %.6D %.6t %N"
SINFO_SUMMARY = "%10P %.5a %.10l %.16F %N"
SINFO_NODE = "%10N %.6D %.10P %6t"

SINFO_FIELDS: dict[str, Field[NodeGroup]] = {
    "a": Field("AVAIL", lambda group: "up"),
    "c": Field("CPUS", lambda group: group.each([n.cpu_milli and n.cpu_milli // 1000 for n in group.nodes])),
    "D": Field("NODES", lambda group: str(len(group.nodes))),
    "F": Field("NODES(A/I/O/T)", NodeGroup.counts),
    "G": Field("GRES", NodeGroup.gres),
    "l": Field("TIMELIMIT", lambda group: "infinite"),
    "m": Field("MEMORY", lambda group: group.each([n.mem_mib for n in group.nodes])),
    "n": Field("HOSTNAMES", lambda group: ",".join(node.name for node in group.nodes)),
    "N": Field("NODELIST", lambda group: host_list([node.name for node in group.nodes])),
    "P": Field("PARTITION", lambda group: group.site),
    "R": Field("PARTITION", lambda group: group.site),
    "t": Field("STATE", lambda group: NODE_SHORT[group.state]),
    "T": Field("STATE", lambda group: group.state),
}

SACCT_DEFAULT = "JobID,JobName,Partition,Account,AllocGPUS,State,ExitCode"

SACCT_FIELDS: dict[str, Field[JobView]] = {
    "JobID": Field("JobID", _slurm_id, 18),
    "JobIDRaw": Field("JobIDRaw", lambda job: job.job_id, 18),
    "JobName": Field("JobName", lambda job: job.name),
    "Partition": Field("Partition", lambda job: job.site or ""),
    "Account": Field("Account", lambda job: job.project),
    "User": Field("User", lambda job: job.user, 9),
    "AllocGPUS": Field("AllocGPUS", lambda job: str(job.gpus)),
    "AllocTRES": Field("AllocTRES", lambda job: f"gres/gpu={job.gpus}" if job.gpus and job.started_at else ""),
    "ReqTRES": Field("ReqTRES", lambda job: f"gres/gpu={job.gpus}" if job.gpus else ""),
    "NNodes": Field("NNodes", lambda job: str(len(job.nodes)) if _nodes(job) else "", 8),
    "NodeList": Field("NodeList", _nodes, 15),
    "State": Field("State", lambda job: state_words(job)[1]),
    "ExitCode": Field("ExitCode", _exit_code, 8),
    "Reason": Field("Reason", reason_word, 22),
    "Submit": Field("Submit", lambda job: _moment(job.submitted_at), 19),
    "Start": Field("Start", lambda job: _moment(job.started_at), 19),
    "End": Field("End", lambda job: _moment(job.ended_at), 19),
    "Elapsed": Field("Elapsed", _elapsed),
    "ElapsedRaw": Field("ElapsedRaw", lambda job: str(int(_used_s(job)))),
    "Timelimit": Field("Timelimit", _limit),
    "TimelimitRaw": Field(
        "TimelimitRaw", lambda job: "UNLIMITED" if job.limit_s is None else str(int(job.limit_s // 60)), 12
    ),
}


@dataclass(frozen=True)
class Share:
    """A member's share beside its use.

    Attributes
    ----------
    raw_shares : float
        Guaranteed GPUs.
    raw_usage : float
        GPU-seconds of this month.
    norm_shares, effective_usage : float
        Both as parts of all members'.
    """

    account: str
    raw_shares: float
    norm_shares: float
    raw_usage: float
    effective_usage: float

    @property
    def fairshare(self) -> float:
        """Slurm's classic factor 2^(−use/share): 1 unused, 0.5 just used up."""
        return 2.0 ** -(self.effective_usage / self.norm_shares) if self.norm_shares else 0.0


def shares(members: Sequence[Member], usage: Usage) -> list[Share]:
    """Each member's share and use, in the members' order."""
    used = {member.name: 0.0 for member in members}
    for row in usage.rows:
        if row.key in used:
            used[row.key] += row.gpu_seconds
    all_shares = sum(member.guarantee_gpus for member in members) or 1.0
    all_used = sum(used.values()) or 1.0
    return [
        Share(m.name, m.guarantee_gpus, m.guarantee_gpus / all_shares, used[m.name], used[m.name] / all_used)
        for m in members
    ]


SSHARE_DEFAULT = "Account%20,RawShares,NormShares,RawUsage,EffectvUsage,FairShare"
SSHARE_LONG = "Account%20,RawShares,NormShares,RawUsage,NormUsage,EffectvUsage,FairShare"

SSHARE_FIELDS: dict[str, Field[Share]] = {
    "Account": Field("Account", lambda share: share.account, 20),
    "User": Field("User", lambda share: "", 10),
    "RawShares": Field("RawShares", lambda share: f"{share.raw_shares:.0f}"),
    "NormShares": Field("NormShares", lambda share: f"{share.norm_shares:.6f}", 11),
    "RawUsage": Field("RawUsage", lambda share: f"{share.raw_usage:.0f}", 11),
    "NormUsage": Field("NormUsage", lambda share: f"{share.effective_usage:.6f}", 11),
    "EffectvUsage": Field("EffectvUsage", lambda share: f"{share.effective_usage:.6f}", 13),
    "FairShare": Field("FairShare", lambda share: f"{share.fairshare:.6f}"),
}
