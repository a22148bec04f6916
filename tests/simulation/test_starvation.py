"""Rule 3, nothing starves: a wait that does not grow with the load that competes, and what guards it.

Each case is one job beside a stream of others that keeps the fleet full. With its guard a policy starts the job within
a bound that knows nothing of the stream's length. Without (a setting of the same policy, or an order by size instead of
age) the job waits until the stream ends: the case can fail, and the guard that it names is what holds it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from scenes import HOUR, MINUTE, small

from dure.policy.config import POLICIES, Policy
from dure.policy.kernels import layout as k
from dure.twin.replay import replay

DAY = 24 * HOUR


def stream(days, every_ms, gpus, num=1, from_ms=0, member=0, **others):
    """One-hour jobs, `num` every so often, a minute apart: always a few more than the fleet can run."""
    times = [t + i * MINUTE for t in range(from_ms, days * DAY, every_ms) for i in range(num)]
    return [(t, member, gpus, HOUR, others) for t in times]


def gang(days):
    """A gang as wide as the node, behind single GPUs that never all end at one moment."""
    return (DAY, 0, 4, HOUR), stream(days, 55 * MINUTE, 1, num=4)


def most_of_a_node(days):
    """Three of a node's four GPUs, behind the same."""
    return (DAY, 0, 3, HOUR), stream(days, 55 * MINUTE, 1, num=4)


def large_part(days):
    """Most of a GPU, behind halves that never leave one empty."""
    return (DAY, 0, 1, HOUR, {"gpu_milli": 900}), stream(days, 55 * MINUTE, 1, num=8, gpu_milli=500)


def many_cores(days):
    """All cores of a node and no GPU, behind jobs with some."""
    return (DAY, 0, 0, HOUR, {"cpu_milli": 32_000}), stream(days, 55 * MINUTE, 1, num=4, cpu_milli=8000)


def low_class(days):
    """A best-effort job behind its member's high ones."""
    return (DAY, 0, 4, HOUR, {"priority": 0}), stream(days, 59 * MINUTE, 4, priority=2)


def long_job(days):
    """A job that is long, and of whose user the history says so, behind short ones."""
    history = [(i * HOUR, 0, 4, 20 * HOUR, {"user": 1}) for i in range(6)]
    return (7 * DAY, 0, 4, 20 * HOUR, {"user": 1}), history + stream(days, 59 * MINUTE, 4, from_ms=6 * DAY)


def in_debt(days):
    """A member that borrowed for twenty days, behind one that began then and borrows all the time."""
    debt = [(0, 2, 4, 20 * DAY)]
    return (20 * DAY, 2, 4, 2 * HOUR), debt + stream(days, 59 * MINUTE, 4, from_ms=20 * DAY - HOUR, member=1)


@dataclass(frozen=True)
class Guard:
    """What bounds the wait of a case's job under a policy, and the policy without it."""

    bound_ms: int
    without: Policy


def lacking(name, **changes):
    """A named policy with a guard taken away."""
    return replace(POLICIES[name], **changes)


BY_SIZE = {"order": k.SRSF, "backfill": k.BACKFILL_NONE}
#: `overdue_ms` and `hold_after_ms` of the default.
NINETY = 90 * DAY + 3 * HOUR

CASES = {
    ("dure", gang): Guard(NINETY, lacking("dure", hold_after_ms=k.NEVER_MS)),
    ("dure", most_of_a_node): Guard(NINETY, lacking("dure", overdue_ms=k.NEVER_MS)),
    ("dure", large_part): Guard(NINETY, lacking("dure", overdue_ms=k.NEVER_MS)),
    ("dure", many_cores): Guard(NINETY, lacking("dure", overdue_ms=k.NEVER_MS)),
    ("dure", low_class): Guard(NINETY, lacking("dure", overdue_ms=k.NEVER_MS)),
    ("dure", long_job): Guard(NINETY, lacking("dure", overdue_ms=k.NEVER_MS)),
    ("dure", in_debt): Guard(20 * DAY + 3 * HOUR, lacking("dure", epoch_ms=k.NEVER_MS // 2)),
    ("fair", gang): Guard(6 * HOUR, lacking("fair", **BY_SIZE)),
    ("fair", long_job): Guard(30 * HOUR, lacking("fair", **BY_SIZE)),
    ("fair", in_debt): Guard(20 * DAY, lacking("fair", **BY_SIZE)),
    ("fifo", gang): Guard(6 * HOUR, lacking("fifo", **BY_SIZE)),
    ("fifo", long_job): Guard(30 * HOUR, lacking("fifo", **BY_SIZE)),
    ("easy", gang): Guard(6 * HOUR, lacking("easy", hold_after_ms=k.NEVER_MS)),
    ("easy", most_of_a_node): Guard(NINETY, lacking("easy", overdue_ms=k.NEVER_MS)),
    ("easy", long_job): Guard(30 * HOUR, lacking("easy", **BY_SIZE)),
    ("conservative", gang): Guard(6 * HOUR, lacking("conservative", hold_after_ms=k.NEVER_MS)),
}  # fmt: skip
IDS = [f"{name}: {load.__doc__.splitlines()[0]}" for name, load in CASES]


def started_ms(load, policy, days):
    """(submission, start) of the job in question beside a stream of so many days."""
    job, others = load(days)
    rows = sorted([job, *others], key=lambda row: row[0])
    fleet, terms, trace, _ = small([4], rows)
    result = replay(trace, fleet, policy, terms)
    return job[0], int(result.jobs["first_start_ms"][rows.index(job)])


@pytest.mark.parametrize(("name", "load"), CASES, ids=IDS)
def test_no_job_waits_longer_for_a_longer_stream(name, load):
    bound_ms = CASES[name, load].bound_ms
    for days in (130, 260):
        submit_ms, start_ms = started_ms(load, POLICIES[name], days)
        assert start_ms - submit_ms <= bound_ms
        assert start_ms < days * DAY - 10 * DAY, "the stream ended first: nothing competed any more"


@pytest.mark.parametrize(("name", "load"), CASES, ids=IDS)
def test_without_its_guard_it_waits_until_the_stream_ends(name, load):
    _, start_ms = started_ms(load, CASES[name, load].without, 130)
    assert start_ms >= 130 * DAY
