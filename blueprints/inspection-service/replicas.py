"""Keeps as many replicas of the service as its load needs: hands them in as jobs, and drains those too many.

Reads of each what it says in its progress, and writes the addresses of those that serve to a file for `load.py` or a proxy. It has
no memory of its own: started again, it finds its replicas by their name.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import deque
from pathlib import Path

from scaling import Scaler

from dure.client import Client, job
from dure.client.errors import ApiError, UnreachableError
from dure.client.views import STATES, JobView
from dure.model.errors import DureError
from dure.model.job_file import Checkpoint, JobSpec, Resources
from dure.whole_file import whole_file

#: States of a job that is, or is to be, a replica; one that is taken back is completing, then pending again.
LIVING = tuple(state for state in STATES if state != "ENDED")

#: The latest looks that `picture.py` finds in a file.
LOOKS_KEPT = 10_000

#: Between a replica's address leaving the file and its end: `load.py` reads the file each second.
UNLISTED_S = 2.0


def main() -> None:
    """Look, decide, act, every few seconds."""
    options = _options()
    job.watch_signals()
    output = job.output_dir("state/output")
    addresses = Path(options.addresses) if options.addresses else output / "addresses.json"
    scaler = Scaler(options.min, options.max, options.target_in_flight, options.objective_ms / 1000, options.calm_s)
    began = time.monotonic()
    looks: deque[dict[str, float | None]] = deque(maxlen=LOOKS_KEPT)
    step = most = 0
    with Client() as dure:
        while not job.should_stop() and (options.for_s == 0 or time.monotonic() - began < options.for_s):
            try:
                living = _living(dure, options.name)
                ready = [view for view in living if _serves(view)]
                in_flight = sum(float(view.progress["in_flight"]) for view in ready)
                p99_s = max(
                    (view.progress["p99_s"] for view in ready if view.progress["p99_s"] is not None), default=None
                )
                wanted = scaler.wanted(time.monotonic(), len(living), len(ready), in_flight, p99_s)
                going = _surplus(living, ready, wanted)
                _list(addresses, [view for view in ready if view not in going])
                for _ in range(wanted - len(living)):
                    dure.submit(_replica(options))
                if going:
                    time.sleep(UNLISTED_S)
                    for view in going:
                        dure.cancel(view.job_id)
            except (ApiError, UnreachableError) as error:
                # The service may be away for a while; replicas serve without it.
                print(error, file=sys.stderr, flush=True)
            else:
                look = {
                    "replicas": len(living), "ready": len(ready), "wanted": wanted, "in_flight": in_flight, "p99_s": p99_s,
                }  # fmt: skip
                looks.append({"at": time.time(), **look})
                step, most = step + 1, max(most, len(ready))
                job.report_progress(step=step, **look)
                with whole_file(output / "looks.json") as draft:
                    draft.write_text(json.dumps(list(looks)), encoding="utf-8")
            _sleep(options.every_s)
        if job.should_stop():
            job.leave()
        _list(addresses, [])
        for view in _living(dure, options.name):
            dure.cancel(view.job_id)
    job.report_metrics(most_replicas=most)


def _living(dure: Client, name: str) -> list[JobView]:
    """Replicas, oldest first."""
    found = [view for view in dure.all_jobs(state=LIVING, name=name) if view.name == name]
    return sorted(found, key=lambda view: view.job_id)


def _serves(view: JobView) -> bool:
    """Whether it has said its address since it last began; where it was before, nobody listens now."""
    return view.state == "RUNNING" and (view.progress or {}).get("attempt") == view.attempt


def _surplus(living: list[JobView], ready: list[JobView], wanted: int) -> list[JobView]:
    """Those to be given up: first what does not serve yet, then the one with the least under way."""
    waiting = [view for view in living if view not in ready]
    by_load = sorted(ready, key=lambda view: float(view.progress["in_flight"]))
    return [*reversed(waiting), *by_load][: max(0, len(living) - wanted)]


def _list(addresses: Path, serving: list[JobView]) -> None:
    with whole_file(addresses) as draft:
        draft.write_text(json.dumps([view.progress["url"] for view in serving]), encoding="utf-8")


def _replica(options: argparse.Namespace) -> JobSpec:
    command = ["python3", "serve.py", "--objective-ms", str(options.objective_ms)]
    if options.model:
        command += ["--model", str(Path(options.model).resolve())]
    if options.host:
        command += ["--host", options.host]
    return JobSpec(
        name=options.name,
        project=options.project,
        command=tuple(command),
        workdir=str(Path(__file__).resolve().parent),
        setup='PATH="$DURE_BIN:$PATH"',
        env={"OMP_NUM_THREADS": "1", **({"PYTHONPATH": path} if (path := os.environ.get("PYTHONPATH")) else {})},
        resources=Resources(gpus=options.gpus, cpus=1),
        checkpoint=Checkpoint(every="10s", signal="TERM", grace="30s"),
        retries=100,
    )


def _sleep(for_s: float) -> None:
    until = time.monotonic() + for_s
    while time.monotonic() < until and not job.should_stop():
        time.sleep(0.1)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--min", type=int, default=1, help="Fewest replicas.")
    parser.add_argument("--max", type=int, default=4, help="Most replicas.")
    parser.add_argument("--target-in-flight", type=float, default=4, help="Requests under way in each, on average.")
    parser.add_argument(
        "--objective-ms", type=float, default=200, help="Within so much 99% of requests are to be answered."
    )
    parser.add_argument(
        "--calm-s", type=float, default=60, help="For so long fewer must be enough before one is given up."
    )
    parser.add_argument("--every-s", type=float, default=2, help="Between two looks.")
    parser.add_argument("--for-s", type=float, default=0, help="Then give all of them up and end; 0: never.")
    parser.add_argument("--name", default="inspection-replica", help="Name of their jobs.")
    parser.add_argument("--project", default="", help="Who pays; default: the caller's.")
    parser.add_argument("--model", default="", help="ONNX file, where the replicas can read it.")
    parser.add_argument("--host", default="", help="Address that replicas listen on; 0.0.0.0: all.")
    parser.add_argument("--gpus", type=int, default=1, help="GPUs of a replica.")
    parser.add_argument("--addresses", default="", help="File for the addresses of those that serve.")
    options = parser.parse_args()
    if not 0 <= options.min <= options.max or options.max < 1 or options.target_in_flight <= 0 or options.gpus < 0:
        parser.error("0 ≤ min ≤ max, max from 1, target above 0, gpus from 0")
    return options


if __name__ == "__main__":
    try:
        main()
    except DureError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
