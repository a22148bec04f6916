"""Some lives of the plant under each rule of maintenance; a step is one life."""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
from plant import RULES, Repair, Wear, run_plant

from dure.client import job
from dure.model.errors import InputError
from dure.whole_file import whole_file


def main() -> None:
    """Simulate what is not there yet, and hand it on."""
    given = _arguments()
    job.watch_signals()
    inputs = job.input_dir("state/input")
    schedule, wear = read_schedule(inputs / "schedule" / "schedules.json"), read_wear(inputs / "wear" / "predictions.csv", given.hours_per_cycle)
    kept = job.checkpoint_dir("state/checkpoint") / "weeks.json"
    digest = hashlib.sha256(repr((vars(given), schedule, wear.left_h.tolist(), wear.low_h.tolist())).encode()).hexdigest()
    rows = _load(kept, digest)
    shard, num_shards = given.shard
    todo = [(rule, seed) for seed in range(shard, given.lives, num_shards) for rule in RULES]
    for step in range(len(rows), len(todo)):
        rule, seed = todo[step]
        story = run_plant(schedule, wear, Repair(given.failed_h, given.planned_h), rule, given.weeks, seed)
        rows.append({"rule": rule, "seed": seed, **asdict(story)})
        with whole_file(kept) as draft:
            draft.write_text(json.dumps({"digest": digest, "rows": rows}))
        job.report_progress(step=step + 1, rule=rule, hours=story.hours, failures=story.failures)
        if job.should_stop():
            job.leave()
    with whole_file(job.output_dir("state/output") / "weeks.csv") as draft, draft.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    job.report_metrics(lives=len(rows) // len(RULES))


def read_schedule(path: Path) -> list[list[list[int]]]:
    """The only schedule in a file.

    Raises
    ------
    InputError
        It is not there, or holds none or several.
    """
    if not path.is_file():
        raise InputError("is not there: the stage `schedule` makes it", str(path))
    found = json.loads(path.read_text())
    if len(found) != 1:
        raise InputError(f"has {len(found)} schedules, not one", str(path))
    (schedule,) = found.values()
    return schedule


def read_wear(path: Path, hours_per_cycle: float) -> Wear:
    """Pairs of lives that were true and foreseen (columns `left_cycles` and `low`)."""
    if not path.is_file():
        raise InputError("is not there: the stage `wear` makes it", str(path))
    table = np.genfromtxt(path, delimiter=",", names=True)
    return Wear(table["left_cycles"] * hours_per_cycle, table["low"] * hours_per_cycle)


def _load(kept: Path, digest: str) -> list[dict[str, object]]:
    if not kept.is_file():
        return []
    found = json.loads(kept.read_text())
    if found["digest"] != digest:
        raise InputError("holds the state of other parameters; remove it or use another folder", str(kept))
    return found["rows"]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shard", default="0/1", help="This one of so many.")
    parser.add_argument("--lives", type=int, default=200, help="Of the plant, in all shards.")
    parser.add_argument("--weeks", type=int, default=26, help="Of one life.")
    parser.add_argument("--hours-per-cycle", type=float, default=1.0, help="Work of a machine that wears it as a flight wears an engine.")
    parser.add_argument("--failed-h", type=float, default=12.0, help="A machine stands so long after a failure.")
    parser.add_argument("--planned-h", type=float, default=3.0, help="And for a renewal that was planned.")
    given = parser.parse_args()
    try:
        shard, num_shards = map(int, given.shard.split("/"))
    except ValueError:
        parser.error(f"--shard is 0/2 or such, not {given.shard!r}")
    if not 0 <= shard < num_shards <= given.lives or given.weeks < 1 or given.hours_per_cycle <= 0 or min(given.failed_h, given.planned_h) < 0:
        parser.error("shard < shards ≤ lives, weeks from 1, hours above 0")
    given.shard = (shard, num_shards)
    return given


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        print(f"simulate: {error}", file=sys.stderr)
        sys.exit(2)
