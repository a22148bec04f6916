"""Learns to hop by PPO, then hops in worlds of another weight and grip; an iteration or a test's episode is a step."""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hopper import NUM_JOINTS, NUM_OBSERVED, Dynamics, Hoppers, make_hopper, play_episode
from ppo import ActorCritic, Moments, NumpyActor, Rollout, Update, advantages
from result import write_results

from dure.client import job
from dure.model.errors import InputError
from dure.whole_file import whole_file

#: Of these last episodes of training the mean return is told.
RECENT = 100
#: The test's seeds lie beyond all that training resets by.
TEST_SEED = 1_000_000_000


def read_options() -> argparse.Namespace:
    """The command line; 2 is the exit code of a bad one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--steps", type=int, default=1_000_000, help="steps of all environments together")
    parser.add_argument("--envs", type=int, default=8, help="environments stepped together")
    parser.add_argument("--rollout-steps", type=int, default=256, help="steps of each environment in an iteration")
    parser.add_argument("--minibatch", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--learning-rate", type=float, default=3e-4)
    parser.add_argument("--gamma", type=float, default=0.99)
    parser.add_argument("--gae-lambda", type=float, default=0.95)
    parser.add_argument("--hidden", type=int, default=64, help="width of both hidden layers")
    parser.add_argument("--episodes", type=int, default=40, help="episodes of the test, nominal and again changed")
    parser.add_argument("--spread", type=float, default=0.2, help="each factor of the changed dynamics: 1 ± this")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--device", default="cpu", help="where the networks learn: cpu or cuda")
    parser.add_argument("--save-every-s", type=float, default=10.0, help="time between checkpoints")
    parser.add_argument("--film", type=int, default=100, help="frames of a film of the final policy; 0: none")
    options = parser.parse_args()
    for name in ("steps", "envs", "rollout_steps", "minibatch", "epochs", "hidden", "episodes"):
        if getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1")
    if options.envs * options.rollout_steps < 2 or options.minibatch < 2:
        parser.error("an iteration and a minibatch need at least 2 steps")
    if not 0 <= options.spread < 1 or options.film < 0:
        parser.error("--spread must be at least 0 and below 1, --film at least 0")
    if options.device not in ("cpu", "cuda") or (options.device == "cuda" and not torch.cuda.is_available()):
        parser.error(f"--device {options.device}: there is none here")
    return options


class Training:
    """All that one iteration hands to the next one."""

    def __init__(self, options: argparse.Namespace) -> None:
        torch.manual_seed(options.seed)
        self.options = options
        self.device = torch.device(options.device)
        self.model = ActorCritic(NUM_OBSERVED, NUM_JOINTS, options.hidden).to(self.device)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=options.learning_rate, eps=1e-5, fused=True)
        self.rng = np.random.default_rng(options.seed)
        self.hoppers = Hoppers(options.envs, options.seed)
        self.seen_moments = Moments(NUM_OBSERVED)
        self.return_moments = Moments(1)
        self.discounted = np.zeros(options.envs)
        self.recent: deque[tuple[float, int]] = deque(maxlen=RECENT)
        self.iteration = 0
        self.curve: list[list[float]] = []
        self.test: list[dict[str, Any]] = []
        steps = options.envs * options.rollout_steps
        self.num_iterations = -(-options.steps // steps)
        self.update = Update(options.epochs, options.minibatch, clip=0.2, value_weight=0.5, max_gradient=0.5)

    def digest(self) -> str:
        """Of the parameters that the results hang on."""
        free = {"save_every_s", "film"}
        said = {key: value for key, value in vars(self.options).items() if key not in free}
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()

    def save(self, path: Path) -> None:
        """Write a checkpoint."""
        state = {
            "digest": self.digest(),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.rng.bit_generator.state,
            "hoppers": _tensors(self.hoppers.state()),
            "moments": _tensors([self.seen_moments.state(), self.return_moments.state()]),
            "discounted": torch.from_numpy(self.discounted),
            "recent": list(self.recent),
            "iteration": self.iteration,
            "curve": self.curve,
            "test": self.test,
        }
        with whole_file(path) as draft:
            torch.save(state, draft)

    def restore(self, path: Path) -> None:
        """Go on from a checkpoint."""
        state = torch.load(path, map_location="cpu", weights_only=True)
        if state["digest"] != self.digest():
            raise InputError("is of a run with other parameters: take another folder, or remove it", path=str(path))
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.rng.bit_generator.state = state["generator"]
        self.hoppers.restore(_arrays(state["hoppers"]))
        for moments, said in zip((self.seen_moments, self.return_moments), _arrays(state["moments"]), strict=True):
            moments.restore(said)
        self.discounted = state["discounted"].numpy()
        self.recent.extend(tuple(episode) for episode in state["recent"])
        self.iteration, self.curve, self.test = state["iteration"], state["curve"], state["test"]

    def iterate(self) -> dict[str, float | None]:
        """One rollout and what is learned of it; gives the fields of its progress."""
        began = time.perf_counter()
        options = self.options
        rate = options.learning_rate * (1 - self.iteration / self.num_iterations)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        rollout = self._roll_out()
        learned = self.update.learn(self.model, self.optimizer, rollout, self.rng)
        self.iteration += 1
        num_steps = self.iteration * options.envs * options.rollout_steps
        returns, lengths = zip(*self.recent, strict=True) if self.recent else ((), ())
        mean_return = float(np.mean(returns)) if returns else None
        if mean_return is not None:
            self.curve.append([num_steps, mean_return])
        return {
            "num_steps": num_steps,
            "mean_return": mean_return,
            "mean_length": float(np.mean(lengths)) if lengths else None,
            "std": float(self.model.log_std.detach().exp().mean()),
            **learned,
            "env_steps_per_s": options.envs * options.rollout_steps / (time.perf_counter() - began),
        }

    def _roll_out(self) -> Rollout:
        options, actor = self.options, NumpyActor(self.model)
        shape = (options.rollout_steps, options.envs)
        seen = np.empty((*shape, NUM_OBSERVED), dtype=np.float32)
        final = np.empty_like(seen)
        actions = np.empty((*shape, NUM_JOINTS), dtype=np.float32)
        rewards, fell, ended = np.empty(shape), np.empty(shape, dtype=bool), np.empty(shape, dtype=bool)
        for t in range(options.rollout_steps):
            self.seen_moments.add(self.hoppers.seen)
            seen[t] = self.seen_moments.normalised(self.hoppers.seen)
            noise = self.rng.standard_normal((options.envs, NUM_JOINTS), dtype=np.float32)
            actions[t] = actor.mean(seen[t]) + actor.std * noise
            step = self.hoppers.step(np.clip(actions[t], -1, 1))
            self.discounted = self.discounted * options.gamma + step.rewards
            self.return_moments.add(self.discounted[:, None])
            rewards[t] = np.clip(step.rewards / np.sqrt(self.return_moments.var + 1e-8), -10, 10)
            final[t], fell[t], ended[t] = self.seen_moments.normalised(step.final), step.fell, step.fell | step.cut_off
            self.discounted[ended[t]] = 0.0
            self.recent.extend(step.ended)
        flat_seen, flat_actions, flat_final = (
            torch.from_numpy(a.reshape(-1, a.shape[2])).to(self.device) for a in (seen, actions, final)
        )
        with torch.no_grad():
            worth, after = (
                self.model.worth(x).cpu().numpy().astype(np.float64).reshape(shape) for x in (flat_seen, flat_final)
            )
        gains = advantages(rewards, worth, np.where(fell, 0.0, after), ended, options.gamma, options.gae_lambda)
        flat_gains, flat_worth = (
            torch.from_numpy(a.reshape(-1).astype(np.float32)).to(self.device) for a in (gains, worth)
        )
        return Rollout(flat_seen, flat_actions, flat_gains, flat_worth)

    def choose(self) -> Any:
        """The policy as it is now, without its noise."""
        actor = NumpyActor(self.model)
        return lambda seen: np.clip(actor.mean(self.seen_moments.normalised(seen)), -1, 1)

    def play_test_episode(self) -> dict[str, Any]:
        """The next episode of the test: first the nominal ones, then those of changed dynamics on the same seeds."""
        place = len(self.test)
        is_changed = place >= self.options.episodes
        seed = TEST_SEED + place % self.options.episodes
        dynamics = Dynamics.drawn(np.random.default_rng(seed), self.options.spread) if is_changed else Dynamics()
        total = play_episode(make_hopper(dynamics), self.choose(), seed)
        self.test.append({"changed": is_changed, "seed": seed, **vars(dynamics), "return": total})
        return {"test_episode": place + 1, "changed": is_changed, "test_return": total}


def _tensors(value: Any) -> Any:
    """Arrays as tensors, which a checkpoint can hold without code of its own."""
    if isinstance(value, dict):
        return {key: _tensors(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_tensors(part) for part in value]
    return torch.from_numpy(value) if isinstance(value, np.ndarray) else value


def _arrays(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _arrays(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_arrays(part) for part in value]
    return value.numpy() if isinstance(value, torch.Tensor) else value


def main() -> None:
    """Train, test, write the results."""
    options = read_options()
    job.watch_signals()
    torch.set_num_threads(1)
    training = Training(options)
    checkpoint = job.checkpoint_dir("state/checkpoint") / "latest.pt"
    if checkpoint.exists():
        training.restore(checkpoint)
    saved = time.monotonic()
    num_tests = 2 * options.episodes
    while training.iteration + len(training.test) < training.num_iterations + num_tests:
        fields = training.iterate() if training.iteration < training.num_iterations else training.play_test_episode()
        job.report_progress(step=training.iteration + len(training.test), **fields)
        if job.should_stop():
            training.save(checkpoint)
            job.leave()
        if time.monotonic() - saved >= options.save_every_s:
            training.save(checkpoint)
            saved = time.monotonic()
    training.save(checkpoint)
    write_results(job.output_dir("state/output"), training.curve, training.test, training.choose(), options)


if __name__ == "__main__":
    job.run_program(main)
