"""Clones the experts: a network is fitted to what they did in what they saw."""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import numpy as np
import torch
from cloning import ClonedPolicy
from episodes import load, save

from dure.client import job
from dure.model.errors import InputError

#: Of so many episodes one is kept from training, to measure on.
HELD_OUT = 10


def read_options() -> argparse.Namespace:
    """The command line; 2 is the exit code of a bad one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--steps", type=int, default=6000, help="steps of training")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--hidden", type=int, default=256, help="width of the three hidden layers")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--report-every", type=int, default=50, help="steps from one progress line to the next")
    parser.add_argument("--save-every-s", type=float, default=10.0, help="time between checkpoints")
    options = parser.parse_args()
    if min(options.steps, options.batch, options.hidden, options.report_every) < 1:
        parser.error("--steps, --batch, --hidden and --report-every must be at least 1")
    if options.device not in ("cpu", "cuda") or (options.device == "cuda" and not torch.cuda.is_available()):
        parser.error(f"--device {options.device}: there is none here")
    return options


def read_demonstrations(folder: Path) -> dict[str, np.ndarray]:
    """All shards together.

    Raises
    ------
    InputError
        There are none.
    """
    paths = sorted(folder.glob("*/demonstrations.npz"))
    if not paths:
        raise InputError("holds no */demonstrations.npz: demonstrate.py comes first", path=str(folder))
    shards = []
    for path in paths:
        with np.load(path) as file:
            shards.append(dict(file))
    return {key: np.concatenate([shard[key] for shard in shards]) for key in shards[0]}


def main() -> None:
    """Train, hand the policy on."""
    options = read_options()
    job.watch_signals()
    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    device = torch.device(options.device)
    shown = read_demonstrations(job.input_dir("state"))
    episodes = np.unique(shown["episode"])
    is_held_out = np.isin(shown["episode"], episodes[::HELD_OUT])
    seen, actions, task = (torch.from_numpy(shown[key]).to(device) for key in ("seen", "actions", "task"))
    held_out = torch.from_numpy(np.flatnonzero(is_held_out)).to(device)
    trained_on = torch.from_numpy(np.flatnonzero(~is_held_out)).to(device)
    if len(trained_on) == 0:
        raise InputError("too few demonstrations: at least two episodes")
    model = ClonedPolicy(options.hidden, seen[trained_on]).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.learning_rate, weight_decay=1e-4, fused=True)
    rng = np.random.default_rng(options.seed)

    parameters = {key: value for key, value in vars(options).items() if key != "save_every_s"}
    parameters["pairs"] = len(seen)
    path = job.checkpoint_dir("state/checkpoint/train") / "latest.pt"
    step, loss_sum = 0, 0.0
    state = load(path, parameters)
    if state:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        rng.bit_generator.state = state["generator"]
        step, loss_sum = state["step"], state["loss_sum"]

    def save_all() -> None:
        save(
            path,
            parameters,
            model=model.state_dict(),
            optimizer=optimizer.state_dict(),
            generator=rng.bit_generator.state,
            step=step,
            loss_sum=loss_sum,
        )

    def held_out_loss() -> float:
        with torch.no_grad():
            return float((model(seen[held_out], task[held_out]) - actions[held_out]).square().mean())

    saved = time.monotonic()
    while step < options.steps:
        rate = options.learning_rate * 0.5 * (1 + math.cos(math.pi * step / options.steps))
        for group in optimizer.param_groups:
            group["lr"] = rate
        rows = trained_on[torch.from_numpy(rng.integers(len(trained_on), size=options.batch)).to(device)]
        loss = (model(seen[rows], task[rows]) - actions[rows]).square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        step += 1
        loss_sum += float(loss.detach())
        if step % options.report_every == 0 or step == options.steps:
            since = (step - 1) % options.report_every + 1
            job.report_progress(step=step, loss=loss_sum / since, held_out_loss=held_out_loss())
            loss_sum = 0.0
        if job.should_stop():
            save_all()
            job.leave()
        if time.monotonic() - saved >= options.save_every_s:
            save_all()
            saved = time.monotonic()
    save_all()
    model.write(job.output_dir("state/train") / "policy.pt")
    job.report_metrics(held_out_loss=held_out_loss(), episodes=len(episodes), pairs=len(seen))


if __name__ == "__main__":
    job.run_program(main)
