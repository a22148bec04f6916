"""`dure replay`, `compare`, `forecast`: questions to the twin."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dure.cli.main import OwnFile, check_output, emit, progress
from dure.model.errors import InputError

if TYPE_CHECKING:
    from dure.twin.forecast import ForecastRow


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
        click.option("--fleet", type=OwnFile(), help="An alliance.yaml or a list of nodes."),
        click.option("--policy", default="dure", show_default=True, help="Name of the policy."),
    ):
        command = option(command)
    return command


@click.command()
@click.argument("path", type=click.Path())
@_fleet_options
@click.option("--seed", default=0, type=click.IntRange(0), show_default=True, help="Seed of the faults.")
@click.option("--faults", default="off", show_default=True, help="off, rsc1, rsc2 or llama3.")
@click.option(
    "--forecasts", "num_forecasts", default=0, type=click.IntRange(0, 10_000), show_default=True,
    help="Forecast the starts of all waiting jobs at so many moments, and score them.",
)  # fmt: skip
@click.option("--html", type=click.Path(), help="Write the report here.")
@click.option("--records", type=click.Path(), help="Write every job's record here, as Parquet.")
@click.option("--json", "is_json", is_flag=True)
def replay(
    path: str, fleet: str | None, gpus: int | None, gpus_per_node: int, checkpoint_s: int, is_mapped: bool, policy: str,
    seed: int, faults: str, num_forecasts: int,
    html: str | None, records: str | None, is_json: bool,
) -> None:  # fmt: skip
    """Replay a trace on a fleet under a policy."""
    from dure.policy.config import named_policy
    from dure.twin.faults import generate_faults
    from dure.twin.foresight import even_moments
    from dure.twin.metrics import forecast_summary, summary
    from dure.twin.replay import replay as run

    chosen = named_policy(policy)
    check_output(html, "--html")
    check_output(records, "--records")
    trace, found, terms = _trace_and_fleet(path, fleet, gpus, gpus_per_node, checkpoint_s, is_mapped)
    horizon_ms = 2 * int(trace.jobs["submit_ms"].max(initial=0)) + 1
    with progress("replay") as move:
        result = run(
            trace, found, chosen, terms, faults=None if faults == "off" else generate_faults(found, faults, horizon_ms, seed), seed=seed,
            forecast_at_ms=even_moments(trace, num_forecasts), progress=move,
        )  # fmt: skip
    if records:
        from dure.twin.records import write_records

        write_records(records, result)
    if html:
        from dure.twin.report import write_report

        write_report([result], html, f"{Path(path).name} · {policy}")
    emit(summary(result) | (forecast_summary(result) if num_forecasts else {}), is_json)


@click.command()
@click.argument("scenario", type=OwnFile())
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
        kinds = [{"variant": of.name, "seed": of.seed} | asdict(row) for of in outcome.trials for row in of.by_work]
        emit(asdict(outcome.comparison) | {"kinds": kinds}, True)
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
    """When will the jobs that wait at a moment start, by what is known then, and why do they wait?

    Up to the moment the trace runs as it was; from then on with the run times that the policy predicts from the jobs
    that have ended, and no job comes any more. The reasons are those of the moment itself.
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
        emit({"at_ms": at_ms, "jobs": [as_json(row) for row in rows]}, True)
        return
    if not rows:
        click.echo(f"nothing waits at {at_ms} ms" if job is None else f"job {job} does not wait at {at_ms} ms")
    for row in rows:
        click.echo("\n".join(_as_lines(row, at_ms)))


def as_json(row: ForecastRow) -> dict[str, Any]:
    """A row of `dure forecast --json`."""
    why = row.why
    return {
        "job_id": row.job_id, "member": row.member, "gpus": row.num_gpus, "waited_ms": row.waited_ms,
        "expected_start_ms": _known(row.expected_start_ms), "reason": why.reason, "rule": why.rule,
        "message": why.message, "promised_ms": _known(why.promised_ms),
        "pools": [
            {
                "pool": found.pool, "reason": found.reason, "message": found.message, "facts": dict(found.facts),
                "holders": [
                    {"member": member, "used_milli": used, "borrowed_milli": borrowed}
                    for member, used, borrowed in found.holders
                ],
            }
            for found in why.pools
        ],
        "sooner": [
            {"kind": change.kind, "pool": change.pool, "amount": change.amount, "message": change.message}
            for change in why.sooner
        ],
    }  # fmt: skip


def _known(at_ms: int) -> int | None:
    return None if at_ms < 0 else at_ms


def _as_lines(row: ForecastRow, at_ms: int) -> list[str]:
    """When a job is expected to start; why it waits; what would start it now."""

    def within(moment_ms: int) -> str:
        return f"in {(moment_ms - at_ms) / 1000:,.0f} s"

    when = "not foreseen" if row.expected_start_ms < 0 else within(row.expected_start_ms)
    promise = f", promised {within(row.why.promised_ms)}" if row.why.promised_ms >= 0 else ""
    lines = [
        f"{row.job_id:<24} {row.member:<16} {row.num_gpus:>6} GPUs  {when}{promise}",
        f"    rule {row.why.rule}: {row.why.message}",
    ]
    if row.why.sooner:
        lines.append(f"    sooner: {'; '.join(change.message for change in row.why.sooner)}")
    return lines


@click.command("compile")
def compile_kernels() -> None:
    """Compile every kernel once (about twenty seconds on two cores); later starts read them from the cache."""
    from dure.twin.warm import warm

    click.echo(f"kernels ready in {warm():.1f} s")
