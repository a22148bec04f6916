"""The learned receiver: a convolutional network corrects the estimate of the channel by what the data themselves say of it."""

from __future__ import annotations

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


class LearnedReceiver(nn.Module):
    """Estimates the channel from pilots as LS-LMMSE does, detects symbols, and corrects the estimate by them.

    The network sees one antenna at a time, with the same weights for each; what antennas know of each other comes by the symbols, which
    all of them detect. Untrained it is LS-LMMSE, as its last layer is zero. That an estimate is refined by detected data is old (iterative
    receivers); that a network on the grid learns a receiver is M. Honkala, D. Korpi, J. Huttunen, DeepRx, IEEE Trans. Wireless
    Commun. 20(6), 2021, and S. Cammerer et al., arXiv 2312.02601, 2023.
    """

    def __init__(self, link: Link, detector: Detector, width: int) -> None:
        super().__init__()
        self._pilots, self._detector = link.pilots, detector
        self._from_pilots = Wiener(link)
        self._points = Constellation("qam", link.bits_per_symbol)()
        is_data = torch.zeros(link.pilots.numel(), dtype=torch.bool, device=link.device)
        is_data[link.data_at] = True
        self._is_data = is_data.reshape(link.shape)
        last = nn.Conv2d(width, 3, 1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        blocks = [Block(width, reach=1 + place % 2) for place in range(NUM_BLOCKS)]
        self.network = nn.Sequential(nn.Conv2d(NUM_FEATURES, width, 1), *blocks, last)
        self.to(link.device, memory_format=torch.channels_last)

    def forward(self, slots: Slots) -> Estimate:
        """Channel and variance of its error: slots, antennas, symbols, subcarriers."""
        noise = each(slots.noise)
        channel, error = self._from_pilots(slots)
        symbols, variance = (sent[:, None] for sent in self._symbols(slots, channel, noise + error))
        # What is left of what was received, turned back by the symbol: how the channel differs, as far as the symbol is right.
        news = symbols.conj() * (slots.received - channel * symbols)
        unsure = variance * channel.abs().square() + noise
        features = (
            channel.real, channel.imag, news.real, news.imag, symbols.abs().square(), variance, error, noise.log() / 5, unsure.log() / 5,
        )  # fmt: skip
        stacked = torch.stack([feature.expand(channel.shape) for feature in features], dim=-1)
        # Antennas become slots of their own; channels (of the network) come last in memory, as CPUs like them.
        change = self.network(stacked.flatten(0, 1).permute(0, 3, 1, 2)).unflatten(0, channel.shape[:2])
        return channel + torch.complex(change[:, :, 0], change[:, :, 1]), (error + 1e-3) * change[:, :, 2].exp()

    def _symbols(self, slots: Slots, channel: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Expected symbols and their variance, after what all antennas received; pilots are known."""
        symbols, spread = self._detector.combine(slots.received, channel, noise)
        chances = (-(symbols[..., None] - self._points).abs().square() / spread[..., None]).softmax(dim=-1)
        mean = (chances * self._points).sum(dim=-1)
        variance = (chances * self._points.abs().square()).sum(dim=-1) - mean.abs().square()
        return torch.where(self._is_data, mean, self._pilots), torch.where(self._is_data, variance, 0.0)
