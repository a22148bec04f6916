"""The smallest scenes of what random search has found, by hand: when the job in question must start."""

from dataclasses import replace

import pytest
from promises import keep
from scenes import HOUR, MINUTE, small

from dure.core.step import Cancelled, Core, DecisionKind, Submitted
from dure.policy.config import named_policy

LONG = 50 * HOUR
#: Parts of a GPU, and what else a job may be.
HALF = {"gpu_milli": 500}


def cores(num, **others):
    return {"cpu_milli": num * 1000, **others}


#: Name → (scene, moment at which the last job must start). The owner is member 0, the borrower member 1.
CLAIMS = {
    "the cores beside a borrower's part of a GPU": (
        small([4], [(0, 0, 1, LONG, cores(16)), (1, 1, 1, LONG, cores(16, gpu_milli=300)), (HOUR, 0, 1, HOUR, cores(16))]),
        HOUR + MINUTE,
    ),
    "a borrower that has grown on its node": (
        small([4], [(0, 0, 2, MINUTE), (1, 1, 2, LONG, {"max_gpus": 4}), (HOUR, 0, 4, HOUR)]), HOUR + MINUTE,
    ),
    "two like parts on one GPU": (
        small([1], [(0, 1, 1, LONG, HALF), (0, 1, 1, LONG, HALF), (HOUR, 0, 1, HOUR)], gpus=1), HOUR + MINUTE,
    ),
    "a part on each GPU of a node": (
        small([4], [(0, 1, 1, LONG, {"gpu_milli": 600})] * 4 + [(HOUR, 0, 4, HOUR)]), HOUR + MINUTE,
    ),
    "a borrower without GPUs": (
        small([4], [(0, 1, 0, LONG, cores(32)), (HOUR, 0, 1, HOUR, cores(1))]), HOUR + MINUTE,
    ),
    "the last part of a gang beside work of its own": (
        small([8], [(0, 0, 2, LONG), (1, 1, 2, LONG), (2, 1, 4, LONG), (HOUR, 0, 6, HOUR)], nodes=2), HOUR + MINUTE,
    ),
    "a part of a GPU": (small([4], [(0, 1, 4, LONG), (HOUR, 0, 1, HOUR, HALF)]), HOUR + MINUTE),
    "a part of a GPU that a member's own part shares": (
        small([1], [(0, 0, 1, LONG, HALF), (1, 1, 1, LONG, HALF), (HOUR, 0, 1, HOUR, HALF)], gpus=1), HOUR + MINUTE,
    ),
    "a part of a GPU that an elastic borrower can spare": (
        small([4], [(0, 1, 4, LONG, {"min_gpus": 2}), (HOUR, 0, 1, HOUR, HALF)]), HOUR,
    ),
    "a slice of a GPU": (
        small([1], [(0, 1, 1, LONG, HALF), (1, 1, 1, LONG, {"gpu_milli": 400}), (HOUR, 0, 1, HOUR, {"gpu_milli": 140})],
              gpus=1, slices=7), HOUR + MINUTE,
    ),
    "a reserved job beside work that was there before": (
        small([8], [(0, 0, 3, LONG), (1, 0, 3, 40 * HOUR), (2, 0, 4, HOUR, {"begin_ms": 30 * HOUR}), ], nodes=2),
        40 * HOUR + 1,
    ),
    "a reserved job, and free nodes elsewhere": (
        small([8], [(0, 0, 4, LONG, {"limit_ms": LONG}), (1, 0, 4, 2 * HOUR), (2, 0, 4, HOUR, {"begin_ms": 30 * HOUR})], nodes=2),
        30 * HOUR,
    ),
    "a reserved job, and borrowers elsewhere": (
        small([8], [(0, 0, 4, LONG), (1, 1, 4, LONG), (2, 0, 4, HOUR, {"begin_ms": 30 * HOUR})], nodes=2),
        30 * HOUR + MINUTE,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CLAIMS)
def test_a_member_gets_its_share_in_one_notice(name):
    found, due_ms = CLAIMS[name]
    world = keep(*found, named_policy("dure"))
    assert world.starts[len(found[2].jobs) - 1] == [due_ms]


def test_a_borrower_leaves_again_for_a_new_claim_of_the_same_job():
    """Stopped for the owner's job, the borrower runs on another node; the owner's node fails, and it claims anew."""
    rows = [(0, 1, 4, LONG), (1, 0, 4, 2 * HOUR), (HOUR, 0, 4, LONG)]
    found = small([8], rows, faults=[(3 * HOUR, 0, 0), (60 * HOUR, 0, 1)], nodes=2)
    world = keep(*found, named_policy("dure"))
    assert world.starts[0][:2] == [0, 2 * HOUR + 1]
    assert world.starts[2] == [HOUR + MINUTE, 3 * HOUR + MINUTE]


def test_a_head_that_starts_elsewhere_frees_the_way():
    """First come, first served, two pools: the gang starts in the one, the small job behind it in the other at once."""
    rows = [(0, 0, 4, HOUR), (1, 0, 3, LONG), (2, 0, 4, LONG), (3, 0, 1, LONG)]
    world = keep(*small([4], rows, pools=2), named_policy("fifo"))
    assert [world.starts[j] for j in range(4)] == [[0], [1], [HOUR], [HOUR]]


def test_a_slice_that_takes_less_than_was_asked_is_tried_in_the_last_room():
    """278 thousandths of a GPU of seven slices are the profile 2g, which takes 252: there are 268 left."""
    rows = [(0, 0, 1, LONG, {"gpu_milli": milli}) for milli in (400, 278, 278)]
    world = keep(*small([1], rows, gpus=1, slices=7), named_policy("dure"))
    assert [world.starts[j] for j in range(3)] == [[0], [0], [0]]


def test_a_gang_that_holds_a_busy_node_starts_on_another_that_comes_free_first():
    rows = [(0, 0, 4, LONG, {"limit_ms": HOUR}), (0, 0, 4, 2 * HOUR, {"limit_ms": 40 * HOUR}), (1, 0, 4, HOUR)]
    world = keep(*small([8], rows, nodes=2), named_policy("easy"))
    assert world.starts[2] == [2 * HOUR]


def test_a_reservation_takes_other_nodes_that_came_free_while_its_own_are_busy():
    """The work on the reserved node has overrun its limit; the other node is free a minute ahead, and is not given away."""
    rows = [
        (0, 0, 4, LONG, {"limit_ms": 10 * HOUR}), (0, 0, 4, 29 * HOUR, {"limit_ms": 40 * HOUR}),
        (1, 0, 4, HOUR, {"begin_ms": 30 * HOUR}), (30 * HOUR - 30_000, 0, 4, LONG),
    ]  # fmt: skip
    world = keep(*small([8], rows, nodes=2), named_policy("dure"))
    assert world.starts[2] == [30 * HOUR]


def test_a_blocked_head_that_is_cancelled_frees_the_way():
    """First come, first served: the small job behind the gang starts when its user takes the gang back."""
    fleet, terms, trace, _ = small([4], [(0, 0, 3, LONG), (1, 0, 4, LONG), (2, 0, 1, LONG)])
    core = Core(fleet, terms, trace, named_policy("fifo"))
    for j in range(3):
        decided = core.step(j, [Submitted(j)])
    assert decided == []
    assert [d.job for d in core.step(HOUR, [Cancelled(1)]) if d.kind == DecisionKind.START] == [2]


def test_a_member_at_its_limit_stops_its_own_job_and_holds_nothing_that_is_free():
    """The agreement lends four GPUs, of eight that are free: the earlier job takes the later one's, a checkpoint later."""
    rows = [(0, 1, 4, LONG, {"checkpoint_ms": 10 * MINUTE}), (10 * HOUR, 1, 4, HOUR, {"limit_ms": HOUR})]
    fleet, terms, trace, faults = small([8], rows, nodes=2)
    terms = replace(terms, agreements=[replace(terms.agreements[0], limit_gpus=4)])
    policy = replace(named_policy("dure"), margin_ms=0, rank_step_ms=100 * HOUR)
    world = keep(fleet, terms, trace, faults, policy)
    assert world.starts[1] == [10 * HOUR + policy.save_ms]


def test_power_is_taken_back_from_those_who_draw_it():
    """The cap lets four of eight GPUs run; to the owner's job a borrower's GPU job makes room, not the one without GPUs."""
    rows = [(0, 1, 4, LONG), (1, 1, 0, LONG, cores(1)), (HOUR, 0, 4, HOUR)]
    found = small([8], rows, nodes=2, cap_w=6000)
    world = keep(*found, named_policy("dure"))
    assert world.starts[2] == [HOUR + MINUTE]
    assert [j for j, _, _ in world.stops] == [0]
