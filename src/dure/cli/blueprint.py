"""`dure blueprint`: the catalogue of work that is there to be taken, and what becomes of a run."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dure.cli.jobs import FOLLOW_RETRY_S, copy, job_lines
from dure.cli.main import echo_json, emit
from dure.cli.table import table
from dure.model.errors import DureError

if TYPE_CHECKING:
    from dure.client import Client
    from dure.client.blueprints import Entry, OnFleet
    from dure.client.views import JobDetail


@click.group()
def blueprint() -> None:
    """Blueprints: jobs and pipelines of the alliance's fields, to be taken and changed."""


@blueprint.command("list")
@click.option("--json", "is_json", is_flag=True)
def list_(is_json: bool) -> None:
    """List the catalogue."""
    from dure.client.blueprints import catalogue

    found = [listed(entry) for entry in catalogue()]
    if is_json:
        echo_json(found)
        return
    rows = [
        (row["name"], row["field"], len(row["stages"]), row["metric"], f"{row['expected_cpu_s']:,.0f}", *_short(row["on_fleet"]), row["extra"])
        for row in found
    ]
    for line in table(("BLUEPRINT", "FIELD", "STAGES", "METRIC", "CPU S", "ON FLEET", "COST", "EXTRA"), rows):
        click.echo(line)


def listed(entry: Entry) -> dict[str, Any]:
    """What the catalogue says of a blueprint in a line."""
    about = entry.about
    return {
        "name": about.name, "field": about.field, "stages": list(entry.stages), "metric": about.metric.name,
        "expected_cpu_s": about.expected_cpu_s, "extra": about.extra, "on_fleet": entry.on_fleet and asdict(entry.on_fleet),
    }  # fmt: skip


def _short(on_fleet: dict[str, Any] | None) -> tuple[str, str]:
    if on_fleet is None:
        return "-", "-"
    return f"{on_fleet['time_p50_s'] / 60:.1f} min", f"{on_fleet['cost']:,.0f} {on_fleet['currency']}"


@blueprint.command()
@click.argument("name")
@click.option("--json", "is_json", is_flag=True)
def show(name: str, is_json: bool) -> None:
    """Show a blueprint (a name, or a folder with a /): its goal, its parameters, what it costs."""
    from dure.client.blueprints import find_entry

    entry = find_entry(name)
    about = entry.about
    if is_json:
        on_fleet = entry.on_fleet and asdict(entry.on_fleet)
        echo_json({**about.model_dump(mode="json"), "stages": list(entry.stages), "on_fleet": on_fleet, "folder": str(entry.folder)})
        return
    metric = about.metric
    click.echo(f"{about.name}: {about.title.en} ({about.field})")
    goal = f"{metric.name} {'≤' if metric.better == 'lower' else '≥'} {metric.goal:g}, reached {metric.reached:g}"
    beside = f"; known {metric.known:g} ({metric.known_from})" if metric.known is not None else ""
    emit(
        {
            "stages": ", ".join(entry.stages), "metric": goal + beside,
            "cost": f"{about.expected_cpu_s:,.0f} CPU-seconds, {about.small_cpu_s:,.0f} with --small",
            "on the reference fleet": _told(entry.on_fleet), "checkpoint": f"{about.checkpoint_mib:g} MiB", "on GPUs": about.gpu_scaling or "-",
            "extra": f"dure[{about.extra}]", "folder": str(entry.folder),
        },
        is_json=False,
    )  # fmt: skip
    rows = [(key, str(p.default), "" if p.small is None else str(p.small), p.help) for key, p in about.parameters.items()]
    for line in table(("PARAMETER", "DEFAULT", "SMALL", ""), rows):
        click.echo(line)


def _told(found: OnFleet | None) -> str:
    if found is None:
        return "-"
    return (
        f"{found.time_p50_s / 60:.1f} minutes (median; 95%: {found.time_p95_s / 60:.1f}), {found.gpu_hours:g} GPU-hours, "
        f"{found.cost:,.0f} {found.currency}"
    )


@blueprint.command()
@click.argument("name")
@click.option("--from", "source", required=True, help="The blueprint to begin with.")
@click.option("--folder", default="", help="Where; default: the name, in this folder.")
@click.option("--json", "is_json", is_flag=True)
def new(name: str, source: str, folder: str, is_json: bool) -> None:
    """Copy a blueprint as the start of your own, with a test that it resumes."""
    from dure.client.blueprints import copy_entry, find_entry

    target = Path(folder or name)
    copy_entry(find_entry(source), name, target)
    if is_json:
        echo_json({"name": name, "folder": str(target)})
        return
    click.echo(f"{target} is there. Try it:\n  dure blueprint run ./{target} --small\n  python -m pytest {target}")


@blueprint.command()
@click.argument("name")
@click.option("--small", is_flag=True, help="At the small size: a minute or so on two cores.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="A parameter, or a key of the job file such as resources.gpus=4.")
@click.option("--project", default="", help="Who pays: member/project; default: yours.")
@click.option("--detach", is_flag=True, help="Print the ids and leave.")
@click.option("--json", "is_json", is_flag=True, help="What became of it; the log goes to standard error.")
def run(name: str, small: bool, settings: tuple[str, ...], project: str, detach: bool, is_json: bool) -> None:
    """Run a blueprint (a name, or a folder with a /) in the alliance and say what it has reached.

    Exit code 1 where a job of it fails. The folder must be on the machine that runs it too.
    """
    from dure.client import Client
    from dure.client.blueprints import find_entry

    entry = find_entry(name)
    work = entry.work(small, settings)
    if project:
        work = work.model_copy(update={"project": project})
    with Client(retry_s=FOLLOW_RETRY_S) as dure:
        ids = _hand_in(dure, work)
        if detach:
            echo_json({"job_ids": ids}) if is_json else click.echo("\n".join(ids))
            return
        out = sys.stderr.buffer if is_json else sys.stdout.buffer
        metrics: dict[str, Any] = {}
        try:
            for job_id in ids:
                copy(_metrics_in(dure.follow(job_id), metrics), out)
            jobs = [_ended(dure, job_id) for job_id in ids]
        except KeyboardInterrupt:
            for job_id in ids:
                dure.cancel(job_id)
            raise
        result = _what_became(jobs, metrics)
    if is_json:
        echo_json(result)
    else:
        for line in job_lines(jobs):
            click.echo(line)
        emit({key: value for key, value in result.items() if key not in ("job_ids", "metrics")} | result["metrics"], is_json=False)
    sys.exit(0 if result["state"] == "succeeded" else 1)


def _hand_in(dure: Client, work: Any) -> list[str]:
    from dure.model.job_file import Pipeline, pipeline_order

    if isinstance(work, Pipeline):
        by_name = dure.submit_pipeline(work).job_ids
        return [by_name[name] for name in pipeline_order(work)]
    taken = dure.submit(work)
    return list(taken.job_ids) or [taken.job_id]


def _ended(dure: Client, job_id: str) -> JobDetail:
    *_, found = dure.changes(job_id)
    return found


def _what_became(jobs: list[JobDetail], metrics: dict[str, Any]) -> dict[str, Any]:
    outcomes = [job.outcome or "" for job in jobs]
    return {
        "job_ids": [job.job_id for job in jobs],
        "state": next((outcome for outcome in outcomes if outcome != "succeeded"), "succeeded"),
        "metrics": metrics,
        "gpu_seconds": round(sum((a.run_s or 0.0) * a.gpus for job in jobs for a in job.attempts), 3),
        "attempts": sum(len(job.attempts) for job in jobs),
    }  # fmt: skip


def _metrics_in(parts: Iterable[bytes], metrics: dict[str, Any]) -> Iterator[bytes]:
    """The parts of a log as they come; what its lines tell of the result goes to ``metrics``.

    Raises
    ------
    DureError
        A line of metrics is no JSON.
    """
    from dure.client.job import METRICS

    torn = b""
    for part in parts:
        yield part
        *lines, torn = (torn + part).split(b"\n")
        for line in lines:
            if line.startswith(METRICS.encode()):
                try:
                    metrics |= json.loads(line[len(METRICS) :])
                except ValueError:
                    raise DureError(f"metrics that are no JSON: {line[:200]!r}") from None
