"""Kernels are compiled by one process at a time; another that wants the same one waits and reads it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from numba import config

from dure.policy.kernels.compile import Kernel
from dure.twin import warm

pytestmark = pytest.mark.skipif(bool(getattr(config, "DISABLE_JIT", 0)), reason="kernels are not compiled")

COMPILE = """
from dure.policy.kernels.queue import bucket_of, log2_milli
from numba import int64
for kernel in (log2_milli, bucket_of):
    kernel.get_call_template((int64,), {})
    value = kernel(1 << 20)
    for of in (kernel, kernel.part):
        print(value, sum(of.stats.cache_hits.values()), sum(of.stats.cache_misses.values()))
"""

RAISING = """
import json
from dure.policy.kernels.compile import kernel

@kernel
def inner(x):
    if x > 3:
        raise ValueError("too many", x)
    return 2 * x

@kernel
def between(x):
    return inner(x) + 1

@kernel
def outer(x):
    return between(x) + inner(x)

said = [outer(2), between(3)]
try:
    outer(7)
except ValueError as error:
    said.append(list(error.args))
said += [sum(of.stats.cache_misses.values()) for of in (inner, inner.part, between, between.part, outer, outer.part)]
print(json.dumps(said))
"""


def test_two_processes_compile_each_kernel_once(tmp_path: Path) -> None:
    env = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    both = [subprocess.Popen([sys.executable, "-c", COMPILE], env=env, stdout=subprocess.PIPE, text=True) for _ in "ab"]
    lines = [[list(map(int, line.split())) for line in process.communicate()[0].splitlines()] for process in both]
    assert [len(of) for of in lines] == [4, 4]
    for (value, hits, misses), (other, other_hits, other_misses) in zip(*lines, strict=True):
        assert value == other
        assert (hits + other_hits, misses + other_misses) == (1, 1)


def test_a_part_is_compiled_for_its_callers_and_finished_only_for_python(tmp_path: Path) -> None:
    """Fresh and out of the cache: the same values, the same error from the depth, which needs what is not code."""
    program = tmp_path / "raising.py"
    program.write_text(RAISING)

    def said() -> list[Any]:
        env = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
        return json.loads(subprocess.run([sys.executable, program], env=env, capture_output=True, text=True, check=True).stdout)

    assert said() == [9, 7, ["too many", 7], 0, 1, 1, 1, 1, 0]
    assert said() == [9, 7, ["too many", 7], 0, 0, 0, 0, 0, 0]


def test_all_that_python_calls_is_compiled_beforehand() -> None:
    """Also what it calls, and that first."""
    called = warm.called_by_python()
    assert {"run_until", "cycle", "on_submit", "place", "index_all"} <= {kernel.py_func.__name__ for kernel in called}
    ordered = warm.bottom_up(called)
    assert set(called) < set(ordered)
    for at, kernel in enumerate(ordered):
        assert isinstance(kernel, Kernel)
        assert set(warm.callees(kernel)) <= set(ordered[:at])
