"""Every kernel compiled once, by a few processes that share the work."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from typing import Any

import numpy as np
from numba import config, int64, types

from dure.core import build, explain, register, step
from dure.model.fleet import uniform_fleet
from dure.model.jobs import Trace, make_jobs
from dure.policy.config import named_policy
from dure.policy.kernels.arrays import BundleType
from dure.policy.kernels.compile import Compiled, Kernel, Part, compile_unless_taken, is_compiled
from dure.policy.kernels.layout import State
from dure.twin import forecast, foresight, replay
from dure.twin.loop import World

#: Processes that compile; each takes some 300 MB.
PROCESSES_MAX = 4
#: Where Python calls the kernels of a replay and of the live service.
_SHELLS = (build, explain, register, step, forecast, foresight, replay)
_TYPES = {"State": BundleType(State), "World": BundleType(World), "int": int64, "bool": types.boolean}


def called_by_python() -> list[Kernel]:
    """The kernels that functions and methods of the shells call."""
    found: dict[str, Kernel] = {}
    for shell in _SHELLS:
        own = [value for value in vars(shell).values() if getattr(value, "__module__", "") == shell.__name__]
        functions = [value for value in own if inspect.isfunction(value)]
        functions += [value for kind in own if inspect.isclass(kind) for value in vars(kind).values() if inspect.isfunction(value)]
        found |= {kernel.name: kernel for function in functions for kernel in _named_in(function)}
    return list(found.values())


def bottom_up(kernels: Iterable[Kernel]) -> list[Kernel]:
    """Kernels and all that they call, what is called before what calls it.

    A part that is compiled in the middle of another costs more: each of Numba's timers hears of all that goes on inside.
    """
    found: dict[str, Kernel] = {}

    def visit(kernel: Kernel) -> None:
        if kernel.name not in found:
            for callee in callees(kernel):
                visit(callee)
            found[kernel.name] = kernel

    for kernel in kernels:
        visit(kernel)
    return list(found.values())


def callees(kernel: Kernel) -> list[Kernel]:
    """The kernels that a kernel calls, by the names in its code."""
    return [value for value in _named_in(kernel.py_func) if value is not kernel]


def _named_in(function: Any) -> list[Kernel]:
    named = (function.__globals__.get(name) for name in function.__code__.co_names)
    return [value for value in named if isinstance(value, Kernel)]


def types_of(kernel: Kernel) -> tuple[Any, ...] | None:
    """Numba's types of a kernel's arguments, by its annotations; None where those do not say it (arrays)."""
    found = tuple(_TYPES.get(p.annotation) for p in inspect.signature(kernel.py_func).parameters.values())
    return None if None in found else found


def compile_shared() -> None:
    """Compile what no other process has compiled or is at, until nothing is left.

    What takes arrays is left to its callers.
    """
    called = called_by_python()
    args_of = {kernel: args for kernel in bottom_up(called) if (args := types_of(kernel)) is not None}
    todo: dict[Compiled, tuple[Any, list[Part]]] = {}
    for kernel, args in args_of.items():
        todo[kernel.part] = args, [callee.part for callee in callees(kernel) if callee in args_of]
    # The largest first, so that none is left to one process at the end.
    todo |= {kernel: (args, [kernel.part]) for kernel, args in reversed(args_of.items()) if kernel in called}
    compiled: set[Compiled] = set()
    while len(compiled) < len(todo):
        num = len(compiled)
        for of, (args, before) in todo.items():
            if of in compiled or not compiled.issuperset(before):
                continue
            if is_compiled(of) or compile_unless_taken(of, args):
                compiled.add(of)
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
    replay.replay(trace, uniform_fleet(8, 8), named_policy("dure"))
    return time.perf_counter() - began


if __name__ == "__main__":
    compile_shared()
