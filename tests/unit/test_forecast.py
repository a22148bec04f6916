"""Forecasts know nothing of the future; promised and foretold starts are scored by the start that followed."""

from dataclasses import replace

import numpy as np
import pytest

from dure.core.build import build_state
from dure.core.explain import Reason
from dure.model.errors import InputError
from dure.model.fleet import uniform_fleet
from dure.model.jobs import Trace, make_jobs
from dure.model.terms import AgreementTerms, Member, Pool, Terms
from dure.policy.config import named_policy
from dure.policy.kernels import layout as k
from dure.twin.forecast import forecast
from dure.twin.foresight import even_moments
from dure.twin.loop import FAILURE, REPAIR, note_promise
from dure.twin.metrics import forecast_summary, measure
from dure.twin.replay import FAULT_DTYPE, make_world, replay
from dure.twin.result import (
    NEVER,
    PROMISE_BACKFILL,
    PROMISE_FORECAST,
    PROMISE_RANK,
    PROMISE_RECLAIM,
    PROMISE_RESERVED,
)

MINUTE, HOUR = 60_000, 3_600_000
POLICIES = ("dure", "easy", "conservative", "fifo", "las")


def load(*rows):
    """Rows of (submit, member, GPUs, duration) and any other columns by name."""
    jobs = make_jobs(len(rows))
    for job, (submit, member, gpus, duration, *others) in zip(jobs, rows, strict=True):
        job["submit_ms"], job["member"], job["duration_ms"] = submit, member, duration
        job["num_gpus"] = job["min_gpus"] = job["max_gpus"] = gpus
        for name, value in (others[0] if others else {}).items():
            job[name] = value
    return Trace(jobs, [f"j-{i}" for i in range(len(rows))], ["owner", "other"], ["p"], ["u", "v"], [], "scene")


def lending(num_gpus=16):
    """The owner of all GPUs, who lends them to another at a minute's notice without a limit that counts."""
    return Terms(
        [Member("owner"), Member("other")], [Pool("p", 0, 0, 0, 0)], np.array([[num_gpus], [0]]),
        [AgreementTerms("loan", 0, 2 * num_gpus, MINUTE)], np.array([[-1], [0]], np.int32),
    )  # fmt: skip


def busy_load(seed, num=400):
    """More than 32 GPUs can do, in a day: queues of every size of job and run time."""
    r = np.random.default_rng(seed)
    jobs = make_jobs(num)
    jobs["submit_ms"] = np.sort(r.integers(0, 24 * HOUR, num))
    jobs["duration_ms"] = np.exp(r.normal(14.5, 1.3, num)).astype(np.int64) + 1000
    jobs["num_gpus"] = jobs["min_gpus"] = jobs["max_gpus"] = r.choice([1, 2, 4, 8, 16], num)
    jobs["checkpoint_ms"] = r.choice([0, 10 * MINUTE], num)
    jobs["user"], jobs["member"] = r.integers(0, 2, num), r.integers(0, 2, num)
    return Trace(jobs, [str(i) for i in range(num)], ["owner", "other"], ["p"], ["u", "v"], [], "busy")


def promised(result, kind):
    """(job, made, promised, started) of the promises of a kind."""
    rows = result.promises[result.promises["kind"] == kind]
    return [tuple(int(row[name]) for name in ("job", "made_ms", "promised_ms", "start_ms")) for row in rows]


# ---------------------------------------------------------------- forecasts


@pytest.mark.parametrize("name", POLICIES)
def test_a_replay_forecasts_as_the_command_does_and_runs_on_as_if_it_had_not(name):
    trace, fleet, terms = busy_load(1), uniform_fleet(32, 8), lending(32)
    moments = even_moments(trace, 3)
    plain = replay(trace, fleet, named_policy(name), terms)
    result = replay(trace, fleet, named_policy(name), terms, forecast_at_ms=moments)
    assert result.digest == plain.digest
    assert (result.series.gpus_used == plain.series.gpus_used).all()
    for at_ms in moments:
        rows = forecast(trace, fleet, named_policy(name), at_ms, terms)
        made = {trace.job_ids[job]: start for job, at, start, _ in promised(result, PROMISE_FORECAST) if at == at_ms}
        assert made == {row.job_id: row.expected_start_ms for row in rows}
        assert len(made) > 10


@pytest.mark.parametrize("name", POLICIES)
def test_told_the_run_times_and_with_no_job_to_come_a_forecast_is_right_to_the_millisecond(name):
    trace, fleet, terms = busy_load(2), uniform_fleet(32, 8), lending(32)
    last = int(trace.jobs["submit_ms"].max())
    run = {"forecast_at_ms": [last, last + 5 * HOUR], "terms": terms}
    of = measure(replay(trace, fleet, named_policy(name), is_told=True, **run)).foretold
    assert of.n > 100
    assert of.mae_s == 0
    untold = measure(replay(trace, fleet, named_policy(name), **run)).foretold
    assert untold.n == of.n
    assert untold.mae_s > 60


@pytest.mark.parametrize("name", ["dure", "easy", "srtf"])
def test_nothing_that_comes_later_changes_a_forecast(name):
    """Other run times of all that had not ended by then, other jobs afterwards: the same starts and reasons."""
    trace, fleet, terms = busy_load(3), uniform_fleet(32, 8), lending(32)
    at_ms = 12 * HOUR
    ended = replay(trace, fleet, named_policy(name), terms, horizon_ms=at_ms).jobs["end_ms"] != NEVER
    other = trace.jobs.copy()
    other["duration_ms"][~ended] *= 3
    after = other["submit_ms"] > at_ms
    other["num_gpus"][after] = other["min_gpus"][after] = other["max_gpus"][after] = 32
    other["duration_ms"][after] = -1
    found = [forecast(t, fleet, named_policy(name), at_ms, terms) for t in (trace, replace(trace, jobs=other))]
    assert len(found[0]) > 20
    if name == "srtf":
        # The yardstick's queue is in order of the true rests, so its forecasts do know them.
        assert found[0] != found[1]
    else:
        assert found[0] == found[1]


def test_a_job_that_has_come_needs_a_run_time_one_that_has_not_does_not():
    trace, fleet = load((0, 0, 8, HOUR), (1, 0, 8, HOUR), (2, 0, 8, -1)), uniform_fleet(8, 8)
    (row,) = forecast(trace, fleet, named_policy("dure"), 1)
    # Without history the one that runs is taken to run an hour more.
    assert (row.job_id, row.expected_start_ms) == ("j-1", 1 + HOUR)
    with pytest.raises(InputError, match="job 'j-2' has no run time"):
        forecast(trace, fleet, named_policy("dure"), 2)
    with pytest.raises(InputError, match="nothing has been submitted"):
        forecast(load((5, 0, 8, HOUR)), fleet, named_policy("dure"), 4)


def test_why_is_said_of_the_moment_and_names_jobs_by_their_ids():
    """At the claim; where the forecast ends nobody waits any more."""
    trace = load((0, 1, 8, 9 * HOUR), (0, 1, 8, 9 * HOUR), (HOUR, 0, 8, HOUR), (HOUR, 1, 8, HOUR), (HOUR, 1, 8, HOUR))
    owner, head, behind = forecast(trace, uniform_fleet(16, 8), named_policy("dure"), HOUR, lending())
    assert (owner.why.reason, owner.why.promised_ms) == (Reason.HELD, HOUR + MINUTE)
    assert (owner.expected_start_ms, owner.waited_ms) == (HOUR + MINUTE, 0)
    assert head.why.reason is Reason.GPUS_BUSY
    assert head.why.pools[0].holders == (("other", 16000, 16000),)
    assert behind.why.reason is Reason.BEHIND
    assert behind.why.message.startswith("job j-3 of the same shape stands before it")


def test_a_job_that_can_never_run_is_said_to_and_not_foreseen():
    (row,) = forecast(load((0, 0, 17, HOUR)), uniform_fleet(16, 8), named_policy("dure"), 0, lending())
    assert (row.why.reason, row.expected_start_ms) == (Reason.NEVER, -1)


def test_deliveries_are_foreseen_failures_and_repairs_are_not():
    """Two nodes: the second comes after five hours. The first fails later, or is down now and comes back."""
    fleet = uniform_fleet(16, 8)
    fleet.nodes["online_ms"][1] = 5 * HOUR
    run_time = {"limit_ms": 9 * HOUR}
    trace = load((0, 0, 8, 9 * HOUR, run_time), (1, 0, 8, 9 * HOUR, run_time))
    events = {
        "it fails later": [(2 * HOUR, 0, FAILURE), (3 * HOUR, 0, REPAIR)],
        "it is down now": [(HOUR // 2, 0, FAILURE), (2 * HOUR, 0, REPAIR)],
    }
    for name, rows in events.items():
        result = replay(
            trace, fleet, named_policy("dure"), faults=np.array(rows, FAULT_DTYPE), forecast_at_ms=[HOUR]
        )  # fmt: skip
        found = {job: start for job, _, start, _ in promised(result, PROMISE_FORECAST)}
        if name == "it fails later":
            assert found == {1: 2 * HOUR}, "without history a job is taken to run an hour more"
        else:
            assert found == {0: 5 * HOUR, 1: 6 * HOUR}, "restarts go first, on the only node that is known to come"


@pytest.mark.parametrize(("num", "moments"), [(0, []), (1, [4]), (3, [2, 4, 6])])
def test_moments_stand_evenly_between_the_first_submission_and_the_last(num, moments):
    assert even_moments(load((0, 0, 1, 1), (8, 0, 1, 1)), num) == moments


# ---------------------------------------------------------------- promises and what came of them


def test_kinds_of_promise_are_the_kinds_of_hold():
    kinds = (PROMISE_BACKFILL, PROMISE_RECLAIM, PROMISE_RANK, PROMISE_RESERVED)
    assert kinds == (k.HOLD_BACKFILL, k.HOLD_RECLAIM, k.HOLD_RANK, k.HOLD_RESERVED)


def test_a_backfill_hold_is_scored_against_the_run_time_that_nobody_knew():
    """Taken to run an hour; it runs two, or half of one."""
    for duration, error in ((2 * HOUR, HOUR), (HOUR // 2, -HOUR // 2)):
        result = replay(load((0, 0, 8, duration), (0, 0, 16, HOUR)), uniform_fleet(16, 8), named_policy("easy"))
        assert promised(result, PROMISE_BACKFILL) == [(1, 0, HOUR, HOUR + error)]
        assert measure(result).promised_by_kind["backfill"].mean_s == error / 1000
        assert result.jobs["reserved_start_ms"].tolist() == [NEVER, HOUR]


def test_a_claim_is_kept_at_the_end_of_the_notice_or_when_the_borrower_ends_before():
    rows = [(0, 1, 16, 9 * HOUR), (HOUR, 0, 8, HOUR)]
    result = replay(load(*rows), uniform_fleet(16, 8), named_policy("dure"), lending())
    assert promised(result, PROMISE_RECLAIM) == [(1, HOUR, HOUR + MINUTE, HOUR + MINUTE)]
    rows[0] = (0, 1, 16, HOUR + MINUTE // 2)
    result = replay(load(*rows), uniform_fleet(16, 8), named_policy("dure"), lending())
    assert promised(result, PROMISE_RECLAIM) == [(1, HOUR, HOUR + MINUTE, HOUR + MINUTE // 2)]


def test_a_reservation_is_promised_when_it_is_made_and_scored_when_it_starts():
    rows = [(0, 0, 16, 8 * HOUR), (1, 0, 16, HOUR, {"begin_ms": 5 * HOUR})]
    result = replay(load(*rows), uniform_fleet(16, 8), named_policy("dure"), lending())
    assert promised(result, PROMISE_RESERVED) == [(1, 1, 5 * HOUR, 8 * HOUR)]
    assert measure(result).promised_by_kind["reserved"].late_share == 1
    on_time = replay(load(rows[1]), uniform_fleet(16, 8), named_policy("dure"), lending())
    assert promised(on_time, PROMISE_RESERVED) == [(0, 1, 5 * HOUR, 5 * HOUR)]


def test_a_promise_that_fell_with_its_node_is_scored_by_the_start_that_came():
    """The held node fails within the notice; the second claim is another promise of the same start."""
    trace = load((0, 1, 8, 9 * HOUR), (0, 1, 8, 9 * HOUR), (HOUR, 0, 8, HOUR))
    down = HOUR + MINUTE // 2
    faults = np.array([(down, 0, FAILURE), (9 * HOUR, 0, REPAIR)], FAULT_DTYPE)
    result = replay(trace, uniform_fleet(16, 8), named_policy("dure"), lending(), faults=faults)
    start = down + MINUTE
    assert promised(result, PROMISE_RECLAIM) == [(2, HOUR, HOUR + MINUTE, start), (2, down, start, start)]
    assert result.jobs["reserved_start_ms"][2] == HOUR + MINUTE
    of = measure(result).promised_by_kind["reclaim"]
    assert (of.n, of.quantiles_s[-1], of.late_share) == (2, pytest.approx(30, rel=0.02), 0.5)


def test_a_promise_of_a_later_start_is_not_scored_by_the_first():
    """The owner's job is sent away by a failure, and claims anew: its first start was promised by nobody."""
    trace = load((0, 0, 8, 3 * HOUR), (1, 1, 8, 9 * HOUR))
    faults = np.array([(HOUR, 0, FAILURE), (9 * HOUR, 0, REPAIR)], FAULT_DTYPE)
    result = replay(trace, uniform_fleet(16, 8), named_policy("dure"), lending(), faults=faults)
    assert promised(result, PROMISE_RECLAIM) == [(0, HOUR, HOUR + MINUTE, HOUR + MINUTE)]
    assert result.jobs["first_start_ms"][0] == 0
    assert result.jobs["reserved_start_ms"][0] == NEVER


def test_a_promise_to_a_job_that_never_started_is_open():
    trace = load((0, 0, 8, 9 * HOUR), (0, 0, 16, HOUR))
    result = replay(trace, uniform_fleet(16, 8), named_policy("easy"), horizon_ms=2 * HOUR, forecast_at_ms=[HOUR // 2])
    assert promised(result, PROMISE_BACKFILL) == [(1, 0, HOUR, NEVER)]
    # Half an hour of the hour has passed, so by the history it will run that much again.
    assert promised(result, PROMISE_FORECAST) == [(1, HOUR // 2, HOUR // 2 + HOUR, NEVER)]
    of = measure(result)
    assert (of.promised.n, of.promised.num_open, of.foretold.n, of.foretold.num_open) == (0, 1, 0, 1)
    assert forecast_summary(result)["forecasts_open"] == 1
    assert result.jobs["predicted_start_ms"][1] == HOUR // 2 + HOUR


def test_a_promise_without_room_is_counted_and_said():
    trace, fleet = load((0, 0, 8, HOUR), (0, 0, 8, HOUR)), uniform_fleet(8, 8)
    built = build_state(fleet, None, trace, named_policy("dure"))
    world = make_world(trace, fleet, built, HOUR)
    room = len(world.promise)
    for i in range(room + 3):
        note_promise(world, i % 2, PROMISE_FORECAST, 0, i)
    assert (world.w[0]["num_promises"], world.w[0]["num_unwritten"]) == (room, 3)
