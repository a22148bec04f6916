"""How quickly blueprints give GPUs back: each at its small size on the live service, taken back again and again.

    python benchmarks/blueprints/leaving.py [--reclaims N] [NAME …]

Prints a JSON line for each: seconds from the owner's wish to the moment that its job had all GPUs, and steps that were done twice.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import random
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.blueprints.alliance import Alliance, small_words
from tests.service.processes import until

from dure.client.blueprints import catalogue
from dure.client.job import PROGRESS

#: After a job has told of its first step it is left alone for at most so long.
MOST_S = 2.0


@contextlib.contextmanager
def guest(alliance: Alliance, words: list[str], steps: list[int]) -> Iterator[threading.Event]:
    """The blueprint runs, again where it ends, until the block does; its steps go to ``steps`` in the order of its log."""
    is_over = threading.Event()

    def run() -> None:
        while not is_over.is_set():
            with alliance.start("blueprint", "run", *words, "--json") as command:
                assert command.stderr is not None
                for line in command.stderr:
                    if line.startswith(PROGRESS):
                        steps.append(json.loads(line.removeprefix(PROGRESS))["step"])
                    if is_over.is_set():
                        command.terminate()
                        break

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield is_over
    finally:
        is_over.set()
        alliance.cancel_all()
        thread.join(60)


def measure(alliance: Alliance, words: list[str], reclaims: int, seed: int) -> dict[str, object]:
    """Quantiles of so many reclaims."""
    rng = random.Random(seed)
    free_s: list[float] = []
    steps: list[int] = []
    with guest(alliance, words, steps):
        seen: dict[str, object] = {}
        while len(free_s) < reclaims:
            # What a job says may still be its last attempt's.
            until(lambda seen=seen: any(seen.get(name) != said for name, said in alliance.at_work().items()), 300)
            time.sleep(rng.uniform(0, MOST_S))
            if alliance.at_work():
                free_s.append(alliance.reclaim())
                seen = alliance.told()
    # A job's first step follows the last of another run; any other that does not go on is one done again.
    again = [now for before, now in itertools.pairwise(steps) if now <= before and now > 1]
    return {
        "reclaims": len(free_s), "free_p50_s": round(float(np.median(free_s)), 2), "free_p99_s": round(float(np.quantile(free_s, 0.99)), 2),
        "steps_again": len(again),
    }  # fmt: skip


def main() -> None:
    """Measure the blueprints named, or all."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*")
    parser.add_argument("--reclaims", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    entries = [entry for entry in catalogue() if not options.names or entry.about.name in options.names]
    for entry in entries:
        with tempfile.TemporaryDirectory() as folder, Alliance(Path(folder)) as alliance:
            found = measure(alliance, small_words(entry), options.reclaims, options.seed)
        print(json.dumps({"blueprint": entry.about.name, **found}), flush=True)


if __name__ == "__main__":
    main()
