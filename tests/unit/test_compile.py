"""Kernels are compiled by one process at a time; another that wants the same one waits and reads it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from numba import config

COMPILE = """
from dure.policy.kernels.queue import bucket_of, log2_milli
from numba import int64, njit
for kernel in (log2_milli, bucket_of):
    kernel.get_call_template((int64,), {})
    print(kernel(1 << 20), sum(kernel.stats.cache_hits.values()), sum(kernel.stats.cache_misses.values()))
"""


@pytest.mark.skipif(bool(getattr(config, "DISABLE_JIT", 0)), reason="kernels are not compiled")
def test_two_processes_compile_each_kernel_once(tmp_path: Path) -> None:
    env = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    both = [subprocess.Popen([sys.executable, "-c", COMPILE], env=env, stdout=subprocess.PIPE, text=True) for _ in "ab"]
    lines = [[list(map(int, line.split())) for line in process.communicate()[0].splitlines()] for process in both]
    for (value, hits, misses), (other, other_hits, other_misses) in zip(*lines, strict=True):
        assert value == other
        assert (hits + other_hits, misses + other_misses) == (1, 1)
