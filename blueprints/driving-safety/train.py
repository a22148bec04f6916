"""Train the policy by CMA-ES (Hansen 2016, arXiv:1604.00772) on the scripted families; a generation is a step."""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from closed_loop import Batch, cost
from cmaes import CMA
from drivers import NUM_WEIGHTS, Idm, Policy
from scenes import SCRIPTED, draw

from dure.client import job
from dure.client.saved import Saved
from dure.model.errors import InputError
from dure.whole_file import whole_file


def read_options() -> argparse.Namespace:
    """The command line; 2 is the exit code of a bad one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--generations", type=int, default=200)
    parser.add_argument("--population", type=int, default=20, help="candidates of a generation")
    parser.add_argument("--scenes", type=int, default=40, help="new scenes of each family in a generation")
    parser.add_argument("--judged", type=int, default=200, help="scenes of each family that the result is judged by")
    parser.add_argument("--sigma", type=float, default=0.3, help="step size of CMA-ES at the beginning")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--save-every-s", type=float, default=10.0, help="time between checkpoints")
    options = parser.parse_args()
    if min(options.generations, options.scenes, options.judged) < 1 or options.population < 4 or options.sigma <= 0:
        parser.error("--generations, --scenes and --judged must be at least 1, --population at least 4, --sigma above 0")
    if options.device != "cpu" and not torch.cuda.is_available():
        parser.error(f"--device {options.device}: no GPU is to be seen here")
    return options


def batch(options: argparse.Namespace, first: int, num: int) -> Batch:
    """Training scenes of each family, from a number on."""
    return Batch([draw(family, first + i, options.seed, "train") for family in SCRIPTED for i in range(num)], options.device)


def main() -> None:
    """Train, judge on scenes that were not trained on, hand on the weights."""
    options = read_options()
    job.watch_signals()
    torch.set_num_threads(1)
    settings = {key: value for key, value in vars(options).items() if key not in ("save_every_s", "generations")}
    saved = Saved(job.checkpoint_dir("state/checkpoint") / "train.pickle", settings, options.save_every_s)
    search = CMA(np.zeros(NUM_WEIGHTS), options.sigma, population_size=options.population, seed=options.seed)
    # All that it holds is saved: its own way of being pickled leaves out its random numbers.
    state = saved.load() or {"generation": 0, "search": vars(search)}
    vars(search).update(state["search"])
    state["search"] = vars(search)
    if state["generation"] > options.generations:
        raise InputError(f"is {options.generations}, and {state['generation']} are trained already", field="--generations")
    while state["generation"] < options.generations:
        begun_s = time.monotonic()
        scenes = batch(options, options.judged + state["generation"] * options.scenes, options.scenes)
        candidates = [search.ask() for _ in range(options.population)]
        weights = torch.as_tensor(np.stack(candidates), device=options.device)
        driven = scenes.drive(Policy(weights), options.population)
        costs = cost(driven).mean(-1).tolist()
        search.tell(list(zip(candidates, costs, strict=True)))
        state["generation"] += 1
        job.report_progress(
            step=state["generation"],
            cost=sum(costs) / len(costs),
            cost_best=min(costs),
            collision_rate=float(driven["is_hit"].double().mean()),
            generation_s=time.monotonic() - begun_s,
        )
        saved.after_step(state)
    saved.save(state)
    # The mean of the search distribution: steadier than the luckiest candidate of one generation's scenes.
    weights = torch.as_tensor(search.mean, device=options.device).unsqueeze(0)
    judged = batch(options, 0, options.judged)
    policy, idm = judged.drive(Policy(weights)), judged.drive(Idm())
    with whole_file(job.output_dir("state/output") / "policy.npz") as draft, draft.open("wb") as file:
        np.savez(file, weights=search.mean)
    job.report_metrics(
        train_cost=float(cost(policy).mean()),
        train_cost_idm=float(cost(idm).mean()),
        train_collision_rate=float(policy["is_hit"].double().mean()),
        train_collision_rate_idm=float(idm["is_hit"].double().mean()),
    )


if __name__ == "__main__":
    job.run_program(main)
