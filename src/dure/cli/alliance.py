"""`dure alliance`: read and check the file that members share."""

from __future__ import annotations

import click

from dure.cli.main import OwnFile, emit


@click.group()
def alliance() -> None:
    """Read and check an alliance file."""


@alliance.command()
@click.argument("path", type=OwnFile())
@click.option("--json", "is_json", is_flag=True)
def check(path: str, is_json: bool) -> None:
    """Say what an alliance is made of, or what is wrong with its file."""
    from dure.model.alliance_build import build_fleet
    from dure.twin.files import read_alliance

    found = read_alliance(path)
    fleet, terms = build_fleet(found, found.start)
    emit(
        {
            "name": found.name, "members": len(terms.members), "sites": len(fleet.sites), "pools": len(terms.pools),
            "agreements": len(terms.agreements), "nodes": len(fleet.nodes), "gpus": fleet.num_gpus,
        },
        is_json,
    )  # fmt: skip
