"""Drive scenes in SUMO with each driver; one scene, driven by all of them, is a step."""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from drivers import NUM_WEIGHTS, Driver, Idm, Policy, Reference
from highway import highway
from scenes import DT_S, FAMILIES, SCRIPTED, Scene, draw

from dure.client import job
from dure.client.saved import Saved
from dure.model.errors import InputError
from dure.whole_file import whole_file


def share(text: str) -> tuple[int, int]:
    """``I/N`` with 1 ≤ I ≤ N."""
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise argparse.ArgumentTypeError(f"must be I/N such as 1/2, not {text!r}")
    return int(found[1]), int(found[2])


def read_options() -> argparse.Namespace:
    """The command line; 2 is the exit code of a bad one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--scenes", type=int, default=120, help="of each scripted family, over all shards")
    parser.add_argument("--traffic", type=int, default=24, help="scenes in traffic, over all shards")
    parser.add_argument("--shard", type=share, default=(1, 1), metavar="I/N", help="which shard of how many")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--save-every-s", type=float, default=10.0, help="time between checkpoints")
    options = parser.parse_args()
    if options.scenes < 1 or options.traffic < 0:
        parser.error("--scenes must be at least 1, --traffic at least 0")
    return options


def read_weights() -> np.ndarray:
    """The trained policy's, handed on by the job before.

    Raises
    ------
    InputError
        There is none, or it is another network's.
    """
    folder = job.input_dir("state/output")
    found = sorted(folder.rglob("policy.npz"))
    if not found:
        raise InputError("has no policy.npz: run train.py first", str(folder))
    weights = np.load(found[0])["weights"]
    if weights.shape != (NUM_WEIGHTS,):
        raise InputError(f"must hold {NUM_WEIGHTS} weights, not {weights.shape}", str(found[0]))
    return weights


def badness(row: dict[str, Any]) -> tuple[float, float, float]:
    """What makes one drive worse than another."""
    return row["is_hit"], row["impact_mps"], -row["ttc_min"]


def drive_all(scene: Scene, drivers: dict[str, Callable[[], Driver]], road: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """A row of results for each driver, and how the scene went."""
    rows, trace = [], {"scene": scene.number, "speed_mps": scene.speed_mps, "dt_s": DT_S, "drives": {}}
    for name, make in drivers.items():
        drive = road.drive(scene, make())
        rows.append({"family": scene.family, "scene": scene.number, "driver": name, **drive.measures(scene)})
        trace["drives"][name] = {
            "place_m": [round(value, 2) for value in drive.place_m],
            "others": [{other: [round(value, 2) for value in place] for other, place in step.items()} for step in drive.others],
            "is_hit": drive.hit_mps is not None,
        }
    return rows, trace


def write(folder: Path, state: dict[str, Any]) -> None:
    """The rows of all drives and the worst scene of each family."""
    with whole_file(folder / "scenes.csv") as draft, draft.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(state["rows"][0]))
        writer.writeheader()
        writer.writerows(state["rows"])
    with whole_file(folder / "worst.json") as draft:
        draft.write_text(json.dumps(state["worst"]))


def main() -> None:
    """Drive, count, hand on."""
    options = read_options()
    job.watch_signals()
    torch.set_num_threads(1)
    weights = read_weights()
    settings = {key: value for key, value in vars(options).items() if key != "save_every_s"}
    settings["policy"] = hashlib.sha256(weights.tobytes()).hexdigest()
    number, of = options.shard
    saved = Saved(job.checkpoint_dir("state/checkpoint") / f"sweep-{number}-of-{of}.pickle", settings, options.save_every_s)
    state = saved.load() or {"rows": [], "worst": {}, "done": 0}
    drivers: dict[str, Callable[[], Driver]] = {
        "idm": Idm,
        "reference": Reference,
        "trained": lambda: Policy(torch.as_tensor(weights).unsqueeze(0)),
    }
    sizes = {family: options.scenes if family in SCRIPTED else options.traffic for family in FAMILIES}
    todo = [(family, i) for family in FAMILIES for i in range(sizes[family])][number - 1 :: of]
    with highway() as road:
        while state["done"] < len(todo):
            begun_s = time.monotonic()
            family, i = todo[state["done"]]
            rows, trace = drive_all(draw(family, i, options.seed, "test"), drivers, road)
            state["rows"] += rows
            worst = state["worst"].get(family)
            if worst is None or badness(rows[-1]) > tuple(worst["badness"]):
                state["worst"][family] = {**trace, "badness": badness(rows[-1])}
            state["done"] += 1
            job.report_progress(
                step=state["done"],
                family=family,
                **{f"{row['driver']}_hit": row["is_hit"] for row in rows},
                trained_ttc_min=rows[-1]["ttc_min"],
                scene_s=time.monotonic() - begun_s,
            )
            saved.after_step(state)
    saved.save(state)
    write(job.output_dir("state/output"), state)
    hits = {name: sum(row["is_hit"] for row in state["rows"] if row["driver"] == name) for name in drivers}
    job.report_metrics(scenes=len(todo), **{f"hits_{name}": hit for name, hit in hits.items()})


if __name__ == "__main__":
    job.run_program(main)
