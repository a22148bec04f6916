"""Every kernel compiled once, by two processes that share the work."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Any

import numpy as np
from numba import config, int64

from dure.model.fleet import uniform_fleet
from dure.model.jobs import Trace, make_jobs
from dure.policy.config import named_policy
from dure.policy.kernels import cycle, reclaim, reserve
from dure.policy.kernels.arrays import BundleType
from dure.policy.kernels.layout import State
from dure.twin import loop
from dure.twin.replay import replay

#: What each process begins with, apart from the other's; whatever they share is compiled by who comes to it first.
_ORDERS: tuple[tuple[tuple[Any, int], ...], ...] = (
    ((reserve.on_submit, 1), (loop.happen, 3), (cycle.take_arrivals, 0), (cycle.start_ready, 0)),
    ((reclaim.plan, 5), (cycle.fill_pool, 1), (cycle.cycle, 0)),
)


def compile_part(part: int) -> None:
    """Compile the kernels of one order, or find them in the cache."""
    state = BundleType(State)
    for kernel, num_numbers in _ORDERS[part]:
        args: Any = (state, BundleType(loop.World), int64) if kernel is loop.happen else (state, *[int64] * num_numbers)
        kernel.get_call_template(args, {})


def warm() -> float:
    """Compile all that a replay runs; the seconds that it took."""
    began = time.perf_counter()
    if not getattr(config, "DISABLE_JIT", 0):
        with subprocess.Popen([sys.executable, "-m", "dure.twin.warm"]):
            compile_part(0)
    jobs = make_jobs(2)
    jobs["duration_ms"] = np.array([1000, 2000])
    trace = Trace(jobs, ["a", "b"], ["default"], ["default"], ["default"], [], "compile")
    replay(trace, uniform_fleet(8, 8), named_policy("dure"))
    return time.perf_counter() - began


if __name__ == "__main__":
    compile_part(1)
