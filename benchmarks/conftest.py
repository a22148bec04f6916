"""What all benchmarks share: each runs once after a warm-up of the kernels, and keeps its figures in `extra_info`."""

from __future__ import annotations

import pytest

from dure.model.fleet import uniform_fleet
from dure.model.terms import single_member_terms
from dure.policy.config import named_policy
from dure.twin.generate import scale_load
from dure.twin.replay import replay


def pytest_benchmark_update_machine_info(config, machine_info):
    """The kind of machine is kept, its name is nobody's business."""
    del config
    machine_info.pop("node", None)


@pytest.fixture(scope="session", autouse=True)
def _compiled():
    fleet = uniform_fleet(64, 8)
    terms = single_member_terms(fleet.num_gpus)
    replay(scale_load(200, fleet, terms), fleet, named_policy("dure"), terms)


@pytest.fixture
def once(benchmark):
    """Time one call: these take seconds, and the decisions of a second call would be the same."""

    def run(call):
        return benchmark.pedantic(call, rounds=1, iterations=1)

    return run
