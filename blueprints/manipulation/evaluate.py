"""The cloned policy in closed loop on unseen seeds, of nominal and of changed dynamics; one episode is a step."""

from __future__ import annotations

import argparse
import csv
import hashlib

import numpy as np
import torch
from cloning import read_policy
from episodes import play_all
from sawyer import TASKS, Dynamics, Scene, share

from dure.client import job
from dure.model.errors import InputError
from dure.whole_file import whole_file

#: The test's seeds lie beyond all that experts were shown with.
TEST_SEED = 1_000_000_000


def read_options() -> argparse.Namespace:
    """The command line; 2 is the exit code of a bad one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument(
        "--episodes", type=int, default=30, help="of each task in this shard, nominal and again changed"
    )
    parser.add_argument(
        "--shard", type=share, default=(1, 1), metavar="I/N", help="which shard of how many: its own seeds"
    )
    parser.add_argument("--spread", type=float, default=0.3, help="each factor of the changed dynamics: 1 ± this")
    parser.add_argument("--steps", type=int, default=200, help="after so many a task is not done")
    parser.add_argument("--save-every-s", type=float, default=10.0, help="time between checkpoints")
    options = parser.parse_args()
    if min(options.episodes, options.steps) < 1 or not 0 <= options.spread < 1:
        parser.error("--episodes and --steps must be at least 1, --spread at least 0 and below 1")
    return options


def main() -> None:
    """Evaluate, hand on."""
    options = read_options()
    job.watch_signals()
    torch.set_num_threads(1)
    number, of = options.shard
    name = f"evaluate-{number}"
    policy_path = job.input_dir("state") / "train" / "policy.pt"
    if not policy_path.exists():
        raise InputError("is not there: train.py comes first", path=str(policy_path))
    policy = read_policy(policy_path)
    scenes = {task: Scene(task) for task in TASKS}
    choices = {task: policy.choice(task) for task in TASKS}

    def play(place: int) -> tuple[dict, dict]:
        task = TASKS[place % len(TASKS)]
        is_changed = place // len(TASKS) % 2 == 1
        seed = TEST_SEED + place // (2 * len(TASKS)) * of + number
        dynamics = Dynamics.drawn(np.random.default_rng([seed, 2]), options.spread) if is_changed else Dynamics()
        is_done, steps = scenes[task].play(seed, choices[task], options.steps, dynamics)
        row = {"task": task, "changed": is_changed, "seed": seed, "done": is_done, "steps": steps}
        return {**row, **vars(dynamics)}, row

    parameters = {key: value for key, value in vars(options).items() if key != "save_every_s"}
    parameters["policy"] = hashlib.sha256(policy_path.read_bytes()).hexdigest()
    path = job.checkpoint_dir(f"state/checkpoint/{name}") / "latest.pt"
    rows = play_all(2 * len(TASKS) * options.episodes, play, path, parameters, options.save_every_s)
    with (
        whole_file(job.output_dir(f"state/{name}") / "episodes.csv") as draft,
        draft.open("w", newline="", encoding="utf-8") as file,
    ):
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    changed = [row["done"] for row in rows if row["changed"]]
    job.report_metrics(success=sum(changed) / len(changed), episodes=len(rows))


if __name__ == "__main__":
    job.run_program(main)
