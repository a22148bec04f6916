"""Courses of several calls, written once without I/O: a generator yields what it wants done and is sent the answer.

A client carries out each `Call`, sleeps at each `Pause` and gives everything else to its own caller.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from dure.client import calls, views
from dure.client.calls import Call

T = TypeVar("T")


@dataclass(frozen=True)
class Pause:
    """Do nothing for so long."""

    seconds: float


Course = Generator[Call[Any] | Pause | T, Any, None]

#: Between two looks at a job that has nothing new, at first and at most.
LOOK_S, LOOK_S_MAX = 0.1, 2.0


def all_jobs(
    *,
    state: str | Sequence[str] = "",
    member: str = "",
    project: str = "",
    user: str = "",
    array: str = "",
    name: str = "",
) -> Course[views.JobView]:
    """Every job that the filters let pass, newest first, page by page."""
    after = ""
    while True:
        page: views.JobPage = yield calls.jobs(
            state=state, member=member, project=project, user=user, array=array, name=name, limit=1000, after=after
        )
        yield from page.jobs
        if not page.next:
            return
        after = page.next


def follow(job_id: str, *, attempt: int | None = None, rank: int = 0) -> Course[bytes]:
    """A log as it grows: of one attempt, or of all from the first until the job has ended."""
    if attempt is not None:
        yield from _one_log(job_id, attempt, rank)
        return
    seen, look_s = 0, LOOK_S
    while True:
        detail: views.JobDetail = yield calls.job(job_id)
        later = sorted(part.attempt for part in detail.attempts if part.attempt > seen)
        if later:
            seen, look_s = later[0], LOOK_S
            yield from _one_log(job_id, seen, rank)
        elif detail.is_ended:
            return
        else:
            yield Pause(look_s)
            look_s = min(2 * look_s, LOOK_S_MAX)


def _one_log(job_id: str, attempt: int, rank: int) -> Course[bytes]:
    offset = 0
    while True:
        part: views.LogPart = yield calls.logs(job_id, attempt=attempt, rank=rank, offset=offset, wait_s=20)
        if part.data:
            yield part.data
        elif part.is_ended:
            return
        else:
            yield Pause(LOOK_S)
        offset = part.next_offset


def changes(job_id: str) -> Course[views.JobDetail]:
    """A job each time that its state, reason, attempt or progress is another, up to its end."""
    told: object = None
    look_s = LOOK_S
    while True:
        detail: views.JobDetail = yield calls.job(job_id)
        now = (detail.state, detail.reason, detail.attempt, detail.progress)
        if now != told:
            told, look_s = now, LOOK_S
            yield detail
        if detail.is_ended:
            return
        yield Pause(look_s)
        look_s = min(2 * look_s, LOOK_S_MAX)
