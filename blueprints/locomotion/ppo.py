"""Proximal policy optimisation (Schulman et al. 2017, arXiv 1707.06347) with the usual care of continuous control.

Observations and returns are normalised, weights start orthogonal, advantages are those of Schulman et al. 2016 (GAE,
arXiv 1506.02438), the learning rate falls to 0; see Huang et al., "The 37 implementation details of PPO", ICLR Blog
Track 2022. An episode that is cut off by its time limit is no fall: its last reward has the worth of what comes next
added (Pardo et al. 2018, arXiv 1712.00378).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn


class Moments:
    """Running mean and variance of each column (Chan, Golub and LeVeque's way of adding a batch)."""

    def __init__(self, width: int) -> None:
        self.mean, self.var, self.count = np.zeros(width), np.ones(width), 1e-4

    def add(self, rows: np.ndarray) -> None:
        """Count `rows` in."""
        num = len(rows)
        delta = rows.mean(axis=0) - self.mean
        total = self.count + num
        spread = self.var * self.count + rows.var(axis=0) * num + delta**2 * self.count * num / total
        self.mean, self.var, self.count = self.mean + delta * num / total, spread / total, total

    def normalised(self, rows: np.ndarray) -> np.ndarray:
        """In standard deviations from the mean, at most 10 of them."""
        return np.clip((rows - self.mean) / np.sqrt(self.var + 1e-8), -10, 10).astype(np.float32)

    def state(self) -> dict[str, Any]:
        """All of it."""
        return {"mean": self.mean.copy(), "var": self.var.copy(), "count": self.count}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self.mean, self.var, self.count = state["mean"].copy(), state["var"].copy(), float(state["count"])


def _layers(num_in: int, hidden: int, num_out: int, gain: float) -> nn.Sequential:
    layers = nn.Sequential(
        nn.Linear(num_in, hidden), nn.Tanh(), nn.Linear(hidden, hidden), nn.Tanh(), nn.Linear(hidden, num_out)
    )
    for layer, scale in zip(layers[::2], (2**0.5, 2**0.5, gain), strict=True):
        nn.init.orthogonal_(layer.weight, scale)
        nn.init.zeros_(layer.bias)
    return layers


class ActorCritic(nn.Module):
    """Two networks: a Gaussian's mean (its width is the same everywhere), and the worth of a state."""

    def __init__(self, num_observed: int, num_actions: int, hidden: int) -> None:
        super().__init__()
        self.actor = _layers(num_observed, hidden, num_actions, 0.01)
        self.critic = _layers(num_observed, hidden, 1, 1.0)
        self.log_std = nn.Parameter(torch.zeros(num_actions))

    def log_likelihood(self, seen: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        """Of each row's action."""
        z = (actions - self.actor(seen)) * torch.exp(-self.log_std)
        return -0.5 * (z * z).sum(1) - self.log_std.sum() - 0.5 * np.log(2 * np.pi) * actions.shape[1]

    def worth(self, seen: torch.Tensor) -> torch.Tensor:
        """Of each row."""
        return self.critic(seen).squeeze(1)


class NumpyActor:
    """The actor as it is now, for rollouts: on a few rows of a small network NumPy is much faster than Torch."""

    def __init__(self, model: ActorCritic) -> None:
        layers = [(layer.weight, layer.bias) for layer in model.actor[::2]]
        self.layers = [(w.detach().cpu().numpy().T.copy(), b.detach().cpu().numpy().copy()) for w, b in layers]
        self.std = np.exp(model.log_std.detach().cpu().numpy())

    def mean(self, seen: np.ndarray) -> np.ndarray:
        """Of the actions' Gaussian, for each normalised row."""
        (w0, b0), (w1, b1), (w2, b2) = self.layers
        return np.tanh(np.tanh(seen @ w0 + b0) @ w1 + b1) @ w2 + b2


def advantages(
    rewards: np.ndarray, worth: np.ndarray, worth_after: np.ndarray, ended: np.ndarray, gamma: float, lam: float
) -> np.ndarray:
    """Generalised advantage estimates, steps × environments.

    Parameters
    ----------
    worth, worth_after
        Of the state before and after each step; after a fall 0.
    ended
        Whether an episode was over after the step, fallen or cut off: nothing flows back across that.
    """
    gains = np.empty_like(rewards)
    carried = np.zeros(rewards.shape[1])
    for t in range(len(rewards) - 1, -1, -1):
        carried = rewards[t] + gamma * worth_after[t] - worth[t] + gamma * lam * ~ended[t] * carried
        gains[t] = carried
    return gains


@dataclass
class Rollout:
    """Flattened steps of all environments, on the device that learns."""

    seen: torch.Tensor
    actions: torch.Tensor
    advantages: torch.Tensor
    worth: torch.Tensor


@dataclass(frozen=True)
class Update:
    """Parameters of one iteration's learning."""

    epochs: int
    minibatch: int
    clip: float
    value_weight: float
    max_gradient: float

    def learn(
        self, model: ActorCritic, optimizer: torch.optim.Optimizer, rollout: Rollout, rng: np.random.Generator
    ) -> dict[str, float]:
        """Improve `model`; gives what its last epoch was like."""
        with torch.no_grad():
            before = model.log_likelihood(rollout.seen, rollout.actions)
        aim = rollout.advantages + rollout.worth
        sums = torch.zeros(3, device=aim.device)
        num_batches = 0
        for epoch in range(self.epochs):
            order = torch.from_numpy(rng.permutation(len(aim))).to(aim.device)
            for rows in order.split(self.minibatch):
                log_ratio = model.log_likelihood(rollout.seen[rows], rollout.actions[rows]) - before[rows]
                ratio = log_ratio.exp()
                gain = rollout.advantages[rows]
                gain = (gain - gain.mean()) / (gain.std() + 1e-8)
                bounded = ratio.clamp(1 - self.clip, 1 + self.clip)
                policy_loss = -torch.minimum(gain * ratio, gain * bounded).mean()
                value_loss = 0.5 * (model.worth(rollout.seen[rows]) - aim[rows]).square().mean()
                optimizer.zero_grad(set_to_none=True)
                (policy_loss + self.value_weight * value_loss).backward()
                nn.utils.clip_grad_norm_(model.parameters(), self.max_gradient)
                optimizer.step()
                if epoch == self.epochs - 1:
                    with torch.no_grad():
                        far = ((ratio - 1).abs() > self.clip).float().mean()
                        sums += torch.stack([(ratio - 1 - log_ratio).mean(), far, value_loss])
                    num_batches += 1
        kl, clipped, value_loss = (sums / num_batches).tolist()
        return {"kl": kl, "clipped": clipped, "value_loss": value_loss}
