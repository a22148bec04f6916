"""All evaluations together: success with its interval, a plot, a film; below the gate it ends with 1."""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cloning import ClonedPolicy, read_policy
from sawyer import TASKS, Scene
from scipy import stats

from dure.client import job
from dure.model.errors import InputError
from dure.whole_file import whole_file

#: The film's episode, steps from one frame to the next, height and width of a task's picture.
FILM_SEED, FILM_EVERY, FILM_SIDE = 2_000_000_000, 4, 160


def read_options() -> argparse.Namespace:
    """The command line; 2 is the exit code of a bad one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument(
        "--gate", type=float, default=0.85, help="least success of changed dynamics that is let through"
    )
    parser.add_argument("--film", type=int, default=30, help="frames of a film of one episode of each task; 0: none")
    options = parser.parse_args()
    if not 0 <= options.gate <= 1 or options.film < 0:
        parser.error("--gate must be from 0 to 1, --film at least 0")
    return options


def read_episodes(folder: Path) -> list[dict[str, Any]]:
    """Of all shards.

    Raises
    ------
    InputError
        There are none.
    """
    paths = sorted(folder.glob("*/episodes.csv"))
    if not paths:
        raise InputError("holds no */episodes.csv: evaluate.py comes first", path=str(folder))
    rows = [row for path in paths for row in csv.DictReader(path.read_text(encoding="utf-8").splitlines())]
    return [{"task": row["task"], "changed": row["changed"] == "True", "done": row["done"] == "True"} for row in rows]


def success(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Share of episodes in which the task was done, with Wilson's 95% interval (Wilson 1927)."""
    done = sum(row["done"] for row in rows)
    interval = stats.binomtest(done, len(rows)).proportion_ci(0.95, method="wilson")
    return {
        "success": done / len(rows),
        "low": float(interval.low),
        "high": float(interval.high),
        "episodes": len(rows),
    }


def main() -> None:
    """Report, let through or not."""
    options = read_options()
    job.watch_signals()
    torch.set_num_threads(1)
    rows = read_episodes(job.input_dir("state"))
    folder = job.output_dir("state/report")
    table = {
        dynamics: {
            task: success([r for r in rows if r["changed"] is is_changed and task in (r["task"], "all")])
            for task in (*TASKS, "all")
        }
        for dynamics, is_changed in (("nominal", False), ("changed", True))
    }
    reached = table["changed"]["all"]
    metrics = {
        "success": reached["success"], "success_low": reached["low"], "success_high": reached["high"],
        "nominal_success": table["nominal"]["all"]["success"],
        **{f"{task.replace('-', '_')}_success": table["changed"][task]["success"] for task in TASKS},
        "episodes": len(rows), "gate": options.gate, "passed": reached["success"] >= options.gate,
    }  # fmt: skip
    with whole_file(folder / "results.json") as draft:
        draft.write_text(
            json.dumps({"gate": options.gate, "passed": metrics["passed"], **table}, indent=2) + "\n", encoding="utf-8"
        )
    _plot(folder / "result.png", table, options.gate)
    if options.film:
        policy_path = job.input_dir("state") / "train" / "policy.pt"
        if not policy_path.exists():
            raise InputError("is not there: train.py comes first", path=str(policy_path))
        _film(folder / "film.gif", read_policy(policy_path), options.film)
    job.report_progress(step=1)
    job.report_metrics(**metrics)
    if not metrics["passed"]:
        print(f"success {reached['success']:.3f} is below the gate of {options.gate}", file=sys.stderr)
        sys.exit(1)


def _plot(path: Path, table: dict[str, dict[str, dict[str, float]]], gate: float) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 3.2), layout="constrained")
    for shift, (dynamics, color) in zip((-0.17, 0.17), (("nominal", "#1f6fb4"), ("changed", "#b4371f")), strict=True):
        parts = list(table[dynamics].values())
        places = np.arange(len(parts)) + shift
        heights = np.array([part["success"] for part in parts])
        errors = [heights - [part["low"] for part in parts], [part["high"] for part in parts] - heights]
        axes.bar(
            places,
            heights,
            0.3,
            yerr=np.maximum(errors, 0),
            color=color,
            alpha=0.75,
            capsize=4,
            label=f"{dynamics} dynamics",
        )
        for place, part in zip(places, parts, strict=True):
            axes.annotate(f"{part['success']:.2f}", (place, 0.03), ha="center", color="white")
    axes.axhline(gate, color="#555555", linestyle=":", label=f"gate of changed dynamics, all tasks: {gate:.2f}")
    axes.set(xticks=range(len(TASKS) + 1), xticklabels=[*TASKS, "all"], ylim=(0, 1.05), ylabel="success, 95% interval")
    axes.set_title("Cloned policy in closed loop, unseen seeds", loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=3, frameon=False, fontsize=9)
    with whole_file(path) as draft:
        figure.savefig(draft, format="png", dpi=110)
    plt.close(figure)


def _upright(scene: Scene) -> np.ndarray:
    """A picture of the scene as it is; Meta-World's corner camera stands on its head."""
    return scene.world.render()[::-1, ::-1]


def _film(path: Path, policy: ClonedPolicy, num_frames: int) -> None:
    """The tasks beside each other; where nothing renders (a machine without OpenGL), one line says so."""
    import imageio.v3 as imageio

    os.environ.setdefault("MUJOCO_GL", "egl")
    films: list[list[np.ndarray]] = []
    try:
        for task in TASKS:
            scene = Scene(task, render_mode="rgb_array", camera_name="corner", width=FILM_SIDE, height=FILM_SIDE)
            frames: list[np.ndarray] = []
            count = iter(range(num_frames * FILM_EVERY))

            def film(scene: Scene = scene, frames: list[np.ndarray] = frames, count: Any = count) -> None:
                if next(count) % FILM_EVERY == 0:
                    frames.append(_upright(scene))
                    if job.should_stop():
                        job.leave()

            scene.play(FILM_SEED, policy.choice(task), num_frames * FILM_EVERY, film=film)
            frames.append(_upright(scene))
            scene.world.close()
            films.append(frames)
    except Exception as error:  # what OpenGL raises where it is missing is of many kinds
        print(f"no film: {error}")
        return
    length = max(len(frames) for frames in films)
    together = [np.concatenate([frames[min(i, len(frames) - 1)] for frames in films], axis=1) for i in range(length)]
    with whole_file(path) as draft:
        imageio.imwrite(
            draft,
            together,
            extension=".gif",
            duration=FILM_EVERY * 1000 / scene.world.metadata["render_fps"],
            loop=0,
            plugin="pillow",
        )


if __name__ == "__main__":
    job.run_program(main)
