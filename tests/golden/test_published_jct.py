"""Average completion times beside published ones: Muri's testbed and simulator, Pollux' simulator.

Within 5% where the setting is rebuilt. Where it is not, the measured ratio is held in a band, so that a change shows,
and docs/validation.md names what differs. Of Sia's and Gavel's sets no published number belongs to a policy that we
have and a trace that is there.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dure.twin.data import data_dir
from dure.twin.published import (
    MURI_POLICIES,
    MURI_SIMULATED,
    POLLUX_WORKLOADS,
    PolluxApplication,
    mean_jct_s,
    muri_simulator,
    muri_testbed,
    pollux,
    pollux_published,
)

SHARE = 0.05
BAND = 0.02

#: Ours ÷ published where more than 5% apart. Muri's simulated Tiresias stops the last job of the lowest queue and puts
#: it at the queue's end; ours stops whoever stands on the cheapest nodes and keeps its place by submission.
FAR_MURI = {"1": 0.892, "1_pr": 0.925, "3": 0.902, "4_pr": 0.947}
#: Pollux' jobs run slower when their GPUs are scattered over nodes (the published run scatters them), ours never:
#: most of workload 7's distance.
FAR_POLLUX = {"workload-7": 0.912}


@pytest.fixture(scope="module")
def data() -> Path:
    folder = data_dir()
    if folder is None or not ((folder / "muri").is_dir() and (folder / "pollux_osdi21").is_dir()):
        pytest.skip("no published results: set DURE_DATA")
    return folder


@pytest.mark.parametrize("scheme", MURI_POLICIES)
def test_muri_testbed(data: Path, scheme: str) -> None:
    case = muri_testbed(data, scheme)
    assert len(case.trace.jobs) == 400
    assert mean_jct_s(case) == pytest.approx(case.published_s, rel=SHARE)
    assert mean_jct_s(case, case.node) == pytest.approx(case.published_s, rel=SHARE)


@pytest.mark.parametrize(("scheme", "name"), [(s, n) for s, by in MURI_SIMULATED.items() for n in by])
def test_muri_simulator(data: Path, scheme: str, name: str) -> None:
    case = muri_simulator(data, name, scheme)
    ratio = mean_jct_s(case) / case.published_s
    if scheme == "tiresias" and name in FAR_MURI:
        assert ratio == pytest.approx(FAR_MURI[name], abs=BAND)
    else:
        assert ratio == pytest.approx(1, rel=SHARE)


def test_pollux_mean_of_eight_workloads(data: Path) -> None:
    ratios = {}
    ours = []
    for workload in POLLUX_WORKLOADS:
        case = pollux(data, workload)
        ours.append(mean_jct_s(case))
        ratios[workload] = ours[-1] / case.published_s
    assert np.mean(ours) == pytest.approx(pollux_published(data)["mean"], rel=SHARE)
    for workload, ratio in ratios.items():
        if workload in FAR_POLLUX:
            assert ratio == pytest.approx(FAR_POLLUX[workload], abs=BAND)
        else:
            assert ratio == pytest.approx(1, rel=SHARE), workload


def test_pollux_run_times_are_those_of_jobs_that_never_waited(data: Path) -> None:
    """Half of the jobs start in the round that sees them and are never moved: these end after exactly our run time."""
    exact = total = 0
    for workload in POLLUX_WORKLOADS:
        case = pollux(data, workload)
        theirs = pollux_published(data)["jcts"][workload]
        jct_s = np.array([theirs[name] for name in case.trace.job_ids])
        run_s, held_s = case.trace.extra["run_s"], case.trace.jobs["duration_ms"] / 1000
        to_round_s = case.trace.extra["shift_ms"] / 1000 + held_s - run_s
        exact += int((np.abs(jct_s - run_s - to_round_s) <= 1).sum())
        total += len(jct_s)
    assert exact > 0.45 * total


@pytest.mark.parametrize(
    ("name", "gpus", "batch", "run_s"),
    [("ncf", 1, 32_768, 47), ("cifar10", 6, 2_048, 910), ("yolov3", 4, 64, 14_102), ("imagenet", 48, 6_400, 19_689)],
)
def test_pollux_run_times(data: Path, name: str, gpus: int, batch: int, run_s: int) -> None:
    assert PolluxApplication(data, name).run_s(gpus, batch) == run_s
