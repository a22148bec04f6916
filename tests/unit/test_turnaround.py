"""How long work takes in the twin: with room, on a full fleet, stage after stage."""

import numpy as np
import pytest

from dure.examples import example_path
from dure.model.errors import InputError
from dure.policy.config import named_policy
from dure.twin.inputs import fleet_from
from dure.twin.turnaround import Stage, turnarounds


def stage(name, run_s, *needs, num_gpus=1):
    return Stage(name, num_gpus, 1000, 1024, run_s * 1000, 0, needs)


def took(works, offered_load, member):
    fleet, terms = fleet_from(str(example_path("village")), None, 8)
    return turnarounds(works, member, fleet, terms, named_policy("dure"), offered_load)


@pytest.fixture(scope="module")
def members():
    _, terms = fleet_from(str(example_path("village")), None, 8)
    return [member.name for member in terms.members]


def test_with_room_it_takes_its_run_time(members):
    alone, path, wide = took([
        [stage("only", 600)],
        [stage("first", 600), stage("left", 1200, "first"), stage("right", 60, "first"), stage("last", 30, "left", "right")],
        [stage("only", 600, num_gpus=8)],
    ], 0.001, members[0])  # fmt: skip
    assert alone.shape == (96,)
    assert np.median(alone) == 600
    assert np.median(path) == 600 + 1200 + 30
    assert np.median(wide) == 600


def test_on_a_full_fleet_it_waits(members):
    narrow, wide = took([[stage("only", 600)], [stage("only", 600, num_gpus=8)]], 1.5, members[-1])
    assert (narrow >= 600).all()
    assert np.quantile(wide, 0.9, method="higher") > 600
    again, _ = took([[stage("only", 600)], [stage("only", 600, num_gpus=8)]], 1.5, members[-1])
    assert (again == narrow).all()


def test_who_is_no_member_has_nothing_to_hand_in():
    with pytest.raises(InputError, match="no such member: nobody"):
        took([[stage("only", 600)]], 0.001, "nobody")
