"""Every kernel compiled once, by a few processes that share the work."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
import time
from typing import Any

import numpy as np
from numba import config, int64, types

import dure.core.step
from dure.core import register
from dure.model.fleet import uniform_fleet
from dure.model.jobs import Trace, make_jobs
from dure.policy.config import named_policy
from dure.policy.kernels.arrays import BundleType
from dure.policy.kernels.compile import compile_unless_taken, is_compiled
from dure.policy.kernels.layout import State
from dure.twin import foresight, loop
from dure.twin.replay import replay

#: Processes that compile; each takes some 300 MB.
PROCESSES_MAX = 4
#: Where Python calls kernels: those found there, and all that they call, are compiled.
_SHELLS = (loop, foresight, dure.core.step, register)
_TYPES = {"State": BundleType(State), "World": BundleType(loop.World), "int": int64, "bool": types.boolean}


def bottom_up() -> list[Any]:
    """Kernels that a replay and the live service run, what is called before what calls it.

    A kernel that is compiled in the middle of another's costs more: each of Numba's timers hears of all that goes on inside.
    """
    found: dict[int, Any] = {}

    def visit(kernel: Any) -> None:
        if id(kernel) not in found:
            for callee in callees(kernel):
                visit(callee)
            found[id(kernel)] = kernel

    for shell in _SHELLS:
        for value in vars(shell).values():
            if hasattr(value, "py_func"):
                visit(value)
    return list(found.values())


def callees(kernel: Any) -> list[Any]:
    """The kernels that a kernel calls, by the names in its code."""
    function = kernel.py_func
    named = (function.__globals__.get(name) for name in function.__code__.co_names)
    return [value for value in named if hasattr(value, "py_func") and value is not kernel]


def types_of(kernel: Any) -> tuple[Any, ...] | None:
    """Numba's types of a kernel's arguments, by its annotations; None where those do not say it (arrays)."""
    found = tuple(_TYPES.get(p.annotation) for p in inspect.signature(kernel.py_func).parameters.values())
    return None if None in found else found


def compile_shared() -> None:
    """Compile what no other process has compiled or is at, until nothing is left.

    What takes arrays is left to its callers.
    """
    args_of = {kernel: args for kernel in bottom_up() if (args := types_of(kernel)) is not None}
    before = {kernel: [callee for callee in callees(kernel) if callee in args_of] for kernel in args_of}
    compiled: set[Any] = set()
    while len(compiled) < len(args_of):
        num = len(compiled)
        for kernel, args in args_of.items():
            if kernel in compiled or not compiled.issuperset(before[kernel]):
                continue
            if is_compiled(kernel) or compile_unless_taken(kernel, args):
                compiled.add(kernel)
        if len(compiled) == num:
            time.sleep(0.02)


def warm() -> float:
    """Compile all that a replay and the live service run; the seconds that it took."""
    began = time.perf_counter()
    if not getattr(config, "DISABLE_JIT", 0):
        helpers = [subprocess.Popen([sys.executable, "-m", "dure.twin.warm"])
                   for _ in range(min(os.cpu_count() or 1, PROCESSES_MAX) - 1)]  # fmt: skip
        compile_shared()
        for helper in helpers:
            helper.wait()
    jobs = make_jobs(2)
    jobs["duration_ms"] = np.array([1000, 2000])
    trace = Trace(jobs, ["a", "b"], ["default"], ["default"], ["default"], [], "compile")
    replay(trace, uniform_fleet(8, 8), named_policy("dure"))
    return time.perf_counter() - began


if __name__ == "__main__":
    compile_shared()
