"""Parts of a GPU that is cut into slices: what NVIDIA's profiles allow, and no more."""

from itertools import combinations_with_replacement

import numpy as np
import pytest

from dure.core.build import build_state
from dure.model.fleet import GpuType, uniform_fleet
from dure.model.jobs import Trace, make_jobs
from dure.policy.config import named_policy
from dure.policy.kernels.nodes import MIG_MILLI, gpu_milli_on
from dure.twin.replay import replay

#: Compute slices of seven and memory slices of eight that a profile takes (NVIDIA MIG user guide, H100).
PROFILES = {1: (1, 1), 2: (2, 2), 3: (3, 4), 4: (4, 4), 7: (7, 8)}


def parts(milli, slices=7):
    jobs = make_jobs(len(milli))
    jobs["gpu_milli"], jobs["duration_ms"] = milli, 1000
    trace = Trace(jobs, [str(i) for i in range(len(jobs))], ["m"], ["p"], ["u"], [], "parts")
    return trace, uniform_fleet(8, 8, gpu_type=GpuType("g", mig_slices=slices))


def test_sums_fit_just_when_compute_and_memory_slices_do():
    checked = 0
    for num in range(1, 9):
        for mix in combinations_with_replacement(PROFILES, num):
            compute, memory = (sum(PROFILES[part][i] for part in mix) for i in (0, 1))
            fits = sum(MIG_MILLI[part - 1] for part in mix) <= 1000
            assert fits == (compute <= 7 and memory <= 8), mix
            checked += 1
    assert checked == 1286


@pytest.mark.parametrize(
    ("asked", "slices", "taken"),
    [(1, 7, 126), (142, 7, 126), (143, 7, 252), (300, 7, 480), (429, 7, 520), (600, 7, 1000), (1000, 7, 1000),
     (250, 4, 250), (251, 4, 500), (333, 1, 333)],
)  # fmt: skip
def test_a_part_takes_a_whole_slice(asked, slices, taken):
    trace, fleet = parts([asked], slices)
    state = build_state(fleet, None, trace, named_policy("dure")).state
    assert gpu_milli_on(state, 0, 0) == taken


def test_three_jobs_of_300_milli_share_one_uncut_gpu_and_two_cut_ones():
    def gpus_in_use(slices):
        trace, fleet = parts([300, 300, 300], slices)
        fleet.nodes["num_gpus"] = 2
        series = replay(trace, fleet, named_policy("dure")).series
        return series.gpus_used.max()

    assert gpus_in_use(1) == pytest.approx(0.9)
    assert gpus_in_use(7) == pytest.approx(3 * 0.48)


def test_parts_that_do_not_fit_wait():
    trace, fleet = parts([300, 300, 300], 7)
    fleet.nodes["num_gpus"] = 1
    waits = np.sort(replay(trace, fleet, named_policy("dure")).jobs["wait_ms"])
    assert waits.tolist() == [0, 0, 1000]
