"""The tour of a live alliance, played through the public API: lend, reclaim with a checkpoint, resume, the bill."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import click

from dure.model.errors import DureError
from dure.model.job_file import JobSpec, Resources

if TYPE_CHECKING:
    from dure.client import Client
    from dure.client.views import JobDetail

T = TypeVar("T")

#: Counts to forty, one step in a quarter of a second; saves each step and goes on from where it was.
TRAINING = """
import os, pathlib, time
from dure.client import job
kept = job.checkpoint_dir() / "step"
first = int(kept.read_text()) if kept.exists() else 0
print(f"attempt {os.environ['DURE_ATTEMPT']} begins at step {first}", flush=True)
for step in range(first, 40):
    time.sleep(0.25)
    kept.write_text(str(step + 1))
    job.report_progress(step=step + 1, of=40)
    if job.should_stop():
        print(f"told to leave after step {step + 1}", flush=True)
        raise SystemExit(143)
print("trained", flush=True)
"""
#: The longest that anything in the tour may take.
WAIT_S = 120.0


class TourFailedError(DureError):
    """The alliance did not do what the tour shows."""


def play(url: str, operator_token: str) -> None:
    """Play the tour against a service.

    Raises
    ------
    TourFailedError
        Something went otherwise than it should.
    """
    from dure.client import Client

    with Client(url, operator_token) as operator:
        gpus, owner, borrowers = _cast(operator)
        trainer, waiter = borrowers
        tokens = {
            member: operator.create_token(user=f"{member}-engineer", role="user", project=f"{member}/main").token
            for member in (owner, trainer, waiter)
        }
        clients = {member: Client(url, token) for member, token in tokens.items()}
        try:
            _play(clients, gpus, owner, trainer, waiter)
            _bill(operator)
        finally:
            for client in clients.values():
                client.close()


def _cast(operator: Client) -> tuple[int, str, tuple[str, str]]:
    """GPUs of this machine, its owner, and two members that may borrow them."""
    nodes = _until(lambda: [n for n in operator.nodes() if n.state == "up"], "this machine's agent offers its GPUs")
    owner = nodes[0].owner or ""
    others = [m.name for m in operator.members() if m.kind in ("university", "startup") and m.name != owner]
    if len(others) < 2:
        raise TourFailedError("the tour needs two members that may borrow (universities or start-ups)")
    return nodes[0].gpus, owner, (next((m for m in others if m == "kaist"), others[0]),
                                  next((m for m in others if m == "upstage"), others[-1]))  # fmt: skip


def _play(clients: dict[str, Client], gpus: int, owner: str, trainer: str, waiter: str) -> None:
    say(f"This machine's {gpus} GPUs are {owner}'s. {trainer} borrows them all for a training run:")
    spec = JobSpec.model_validate(
        {
            "name": "train", "command": (sys.executable, "-c", TRAINING), "resources": Resources(gpus=gpus),
            "checkpoint": {"every": "1s", "signal": "USR1", "grace": "20s"},
        }
    )  # fmt: skip
    training = clients[trainer].submit(spec).job_id
    running = _until(lambda: _in_state(clients[trainer], training, "RUNNING"), "the training runs")
    say(f"  {training} runs, borrowed under {running.attempts[-1].agreement}")
    small = JobSpec(name="evaluate", command=("sh", "-c", "echo evaluated; sleep 1"), resources=Resources(gpus=1))
    waiting = clients[waiter].submit(small).job_id
    why = _until(lambda: _explained(clients[waiter], waiting), "the service explains why a job waits")
    say(f"{waiter} wants one GPU too. Why does {waiting} wait? {why}")
    time.sleep(2.0)
    say(f"{owner} needs its GPUs itself:")
    demand = JobSpec(name="forecast", command=("sh", "-c", "echo ours again; sleep 2"), resources=Resources(gpus=gpus))
    owned = clients[owner].submit(demand).job_id
    began = time.monotonic()
    _until(lambda: _in_state(clients[owner], owned, "RUNNING", "ENDED"), "the owner has its GPUs back")
    say(f"  {owned} runs {time.monotonic() - began:.1f} s after it was submitted: {trainer}'s run has saved and left")
    ended = _until(lambda: _in_state(clients[trainer], training, "ENDED"), "the training goes on and ends")
    if ended.outcome != "succeeded" or ended.attempt < 2:
        raise TourFailedError(f"the training {ended.outcome} in attempt {ended.attempt}")
    log = [clients[trainer].logs(training, attempt=n).data.decode() for n in (1, ended.attempt)]
    left, back = (_number_after(text, words) for text, words in ((log[0], "told to leave after step "), (log[1], "begins at step ")))
    if left != back:
        raise TourFailedError(f"the training left after step {left} and went on from step {back}")
    say(f"  {training} left after step {left}, went on from step {back} in attempt {ended.attempt}, and has {ended.outcome}")
    other = _until(lambda: _in_state(clients[waiter], waiting, "ENDED"), "the waiting job runs")
    if other.outcome != "succeeded":
        raise TourFailedError(f"{waiting} {other.outcome}")


def _bill(operator: Client) -> None:
    say("\nThe bill, in GPU-seconds:")
    say(f"  {'member':<14} {'used':>8} {'own':>8} {'borrowed':>8} {'lent':>8}")
    for row in operator.usage().rows:
        say(f"  {row.key:<14} {row.gpu_seconds:>8.1f} {row.own_gpu_seconds:>8.1f} {row.borrowed_gpu_seconds:>8.1f} "
            f"{row.lent_gpu_seconds:>8.1f}")  # fmt: skip
    found = operator.audit()
    say(f"Audit: {found.events} entries, {found.verified} of {found.decisions} decisions proved again.")
    if found.mismatches:
        raise TourFailedError(f"the audit found {found.mismatches} mismatches")


def say(line: str) -> None:
    """A line of the tour."""
    click.echo(line)
    sys.stdout.flush()


def _until(look: Callable[[], T | None], what: str) -> T:
    """What `look` finds, as soon as it finds something."""
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        found = look()
        if found:
            return found
        time.sleep(0.1)
    raise TourFailedError(f"not within {WAIT_S:.0f} s: {what}")


def _in_state(client: Client, job_id: str, *states: str) -> JobDetail | None:
    found = client.job(job_id)
    if found.state == "ENDED" and "ENDED" not in states:
        raise TourFailedError(f"{job_id} has {found.outcome} too early")
    return found if found.state in states else None


def _explained(client: Client, job_id: str) -> str:
    return client.explain(job_id).message or ""


def _number_after(text: str, words: str) -> int:
    _, found, rest = text.partition(words)
    digits = rest.split()[0] if found and rest.split() else ""
    return int(digits) if digits.isdecimal() else -1
