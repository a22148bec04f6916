"""Slots of one user on the uplink: what is sent, the channel, what each antenna receives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.special import j0
from sionna.phy import config as sionna_config
from sionna.phy.channel import ApplyOFDMChannel, GenerateOFDMChannel
from sionna.phy.channel.tr38901 import TDL
from sionna.phy.constants import SPEED_OF_LIGHT
from sionna.phy.mapping import BinarySource, Mapper
from sionna.phy.nr import PUSCHConfig, PUSCHTransmitter, TBDecoder, TBEncoder
from sionna.phy.ofdm import ResourceGridMapper

from dure.model.errors import InputError

CARRIER_HZ = 3.5e9
SUBCARRIER_KHZ = 30
NUM_ANTENNAS = 4
#: Iterations of the LDPC decoder.
ITERATIONS = 12


#: Delay profiles of TS 38.101-4 B.2.1 without a line of sight.
PROFILES = ("A10", "A30", "B100", "C60", "C300")


@dataclass(frozen=True)
class Channel:
    """One of `PROFILES` and the highest Doppler shift."""

    profile: str
    doppler_hz: float

    @classmethod
    def named(cls, name: str) -> Channel:
        """As the standard writes it: ``TDLC300-100``.

        Raises
        ------
        InputError
            It is none of these.
        """
        profile, _, doppler_hz = name.removeprefix("TDL").partition("-")
        if profile not in PROFILES or not doppler_hz.isdecimal():
            raise InputError(f"{name!r} is no channel such as TDLC300-100 with a profile of {', '.join(PROFILES)}", field="--channel")
        return cls(profile, float(doppler_hz))

    @property
    def speed_m_s(self) -> float:
        """At which the user moves."""
        return self.doppler_hz * SPEED_OF_LIGHT / CARRIER_HZ


@dataclass(frozen=True)
class Slots:
    """A batch of them.

    Attributes
    ----------
    bits : Tensor
        Slots, coded bits: what the receiver is to find, 0 or 1.
    received : Tensor
        Slots, antennas, symbols, subcarriers; complex.
    channel : Tensor
        As ``received``: the truth.
    noise : Tensor
        Slots: variance of the noise of a resource element, beside a symbol's mean energy of 1.
    blocks : Tensor or None
        Slots, bits of a transport block; none where the bits are not coded.
    """

    bits: torch.Tensor
    received: torch.Tensor
    channel: torch.Tensor
    noise: torch.Tensor
    blocks: torch.Tensor | None = None


def seed_of(seed: int, purpose: str, index: int) -> int:
    """For Sionna's generators; those of different purposes and indices do not meet."""
    words = np.random.SeedSequence([seed, *purpose.encode(), index]).generate_state(2, np.uint32)
    return int(words[0]) << 32 | int(words[1])


class Link:
    """PUSCH of one layer and one DMRS symbol (TS 38.211 6.4.1.1), received by four antennas.

    Parameters
    ----------
    num_prbs : int
        Resource blocks of twelve subcarriers.
    mcs : int
        Of TS 38.214 table 5.1.3.1-1.
    """

    def __init__(self, num_prbs: int, mcs: int, channel: Channel, device: str) -> None:
        self.device = "cuda:0" if device == "cuda" else device
        sionna_config.device = self.device
        pusch = PUSCHConfig()
        pusch.carrier.subcarrier_spacing = SUBCARRIER_KHZ
        pusch.carrier.n_size_grid = num_prbs
        pusch.dmrs.additional_position = 0
        pusch.dmrs.num_cdm_groups_without_data = 2
        pusch.n_rnti, pusch.tb.n_id = 1, 1
        pusch.tb.mcs_table = 1
        pusch.tb.mcs_index = mcs
        self.pusch = pusch
        self.bits_per_symbol = pusch.tb.num_bits_per_symbol
        self.block_bits = pusch.tb_size
        self.grid = PUSCHTransmitter(pusch).resource_grid
        self._source = BinarySource()
        self._encode = TBEncoder(
            target_tb_size=pusch.tb_size, num_coded_bits=pusch.num_coded_bits, target_coderate=pusch.tb.target_coderate,
            num_bits_per_symbol=self.bits_per_symbol, n_rnti=pusch.n_rnti, n_id=pusch.tb.n_id,
        )  # fmt: skip
        self._decode = TBDecoder(self._encode, num_bp_iter=ITERATIONS)
        self._to_symbols = Mapper("qam", self.bits_per_symbol)
        self._to_grid = ResourceGridMapper(self.grid)
        self._apply = ApplyOFDMChannel()
        self.over(channel)
        # Data lie where no pilot is, in the order of the standard: by subcarrier, then by symbol (TS 38.211 6.3.1.6).
        mask = self.grid.pilot_pattern.mask[0, 0].to(torch.bool)
        self.shape = tuple(mask.shape)
        self.data_at = torch.nonzero(~mask.flatten()).flatten()
        pilots = torch.zeros(mask.numel(), dtype=torch.complex64, device=self.device)
        pilots[mask.flatten()] = self.grid.pilot_pattern.pilots[0, 0].to(pilots)
        self.pilots = pilots.reshape(self.shape)

    def over(self, channel: Channel) -> None:
        """From now on slots go over this channel."""
        self.channel = channel
        speed_m_s = channel.speed_m_s
        self._taps = TDL(channel.profile, carrier_frequency=CARRIER_HZ, min_speed=speed_m_s, num_rx_ant=NUM_ANTENNAS)
        self._draw = GenerateOFDMChannel(self._taps, self.grid)

    def covariance(self) -> tuple[np.ndarray[Any, np.dtype[np.float64]], np.ndarray[Any, np.dtype[np.complex128]]]:
        """Of the channel over symbols (Jakes' spectrum) and over subcarriers (the taps' powers at their delays)."""
        steps = np.arange(self.shape[0]) * self.grid.ofdm_symbol_duration
        over_symbols = j0(2 * np.pi * self.channel.doppler_hz * (steps[:, None] - steps))
        delays_s, powers = (values.cpu().double().numpy() for values in (self._taps.delays, self._taps.mean_powers))
        turns = np.exp(-2j * np.pi * np.outer(np.arange(self.shape[1]) * SUBCARRIER_KHZ * 1e3, delays_s))
        return over_symbols, (turns * powers) @ turns.conj().T / powers.sum()

    def slots(self, num: int, snr_db: torch.Tensor | float, seed: int, is_coded: bool) -> Slots:
        """A batch that depends on the seed alone.

        Parameters
        ----------
        snr_db : Tensor of ``num`` or float
            Mean energy of a received symbol at an antenna over the noise.
        """
        sionna_config.seed = seed
        blocks = self._source([num, 1, self.block_bits]) if is_coded else None
        bits = self._encode(blocks) if is_coded else self._source([num, 1, self.pusch.num_coded_bits])
        sent = self._to_grid(self._to_symbols(bits)[:, None])
        response = self._draw(num)
        noise = 10 ** (-torch.as_tensor(snr_db, dtype=torch.float32, device=self.device) / 10) * torch.ones(num, device=self.device)
        received = self._apply(sent, response, noise)
        return Slots(bits[:, 0], received[:, 0], response[:, 0, :, 0, 0], noise, None if blocks is None else blocks[:, 0])

    def is_wrong(self, logits: torch.Tensor, blocks: torch.Tensor) -> torch.Tensor:
        """Of each slot whether its transport block is not what was sent."""
        found, _ = self._decode(logits[:, None])
        return (found[:, 0] != blocks).any(dim=-1)
