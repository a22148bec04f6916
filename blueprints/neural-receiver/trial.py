"""Block error rates by Monte Carlo: what is sent over which channels, how sure a rate is, what gain in dB follows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from link import Channel, Link, Slots, seed_of
from numpy.typing import NDArray
from receivers import Detector, Estimate
from scipy.stats import beta

Estimator = Callable[[Slots], Estimate]

#: Block error rate at which receivers are compared: what link adaptation commonly aims at.
LEVEL = 0.1
#: Slots that are received together.
PART = 25
DRAWS = 1000


@dataclass(frozen=True)
class Errors:
    """Which blocks were wrong.

    Attributes
    ----------
    wrong : array of bool
        Receivers, SNRs, slots. A slot has the same bits, channel and noise (but for its strength) for each receiver and SNR.
    """

    receivers: tuple[str, ...]
    snr_db: tuple[float, ...]
    wrong: NDArray[np.bool_]

    def rates(self, receiver: str) -> NDArray[np.float64]:
        """By SNR."""
        return self.wrong[self.receivers.index(receiver)].mean(axis=1)

    def bounds(self, receiver: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """95% intervals of the rates: C. J. Clopper, E. S. Pearson, Biometrika 26, 1934."""
        num = self.wrong.shape[2]
        wrong = self.wrong[self.receivers.index(receiver)].sum(axis=1)
        low = np.where(wrong > 0, beta.ppf(0.025, np.maximum(wrong, 1), num - wrong + 1), 0.0)
        high = np.where(wrong < num, beta.ppf(0.975, wrong + 1, np.maximum(num - wrong, 1)), 1.0)
        return low, high

    def gain_db(self, receiver: str, baseline: str, seed: int) -> tuple[float, float, float]:
        """By how much less SNR the receiver has the rate `LEVEL`, with a 95% interval; infinite where only one has it on the grid.

        The interval is of slots drawn again with replacement, the same for both (B. Efron, Annals of Statistics 7, 1979).
        """
        pair = self.wrong[[self.receivers.index(baseline), self.receivers.index(receiver)]]

        def gain(slots: NDArray[np.int64] | slice) -> float:
            needed = [snr_at(self.snr_db, wrong[:, slots].mean(axis=1)) for wrong in pair]
            return needed[0] - needed[1]

        rng = np.random.default_rng(seed)
        draws = [gain(rng.integers(pair.shape[2], size=pair.shape[2])) for _ in range(DRAWS)]
        low, high = np.quantile(draws, [0.025, 0.975], method="nearest").tolist()
        return gain(slice(None)), low, high


def snr_at(snr_db: tuple[float, ...], rates: NDArray[np.float64]) -> float:
    """SNR from which on the rate is at most `LEVEL`, dB, on lines between logarithms of rates; infinite where it is beyond the grid."""
    above = np.flatnonzero(rates > LEVEL)
    if not len(above):
        return -np.inf
    at = above[-1]
    if at == len(rates) - 1:
        return np.inf
    # A rate of 0 stands for one so small that it was not seen.
    first, second = np.log10(np.maximum(rates[at : at + 2], 1e-4))
    part = (first - np.log10(LEVEL)) / (first - second)
    return float(snr_db[at] + part * (snr_db[at + 1] - snr_db[at]))


@dataclass(frozen=True)
class Part:
    """A step of the trial: so many slots over one channel at one SNR."""

    channel: str
    snr: int
    first: int


@dataclass(frozen=True)
class Trial:
    """What is received.

    Attributes
    ----------
    slots : mapping
        Slots at each SNR by channel; the first channel is the one that was trained on.
    """

    slots: Mapping[str, int]
    snr_db: tuple[float, ...]
    seed: int

    def parts(self) -> Iterator[Part]:
        """All steps in their order."""
        for channel, num in self.slots.items():
            for snr in range(len(self.snr_db)):
                for first in range(0, num, PART):
                    yield Part(channel, snr, first)

    def run(self, part: Part, link: Link, detector: Detector, estimators: Mapping[str, Estimator]) -> NDArray[np.bool_]:
        """Receivers, slots: whether the block is wrong."""
        link.over(Channel.named(part.channel))
        num = min(PART, self.slots[part.channel] - part.first)
        # The same seed at each SNR: the same slots.
        slots = link.slots(num, self.snr_db[part.snr], seed_of(self.seed, f"test {part.channel}", part.first), is_coded=True)
        assert slots.blocks is not None
        with torch.inference_mode():
            found = [link.is_wrong(detector(slots, estimate(slots)), slots.blocks) for estimate in estimators.values()]
        return torch.stack(found).cpu().numpy()

    def errors(self, wrong: Sequence[NDArray[np.bool_]], receivers: tuple[str, ...]) -> dict[str, Errors]:
        """By channel, from what `run` gave of each of `parts`."""
        found: dict[str, list[list[NDArray[np.bool_]]]] = {channel: [[] for _ in self.snr_db] for channel in self.slots}
        for part, of_part in zip(self.parts(), wrong, strict=True):
            found[part.channel][part.snr].append(of_part)
        return {
            channel: Errors(receivers, self.snr_db, np.stack([np.concatenate(parts, axis=1) for parts in by_snr], axis=1))
            for channel, by_snr in found.items()
        }  # fmt: skip
