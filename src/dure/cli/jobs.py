"""`dure submit`, `run`, `jobs`, `logs`, `cancel`, `explain`, `pipeline`: work, from handing it in to its result."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from dure.cli.main import echo_json
from dure.cli.shared import listed
from dure.cli.table import said, shown, table
from dure.model.errors import DureError, InputError

if TYPE_CHECKING:
    from dure.client import Client
    from dure.client.views import Explanation, JobView
    from dure.model.job_file import JobSpec

#: For so long, in s, a command that follows a job bears that the service is away.
FOLLOW_RETRY_S = 120.0

STATES = ("PENDING", "ADMITTED", "RUNNING", "SUSPENDED", "COMPLETING", "ENDED")

#: Pools of which `dure explain` speaks to a person.
POOLS_SHOWN = 8

#: Keys of `dure jobs --json`.
JOB_KEYS = (
    "job_id", "name", "project", "member", "state", "reason", "expected_start", "attempt", "gpus", "site",
)  # fmt: skip


SERVICE_COLUMNS = {"URL": "url", "JOB": "job_id", "ATTEMPT": "attempt", "SITE": "site", "TRIP MS": "trip_ms"}


@click.command()
@click.argument("path", type=click.Path(allow_dash=True))
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="In place of the file's, such as resources.gpus=4.")
@click.option("--json", "is_json", is_flag=True)
def submit(path: str, settings: tuple[str, ...], is_json: bool) -> None:
    """Hand in a job file, or a pipeline file (it has the key `jobs`), and print the id. `-` reads standard input."""
    from dure.client import Client
    from dure.model.job_file import Pipeline, load_work, placed_in
    from dure.twin.files import read_text

    folder = Path.cwd() if path == "-" else Path(path).resolve().parent
    work = placed_in(load_work(read_text("/dev/stdin" if path == "-" else path), path, settings), str(folder))
    with Client() as dure:
        if isinstance(work, Pipeline):
            pipeline = dure.submit_pipeline(work)
            if is_json:
                echo_json(pipeline.model_dump())
                return
            click.echo(pipeline.pipeline_id)
            for name, job_id in pipeline.job_ids.items():
                click.echo(f"  {name} {job_id}")
            return
        taken = dure.submit(work)
    if is_json:
        echo_json(taken.model_dump())
    else:
        click.echo(taken.job_id)


@click.command(context_settings={"allow_interspersed_args": False})
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@click.option("--gpus", default=1, show_default=True, help="GPUs, all or none.")
@click.option("--gpus-per-node", default=0, help="Wanted on each node; default: as placement likes.")
@click.option("--gpu-type", "gpu_types", multiple=True, help="An allowed GPU type; default: any.")
@click.option("--cpus", default=0.0, help="CPU cores.")
@click.option("--mem-gib", default=0.0, help="Memory.")
@click.option("--tasks-per-node", default=1, show_default=True, help="Processes on each node; 0: one a GPU.")
@click.option("--project", default="", help="Who pays: member/project; default: yours.")
@click.option("--site", "sites", multiple=True, help="An allowed site; default: any.")
@click.option("--country", "countries", multiple=True, help="Where its data may lie, such as KR; default: anywhere.")
@click.option("--name", default="", help="For people; default: the program's.")
@click.option("--time", "time_limit", default="", help="An attempt that runs longer is ended, such as 1h30m.")
@click.option("--checkpoint", default="", help="It writes a checkpoint so often, such as 10m.")
@click.option("--retries", default=0, help="How often a failed attempt is tried again.")
@click.option("--priority", type=click.Choice(("best-effort", "normal", "high")), default="normal", show_default=True)
@click.option("--env", "env", multiple=True, metavar="NAME[=VALUE]", help="A variable; without a value, as it is here.")
@click.option("--workdir", default=None, help="Working directory; default: this one. Empty: one of the job's own.")
@click.option("--detach", is_flag=True, help="Print the id and leave.")
@click.option("--json", "is_json", is_flag=True, help="What became of it; the log goes to standard error.")
def run(command: tuple[str, ...], detach: bool, is_json: bool, **options: Any) -> None:
    """Run a command as a job, follow what it writes and end with its exit code.

    Ctrl-C cancels the job. The command runs in this folder, which the machine that runs it must have too.
    """
    from dure.client import Client

    spec = _run_spec(command, **options)
    with Client(retry_s=FOLLOW_RETRY_S) as dure:
        job_id = dure.submit(spec).job_id
        if not detach:
            sys.exit(attend_and_tell(dure, job_id, is_json))
        if is_json:
            echo_json({"job_id": job_id})
        else:
            click.echo(job_id)


def _run_spec(
    command: tuple[str, ...], *, gpus: int, gpus_per_node: int, gpu_types: tuple[str, ...], cpus: float, mem_gib: float,
    tasks_per_node: int, project: str, sites: tuple[str, ...], countries: tuple[str, ...], name: str, time_limit: str, checkpoint: str, retries: int,
    priority: str, env: tuple[str, ...], workdir: str | None,
) -> JobSpec:  # fmt: skip
    from dure.model.job_file import JobSpec

    resources = {
        "gpus": gpus, "gpus_per_node": gpus_per_node, "gpu_types": gpu_types, "cpus": cpus, "mem_gib": mem_gib, "sites": sites,
        "countries": countries,
    }  # fmt: skip
    values: dict[str, Any] = {
        "name": name or Path(command[0]).name or "job", "command": command, "resources": resources,
        "tasks_per_node": tasks_per_node, "retries": retries, "priority": priority, "env": dict(map(_variable, env)),
        "workdir": str(Path.cwd()) if workdir is None else workdir,
    }  # fmt: skip
    values |= {"project": project} if project else {}
    values |= {"time_limit": time_limit} if time_limit else {}
    values |= {"checkpoint": {"every": checkpoint}} if checkpoint else {}
    return checked(JobSpec, values, lambda key: _OPTIONS.get(key, "--" + key.replace("_", "-")))


#: Options of `dure run` that are not called as the key that they set.
_OPTIONS = {"time_limit": "--time", "every": "--checkpoint", "gpu_types": "--gpu-type", "sites": "--site", "countries": "--country", "command": "COMMAND"}


def _variable(word: str) -> tuple[str, str]:
    name, found, value = word.partition("=")
    if not found and name not in os.environ:
        raise InputError(f"{name} is not set here; give its value as {name}=VALUE", field="--env")
    return name, value if found else os.environ[name]


def checked(model: type[JobSpec], values: dict[str, Any], option: Callable[[str], str]) -> JobSpec:
    """A specification made from options; ``option`` names the one that a key (of the job or inside a part of it) came from.

    Raises
    ------
    InputError
        With the option that is wrong.
    """
    from pydantic import ValidationError

    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = next((str(part) for part in first["loc"] if part not in ("resources", "checkpoint")), "")
        message = first["msg"].removeprefix("Value error, ")
        raise InputError(f"{message[0].lower()}{message[1:]}", field=option(key) if key else "") from None


def attend(dure: Client, job_id: str, log: BinaryIO | None) -> int:
    """Follow a job to its end: what it writes to ``log``, what becomes of it to standard error; without ``log`` neither.

    Returns
    -------
    int
        Its exit code; 1 where it failed without one, 130 when Ctrl-C cancelled it.
    """
    try:
        for found in dure.changes(job_id):
            if log is None:
                continue
            if found.state not in ("PENDING", "ADMITTED"):
                copy(dure.follow(job_id), log)
                break
            _tell(found)
        return exit_code_of(dure.job(job_id))
    except KeyboardInterrupt:
        dure.cancel(job_id)
        click.echo(f"dure: {job_id} is cancelled", err=True)
        return 130


def attend_and_tell(dure: Client, job_id: str, is_json: bool) -> int:
    """Follow a job; its log goes to standard output, or, with JSON of its end there, to standard error."""
    code = attend(dure, job_id, sys.stderr.buffer if is_json else sys.stdout.buffer)
    if is_json:
        echo_json(dure.job(job_id).model_dump(mode="json", include={"job_id", "state", "outcome", "exit_code"}))
    return code


def exit_code_of(job: JobView) -> int:
    """What a command ends with that stood for a job: 0 only where it succeeded."""
    if job.outcome == "succeeded":
        return 0
    if job.exit_code is None:
        click.echo(f"dure: {job.job_id} has not run: {job.outcome}", err=True)
    return job.exit_code or 1


def _tell(job: JobView) -> None:
    why = f": {job.reason}" if job.reason else ""
    when = f", expected to start {shown(job.expected_start)}" if job.expected_start else ""
    click.echo(f"dure: {job.job_id} is {job.state.lower()}{why}{when}", err=True)


def copy(parts: Iterable[bytes], out: BinaryIO) -> None:
    """Bytes as they come."""
    for part in parts:
        out.write(part)
        out.flush()


@click.command()
@click.option("--state", type=click.Choice(STATES, case_sensitive=False), default=None)
@click.option("--member", default="")
@click.option("--project", default="")
@click.option("--user", default="")
@click.option("--array", default="", help="Tasks of this array.")
@click.option("--name", default="")
@click.option("--limit", default=1000, show_default=True, type=click.IntRange(0), help="The newest; 0: all.")
@click.option("--json", "is_json", is_flag=True)
def jobs(
    state: str | None, member: str, project: str, user: str, array: str, name: str, limit: int, is_json: bool
) -> None:
    """List jobs, newest first."""
    from itertools import islice

    from dure.client import Client

    with Client() as dure:
        found = dure.all_jobs(state=state or "", member=member, project=project, user=user, array=array, name=name)
        listed = list(islice(found, limit or None))
    if is_json:
        echo_json([job.model_dump(mode="json", include=set(JOB_KEYS)) for job in listed])
        return
    for line in job_lines(listed):
        click.echo(line)


def job_lines(listed: Sequence[JobView]) -> list[str]:
    """A table of jobs."""
    return table(
        ("JOB", "NAME", "PROJECT", "STATE", "GPUS", "SITE", "ATTEMPT", "EXPECTED", "REASON"),
        [
            (
                job.job_id, job.name, job.project, job.outcome or job.state, job.gpus, job.site, job.attempt,
                job.expected_start, job.reason,
            )
            for job in listed
        ],
    )  # fmt: skip


@click.command()
@click.argument("job")
@click.option("-f", "--follow", is_flag=True, help="On until the job has ended.")
@click.option("--attempt", type=click.IntRange(1), default=None, help="Default: the latest; with -f: all.")
@click.option("--rank", type=click.IntRange(0), default=0, show_default=True)
@click.option("--json", "is_json", is_flag=True, help="One object, with the text in it.")
def logs(job: str, follow: bool, attempt: int | None, rank: int, is_json: bool) -> None:
    """What a job has written, as it wrote it."""
    from dure.client import Client

    with Client(retry_s=FOLLOW_RETRY_S if follow else 5.0) as dure:
        parts = dure.follow(job, attempt=attempt, rank=rank) if follow else _written(dure, job, attempt, rank)
        if not is_json:
            copy(parts, sys.stdout.buffer)
            return
        text = b"".join(parts).decode("utf-8", "replace")
        echo_json({"job_id": job, "attempt": attempt, "rank": rank, "text": text})


def _written(dure: Client, job_id: str, attempt: int | None, rank: int) -> Iterator[bytes]:
    """What is there now."""
    offset = 0
    while (part := dure.logs(job_id, attempt=attempt, rank=rank, offset=offset)).data:
        yield part.data
        offset = part.next_offset


@click.command()
@click.argument("job", nargs=-1, required=True)
@click.option("--json", "is_json", is_flag=True)
def cancel(job: tuple[str, ...], is_json: bool) -> None:
    """Take jobs (or whole arrays) back. Exit code 2 if one of them could not be."""
    from dure.client import ApiError, Client

    done, failures = [], []
    with Client() as dure:
        for job_id in job:
            try:
                done.append(dure.cancel(job_id))
            except ApiError as error:
                failures.append(f"{job_id}: {error}")
    if is_json:
        echo_json([view.model_dump(mode="json", include={"job_id", "state"}) for view in done])
    else:
        for view in done:
            click.echo(f"{view.job_id} {view.outcome or view.state}")
    if failures:
        raise DureError("; ".join(failures))


@click.command()
@click.argument("job")
@click.option("--json", "is_json", is_flag=True)
def explain(job: str, is_json: bool) -> None:
    """Say which rule holds a job back, who holds what it needs, when it is expected to start, and what would help."""
    from dure.client import Client

    with Client() as dure:
        found = dure.explain(job)
    if is_json:
        echo_json(found.model_dump(mode="json"))
        return
    for line in _explained(job, found):
        click.echo(line)


def _explained(job_id: str, found: Explanation) -> list[str]:
    lines = [f"{job_id} is {found.state}" + (f": {found.message}" if found.message else "")]
    facts = {
        "rule": f"{found.rule} of docs/policy.md" if found.rule is not None else None,
        "missing": said(found.missing),
        "held by": said(found.held_by),
        "expected start": shown(found.expected_start) if found.expected_start else None,
    }
    lines += [f"  {key:<15} {value}" for key, value in facts.items() if value]
    if found.would_start_if:
        lines += ["  would start now if", *(f"    - {said(change)}" for change in found.would_start_if)]
    if found.pools:
        lines += ["  pools", *(f"    - {said(pool)}" for pool in found.pools[:POOLS_SHOWN])]
    if len(found.pools) > POOLS_SHOWN:
        lines += [f"    and {len(found.pools) - POOLS_SHOWN} more; --json has them all"]
    return lines


@click.group()
def pipeline() -> None:
    """Check a pipeline file; show a pipeline's jobs. `dure submit` hands a pipeline in."""


@pipeline.command()
@click.argument("path", type=click.Path())
@click.option("--json", "is_json", is_flag=True)
def check(path: str, is_json: bool) -> None:
    """Read a pipeline file and print its jobs, each after those it needs; nothing is handed in."""
    from dure.model.job_file import load_pipeline, pipeline_order
    from dure.twin.files import read_text

    found = load_pipeline(read_text(path), path)
    order = pipeline_order(found)
    if is_json:
        listed = [{"name": name, "needs": found.jobs[name].needs, "gpus": found.jobs[name].resources.gpus} for name in order]
        echo_json({"name": found.name, "jobs": listed})
        return
    rows = [(name, found.jobs[name].resources.gpus, " ".join(found.jobs[name].needs)) for name in order]
    for line in table(("JOB", "GPUS", "NEEDS"), rows):
        click.echo(line)


@pipeline.command()
@click.argument("pipeline_id")
@click.option("--json", "is_json", is_flag=True)
def show(pipeline_id: str, is_json: bool) -> None:
    """The jobs of a pipeline that was handed in, oldest first."""
    from dure.client import Client

    with Client() as dure:
        listed = [job for job in dure.all_jobs() if job.pipeline_id == pipeline_id][::-1]
    if not listed:
        raise InputError(f"no pipeline {pipeline_id}")
    if is_json:
        echo_json([job.model_dump(mode="json", include=set(JOB_KEYS)) for job in listed])
        return
    for line in job_lines(listed):
        click.echo(line)


@click.command()
@click.argument("name")
@click.option("--area", default="", help="Only at sites that reach devices there, the nearest first.")
@click.option("--within-ms", type=click.FloatRange(0, 10_000, min_open=True), help="With --area: the round trip at most.")
@click.option("--json", "is_json", is_flag=True)
def service(name: str, area: str, within_ms: float | None, is_json: bool) -> None:
    """Where a service is running: addresses of the jobs that bear its name."""
    from dure.client import Client

    with Client() as dure:
        listed(dure.find_service(name, area=area, within_ms=within_ms), SERVICE_COLUMNS, is_json)
