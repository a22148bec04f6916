"""`dure ran`: cell sites whose GPUs serve the radio first."""

from __future__ import annotations

import click

from dure.cli.main import emit


@click.group()
def ran() -> None:
    """Cell sites: energy of base stations and devices, and what a site's GPU can lend."""


@ran.command("bs-energy")
@click.option("--train", required=True, type=click.Path(), help="Folder with cell_load, bs_energy and bs_info (.parquet).")
@click.option("--test", required=True, type=click.Path(), help="Such a folder; the same one is split by base stations.")
@click.option("--test-share", default=0.2, show_default=True, type=click.FloatRange(0, 1, min_open=True, max_open=True),
              help="Share of the base stations tested where both folders are the same.")  # fmt: skip
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0, 2**31 - 1))
@click.option("--json", "is_json", is_flag=True)
def bs_energy(train: str, test: str, test_share: float, seed: int, is_json: bool) -> None:
    """A base station's energy from load and settings, on stations not seen in training."""
    from pathlib import Path

    from dure.ran.bs_energy import score_energy
    from dure.ran.itu import read_folder, split_stations

    known = read_folder(train)
    if Path(train).resolve() == Path(test).resolve():
        known, unseen = split_stations(known, test_share, seed)
    else:
        unseen = read_folder(test)
    score = score_energy(known, unseen, seed)
    emit(
        {
            "wmape": score.wmape, "wmape_naive": score.wmape_naive, "wmape_gbm": score.wmape_gbm,
            "base_stations": score.base_stations, "rows": score.rows,
        },
        is_json,
    )  # fmt: skip
    if not is_json:
        click.echo(f"{'model':<13}  {score.chosen}")
