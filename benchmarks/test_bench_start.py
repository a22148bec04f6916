"""What a person waits for before anything happens: the command's start, with compiled kernels."""

from __future__ import annotations

import os
import subprocess
import sys

ROWS = "".join(
    f"{i} {i * 60} -1 {300 + 40 * (i % 7)} {1 + i % 4} -1 -1 {1 + i % 4} 900 -1 1 {i % 3} 1 -1 -1 -1 -1 -1\n"
    for i in range(1, 61)
)


def dure(*args):
    # Installed, the modules are there as byte code; where an environment forbids keeping it, the warm-up writes it.
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    subprocess.run([sys.executable, "-m", "dure.cli.main", *args], capture_output=True, check=True, env=env)


def test_help(benchmark):
    """Limit: 0.5 s."""
    benchmark.pedantic(lambda: dure("--help"), rounds=5, warmup_rounds=1)


def test_warm_replay(benchmark, tmp_path):
    """A replay of sixty jobs is nothing but its start. Limit: 2 s."""
    log = tmp_path / "log.swf"
    log.write_text("; Version: 2.2\n" + ROWS, encoding="utf-8")
    benchmark.pedantic(lambda: dure("replay", str(log), "--gpus", "8", "--json"), rounds=3, warmup_rounds=1)
