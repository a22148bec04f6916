"""What a base station computes in a slot, in PyTorch: a downlink made, an uplink received, its blocks decoded. For timing, on any device.

The shapes are those of 3GPP TS 38.211 at 30 kHz and 100 MHz (FFT of 4,096, 14 symbols, 12 subcarriers a resource block). Codes are regular low-density parity-check codes
of the size of TS 38.212's base graph 1 (8,448 bits at most), not its graphs, decoded by normalised min-sum (J. Chen et al., IEEE Trans. Communications 53(8), 2005): as many
messages and iterations, other edges.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

FFT, SYMBOLS, SUBCARRIERS, ANTENNAS = 4096, 14, 12, 4
#: Bits of a code block, and of its parity checks' degree; half of the bits are parity.
BLOCK, CHECK_DEGREE, BIT_DEGREE = 8448, 6, 3
#: Normalisation of min-sum.
NORMALISED = 0.75


@dataclass(frozen=True)
class Slot:
    """One cell's work of one slot. ``efficiency``: coded bits a resource element and layer."""

    prb: int
    layers: int
    efficiency: float = 4.0
    iterations: int = 8

    @property
    def elements(self) -> int:
        """Resource elements of a layer."""
        return self.prb * SUBCARRIERS * SYMBOLS

    @property
    def num_blocks(self) -> int:
        """Code blocks."""
        return max(1, math.ceil(self.elements * self.layers * self.efficiency / BLOCK))


class Cell:
    """Does one cell's work again and again, on inputs that lie ready."""

    def __init__(self, slot: Slot, device: str, seed: int = 0) -> None:
        chance = torch.Generator().manual_seed(seed)
        used = slot.prb * SUBCARRIERS

        def complex_of(*shape: int) -> Tensor:
            return torch.randn(*shape, dtype=torch.complex64, generator=chance).to(device)

        self.slot, self.used = slot, used
        self.points = complex_of(256)
        self.symbols = torch.randint(0, 256, (slot.layers, SYMBOLS, used), generator=chance).to(device)
        self.precoder = complex_of(used, ANTENNAS, slot.layers)
        self.received = complex_of(ANTENNAS, SYMBOLS, FFT)
        self.pilots = complex_of(used, slot.layers)
        self.noise = 0.1 * torch.eye(slot.layers, dtype=torch.complex64).to(device)
        num_checks = BLOCK * BIT_DEGREE // CHECK_DEGREE
        edges = torch.randperm(BLOCK * BIT_DEGREE, generator=chance)
        #: For each edge of a check the bit that it belongs to; for each bit its edges.
        self.bit_of = (edges // BIT_DEGREE).view(num_checks, CHECK_DEGREE).to(device)
        self.edge_of = edges.argsort().view(BLOCK, BIT_DEGREE).to(device)
        self.ratios = torch.randn(slot.num_blocks, BLOCK, generator=chance).to(device)

    def downlink(self) -> Tensor:
        """Bits mapped to points, precoded, brought into time: (antennas, symbols, FFT)."""
        mapped = self.points[self.symbols]
        grid = torch.zeros(ANTENNAS, SYMBOLS, FFT, dtype=torch.complex64, device=mapped.device)
        grid[:, :, : self.used] = torch.einsum("kal,lsk->ask", self.precoder, mapped)
        made: Tensor = torch.fft.ifft(grid)
        return made

    def receive(self) -> Tensor:
        """Into frequencies, channel by pilots, linear equaliser: (used, layers, symbols)."""
        grid = torch.fft.fft(self.received)[:, :, : self.used]
        channel = grid[:, 2, :, None].permute(1, 0, 2) * self.pilots[:, None, :].conj()
        gram = channel.mH @ channel + self.noise
        equaliser = torch.linalg.solve(gram, channel.mH)
        found: Tensor = equaliser @ grid.permute(2, 0, 1)
        return found

    def decode(self) -> Tensor:
        """Sums of the bits' ratios after all iterations: (blocks, BLOCK)."""
        to_bits = torch.zeros(len(self.ratios), *self.bit_of.shape, device=self.ratios.device)
        sums = self.ratios
        for _ in range(self.slot.iterations):
            to_checks = sums[:, self.bit_of] - to_bits
            size = to_checks.abs()
            least, at = size.min(dim=2, keepdim=True)
            second = size.scatter(2, at, math.inf).min(dim=2, keepdim=True).values
            sign = to_checks.sign()
            to_bits = NORMALISED * sign.prod(dim=2, keepdim=True) * sign * torch.where(size == least, second, least)
            sums = self.ratios + to_bits.flatten(1)[:, self.edge_of].sum(dim=2)
        return sums

    def uplink(self) -> Tensor:
        """All of an uplink."""
        self.receive()
        return self.decode()
