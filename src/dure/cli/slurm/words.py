"""Dure's states and reasons in Slurm's words."""

from __future__ import annotations

from collections.abc import Sequence

from dure.client.views import STATES, JobView, Node

#: State (and outcome of an ended job) → Slurm's short and long word.
_ACTIVE = {
    "PENDING": ("PD", "PENDING"), "ADMITTED": ("CF", "CONFIGURING"), "RUNNING": ("R", "RUNNING"),
    "SUSPENDED": ("S", "SUSPENDED"), "COMPLETING": ("CG", "COMPLETING"),
}  # fmt: skip
_ENDED = {
    "succeeded": ("CD", "COMPLETED"), "failed": ("F", "FAILED"), "cancelled": ("CA", "CANCELLED"),
    "timeout": ("TO", "TIMEOUT"), "dependency": ("CA", "CANCELLED"),
}  # fmt: skip

#: Reason of a waiting job (docs/policy.md, rule 11) → Slurm's word for it. Any other is shown as it is.
REASONS = {
    "never": "BadConstraints", "reserved": "Reservation", "held": "Resources", "behind": "Priority",
    "share_used": "AssocGrpGRES", "agreement_limit": "QOSGrpGRES", "agreement_not_in_force": "QOSNotAllowed",
    "gpus_busy": "Resources", "fragmented": "Resources", "cpu_or_memory": "Resources", "power_cap": "PowerNotAvail", "closed": "ReqNodeNotAvail", "radio": "ReqNodeNotAvail",
    "dependency": "Dependency", "array_limit": "JobArrayTaskLimit", "begin_time": "BeginTime", "refused": "LaunchFailed",
}  # fmt: skip


def state_words(job: JobView) -> tuple[str, str]:
    """Short and long word of a job's state."""
    if job.state == "ENDED":
        return _ENDED.get(job.outcome or "", ("F", "FAILED"))
    return _ACTIVE[job.state]


def state_rank(job: JobView) -> int:
    """Place of a job's state in a list."""
    return STATES.index(job.state)


def known_states() -> dict[str, str]:
    """Every short and long word → the short one."""
    pairs = [*_ACTIVE.values(), *_ENDED.values()]
    return {word: short for short, long in pairs for word in (short, long)}


def reason_word(job: JobView) -> str:
    """Why a job waits, or how it ended, in one word of Slurm's."""
    if job.state == "PENDING":
        return REASONS.get(job.reason or "", job.reason or "None")
    return {"failed": "NonZeroExitCode", "timeout": "TimeLimit", "dependency": "DependencyNeverSatisfied"}.get(
        job.outcome or "", "None"
    )


def node_state(node: Node) -> str:
    """A node's state as sinfo has it."""
    if node.state in ("quarantined", "drained"):
        return "drained"
    if node.state in ("cordoned", "draining"):
        return "draining" if node.used_gpus else "drained"
    if node.state != "up":
        return "down"
    return "idle" if not node.used_gpus else "allocated" if node.used_gpus >= node.gpus else "mixed"


#: sinfo's short words.
NODE_SHORT = {"drained": "drain", "draining": "drng", "down": "down", "idle": "idle", "allocated": "alloc", "mixed": "mix"}


def host_list(names: Sequence[str]) -> str:
    """``n1,n2,n3,x`` as ``n[1-3],x``."""
    groups: dict[tuple[str, int], list[int]] = {}
    plain: list[str] = []
    for name in sorted(set(names)):
        stem = name.rstrip("0123456789")
        digits = name[len(stem) :]
        if digits and digits.isascii():
            groups.setdefault((stem, len(digits) if digits[0] == "0" else 0), []).append(int(digits))
        else:
            plain.append(name)
    parts = []
    for (stem, size), numbers in sorted(groups.items()):
        runs: list[list[int]] = []
        for number in sorted(numbers):
            if runs and number == runs[-1][1] + 1:
                runs[-1][1] = number
            else:
                runs.append([number, number])
        texts = [f"{a:0{size}}" if a == b else f"{a:0{size}}-{b:0{size}}" for a, b in runs]
        parts.append(stem + (texts[0] if len(texts) == 1 and "-" not in texts[0] else f"[{','.join(texts)}]"))
    return ",".join([*parts, *plain])
