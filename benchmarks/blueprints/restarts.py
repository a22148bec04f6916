"""What a restart costs blueprints: from the start of a second attempt to its first new step, less the step itself.

    python benchmarks/blueprints/restarts.py [NAME …]

Each job that reports at least three steps, at its small size, without Dure, told to leave half-way. Prints a JSON line for each blueprint:
seconds of its slowest job, and of which.
"""

from __future__ import annotations

import json
import signal
import sys
import tempfile
from pathlib import Path

import numpy as np

from dure.client.blueprints import catalogue
from dure.client.resuming import hand_on, play, script_of
from dure.model.job_file import Pipeline, pipeline_order


def restart_s(entry, scratch: Path) -> dict[str, float]:
    """Seconds by job."""
    work = entry.work(is_small=True, settings=())
    jobs = work.jobs if isinstance(work, Pipeline) else {work.name: work}
    found = {}
    for name in pipeline_order(work) if isinstance(work, Pipeline) else list(jobs):
        job = jobs[name]
        states = [scratch / way / name for way in ("whole", "parts")]
        for state in states:
            hand_on(job, state)
        whole = play(Path(job.workdir), script_of(job), states[0], number=signal.SIGTERM, env=job.env)
        is_told = len(whole.said) >= 3
        parts = play(Path(job.workdir), script_of(job), states[1], (len(whole.said) // 2,) if is_told else (), number=signal.SIGTERM, env=job.env)
        if not is_told:
            continue
        # A service tells that it is there, not that a step is done.
        step_s = 0.0 if entry.about.field == "inference" else float(np.median(np.diff(whole.heard_s[0])))
        found[name] = max(parts.heard_s[1][0] - step_s, 0.0)
    return found


def main(names: list[str]) -> None:
    for entry in catalogue():
        if names and entry.about.name not in names:
            continue
        with tempfile.TemporaryDirectory() as scratch:
            found = restart_s(entry, Path(scratch))
        slowest = max(found, key=found.__getitem__)
        print(json.dumps({"name": entry.about.name, "restart_s": round(found[slowest], 2), "job": slowest}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
