"""The learned receiver: convolutional networks correct the estimate of the channel by what the data themselves say of it."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from link import Link, Slots
from receivers import Detector, Estimate, Wiener, each
from sionna.phy.mapping import Constellation
from torch import nn

#: What the network is told of each antenna's resource element.
NUM_FEATURES = 9
#: Two convolutions each.
NUM_BLOCKS = 4


class Block(nn.Module):
    """Two convolutions over symbols and subcarriers, added to what goes in (K. He et al., CVPR 2016); every other one reaches further."""

    def __init__(self, width: int, reach: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, width)
        self.first = nn.Conv2d(width, width, 3, padding=(1, reach), dilation=(1, reach))
        self.second = nn.Conv2d(width, width, 3, padding=(reach, 1), dilation=(reach, 1))
        nn.init.zeros_(self.second.weight)

    def forward(self, grid: torch.Tensor) -> torch.Tensor:
        """``grid``: batch, width, symbols, subcarriers."""
        return grid + self.second(torch.relu(self.first(self.norm(grid))))


class Round(nn.Module):
    """One correction: what is known of each antenna's resource elements in, the channel's change and a logarithm for its error out."""

    def __init__(self, width: int) -> None:
        super().__init__()
        # Its change is nothing before it is trained.
        last = nn.Conv2d(width, 3, 1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        blocks = [Block(width, reach=1 + place % 2) for place in range(NUM_BLOCKS)]
        self.layers = nn.Sequential(nn.Conv2d(NUM_FEATURES, width, 1), *blocks, last)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """``features``: slots, antennas, symbols, subcarriers, `NUM_FEATURES`; gives slots, antennas, 3, symbols, subcarriers."""
        # Antennas become slots of their own; the network's channels come last in memory, as CPUs like them.
        return self.layers(features.flatten(0, 1).permute(0, 3, 1, 2)).unflatten(0, features.shape[:2])


class LearnedReceiver(nn.Module):
    """Estimates the channel from pilots as LS-LMMSE does, detects symbols, corrects the estimate by them, and again.

    A network sees one antenna at a time, with the same weights for each; what antennas know of each other comes by the symbols, which
    all of them detect. Untrained it is LS-LMMSE. That an estimate is refined by detected data is old (iterative receivers); that a
    network on the grid learns a receiver is M. Honkala, D. Korpi, J. Huttunen, DeepRx, IEEE Trans. Wireless Commun. 20(6), 2021, and
    S. Cammerer et al., A Neural Receiver for 5G NR Multi-user MIMO, 2023.
    """

    def __init__(self, link: Link, detector: Detector, width: int, num_rounds: int) -> None:
        super().__init__()
        self._pilots, self._detector = link.pilots, detector
        self._from_pilots = Wiener(link)
        self._points = Constellation("qam", link.bits_per_symbol)()
        is_data = torch.zeros(link.pilots.numel(), dtype=torch.bool, device=link.device)
        is_data[link.data_at] = True
        self._is_data = is_data.reshape(link.shape)
        self.rounds = nn.ModuleList(Round(width) for _ in range(num_rounds))
        self.to(link.device, memory_format=torch.channels_last)

    def forward(self, slots: Slots) -> Estimate:
        """Channel and variance of its error: slots, antennas, symbols, subcarriers."""
        *_, last = self.estimates(slots)
        return last

    def estimates(self, slots: Slots) -> Iterator[Estimate]:
        """After each round."""
        noise = each(slots.noise)
        channel, error = self._from_pilots(slots)
        for correct in self.rounds:
            symbols, variance = (sent[:, None] for sent in self._symbols(slots, channel, noise + error))
            # What is left of what was received, turned back by the symbol: how the channel differs, as far as the symbol is right.
            news = symbols.conj() * (slots.received - channel * symbols)
            unsure = variance * channel.abs().square() + noise
            features = (
                channel.real, channel.imag, news.real, news.imag, symbols.abs().square(), variance, error, noise.log() / 5, unsure.log() / 5,
            )  # fmt: skip
            change = correct(torch.stack([feature.expand(channel.shape) for feature in features], dim=-1))
            channel = channel + torch.complex(change[:, :, 0], change[:, :, 1])
            error = (error + 1e-3) * change[:, :, 2].exp()
            yield channel, error

    def _symbols(self, slots: Slots, channel: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Expected symbols and their variance, after what all antennas received; pilots are known."""
        symbols, spread = self._detector.combine(slots.received, channel, noise)
        chances = (-(symbols[..., None] - self._points).abs().square() / spread[..., None]).softmax(dim=-1)
        mean = (chances * self._points).sum(dim=-1)
        variance = (chances * self._points.abs().square()).sum(dim=-1) - mean.abs().square()
        return torch.where(self._is_data, mean, self._pilots), torch.where(self._is_data, variance, 0.0)
