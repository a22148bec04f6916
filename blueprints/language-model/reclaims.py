"""Takes the GPU away from a small run again and again: how long it takes to be gone, and how much work is lost."""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from dure.client.job import LEFT, PROGRESS

#: Values of a small run (`blueprint.yaml`), of so many steps that it does not end on the way.
SMALL = [
    "--steps", "100000", "--batch", "8", "--context", "128", "--width", "64", "--layers", "2", "--heads", "2", "--save-every-s", "2",
]  # fmt: skip


def reclaim(state: Path, after: int) -> tuple[float, int, int]:
    """One attempt, told to leave after so many steps.

    Returns
    -------
    tuple
        Seconds from the signal until it was gone; the first step it told of, and the last one.
    """
    env = os.environ | {"DURE_CHECKPOINT_DIR": str(state), "DURE_OUTPUT_DIR": str(state / "output"), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, "train.py", *SMALL], cwd=Path(__file__).parent, env=env, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        steps = []
        told = 0.0
        for line in process.stdout:
            if line.startswith(PROGRESS):
                steps.append(json.loads(line.removeprefix(PROGRESS))["step"])
                if len(steps) == after:
                    process.send_signal(signal.SIGUSR1)
                    told = time.monotonic()
        if process.wait() != LEFT:
            raise RuntimeError(f"told to leave after step {steps[-1:]}, it ended with {process.returncode}")
        return time.monotonic() - told, steps[0], steps[-1]


def main() -> None:
    """Print the quantiles as one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--reclaims", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1, help="of the steps after which it is told")
    options = parser.parse_args()
    choice = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as state:
        told = [reclaim(Path(state), choice.randint(1, 60)) for _ in range(options.reclaims)]
    gone_s = np.array([seconds for seconds, _, _ in told])
    lost = [before[2] + 1 - after[1] for before, after in itertools.pairwise(told)]
    quantiles = {f"gone_p{part}_s": round(float(np.percentile(gone_s, part)), 2) for part in (50, 99)}
    print(json.dumps({"reclaims": len(told), **quantiles, "gone_max_s": round(float(gone_s.max()), 2), "lost_steps_max": max(lost, default=0)}))


if __name__ == "__main__":
    main()
