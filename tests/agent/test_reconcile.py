"""What an agent decides to do, without doing it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dure.agent.reconcile import STOP_GRACE_MS, Forget, Launch, Refuse, Seen, Stop, reconcile
from dure.agent.wire import LeaseOrder
from dure.ports.executor import Run, RunState

NOW_MS = 1_000_000


def lease(lease_id="j1.1", fence=10, action="run", **other):
    job, _, attempt = lease_id.rpartition(".")
    return LeaseOrder(
        lease_id=lease_id, fence=fence, job_id=job, attempt=int(attempt), action=action, launch={"argv": ["true"]},
        placements=[{"node": "n0", "gpus": [0]}], **other,
    )  # fmt: skip


def run(lease_id="j1.1", state="running", fence=10):
    return Run(lease_id, fence, RunState(state))


GIVEN_UP = Stop("j1.1", "TERM", STOP_GRACE_MS, "given up by the service")

TABLE = {
    "nothing to do": ([lease()], [run()], {}, []),
    "a new lease": ([lease()], [], {}, [Launch(lease())]),
    "a new attempt of a job seen before": ([lease("j1.2", 11)], [], {"j1": Seen(10, "j1.1")}, [Launch(lease("j1.2", 11))]),
    "its fence was noted, then the agent died": ([lease()], [], {"j1": Seen(10, "j1.1")}, [Launch(lease())]),
    "an older fence": (
        [lease()], [], {"j1": Seen(11, "j1.2")}, [Refuse(lease(), "its fence is not above the highest seen for its job")],
    ),
    "the same fence for another lease": (
        [lease("j1.2")], [], {"j1": Seen(10, "j1.1")},
        [Refuse(lease("j1.2"), "its fence is not above the highest seen for its job")],
    ),
    "to stop what is not here": ([lease(action="stop")], [], {}, [Refuse(lease(action="stop"), "it does not run here")]),
    "a refused lease": ([lease()], [run(state="lost")], {}, []),
    "ended, still wanted: reported until it is not": ([lease()], [run(state="exited")], {}, []),
    "ended and known": ([], [run(state="exited")], {}, [Forget("j1.1")]),
    "lost and known": ([], [run(state="lost")], {}, [Forget("j1.1")]),
    "given up": ([], [run()], {}, [GIVEN_UP]),
    "given up while it starts": ([], [run(state="starting")], {}, [GIVEN_UP]),
    "given up while it stops": ([], [run(state="stopping")], {}, [GIVEN_UP]),
    "a new attempt waits for the old one to be gone": (
        [lease("j1.2", 11)], [run(state="stopping")], {"j1": Seen(10, "j1.1")}, [GIVEN_UP],
    ),
    "a new attempt beside the old one's end": ([lease("j1.2", 11)], [run(state="exited")], {}, [Forget("j1.1"), Launch(lease("j1.2", 11))]),
    "must leave by a deadline": (
        [lease(action="vacate", deadline_ms=NOW_MS + 700, signal="USR1")], [run()], {}, [Stop("j1.1", "USR1", 700, "must leave")],
    ),
    "the deadline is past": (
        [lease(action="vacate", deadline_ms=NOW_MS - 700)], [run()], {}, [Stop("j1.1", "TERM", 0, "must leave")],
    ),
    "must leave, no deadline": (
        [lease(action="vacate", grace_ms=900)], [run()], {}, [Stop("j1.1", "TERM", 900, "must leave")],
    ),
    "must leave, has ended": ([lease(action="vacate")], [run(state="exited")], {}, []),
    "stopped": ([lease(action="stop", signal="USR1")], [run()], {}, [Stop("j1.1", "TERM", STOP_GRACE_MS, "stopped by the service")]),
    "stopped, its own grace is shorter": (
        [lease(action="stop", grace_ms=100)], [run()], {}, [Stop("j1.1", "TERM", 100, "stopped by the service")],
    ),
    "older leases come first": (
        [lease("b.1", 12), lease("a.1", 13), lease("c.1", 11)], [], {},
        [Launch(lease("c.1", 11)), Launch(lease("b.1", 12)), Launch(lease("a.1", 13))],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLE)
def test_table(name):
    leases, runs, seen, expected = TABLE[name]
    assert reconcile(leases, runs, seen, NOW_MS) == expected


IDS = st.builds(lambda job, attempt: f"j{job}.{attempt}", st.integers(0, 3), st.integers(1, 3))
LEASES = st.lists(
    st.builds(lease, IDS, st.integers(0, 20), st.sampled_from(["run", "vacate", "stop"]), deadline_ms=st.integers(-1, 2_000_000)),
    max_size=6, unique_by=lambda found: found.lease_id,
)  # fmt: skip
RUNS = st.lists(st.builds(run, IDS, st.sampled_from(list(RunState))), max_size=6, unique_by=lambda found: found.lease_id)
SEEN = st.dictionaries(st.sampled_from(["j0", "j1", "j2", "j3"]), st.builds(Seen, st.integers(0, 20), IDS))


@given(LEASES, RUNS, SEEN)
def test_nothing_known_is_launched_and_nothing_wanted_is_forgotten(leases, runs, seen):
    there = {found.lease_id: found for found in runs}
    wanted = {found.lease_id for found in leases}
    living = {found.lease_id.partition(".")[0] for found in runs if found.state not in ("exited", "lost")}
    for action in reconcile(leases, runs, seen, NOW_MS):
        match action:
            case Launch(given):
                assert given.lease_id not in there
                assert given.job_id not in living
                assert given.job_id not in seen or given.fence >= seen[given.job_id].fence
            case Forget(lease_id):
                assert there[lease_id].state in ("exited", "lost")
                assert lease_id not in wanted
            case Stop(lease_id, _, grace_ms, _):
                assert there[lease_id].state not in ("exited", "lost")
                assert grace_ms >= 0
            case Refuse(given, _):
                assert given.lease_id not in there


@given(LEASES, RUNS, SEEN)
def test_the_same_picture_gives_the_same_actions_in_any_order(leases, runs, seen):
    forward = reconcile(leases, runs, seen, NOW_MS)
    backward = reconcile(leases[::-1], runs[::-1], seen, NOW_MS)
    assert sorted(map(repr, forward)) == sorted(map(repr, backward))
