"""`dure tour`: what `make twin` shows."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dure.cli.main import progress

if TYPE_CHECKING:
    from dure.model.fleet import Fleet
    from dure.model.jobs import Trace
    from dure.model.terms import Terms

DAY_MS = 86_400_000


@click.command()
@click.option("--out", default="out", show_default=True, type=click.Path(file_okay=False), help="Folder of the reports.")
@click.option("--offered-load", default=0.9, type=click.FloatRange(0.01, 10), show_default=True)
def tour(out: str, offered_load: float) -> None:
    """Replay a trace and a day of the 260,000-GPU reference alliance; leave an HTML report of each.

    The trace is a virtual cluster of Philly where the recorded traces are there (``DURE_DATA``), otherwise a
    generated week of a small alliance, written to ``village.parquet`` and read back.
    """
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    trace_report = _philly(folder) or _village(folder)
    report = _reference_day(folder, offered_load)
    click.echo(f"\nReports, open them in a browser:\n  {trace_report.resolve()}\n  {report.resolve()}")


def _philly(folder: Path) -> Path | None:
    from dure.model.fleet import uniform_fleet
    from dure.twin.data import data_dir
    from dure.twin.traces import capacity_for_load, load_trace, select_members
    from dure.twin.traces.shape import with_checkpoints

    data = data_dir()
    path = None if data is None else data / "philly_2017" / "philly.csv.gz"
    if path is None or not path.is_file():
        click.echo("No recorded traces here (DURE_DATA names their folder): a generated week takes their place.")
        return None
    whole = load_trace(path)
    jobs_of = [int((whole.jobs["member"] == idx).sum()) for idx in range(len(whole.members))]
    largest = whole.members[jobs_of.index(max(jobs_of))]
    trace = with_checkpoints(select_members(whole, [largest]), 600_000)
    num_gpus = max(capacity_for_load(trace, 0.85), int(trace.jobs["num_gpus"].max()))
    fleet = uniform_fleet(-(-num_gpus // 8) * 8, 8)
    click.echo(f"Philly, virtual cluster {largest}: {len(trace.jobs):,} jobs on {fleet.num_gpus} GPUs")
    title = f"Philly, virtual cluster {largest}, 85% load"
    return _compared(trace, fleet, None, ("fifo", "las", "dure"), folder / "philly.html", title)


def _village(folder: Path) -> Path:
    from dure.examples import example_path
    from dure.twin.generate import LoadSpec, generate
    from dure.twin.inputs import fleet_from
    from dure.twin.traces import load_trace
    from dure.twin.traces.parquet import write_trace

    fleet, terms = fleet_from(str(example_path("village")), None, 8)
    assert terms is not None
    path = write_trace(folder / "village.parquet", generate(LoadSpec(7.0, 0.85), fleet, terms, 1))
    trace = load_trace(path)
    click.echo(f"A week of a village of {len(terms.members)}: {len(trace.jobs):,} jobs on {fleet.num_gpus} GPUs")
    return _compared(trace, fleet, terms, ("fifo", "fair", "dure"), folder / "village.html", "A week of the village")


def _compared(
    trace: Trace, fleet: Fleet, terms: Terms | None, policies: Sequence[str], path: Path, title: str
) -> Path:
    from dure.policy.config import named_policy
    from dure.twin.metrics import summary
    from dure.twin.replay import replay
    from dure.twin.report import write_report

    results = []
    for name in policies:
        results.append(replay(trace, fleet, named_policy(name), terms, is_rejecting=True))
        found = summary(results[-1])
        click.echo(f"  {name:<5} mean wait {found['wait_mean_s'] / 3600:8.2f} h   ({results[-1].wall_s:.2f} s)")
    return write_report(results, path, title)


def _reference_day(folder: Path, offered_load: float) -> Path:
    from dure.policy.config import named_policy
    from dure.twin.faults import generate_faults
    from dure.twin.generate import LoadSpec, generate
    from dure.twin.inputs import reference_alliance
    from dure.twin.replay import replay
    from dure.twin.report import write_report

    began = time.perf_counter()
    fleet, terms = reference_alliance(1 << 60)
    trace = generate(LoadSpec(1.0, offered_load), fleet, terms, 1)
    faults = generate_faults(fleet, "rsc1", DAY_MS, 1)
    click.echo(
        f"Reference alliance: {len(trace.jobs):,} jobs in a day on {fleet.num_gpus:,} GPUs, node failures on"
    )
    with progress("alliance") as move:
        result = replay(
            trace, fleet, named_policy("dure"), terms, faults=faults, seed=1, horizon_ms=DAY_MS, is_rejecting=True,
            progress=move,
        )  # fmt: skip
    counters = result.counters
    click.echo(
        f"  {counters.num_decisions:,} decisions in {result.wall_s:.2f} s; {counters.num_reclaims:,} reclaims, "
        f"{counters.num_guarantee_breaches} guarantees broken; whole step {time.perf_counter() - began:.1f} s"
    )
    return write_report([result], folder / "report.html", "A day of the reference alliance")
