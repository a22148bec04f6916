"""`dure ran`: cell sites, the radio first, the rest of the GPU lent."""

from __future__ import annotations

import click

from dure.cli.main import check_output, emit, progress


@click.group()
def ran() -> None:
    """Cell sites: the radio first, the rest of the GPU lent."""


class _Files(click.Command):
    """Lets ``--calibrate`` and ``--load`` take several files each: ``--load a b`` is ``--load a --load b``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        spread: list[str] = []
        option: str | None = None
        for arg in args:
            if arg.startswith("-"):
                option = arg if arg in ("--calibrate", "--load") else None
                is_first = True
            elif option is not None:
                if not is_first:
                    spread.append(option)
                is_first = False
            spread.append(arg)
        return super().parse_args(ctx, spread)


@ran.command(cls=_Files)
@click.option("--calibrate", type=click.Path(), multiple=True, required=True, metavar="FILE...",
              help="Loads of earlier days, in the format of the Barcelona measurements (.csv, .csv.gz).")  # fmt: skip
@click.option("--load", type=click.Path(), multiple=True, required=True, metavar="FILE...",
              help="Loads to replay.")  # fmt: skip
@click.option("--cells", "num_cells", type=click.IntRange(1, 400), default=20, show_default=True)
@click.option("--sites", "num_sites", type=click.IntRange(1, 1000), default=1, show_default=True,
              help="Sites of so many cells each; the slots are dealt to them.")  # fmt: skip
@click.option("--slots", "num_slots", type=click.IntRange(1000), default=5_000_000, show_default=True,
              help="Slots to replay, spread evenly over the load's two-minute windows.")  # fmt: skip
@click.option("--calibrate-slots", type=click.IntRange(1000), default=10_000_000, show_default=True,
              help="Slots to calibrate on; the guard keeps more where they are few.")  # fmt: skip
@click.option("--vacate-ms", type=click.FloatRange(0, 50), default=2.0, show_default=True,
              help="How long a tenant takes to leave; a multiple of 0.5.")  # fmt: skip
@click.option("--policy", type=click.Choice(["dure", "static", "mig", "per-slot"]), default="dure", show_default=True)
@click.option("--fault", type=click.Choice(["surge", "predictor", "tenant", "heartbeat", "clock"]),
              help="In every stretch that is replayed, after a third of it.")  # fmt: skip
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--html", type=click.Path(), help="Write a report with plots there.")
@click.option("--json", "is_json", is_flag=True)
def guard(
    calibrate: tuple[str, ...], load: tuple[str, ...], num_cells: int, num_sites: int, num_slots: int, calibrate_slots: int,
    vacate_ms: float, policy: str, fault: str | None, seed: int, html: str | None, is_json: bool,
) -> None:  # fmt: skip
    """How much of a site's idle GPU is lent, and how many slots are late. Synthetic below two minutes."""
    check_output(html, "--html")
    from dure.ran.guard_run import run_guard
    from dure.ran.site import SiteModel

    with progress("slots") as move:
        run = run_guard(
            calibrate, load, policy=policy, num_cells=num_cells, num_slots=num_slots, vacate_ms=vacate_ms, seed=seed,
            fault=fault, calibrate_slots=calibrate_slots, num_sites=num_sites, model=SiteModel(), move=move,
        )  # fmt: skip
    if html is not None:
        from dure.ran.report import write_guard_report

        write_guard_report(run, html)
    emit(run.summary() if is_json else {**run.summary(), **run.causes()}, is_json)
