"""The service's fixed words as readers see them: each table covers all values of its kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dure.console.words import N_, Words
from dure.core.explain import Reason

STATES: dict[str, str] = {
    "PENDING": N_("waiting"), "ADMITTED": N_("starting"), "RUNNING": N_("running"), "SUSPENDED": N_("suspended"),
    "COMPLETING": N_("completing"), "ENDED": N_("ended"),
}  # fmt: skip

OUTCOMES: dict[str, str] = {
    "succeeded": N_("succeeded"), "failed": N_("failed"), "cancelled": N_("cancelled"), "timeout": N_("out of time"),
    "dependency": N_("a job before it failed"),
}  # fmt: skip

#: Of attempts: while they are open, and how they were over.
ATTEMPTS: dict[str, str] = {
    "leased": N_("leased"), "running": N_("running"), "vacating": N_("saving and leaving"), "stopping": N_("stopping"),
    "exited": N_("exited"), "vacated": N_("left for another job"), "lost": N_("lost"),
    "failed": N_("failed"), "refused": N_("not started"),
}  # fmt: skip

#: What a job's timeline tells.
HAPPENED: dict[str, str] = {
    "submitted": N_("submitted"), "leased": N_("GPUs leased"), "started": N_("started"), "ended": N_("ended"),
    **{state: ATTEMPTS[state] for state in ("running", "vacating", "stopping", "exited", "vacated", "lost", "failed", "refused")},
}  # fmt: skip

NODE_STATES: dict[str, str] = {
    "up": N_("up"), "down": N_("down"), "quarantined": N_("quarantined"), "spare": N_("spare"), "offline": N_("offline"),
    "silent": N_("silent"), "closed": N_("closed"), "radio": N_("radio work"), "cordoned": N_("cordoned"), "draining": N_("draining"), "drained": N_("drained"),
}  # fmt: skip

AGENT_STATES: dict[str, str] = {"connected": N_("connected"), "silent": N_("silent"), "": N_("none")}

MEMBER_KINDS: dict[str, str] = {
    "ministry": N_("ministry"), "public": N_("public institute"), "university": N_("university"), "company": N_("company"),
    "startup": N_("startup"), "telco": N_("telecom operator"),
}  # fmt: skip

#: Why a job waits, in short; beside the policy's reasons those of jobs that the policy has not seen yet.
REASONS: dict[str, str] = {
    Reason.NEVER: N_("can never run"), Reason.RESERVED: N_("reserved for later"), Reason.HELD: N_("nodes held for it"),
    Reason.BEHIND: N_("another job stands before it"), Reason.SHARE_USED: N_("share in use"),
    Reason.AGREEMENT_LIMIT: N_("agreement's limit reached"), Reason.AGREEMENT_NOT_IN_FORCE: N_("agreement not in force"),
    Reason.GPUS_BUSY: N_("GPUs busy"), Reason.FRAGMENTED: N_("free GPUs lie apart"),
    Reason.CPU_OR_MEMORY: N_("processors or memory short"), Reason.POWER_CAP: N_("power cap"),
    Reason.CLOSED: N_("nodes closed by an operator"), Reason.RADIO: N_("radio work has the nodes"),
    "dependency": N_("waits for other jobs"), "array_limit": N_("array's limit reached"),
    "begin_time": N_("its moment has not come"), "refused": N_("its start was refused"),
}  # fmt: skip

#: The same at length, of the facts that a reason rests on.
SENTENCES: dict[str, str] = {
    Reason.NEVER: N_("No pool has the GPU type, site, rights and size that it asks for."),
    Reason.RESERVED: N_("It is reserved for a later moment."),
    Reason.HELD: N_("{nodes} nodes are held for it; {missing_nodes} of these are still in use."),
    Reason.BEHIND: N_("Job {job} stands before it."),
    Reason.SHARE_USED: N_(
        "It needs {needed} GPUs and {free} are free; of its member's share of {guarantee} GPUs {used} are in use."
    ),
    Reason.AGREEMENT_LIMIT: N_("It needs {needed} GPUs; the agreement lends {limit}, and {used} are out."),
    Reason.AGREEMENT_NOT_IN_FORCE: N_("The agreement under which it could run is not in force now."),
    Reason.GPUS_BUSY: N_("It needs {needed} GPUs and {free} are free."),
    Reason.FRAGMENTED: N_("{free} GPUs are free, but not {nodes} × {gpus_per_node} of them where it wants them."),
    Reason.CPU_OR_MEMORY: N_("Nodes have the GPUs free, but not the processors, memory or network beside them."),
    Reason.POWER_CAP: N_("The site draws {power_w} W of {cap_w} W, and the job needs {needed_w} W more."),
    Reason.CLOSED: N_("It needs {needed} GPUs, and an operator has closed {nodes} nodes with {free} GPUs free."),
    Reason.RADIO: N_("It needs {needed} GPUs, and radio work has {nodes} nodes with {free} GPUs free."),
    "dependency": N_("It waits for other jobs."),
    "array_limit": N_("As many jobs of its array run as may."),
    "begin_time": N_("The moment at which it may begin has not come."),
    "refused": N_("Its start was refused; it is tried again soon."),
}  # fmt: skip

CHANGES: dict[str, str] = {
    "fewer_gpus": N_("With {amount} GPUs it would start now in {pool}."),
    "topology": N_("Without its wish for a topology it would start now in {pool}."),
    "grace": N_("Were it gone within {amount} ms of being told to leave, it could start now in {pool}."),
    "pool": N_("Were {pool} allowed to it, it would start there now."),
    "limit": N_("With {amount} GPUs more under the agreement it would start now in {pool}."),
}

USAGE_BY: dict[str, str] = {"member": N_("Member"), "project": N_("Project"), "user": N_("User")}


def term(words: Words, table: Mapping[str, str], value: str | None) -> str:
    """A fixed word in the reader's language; one that no table has, as it is."""
    return words.say(table.get(value or "", value or ""))


def reason_sentence(words: Words, reason: str, facts: Mapping[str, Any]) -> str:
    """Why a job waits, with the numbers on which that rests."""
    numbers = {name.removesuffix("_milli"): words.number(value / 1000) for name, value in facts.items() if name.endswith("_milli")}
    plain = {name: value if isinstance(value, str) else words.number(value) for name, value in facts.items()}
    return words.say(SENTENCES[reason]).format(**plain, **numbers)


def change_sentence(words: Words, change: Mapping[str, Any]) -> str:
    """What would let a job start now."""
    text = CHANGES[change["kind"]]
    return words.say(text).format(amount=words.number(change["amount"]), pool=change["pool"])
