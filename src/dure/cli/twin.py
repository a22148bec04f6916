"""`dure replay`, `compare`, `forecast`: questions to the twin."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from dure.cli.main import check_output, emit, progress
from dure.model.errors import InputError


def _trace_and_fleet(
    path: str, fleet: str | None, gpus: int | None, gpus_per_node: int, checkpoint_s: int, is_mapped: bool
) -> Any:
    from dure.twin.inputs import fleet_from, with_members_of
    from dure.twin.traces import load_trace
    from dure.twin.traces.shape import with_checkpoints

    found, terms = fleet_from(fleet, gpus, gpus_per_node)
    trace = with_checkpoints(load_trace(path), checkpoint_s * 1000)
    if is_mapped:
        if terms is None:
            raise InputError("goes with an alliance as the fleet", field="--map-members")
        trace = with_members_of(trace, terms)
    return trace, found, terms


def _fleet_options(command: Any) -> Any:
    for option in (
        click.option(
            "--checkpoint-s",
            default=600,
            type=click.IntRange(0, 10**9),
            show_default=True,
            help="Checkpoint interval where the trace records none; 0: victims start anew.",
        ),
        click.option("--gpus-per-node", default=8, show_default=True, help="GPUs of one node, with --gpus."),
        click.option("--gpus", type=int, help="So many equal GPUs."),
        click.option(
            "--map-members", "is_mapped", is_flag=True, help="Deal the trace's members to those of the alliance."
        ),
        click.option("--fleet", type=click.Path(), help="An alliance.yaml or a list of nodes."),
        click.option("--policy", default="dure", show_default=True, help="Name of the policy."),
    ):
        command = option(command)
    return command


@click.command()
@click.argument("path", type=click.Path())
@_fleet_options
@click.option("--seed", default=0, type=click.IntRange(0), show_default=True, help="Seed of the faults.")
@click.option("--faults", default="off", show_default=True, help="off, rsc1, rsc2 or llama3.")
@click.option("--html", type=click.Path(), help="Write the report here.")
@click.option("--records", type=click.Path(), help="Write every job's record here, as Parquet.")
@click.option("--json", "is_json", is_flag=True)
def replay(
    path: str, fleet: str | None, gpus: int | None, gpus_per_node: int, checkpoint_s: int, is_mapped: bool, policy: str,
    seed: int, faults: str,
    html: str | None, records: str | None, is_json: bool,
) -> None:  # fmt: skip
    """Replay a trace on a fleet under a policy."""
    from dure.policy.config import named_policy
    from dure.twin.faults import generate_faults
    from dure.twin.metrics import summary
    from dure.twin.replay import replay as run

    chosen = named_policy(policy)
    check_output(html, "--html")
    check_output(records, "--records")
    trace, found, terms = _trace_and_fleet(path, fleet, gpus, gpus_per_node, checkpoint_s, is_mapped)
    horizon_ms = 2 * int(trace.jobs["submit_ms"].max(initial=0)) + 1
    with progress("replay") as move:
        result = run(
            trace, found, chosen, terms, faults=generate_faults(found, faults, horizon_ms, seed), seed=seed,
            progress=move,
        )  # fmt: skip
    if records:
        from dure.twin.records import write_records

        write_records(records, result)
    if html:
        from dure.twin.report import write_report

        write_report([result], html, f"{Path(path).name} · {policy}")
    emit(summary(result), is_json)


@click.command()
@click.argument("scenario", type=click.Path())
@click.option("--jobs", "num_processes", type=click.IntRange(1), help="Processes; default: one a core.")
@click.option("--html", type=click.Path(), help="Write the report here.")
@click.option("--json", "is_json", is_flag=True)
def compare(scenario: str, num_processes: int | None, html: str | None, is_json: bool) -> None:
    """Compare the variants of a scenario over its seeds, with confidence intervals."""
    from dataclasses import asdict

    from dure.twin.compare import run_scenario

    check_output(html, "--html")
    with progress("compare") as move:
        outcome = run_scenario(scenario, num_processes, move)
    if html:
        from dure.twin.report import write_report

        write_report(outcome.results, html, Path(scenario).stem, outcome.trials)
    if is_json:
        emit(asdict(outcome.comparison), True)
        return
    for metric in outcome.comparison.metrics:
        click.echo(metric.key)
        for name, interval in metric.intervals.items():
            click.echo(f"  {name:<24} {interval.mean:,.3f}  [{interval.low:,.3f}, {interval.high:,.3f}]")


@click.command()
@click.argument("path", type=click.Path())
@_fleet_options
@click.option("--at", "at_ms", type=click.IntRange(0), help="Moment, in ms from the trace's start.")
@click.option("--job", help="Only this job; without --at, at the moment of its submission.")
@click.option("--json", "is_json", is_flag=True)
def forecast(
    path: str, fleet: str | None, gpus: int | None, gpus_per_node: int, checkpoint_s: int, is_mapped: bool, policy: str,
    at_ms: int | None, job: str | None, is_json: bool,
) -> None:  # fmt: skip
    """When will the jobs that wait at a moment start, by what is known then?

    Up to the moment the trace runs as it was; from then on with the run times that the policy predicts from the jobs
    that have ended, and no job comes any more.
    """
    from dure.policy.config import named_policy
    from dure.twin.forecast import forecast as ask

    if at_ms is None and job is None:
        raise InputError("give a moment or a job", field="--at, --job")
    chosen = named_policy(policy)
    trace, found, terms = _trace_and_fleet(path, fleet, gpus, gpus_per_node, checkpoint_s, is_mapped)
    if at_ms is None:
        if job not in trace.job_ids:
            raise InputError(f"no job {job!r}", path, field="--job")
        at_ms = int(trace.jobs["submit_ms"][trace.job_ids.index(job)])
    rows = ask(trace, found, chosen, at_ms, terms)
    if job is not None:
        rows = [row for row in rows if row.job_id == job]
        if not rows and job not in trace.job_ids:
            raise InputError(f"no job {job!r}", path, field="--job")
    if is_json:
        table = [
            {"job_id": r.job_id, "member": r.member, "gpus": r.num_gpus, "waited_ms": r.waited_ms,
             "expected_start_ms": None if r.expected_start_ms < 0 else r.expected_start_ms}
            for r in rows
        ]  # fmt: skip
        emit({"at_ms": at_ms, "jobs": table}, True)
        return
    if not rows:
        click.echo(f"nothing waits at {at_ms} ms" if job is None else f"job {job} does not wait at {at_ms} ms")
    for r in rows:
        wait_s = (r.expected_start_ms - at_ms) / 1000
        when = "not foreseen" if r.expected_start_ms < 0 else f"in {wait_s:,.0f} s"
        click.echo(f"{r.job_id:<24} {r.member:<16} {r.num_gpus:>6} GPUs  {when}")


@click.command("compile")
def compile_kernels() -> None:
    """Compile every kernel once (about half a minute, on two cores); later starts read them from the cache."""
    from dure.twin.warm import warm

    click.echo(f"kernels ready in {warm():.1f} s")
