"""TR 38.864 Tables 5.1-3 to 5.1-5 and TR 38.840 Tables 18 and 19."""

import pytest

from dure.model.errors import InputError
from dure.ran.energy_tables import BS_TABLES, UeTable, bs_table


@pytest.mark.parametrize(
    ("name", "powers"),
    [
        ("cat1-set1", (1, 25, 55, 280, 110)), ("cat1-set2", (1, 25, 50, 200, 90)), ("cat1-set3", (1, 25, 38, 152, 80)),
        ("cat2-set1", (1, 2.1, 5.5, 32, 6.5)), ("cat2-set2", (1, 2.1, 5.0, 26, 5.8)), ("cat2-set3", (1, 2.1, 3.0, 17.6, 4.2)),
    ],
)  # fmt: skip
def test_powers_of_base_stations(name: str, powers: tuple[float, ...]) -> None:
    t = bs_table(name)
    assert (t.deep.power, t.light.power, t.micro.power, t.downlink, t.uplink) == powers
    assert t.downlink_power(1.0) == pytest.approx(t.downlink)
    assert t.uplink_power(1.0) == t.uplink
    assert len(BS_TABLES) == 6


def test_downlink_power_by_hand() -> None:
    t = bs_table("cat1-set1")
    # 55 + 0.5 × 225 × (0.4 + 0.25 × 0.8 / 0.76 × 0.6)
    assert t.downlink_power(0.25, sa=0.5, sp=0.8, eta=0.76) == pytest.approx(55 + 112.5 * (0.4 + 0.2 / 0.76 * 0.6))
    assert t.downlink_power(0.0) == pytest.approx(145.0)
    assert t.uplink_power(0.5) == pytest.approx(82.5)


@pytest.mark.parametrize(
    ("gap_ms", "energy"),
    [
        (5.5, 5.5 * 55), (6.0, 6 * 25 + 90), (20.0, 590.0), (49.5, 49.5 * 25 + 90), (50.0, 1050.0), (160.0, 1160.0),
    ],
)  # fmt: skip
def test_light_sleep_pays_from_6_ms_and_deep_from_50(gap_ms: float, energy: float) -> None:
    assert bs_table("cat1-set1").gap_energy(gap_ms) == pytest.approx(energy)


def test_device() -> None:
    ue = UeTable()
    assert ue.gap_energy(5) == 225
    assert ue.gap_energy(10) == 300
    assert ue.gap_energy(20) == 470
    half = ue.scaled(20.0, 2)
    assert (half.control, half.receive, half.deep.power) == (pytest.approx(28.0), pytest.approx(84.0), 1.0)
    assert ue.scaled(100.0, 4) == ue


def test_unknown_table() -> None:
    with pytest.raises(InputError, match="cat9"):
        bs_table("cat9")
