"""Receivers that are computed, not learnt: estimates of the channel, and what follows them in all receivers."""

from __future__ import annotations

import torch
from link import Link, Slots
from sionna.phy.mapping import Demapper
from sionna.phy.nr import PUSCHLSChannelEstimator

Estimate = tuple[torch.Tensor, torch.Tensor]


class Detector:
    """Symbols from all antennas and logits of their bits.

    For one layer this is what an LMMSE equaliser gives once its bias is removed: maximum ratio combining with the noise and the
    error of the estimate as noise.
    """

    def __init__(self, link: Link) -> None:
        self._data_at = link.data_at
        self._demap = Demapper("app", "qam", link.bits_per_symbol)

    def __call__(self, slots: Slots, estimate: Estimate) -> torch.Tensor:
        """Logits of the coded bits (slots, bits), above 0: rather 1; by this estimate of the channel."""
        channel, error = estimate
        return self.logits(*self.combine(slots.received, channel, each(slots.noise) + error))

    def combine(self, received: torch.Tensor, channel: torch.Tensor, noise: torch.Tensor) -> Estimate:
        """Symbols and the variance of their noise: slots, symbols, subcarriers.

        Parameters
        ----------
        received, channel, noise : Tensor
            Slots, antennas, symbols, subcarriers.
        """
        gain = (channel.abs().square() / noise).sum(dim=1)
        symbols = (channel.conj() * received / noise).sum(dim=1)
        return symbols / gain, 1 / gain

    def logits(self, symbols: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Of the coded bits in their order, from symbols and the variance of their noise."""
        symbols, noise = (values.flatten(1)[:, self._data_at] for values in (symbols, noise))
        return self._demap(symbols, noise)


def each(noise: torch.Tensor) -> torch.Tensor:
    """Of slots, to be spread over antennas, symbols and subcarriers."""
    return noise[:, None, None, None]


class LeastSquares:
    """Pilots divided by what was sent, means of two neighbours (as if two users shared them), and lines between: Sionna's own."""

    def __init__(self, link: Link) -> None:
        dmrs = link.pusch.dmrs
        self._estimate = PUSCHLSChannelEstimator(
            link.grid, dmrs.length, dmrs.additional_position, dmrs.num_cdm_groups_without_data, interpolation_type="lin"
        )

    def __call__(self, slots: Slots) -> Estimate:
        """Channel and variance of its error: slots, antennas, symbols, subcarriers."""
        channel, error = self._estimate(slots.received[:, None], slots.noise)
        return channel[:, 0, :, 0, 0], error[:, 0, :, 0, 0].expand(channel[:, 0, :, 0, 0].shape)


class Wiener:
    """The linear estimate of least mean square error, from all pilots, for the second-order statistics of a channel.

    P. Hoeher, S. Kaiser, P. Robertson, ICASSP 1997. For channels that are Gaussian, as these are, no estimate from pilots alone is better.
    """

    def __init__(self, link: Link) -> None:
        over_symbols, over_subcarriers = link.covariance()
        self._pilots_at = torch.nonzero(link.pilots.flatten()).flatten()
        self._pilots = link.pilots.flatten()[self._pilots_at]
        every = torch.kron(torch.from_numpy(over_symbols).to(torch.complex64), torch.from_numpy(over_subcarriers).to(torch.complex64))
        every = every.to(link.device)
        self._prior = every.diagonal().real
        self._to_all = every[:, self._pilots_at]
        # R + noise / energy of a pilot, by eigenvectors: one decomposition for all noises.
        self._values, self._vectors = torch.linalg.eigh(self._to_all[self._pilots_at])
        self._energy = self._pilots.abs().square().mean()
        self._turned = self._to_all @ self._vectors

    def __call__(self, slots: Slots) -> Estimate:
        """As `LeastSquares`."""
        shape = slots.received.shape
        at_pilots = slots.received.flatten(2)[..., self._pilots_at] / self._pilots
        weights = 1 / (self._values + slots.noise[:, None] / self._energy)
        channel = ((at_pilots @ self._vectors.conj()) * weights[:, None]) @ self._turned.T
        error = self._prior - weights @ self._turned.abs().square().T
        return channel.reshape(shape), error.clamp(min=0).reshape(len(error), 1, *shape[2:]).expand(shape)


class Perfect:
    """The channel itself: what no receiver can have."""

    def __call__(self, slots: Slots) -> Estimate:
        """As `LeastSquares`."""
        return slots.channel, torch.zeros_like(slots.noise)[:, None, None, None]
