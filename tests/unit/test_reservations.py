"""Advance reservations (rule 5): a job begins when it named, whatever comes before it."""

import numpy as np
import pytest

from dure.core.explain import Reason
from dure.core.step import Cancelled, Core, DecisionKind, NodeDown, ReservationDue, Submitted
from dure.model.fleet import uniform_fleet
from dure.model.jobs import Trace, make_jobs
from dure.model.terms import AgreementTerms, Member, Pool, Terms
from dure.policy.config import named_policy
from dure.policy.kernels import layout as k
from dure.twin.replay import replay

HOUR = 3_600_000


def lending(notice_ms=60_000):
    """The owner of all 16 GPUs (two nodes), who lends them to another."""
    fleet = uniform_fleet(16, 8)
    terms = Terms(
        [Member("owner"), Member("other")], [Pool("p", 0, 0, 0, 0)], np.array([[16], [0]]),
        [AgreementTerms("loan", 0, 16, notice_ms)], np.array([[-1], [0]], np.int32),
    )  # fmt: skip
    return fleet, terms


def load(*rows):
    """Rows of (submit, begin or -1, GPUs, duration, limit or -1, checkpoint interval, member)."""
    jobs = make_jobs(len(rows))
    for i, (submit, begin, gpus, duration, limit, ckpt, member) in enumerate(rows):
        row = jobs[i]
        row["submit_ms"], row["begin_ms"], row["duration_ms"] = submit, begin, duration
        row["num_gpus"] = row["min_gpus"] = row["max_gpus"] = gpus
        row["limit_ms"], row["checkpoint_ms"], row["member"] = limit, ckpt, member
    names = [str(i) for i in range(len(rows))]
    return Trace(jobs, names, ["owner", "other"], ["p"], ["u"], [], "reservations")


CASES = {
    "an empty fleet": ((0, 5 * HOUR, 16, HOUR, -1, 0, 0),),
    "short work is let in before": (
        (0, 5 * HOUR, 16, HOUR, -1, 0, 0),
        *((i, -1, 8, HOUR, HOUR, 0, 0) for i in range(1, 7)),
    ),
    "work without a limit that writes checkpoints makes room": (
        (0, 5 * HOUR, 16, HOUR, -1, 0, 0),
        (1, -1, 8, 30 * HOUR, -1, HOUR, 0),
        (2, -1, 8, 30 * HOUR, -1, HOUR, 0),
    ),
    "borrowers leave": (
        (0, -1, 8, 30 * HOUR, -1, 0, 1),
        (0, -1, 8, 30 * HOUR, -1, HOUR, 1),
        (1, 5 * HOUR, 16, HOUR, -1, 0, 0),
    ),
    "not before the lead": ((0, 300 * HOUR, 16, HOUR, -1, 0, 0), (1, -1, 16, 20 * HOUR, -1, HOUR, 0)),
}


@pytest.mark.parametrize("rows", CASES.values(), ids=CASES.keys())
@pytest.mark.parametrize("notice_ms", [0, 60_000, HOUR])
def test_it_begins_to_the_millisecond(rows, notice_ms):
    fleet, terms = lending(notice_ms)
    done = replay(load(*rows), fleet, named_policy("dure"), terms).jobs
    at = next(i for i, row in enumerate(rows) if row[1] >= 0)
    assert done["first_start_ms"][at] == rows[at][1]
    assert done["wait_ms"][at] == 0
    assert (done["end_ms"] > 0).all()


def test_nodes_before_it_are_used_by_what_will_be_gone():
    """Short work starts at once on the held nodes; work that might still be there does not."""
    fleet, terms = lending()
    rows = ((0, 5 * HOUR, 16, HOUR, -1, 0, 0), (1, -1, 8, HOUR, HOUR, 0, 0), (2, -1, 8, 9 * HOUR, 9 * HOUR, 0, 0))
    done = replay(load(*rows), fleet, named_policy("dure"), terms).jobs
    assert done["first_start_ms"].tolist() == [5 * HOUR, 1, 6 * HOUR]


def test_what_ran_before_within_its_own_share_is_waited_for():
    fleet, terms = lending()
    rows = ((0, -1, 16, 8 * HOUR, -1, 0, 0), (1, 5 * HOUR, 16, HOUR, -1, 0, 0))
    done = replay(load(*rows), fleet, named_policy("dure"), terms).jobs
    assert done["first_start_ms"].tolist() == [0, 8 * HOUR]
    assert done["wait_ms"][1] == 3 * HOUR


def test_another_is_not_held_up_by_it_for_ever():
    """Cancelling gives the nodes back at once."""
    fleet, terms = lending()
    trace = load((0, 5 * HOUR, 16, HOUR, -1, 0, 0), (1, -1, 16, 9 * HOUR, -1, 0, 0))
    core = Core(fleet, terms, trace, named_policy("dure"))
    kinds = [d.kind for d in core.step(0, [Submitted(0)])]
    assert kinds == [DecisionKind.HOLD]
    assert core.step(1, [Submitted(1)]) == []
    found = core.explain(0)
    assert (found.reason, found.promised_ms) == (Reason.RESERVED, 5 * HOUR)
    assert found.pools[0].facts == {"begin_ms": 5 * HOUR, "nodes": 2, "missing_nodes": 0}
    assert [d.job for d in core.step(2, [Cancelled(0)]) if d.kind == DecisionKind.START] == [1]


def test_a_lost_node_is_replaced_when_it_is_next_due():
    fleet = uniform_fleet(24, 8)
    trace = load((0, 5 * HOUR, 16, HOUR, -1, 0, 0))
    core = Core(fleet, None, trace, named_policy("dure"))
    (hold,) = core.step(0, [Submitted(0)])
    core.step(1, [NodeDown(hold.node)])
    assert core.state.job[0]["hold"] < 0
    at = core.next_due_ms(0)
    while at < k.NEVER_MS:
        decisions = core.step(at, [ReservationDue(0)])
        at = core.next_due_ms(0)
    assert [d.kind for d in decisions] == [DecisionKind.START]
    assert core.now_ms == 5 * HOUR
