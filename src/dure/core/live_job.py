"""A job of a live alliance, and how its snapshot keeps it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from operator import attrgetter
from typing import Any

from dure.model.events import JobRequest

PENDING, ADMITTED, COMPLETING, ENDED = "PENDING", "ADMITTED", "COMPLETING", "ENDED"


@dataclass
class LiveJob:
    """A job that was submitted.

    Attributes
    ----------
    row : int
        Its place in the policy's job table; -1: the policy does not know it yet (it waits for others, or a moment).
    unmet : set of str
        Jobs that it still waits for.
    failures : int
        Attempts that failed by themselves.
    banked_ms : (run, borrowed)
        What the policy had counted when the attempt began.
    refusals, refused_why, retry_ms : int, str, int
        Attempts, one after another, that an agent did not start; why the last; when it is tried again, from the start.
    """

    request: JobRequest
    state: str = PENDING
    row: int = -1
    attempt: int = 0
    outcome: str = ""
    unmet: set[str] = field(default_factory=set)
    failures: int = 0
    started_ms: int = -1
    is_cancelled: bool = False
    banked_ms: tuple[int, int] = (0, 0)
    promised_ms: int = -1
    refusals: int = 0
    refused_why: str = ""
    retry_ms: int = -1


_REQUEST = attrgetter(*(f.name for f in fields(JobRequest)))
_JOB = attrgetter(*(f.name for f in fields(LiveJob) if f.name != "request"))


def job_as_list(job: LiveJob) -> list[Any]:
    """A job's fields in order, its request's first."""
    return [_REQUEST(job.request), [sorted(v) if isinstance(v, set) else v for v in _JOB(job)]]


def job_from_list(values: Sequence[Any]) -> LiveJob:
    """The inverse of `job_as_list`."""
    asked: list[Any] = [tuple(map(_as_tuple, value)) if isinstance(value, list) else value for value in values[0]]
    job = LiveJob(JobRequest(*asked), *values[1])
    job.unmet, job.banked_ms = set(job.unmet), (job.banked_ms[0], job.banked_ms[1])
    return job


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
