"""Schedules job shops, plain and flexible, as near to the optimum as the time given allows; a step is a round of an instance."""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import re
import sys
import time
from dataclasses import asdict
from pathlib import Path

from gantt import draw
from rounds import Solving, play_round, play_tabu_round
from shop import Shop, invent_shop, read_shop

from dure.client import job
from dure.model.errors import InputError
from dure.whole_file import whole_file

_HERE = Path(__file__).parent
_DATA = Path(os.environ.get("DURE_DATA") or _HERE / "../../../shared/data") / "jobshop"
_RANGE = re.compile(r"([a-z]+)(\d+)-(\d+)\Z")
_FLEXIBLE = re.compile(r"flexible-(\d+)x(\d+)-(\d+)\Z")
#: Each round of CP-SAT has a quarter more time than the one before, so that little is lost to starting anew.
GROWTH = 1.25
#: Machines that may do an operation of an invented shop.
FLEXIBILITY = 3


def main() -> None:
    """Solve, draw, tell."""
    given = _arguments()
    job.watch_signals()
    shops = [_shop(name, given.data) for name in _names(given.instances)]
    known = _optima(given.data)
    kept = job.checkpoint_dir("state/checkpoint") / "solving.json"
    digest = hashlib.sha256(repr((given.tabu_rounds, given.moves, given.effort, given.first_effort, given.seed, shops)).encode()).hexdigest()
    done = _load(kept, digest)
    step = sum(solving.round for solving in done.values())
    for shop in shops:
        now = done.setdefault(shop.name, Solving())
        tabu_rounds = 0 if shop.is_flexible else given.tabu_rounds
        while not now.is_proven and now.effort < given.effort:
            began = time.monotonic()
            if now.round < tabu_rounds:
                after = play_tabu_round(shop, now, given.moves, given.seed, job.should_stop)
            else:
                effort = given.first_effort * GROWTH ** (now.round - tabu_rounds)
                after = play_round(shop, now, effort, given.seed, job.should_stop)
            if after is None:
                job.leave()
            done[shop.name] = now = after
            step += 1
            _save(kept, digest, done)
            job.report_progress(
                step=step, instance=shop.name, makespan=now.makespan, bound=now.bound, round_s=round(time.monotonic() - began, 3)
            )
            if job.should_stop():
                job.leave()
    rows = [_row(shop, done[shop.name], known.get(shop.name)) for shop in shops]
    out = job.output_dir("state/output")
    _write(out, shops, done, rows)
    gaps = [row["gap"] for row in rows if row["optimum"] is not None]
    to_bounds = [row["makespan"] / row["bound"] - 1 for row in rows]
    job.report_metrics(
        gap_max=max(gaps, default=None), gap_mean=sum(gaps) / len(gaps) if gaps else None, gap_to_bound_max=max(to_bounds),
        instances=len(rows), proven=sum(row["proven"] for row in rows), at_optimum=sum(gap == 0 for gap in gaps),
        effort=sum(row["effort"] for row in rows),
    )  # fmt: skip


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--instances", default="ft06", help="Names (la01-40 for many), files, or flexible-JOBSxMACHINES-SEED.")
    parser.add_argument("--tabu-rounds", type=int, default=6, help="Rounds of tabu search before CP-SAT, for plain shops.")
    parser.add_argument("--moves", type=int, default=500_000, help="Of each of them.")
    parser.add_argument("--effort", type=float, default=1, help="Deterministic time of CP-SAT for each; one is 8 to 25 s of a core.")
    parser.add_argument("--first-effort", type=float, default=1, help="Of its first round.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--data", type=Path, default=_DATA, help="Folder with instances.json and instances/.")
    given = parser.parse_args()
    if not 0 < given.first_effort <= given.effort:
        parser.error("0 < --first-effort ≤ --effort must hold")
    if given.tabu_rounds < 0 or given.moves < 1:
        parser.error("--tabu-rounds from 0, --moves from 1")
    return given


def _names(text: str) -> list[str]:
    names: list[str] = []
    for word in text.split(","):
        found = _RANGE.match(word.strip())
        if found:
            kind, first, last = found.groups()
            names += [f"{kind}{n:0{len(first)}}" for n in range(int(first), int(last) + 1)]
        else:
            names.append(word.strip())
    return names


def _shop(name: str, data: Path) -> Shop:
    flexible = _FLEXIBLE.match(name)
    if flexible:
        num_jobs, num_machines, seed = map(int, flexible.groups())
        if num_machines < FLEXIBILITY or num_jobs < 1:
            raise InputError(f"{name}: a flexible shop has at least a job and {FLEXIBILITY} machines", field="--instances")
        return invent_shop(num_jobs, num_machines, FLEXIBILITY, seed)
    if name.endswith((".txt", ".fjs")):
        return read_shop(Path(name))
    own = _HERE / "instances" / f"{name}.txt"
    path = own if own.is_file() else data / "instances" / name
    if not path.is_file():
        raise InputError(f"no instance {name} here, nor in {data} (--data, DURE_DATA)", field="--instances")
    return read_shop(path)


def _optima(data: Path) -> dict[str, int]:
    """Proven optima by instance: those of the folder, where it is there."""
    found = {"ft06": 55, "ft10": 930}
    path = data / "instances.json"
    if path.is_file():
        found |= {row["name"]: row["optimum"] for row in json.loads(path.read_text()) if row["optimum"]}
    return found


def _load(kept: Path, digest: str) -> dict[str, Solving]:
    if not kept.is_file():
        return {}
    found = json.loads(kept.read_text())
    if found["digest"] != digest:
        raise InputError("holds the state of other parameters; remove it or use another folder", str(kept))
    return {name: Solving(**form) for name, form in found["done"].items()}


def _save(kept: Path, digest: str, done: dict[str, Solving]) -> None:
    with whole_file(kept) as draft:
        draft.write_text(json.dumps({"digest": digest, "done": {name: asdict(solving) for name, solving in done.items()}}))


def _row(shop: Shop, now: Solving, optimum: int | None) -> dict[str, object]:
    """``optimum``, and ``gap`` over it, None where nobody has proven one, not we either."""
    if now.is_proven:
        optimum = now.makespan
    return {
        "instance": shop.name, "jobs": len(shop.jobs), "machines": shop.num_machines, "optimum": optimum, "bound": now.bound,
        "makespan": now.makespan, "gap": None if optimum is None else now.makespan / optimum - 1, "proven": now.is_proven, "effort": round(now.effort, 1),
    }  # fmt: skip


def _write(out: Path, shops: list[Shop], done: dict[str, Solving], rows: list[dict[str, object]]) -> None:
    with whole_file(out / "schedules.json") as draft:
        draft.write_text(json.dumps({shop.name: done[shop.name].schedule for shop in shops}))
    with whole_file(out / "table.csv") as draft, draft.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    with whole_file(out / "gantt.svg") as draft:
        draw([(shop, done[shop.name]) for shop in shops][-1], draft)


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        print(f"solve: {error}", file=sys.stderr)
        sys.exit(2)
