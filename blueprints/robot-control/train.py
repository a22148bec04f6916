"""A network learns to plan as the planner of a balancing robot does, by driving itself while the planner says what it would have done.

A step is one course, labelled, and then so many batches of all that was seen; after the last one the network is exported to ONNX, and a step
is one course of the trial: network, planner and regulator in closed loop.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from network import ControlPolicy, export
from numpy.typing import NDArray
from picture import draw
from torch import nn
from trial import TRAINING, TRIAL, Driven, change, course_of, driven, plan_s

from dure.client import job
from dure.client.saved import Saved
from dure.model.finite import finite
from dure.ran.control_network import NUM_FEATURES, ControlNetwork, features
from dure.ran.control_task import FORCE_MAX_N, KNOTS, PERIOD_S, Course, Robot
from dure.whole_file import whole_file

MEBIBYTE = 2**20


class Labelled:
    """What was seen, and what the planner would have done: rows of both, in their order."""

    def __init__(self) -> None:
        self.seen = np.zeros((0, NUM_FEATURES), np.float32)
        self.knots_n = np.zeros((0, KNOTS), np.float32)

    def add(self, seen: list[NDArray[np.float32]], knots_n: list[NDArray[np.float64]]) -> None:
        """The rows of one course."""
        self.seen = np.concatenate([self.seen, seen])
        self.knots_n = np.concatenate([self.knots_n, np.array(knots_n, np.float32)])


def main() -> None:
    """Train, export, try; going on where an earlier attempt left."""
    options = _options()
    job.watch_signals()
    torch.set_num_threads(1)
    kept = job.checkpoint_dir("state/checkpoint")
    matter = {key: value for key, value in vars(options).items() if key not in ("device", "publish", "save_every_s")}
    saved = Saved(kept / "policy.pickle", matter, options.save_every_s)
    state = saved.load()
    robot, labelled = Robot(), Labelled()
    torch.manual_seed(options.seed)
    policy = ControlPolicy(options.hidden).to(options.device)
    optimiser = torch.optim.AdamW(policy.parameters(), weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, options.rate, total_steps=options.steps * options.batches, pct_start=0.1)
    next_step, runs = 0, []
    if state:
        policy.load_state_dict(state["policy"])
        optimiser.load_state_dict(state["optimiser"])
        schedule.load_state_dict(state["schedule"])
        labelled.seen, labelled.knots_n = state["labelled"]
        next_step, runs = state["next_step"], state["runs"]
    began = time.monotonic()

    def current() -> dict[str, Any]:
        return {
            "next_step": next_step, "runs": runs, "labelled": (labelled.seen, labelled.knots_n), "policy": policy.state_dict(),
            "optimiser": optimiser.state_dict(), "schedule": schedule.state_dict(),
        }  # fmt: skip

    network: ControlNetwork | None = None
    while next_step < options.steps + options.courses:
        if next_step < options.steps:
            course, rng = course_of(options.seed, next_step, TRAINING, options.seconds)
            said: dict[str, Any] = {"cost": _drive_and_label(robot, course, policy, labelled, next_step < options.led, options)}
            loss = 0.0
            for _ in range(options.batches):
                loss += _learn(policy, optimiser, labelled, rng, options) / options.batches
                schedule.step()
            said |= {"pairs": len(labelled.seen), "loss": loss}
        else:
            network = network or _exported(policy, kept / "controller.onnx")
            course, _ = course_of(options.seed, next_step - options.steps, TRIAL, options.seconds)
            plans = {"network": network.plan, "planner": robot.plan, "regulator": None}
            runs.append({name: driven(robot, course, plan) for name, plan in plans.items()})
            said = {f"{name}_cost": run.cost for name, run in runs[-1].items()}
        job.report_progress(step=next_step, **said, elapsed_s=time.monotonic() - began)
        next_step += 1
        saved.after_step(current())
    saved.save(current())
    _finish(robot, kept / "controller.onnx", runs, saved.path, options)


def _drive_and_label(
    robot: Robot, course: Course, policy: ControlPolicy, labelled: Labelled, is_led: bool, options: argparse.Namespace
) -> float:  # fmt: skip
    """The network drives (or the planner, where `is_led`), the planner labels; the cost of a period."""
    seen, labels = [], []

    def plan(state: NDArray[np.float64], force_n: float, place_m: NDArray[np.float64], knots: NDArray[np.float64]) -> NDArray[np.float64]:
        seen.append(features(state, force_n, place_m))
        label = knots
        # From the network's plan a single step does not yet reach what the planner would have come to by its own.
        for _ in range(options.teacher_steps):
            label = robot.plan(state, force_n, place_m, label)
        labels.append(label)
        if is_led:
            return label
        with torch.inference_mode():
            own = policy(torch.from_numpy(seen[-1][None]).to(options.device))[0].clamp(-FORCE_MAX_N, FORCE_MAX_N)
        return own.cpu().double().numpy()

    cost = driven(robot, course, plan).cost
    labelled.add(seen, labels)
    return cost


def _learn(
    policy: ControlPolicy, optimiser: torch.optim.Optimizer, labelled: Labelled, rng: np.random.Generator, options: argparse.Namespace
) -> float:  # fmt: skip
    rows = rng.integers(len(labelled.seen), size=options.batch)
    planned = policy(torch.from_numpy(labelled.seen[rows]).to(options.device))
    # Huber's: where the robot is about to fall, the planner's forces jump from one end to the other.
    loss = nn.functional.smooth_l1_loss(planned, torch.from_numpy(labelled.knots_n[rows]).to(options.device))
    optimiser.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(policy.parameters(), 10.0)
    optimiser.step()
    return float(loss.detach())


def _exported(policy: ControlPolicy, path: Path) -> ControlNetwork:
    """The file that is tried is the one that is served; an attempt that goes on finds it there."""
    if not path.exists():
        with whole_file(path) as draft:
            export(policy, draft)
    return ControlNetwork(path)


def _finish(robot: Robot, path: Path, runs: list[dict[str, Driven]], checkpoint: Path, options: argparse.Namespace) -> None:
    changes = {name: change(runs, name) for name in ("network", "regulator")}
    falls = {name: sum(run[name].is_fallen for run in runs) for name in runs[0]}
    found = changes["network"]
    is_kept = found.high <= options.most_change and not falls["network"]
    metrics = {
        "cost_change": found.mean, "cost_change_low": finite(found.low), "cost_change_high": finite(found.high),
        "regulator_cost_change": changes["regulator"].mean, **{f"{name}_falls": num for name, num in falls.items()}, "kept": is_kept,
    }  # fmt: skip
    course, _ = course_of(options.seed, 0, TRIAL, options.seconds)
    network = ControlNetwork(path)
    times = {}
    for name, plan in (("network", network.plan), ("planner", robot.plan)):
        times[f"{name}_plan_p50_s"], times[f"{name}_plan_p99_s"] = plan_s(robot, plan, course)
    output = job.output_dir("state/output")
    with whole_file(output / "result.json") as draft:
        result = {
            **metrics, **times, "courses": len(runs), "checkpoint_mib": checkpoint.stat().st_size / MEBIBYTE,
            "costs": {name: [run[name].cost for run in runs] for name in runs[0]},
        }  # fmt: skip
        draft.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    with whole_file(output / "result.png") as draft:
        draw(draft, runs, course, found)
    for place in (output / "controller.onnx", Path(options.publish) if options.publish and is_kept else None):
        if place:
            place.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(place) as draft:
                draft.write_bytes(path.read_bytes())
    job.report_metrics(**metrics, **times)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=120, help="Courses that are driven and labelled.")
    parser.add_argument("--led", type=int, default=2, help="Of these the first, driven by the planner.")
    parser.add_argument("--batches", type=int, default=40, help="Batches after each of them.")
    parser.add_argument("--batch", type=int, default=512, help="Requests of a batch.")
    parser.add_argument("--rate", type=float, default=3e-3, help="Highest learning rate.")
    parser.add_argument("--hidden", type=int, default=128, help="Width of the three hidden layers.")
    parser.add_argument("--teacher-steps", type=int, default=2, help="Steps of the planner for a label.")
    parser.add_argument("--courses", type=int, default=60, help="Courses of the trial.")
    parser.add_argument("--seconds", type=float, default=6.0, help="Length of a course, of the robot's time.")
    parser.add_argument("--most-change", type=float, default=0.05, help="Kept is a network whose cost is by at most so much above the planner's, at the upper end of the interval.")
    parser.add_argument("--publish", default="state/controller.onnx", help="Where a network that is kept is left for the service; empty: nowhere.")
    parser.add_argument("--device", default="cpu", help="Where the network learns; cpu or cuda.")
    parser.add_argument("--seed", type=int, default=0, help="Of weights and courses.")
    parser.add_argument("--save-every-s", type=float, default=10.0, help="Between checkpoints.")
    options = parser.parse_args()
    if min(options.steps, options.led, options.batches, options.batch, options.hidden, options.teacher_steps, options.courses) < 1:
        parser.error("steps, led, batches, batch, hidden, teacher-steps and courses from 1")
    if options.rate <= 0 or options.seconds < PERIOD_S or options.steps * options.batches < 20:
        parser.error("rate above 0, seconds from a period of 0.02, 20 batches in all")
    return options


if __name__ == "__main__":
    job.run_program(main)
