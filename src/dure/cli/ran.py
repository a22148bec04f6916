"""`dure ran`: cell sites, the radio first, the rest of the GPU lent."""

from __future__ import annotations

from typing import Any

import click

from dure.cli.main import echo_json, progress
from dure.cli.table import table
from dure.model.errors import InputError


@click.group()
def ran() -> None:
    """Cell sites: the radio first, the rest of the GPU lent."""


@ran.command()
@click.option("--task", type=click.Choice(("balance", "none")), default="balance", show_default=True,
              help="balance: a robot in MuJoCo (dure[ran]); none: link and energy only.")  # fmt: skip
@click.option("--fading", multiple=True, metavar="SNR:SPEED",
              help="Mean SNR in dB and speed in km/h (0: no fading); again for more. Default: four of them.")  # fmt: skip
@click.option("--load", multiple=True, type=float, help="The site's load, 0 to below 1; again for more. Default: 0.2, 0.5, 0.8.")
@click.option("--episodes", type=click.IntRange(1, 1000), default=20, show_default=True, help="Seeds a cell of the table.")
@click.option("--seconds", type=click.FloatRange(1, 600), default=6.0, show_default=True, help="An episode's length.")
@click.option("--epsilon", type=float, default=0.01, show_default=True, help="Share of answers asked for that may be late.")
@click.option("--deadline-ms", type=float, default=20.0, show_default=True)
@click.option("--compute-w", type=click.FloatRange(0, 1000, min_open=True), default=6.0, show_default=True,
              help="The device's computer at work, above idle.")  # fmt: skip
@click.option("--unit-mw", type=click.FloatRange(0, 1000, min_open=True), default=5.0, show_default=True,
              help="Assumed power of one relative unit of TR 38.840's tables.")  # fmt: skip
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True)
@click.option("--html", type=click.Path(), help="Write a page with plots there.")
@click.option("--json", "is_json", is_flag=True)
def offload(
    task: str, fading: tuple[str, ...], load: tuple[float, ...], episodes: int, seconds: float, epsilon: float,
    deadline_ms: float, compute_w: float, unit_mw: float, seed: int, html: str | None, is_json: bool,
) -> None:  # fmt: skip
    """A control loop on the device, at the cell site, or where Dure chooses: energy and control over fading and load."""
    import os

    from dure.cli.main import check_output
    from dure.ran.offload_run import FADINGS, LOADS, DevicePower, Options, run_offload

    check_output(html, "--html")
    options = Options(
        fadings=tuple(_fading(text) for text in fading) or FADINGS, loads=load or LOADS, episodes=episodes,
        seconds=seconds, epsilon=epsilon, deadline_ms=deadline_ms, task=task, seed=seed,
        power=DevicePower(unit_mw=unit_mw, compute_w=compute_w),
    )  # fmt: skip
    with progress("episodes") as move:
        found = run_offload(options, move, os.cpu_count() or 1)
    if html is not None:
        from pathlib import Path

        from dure.ran.offload_page import write_page

        write_page(found, Path(html))
    if is_json:
        echo_json(found)
        return
    for line in _offload_lines(found):
        click.echo(line)


def _fading(text: str) -> Any:
    from dure.ran.offload_run import Fading

    snr, colon, speed = text.partition(":")
    try:
        return Fading(float(snr), float(speed if colon else "x"))
    except ValueError:
        raise InputError(f"is SNR:SPEED, such as 18:30, not {text!r}", field="--fading") from None


def _offload_lines(found: dict[str, Any]) -> list[str]:
    """A line a cell: how much could be answered, then energy saved, late answers and control of site always and of Dure's choice."""
    rows = []
    for cell in found["cells"]:
        line = [f"{cell['snr_db']:g} dB", f"{cell['speed_kmh']:g} km/h", f"{cell['load']:g}", f"{cell['servable']:.3f}"]
        for policy in ("site", "dure"):
            of = cell["policies"][policy]
            change = of.get("control_cost_change")
            line += [f"{of['energy_saving']['mean']:.1%}", f"{of['late_of_asked']:.4f}"]
            line += [f"{change['mean']:+.1%}" if change else "-"]
        rows.append(tuple(line))
    return table(
        ("SNR", "SPEED", "LOAD", "SERVABLE", "SITE SAVES", "LATE", "COST", "DURE SAVES", "LATE", "COST"), rows
    )
