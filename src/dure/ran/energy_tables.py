"""Relative powers of base stations and devices in 3GPP's reports.

Base stations: TR 38.864 V18.1.0 clause 5.1, Tables 5.1-3 (power), 5.1-4 (transition time) and 5.1-5 (additional transition
energy). Devices: TR 38.840 V16.0.0 clause 8.1, Tables 18 and 19 (FR1). Powers are relative: deep sleep is 1. Energies are relative power × ms.
A sleep of `t` ms costs `power × t` and the additional energy once, and lasts no less than the total transition time.
"""

from __future__ import annotations

from dataclasses import dataclass

from dure.model.errors import InputError

#: Part of the downlink's dynamic power that does not depend on what is sent (TR 38.864 clause 5.1).
STATIC_SHARE = 0.4


@dataclass(frozen=True)
class Sleep:
    """A state of sleep: its relative power, additional energy of both transitions (power × ms), total time of both (ms)."""

    power: float
    transition_energy: float
    transition_ms: float

    def energy(self, gap_ms: float) -> float:
        """Energy of a gap slept through, infinite where the gap is shorter than the transitions."""
        if gap_ms < self.transition_ms:
            return float("inf")
        return self.power * gap_ms + self.transition_energy


class Sleeps:
    """What has these states of sleep: a base station or a device."""

    deep: Sleep
    light: Sleep
    micro: Sleep

    def gap_energy(self, gap_ms: float) -> float:
        """The least energy of a gap known in advance."""
        return min(sleep.energy(gap_ms) for sleep in (self.deep, self.light, self.micro))


@dataclass(frozen=True)
class BsTable(Sleeps):
    """A base station's powers: of TR 38.864 Table 5.1-3 a row, with its category's transitions (Tables 5.1-4, 5.1-5)."""

    name: str
    deep: Sleep
    light: Sleep
    micro: Sleep
    downlink: float
    uplink: float

    def downlink_power(self, sf: float, sa: float = 1.0, sp: float = 1.0, eta: float = 1.0) -> float:
        """P_DL for shares of antennas `sa`, of bandwidth `sf` and of transmit power `sp` (clause 5.1)."""
        dynamic = self.downlink - self.micro.power
        return self.micro.power + sa * dynamic * (STATIC_SHARE + sf * sp / eta * (1 - STATIC_SHARE))

    def uplink_power(self, sa: float = 1.0) -> float:
        """P_UL for a share of antennas `sa` (clause 5.1)."""
        return self.micro.power + sa * (self.uplink - self.micro.power)


def _bs(name: str, light: tuple[float, float, float], deep: tuple[float, float], micro: float, dl: float, ul: float) -> BsTable:
    return BsTable(name, Sleep(1.0, *deep), Sleep(*light), Sleep(micro, 0.0, 0.0), dl, ul)


_CAT1 = ((25.0, 90.0, 6.0), (1000.0, 50.0))
_CAT2 = ((2.1, 1088.0, 640.0), (17000.0, 10_000.0))
#: TR 38.864 Table 5.1-3 by category and reference configuration.
BS_TABLES = {
    table.name: table
    for table in (
        _bs("cat1-set1", *_CAT1, 55.0, 280.0, 110.0),
        _bs("cat1-set2", *_CAT1, 50.0, 200.0, 90.0),
        _bs("cat1-set3", *_CAT1, 38.0, 152.0, 80.0),
        _bs("cat2-set1", *_CAT2, 5.5, 32.0, 6.5),
        _bs("cat2-set2", *_CAT2, 5.0, 26.0, 5.8),
        _bs("cat2-set3", *_CAT2, 3.0, 17.6, 4.2),
    )
}


@dataclass(frozen=True)
class UeTable(Sleeps):
    """A device's powers (TR 38.840 Tables 18 and 19, FR1, 100 MHz, 4 receive antennas)."""

    deep: Sleep = Sleep(1.0, 450.0, 20.0)
    light: Sleep = Sleep(20.0, 100.0, 6.0)
    micro: Sleep = Sleep(45.0, 0.0, 0.0)
    control: float = 100.0
    receive: float = 300.0
    transmit_0dbm: float = 250.0
    transmit_23dbm: float = 700.0

    def scaled(self, bandwidth_mhz: float, num_rx: int) -> UeTable:
        """Receive powers for another bandwidth (0.4 + 0.6 (X − 20) / 80) and number of antennas (2 Rx × 0.7)."""
        scale = (0.4 + 0.6 * (bandwidth_mhz - 20.0) / 80.0) * (0.7 if num_rx == 2 else 1.0)
        return UeTable(
            self.deep, self.light, self.micro, self.control * scale, self.receive * scale,
            self.transmit_0dbm, self.transmit_23dbm,
        )  # fmt: skip


def bs_table(name: str) -> BsTable:
    """A base station's powers by name.

    Raises
    ------
    InputError
        No such name.
    """
    if name not in BS_TABLES:
        raise InputError(f"{name!r} is none of {', '.join(BS_TABLES)}", field="--bs")
    return BS_TABLES[name]
