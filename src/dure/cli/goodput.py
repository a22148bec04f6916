"""`dure twin`: models of the twin that need no trace."""

from __future__ import annotations

import click

from dure.cli.main import echo_json
from dure.cli.table import table
from dure.model.errors import InputError


@click.group()
def twin() -> None:
    """Models that need no trace."""


def _numbers(text: str, field: str) -> list[int]:
    try:
        return [int(word) for word in text.split(",")]
    except ValueError:
        raise InputError(f"not a list of whole numbers: {text!r}", field=field) from None


@twin.command()
@click.option("--gpus", default="1024,2048,4096,8192,16384", show_default=True, help="Sizes of the run.")
@click.option("--spares", default="0,2,8", show_default=True, help="Nodes that stand by.")
@click.option("--faults", default="llama3", show_default=True, help="Published rates: llama3, rsc1 or rsc2.")
@click.option("--job-failures-per-day", default=0.0, show_default=True, help="Failures of the run as such, whatever its size.")
@click.option("--write-s", default=30.0, show_default=True, help="Until a checkpoint is written.")
@click.option("--stall-s", default=None, type=float, help="Training stands so long for it; default: as long as writing takes.")
@click.option("--restart-s", default=600.0, show_default=True, help="From a failure to the first new step.")
@click.option("--repair-h", default=4.0, show_default=True, help="Median time of repairing a node.")
@click.option("--interval-s", default=None, type=float, help="Work between checkpoints; default: Daly's.")
@click.option("--days", default=54.0, show_default=True)
@click.option("--seeds", default=40, show_default=True, type=click.IntRange(1, 10_000))
@click.option("--json", "is_json", is_flag=True)
def goodput(
    gpus: str, spares: str, faults: str, job_failures_per_day: float, write_s: float, stall_s: float | None, restart_s: float,
    repair_h: float, interval_s: float | None, days: float, seeds: int, is_json: bool,
) -> None:  # fmt: skip
    """Time that a training run loses to failures, checkpoints and the wait for nodes."""
    from dataclasses import asdict

    from dure.twin.faults import fault_constants
    from dure.twin.goodput import TrainingRun
    from dure.twin.goodput import goodput as goodput_of

    if not 0 < days <= 3_660:
        raise InputError("must be above 0 and at most 3660", field="--days")
    constants = fault_constants(faults)
    rows = [
        goodput_of(
            TrainingRun(
                size, constants.failures_per_1000_node_days, job_failures_per_day, write_s if stall_s is None else stall_s, write_s, restart_s,
                spare, repair_h,
            ),
            days, seeds, interval_s,
        )
        for size in _numbers(gpus, "--gpus")
        for spare in _numbers(spares, "--spares")
    ]  # fmt: skip
    if is_json:
        echo_json([asdict(row) for row in rows])
        return
    shown = [
        (
            f"{row.gpus:,}", row.spares, f"{row.mttf_h:.2f}", f"{row.interval_s / 60:.1f}", f"{row.ettr:.1%} ±{row.ettr_ci95:.1%}",
            f"{row.ettr_expected:.1%}", f"{row.lost:.1%}", f"{row.saving:.1%}", f"{row.restarting:.1%}", f"{row.waiting:.1%}",
        )
        for row in rows
    ]  # fmt: skip
    for line in table(("GPUS", "SPARES", "MTTF H", "EVERY MIN", "ETTR", "FORMULA", "LOST", "SAVING", "RESTARTS", "WAITING"), shown):
        click.echo(line)
