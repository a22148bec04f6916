"""`dure tour`: what `make run` shows."""

from __future__ import annotations

import time
from pathlib import Path

import click

from dure.cli.main import progress_bar


@click.command()
@click.option("--out", default="out", show_default=True, type=click.Path(), help="Folder of the reports.")
@click.option("--offered-load", default=0.9, show_default=True)
def tour(out: str, offered_load: float) -> None:
    """Replay a real trace and a day of the 260,000-GPU reference alliance; leave an HTML report of each."""
    from dure.policy.config import named_policy
    from dure.twin.data import data_dir
    from dure.twin.faults import generate_faults
    from dure.twin.generate import LoadSpec, generate
    from dure.twin.inputs import reference_alliance
    from dure.twin.replay import replay
    from dure.twin.report import write_report
    from dure.twin.traces import capacity_for_load, load_trace, select_members
    from dure.twin.traces.shape import with_checkpoints

    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    data = data_dir()
    if data is not None:
        whole = load_trace(data / "philly_2017" / "philly.csv.gz")
        largest = max(
            whole.members, key=lambda name: int((whole.jobs["member"] == whole.members.index(name)).sum())
        )
        trace = with_checkpoints(select_members(whole, [largest]), 600_000)
        num_gpus = max(capacity_for_load(trace, 0.85), int(trace.jobs["num_gpus"].max()))
        from dure.model.fleet import uniform_fleet

        fleet = uniform_fleet(-(-num_gpus // 8) * 8, 8)
        click.echo(f"Philly, virtual cluster {largest}: {len(trace.jobs):,} jobs on {fleet.num_gpus} GPUs")
        results = []
        for name in ("fifo", "las", "dure"):
            results.append(replay(trace, fleet, named_policy(name)))
            wait_h = results[-1].jobs["wait_ms"].mean() / 3.6e6
            click.echo(f"  {name:<5} mean wait {wait_h:8.2f} h   ({results[-1].wall_s:.2f} s)")
        report = write_report(results, folder / "philly.html", f"Philly, virtual cluster {largest}, 85% load")
        click.echo(f"  report: {report.resolve()}")
    else:
        click.echo(
            "No recorded traces here (set DURE_DATA to their folder); going on with the reference alliance."
        )
    began = time.perf_counter()
    fleet, terms = reference_alliance(1 << 60)
    trace = generate(LoadSpec(1.0, offered_load), fleet, terms, 1)
    faults = generate_faults(fleet, "rsc1", 86_400_000, 1)
    click.echo(
        f"Reference alliance: {len(trace.jobs):,} jobs in a day on {fleet.num_gpus:,} GPUs, node failures on"
    )
    bar, move = progress_bar("alliance")
    with bar:
        result = replay(
            trace, fleet, named_policy("dure"), terms, faults=faults, seed=1, horizon_ms=86_400_000,
            is_rejecting=True, progress=move,
        )  # fmt: skip
    counters = result.counters
    click.echo(
        f"  {counters.num_decisions:,} decisions in {result.wall_s:.2f} s; {counters.num_reclaims:,} reclaims, "
        f"{counters.num_guarantee_breaches} guarantees broken; whole step {time.perf_counter() - began:.1f} s"
    )
    report = write_report([result], folder / "report.html", "A day of the reference alliance")
    click.echo(f"  report: {report.resolve()}")
