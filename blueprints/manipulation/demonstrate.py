"""Scripted experts show how each task is done; one episode is a step."""

from __future__ import annotations

import argparse

import numpy as np
import torch
from episodes import play_all
from sawyer import TASKS, Dynamics, Scene, share

from dure.client import job
from dure.whole_file import whole_file


def read_options() -> argparse.Namespace:
    """The command line; 2 is the exit code of a bad one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--episodes", type=int, default=60, help="demonstrations of each task in this shard")
    parser.add_argument(
        "--shard", type=share, default=(1, 1), metavar="I/N", help="which shard of how many: its own seeds"
    )
    parser.add_argument("--noise", type=float, default=0.3, help="standard deviation of what disturbs the moves")
    parser.add_argument("--spread", type=float, default=0.2, help="each factor of the dynamics: 1 ± this")
    parser.add_argument("--steps", type=int, default=200, help="longest episode")
    parser.add_argument("--steps-after", type=int, default=15, help="steps that go on once the task is done")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--save-every-s", type=float, default=10.0, help="time between checkpoints")
    options = parser.parse_args()
    if min(options.episodes, options.steps) < 1 or options.noise < 0 or not 0 <= options.spread < 1:
        parser.error("--episodes and --steps must be at least 1, --noise at least 0, --spread at least 0 and below 1")
    return options


def main() -> None:
    """Demonstrate, hand on."""
    options = read_options()
    job.watch_signals()
    torch.set_num_threads(1)
    number, of = options.shard
    name = f"demonstrate-{number}"
    scenes = {task: Scene(task) for task in TASKS}

    def play(place: int) -> tuple[dict, dict]:
        task = place % len(TASKS)
        seed = options.seed * 100_000 + (place // len(TASKS)) * of + number
        dynamics = Dynamics.drawn(np.random.default_rng([seed, 2]), options.spread)
        shown = scenes[TASKS[task]].demonstrate(seed, options.noise, options.steps, options.steps_after, dynamics)
        row = {
            "task": task,
            "seed": seed,
            "seen": torch.from_numpy(shown["seen"]),
            "actions": torch.from_numpy(shown["actions"]),
        }
        return {**row, "is_done": shown["is_done"]}, {
            "task": TASKS[task],
            "steps": len(shown["seen"]),
            "done": shown["is_done"],
        }

    parameters = {key: value for key, value in vars(options).items() if key != "save_every_s"}
    path = job.checkpoint_dir(f"state/checkpoint/{name}") / "latest.pt"
    rows = play_all(len(TASKS) * options.episodes, play, path, parameters, options.save_every_s)
    # An expert that failed shows nothing worth learning.
    good = [row for row in rows if row["is_done"]]
    with whole_file(job.output_dir(f"state/{name}") / "demonstrations.npz") as draft, draft.open("wb") as file:
        np.savez_compressed(
            file,
            seen=np.concatenate([row["seen"].numpy() for row in good]),
            actions=np.concatenate([row["actions"].numpy() for row in good]),
            task=np.repeat([row["task"] for row in good], [len(row["seen"]) for row in good]),
            episode=np.repeat(
                [row["seed"] * len(TASKS) + row["task"] for row in good], [len(row["seen"]) for row in good]
            ),
        )
    job.report_metrics(
        episodes=len(rows), expert_success=len(good) / len(rows), pairs=sum(len(row["seen"]) for row in good)
    )


if __name__ == "__main__":
    job.run_program(main)
