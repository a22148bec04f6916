"""Models of a plant that runs as it should; each gives statistics of a run that grow where the run is unlike that.

The first sample that a statistic is there for is ``model.lags`` samples after the run's first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from plant import Array
from torch import nn


class Monitor(Protocol):
    """What all have."""

    #: Names of the statistics, in the order of the columns of `statistics`.
    names: tuple[str, ...]
    lags: int

    def fit(self, runs: Sequence[Array]) -> Monitor:
        """Learn from parts of normal operation."""

    def statistics(self, run: Array) -> Array:
        """One row for each sample from ``lags`` on."""


def with_lags(run: Array, lags: int) -> Array:
    """Each sample beside the ``lags`` before it."""
    return np.concatenate([run[lags - lag : len(run) - lag] for lag in range(lags + 1)], axis=1)


class PrincipalComponents:
    """PCA; with lags dynamic PCA (W. Ku, R. H. Storer, C. Georgakis, Chemometrics Intell. Lab. Syst. 30, 1995).

    Hotelling's T² in the space of the first components, squared prediction error (SPE, also called Q) outside of it.
    """

    def __init__(self, name: str, lags: int, share_of_variance: float = 0.9) -> None:
        self.names = (f"{name} T2", f"{name} SPE")
        self.lags = lags
        self.share_of_variance = share_of_variance

    def fit(self, runs: Sequence[Array]) -> PrincipalComponents:
        """See `Monitor`."""
        x = np.concatenate([with_lags(run, self.lags) for run in runs])
        self.mean, self.scale = x.mean(axis=0), x.std(axis=0)
        x = (x - self.mean) / self.scale
        variances, axes = np.linalg.eigh(x.T @ x / (len(x) - 1))
        variances, axes = variances[::-1], axes[:, ::-1]
        num_components = int(np.searchsorted(np.cumsum(variances) / variances.sum(), self.share_of_variance)) + 1
        self.variances, self.axes = variances[:num_components], axes[:, :num_components]
        return self

    def statistics(self, run: Array) -> Array:
        """See `Monitor`."""
        x = (with_lags(run, self.lags) - self.mean) / self.scale
        scores = x @ self.axes
        return np.stack(
            [(scores**2 / self.variances).sum(axis=1), ((x - scores @ self.axes.T) ** 2).sum(axis=1)], axis=1
        )


class CanonicalVariates:
    """The combinations of the past that foretell the future best: T² of these states and of all other combinations.

    W. E. Larimore, American Control Conference 1983; as a monitor: E. L. Russell, L. H. Chiang, R. D. Braatz, Chemometrics
    Intell. Lab. Syst. 51, 2000. The ridge keeps covariances of more variables than 500 samples can tell invertible.
    """

    names = ("CVA states T2", "CVA residual T2")

    def __init__(self, past_samples: int = 3, num_states: int = 25, ridge: float = 0.1) -> None:
        self.lags = past_samples - 1
        self.num_states = num_states
        self.ridge = ridge

    def fit(self, runs: Sequence[Array]) -> CanonicalVariates:
        """See `Monitor`."""
        x = np.concatenate(runs)
        self.mean, self.scale = x.mean(axis=0), x.std(axis=0)
        span = self.lags + 1
        lagged = [with_lags((run - self.mean) / self.scale, self.lags) for run in runs]
        past = np.concatenate([rows[:-span] for rows in lagged])
        future = np.concatenate([rows[span:] for rows in lagged])
        whiten_past, whiten_future = self._whitening(past), self._whitening(future)
        left, _, _ = np.linalg.svd(whiten_past @ (past.T @ future / len(past)) @ whiten_future)
        variates = whiten_past @ left
        self.states, self.others = variates[:, : self.num_states], variates[:, self.num_states :]
        return self

    def _whitening(self, x: Array) -> Array:
        variances, axes = np.linalg.eigh(x.T @ x / len(x) + self.ridge * np.eye(x.shape[1]))
        return (axes / np.sqrt(variances)) @ axes.T

    def statistics(self, run: Array) -> Array:
        """See `Monitor`."""
        x = with_lags((run - self.mean) / self.scale, self.lags)
        return np.stack([((x @ part) ** 2).sum(axis=1) for part in (self.states, self.others)], axis=1)


class Autoencoder:
    """A network that repeats what it is given through a narrow layer, trained on noisy samples; SPE of what it repeats."""

    names = ("autoencoder SPE",)

    def __init__(self, lags: int, epochs: int, width: int, device: str, seed: int) -> None:
        self.lags, self.epochs, self.width, self.device, self.seed = lags, epochs, width, device, seed

    def fit(self, runs: Sequence[Array]) -> Autoencoder:
        """See `Monitor`."""
        generator = torch.Generator().manual_seed(self.seed)
        torch.manual_seed(self.seed)
        x = np.concatenate([with_lags(run, self.lags) for run in runs])
        self.mean, self.scale = x.mean(axis=0), x.std(axis=0)
        samples = torch.from_numpy((x - self.mean) / self.scale).float()
        num_values, narrow = samples.shape[1], self.width // 3
        self.network = nn.Sequential(
            nn.Linear(num_values, self.width), nn.ELU(), nn.Linear(self.width, narrow),
            nn.Linear(narrow, self.width), nn.ELU(), nn.Linear(self.width, num_values),
        ).to(self.device)  # fmt: skip
        num_batches = -(-len(samples) // 64)
        optimiser = torch.optim.AdamW(self.network.parameters(), weight_decay=1e-4)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=self.epochs * num_batches)
        for _ in range(self.epochs):
            for chosen in torch.randperm(len(samples), generator=generator).split(64):
                clean = samples[chosen]
                noisy = clean + 0.3 * torch.randn(clean.shape, generator=generator)
                loss = nn.functional.mse_loss(self.network(noisy.to(self.device)), clean.to(self.device))
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                schedule.step()
        self.network.cpu()
        return self

    @torch.inference_mode()
    def statistics(self, run: Array) -> Array:
        """See `Monitor`."""
        samples = torch.from_numpy((with_lags(run, self.lags) - self.mean) / self.scale).float()
        return ((self.network(samples) - samples) ** 2).sum(dim=1, keepdim=True).double().numpy()
