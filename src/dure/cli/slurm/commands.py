"""`dure sbatch`, `srun`, `squeue`, `scancel`, `sinfo`, `sacct`, `sshare`."""

from __future__ import annotations

import getpass
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dure import __version__
from dure.cli.main import echo_json
from dure.cli.slurm.getopt import Option, Takes, Values, help_text, merged, read_options
from dure.cli.slurm.options import SBATCH, SRUN, SRUN_OWN
from dure.model.errors import DureError, InputError

if TYPE_CHECKING:
    from dure.cli.slurm.spec import Caller
    from dure.client import Client
    from dure.client.views import JobView, Node

_NO = Takes.NOTHING
_HELP = (Option("help", "", _NO, meaning="this"), Option("version", "V", _NO, meaning="Dure's version"))
_JSON = Option("json", "", _NO, meaning="as JSON")
_HEAD = Option("noheader", "h", _NO, meaning="without the headings")
_N_HEAD = Option("noheader", "n", _NO, meaning="without the headings")
_PARSABLE = (
    Option("parsable", "p", _NO, meaning="| after each value"),
    Option("parsable2", "P", _NO, meaning="| between the values"),
)

SQUEUE = (
    Option("account", "A", meaning="of these projects"),
    Option("array", "r", _NO, meaning="each task of an array by itself, as is done always"),
    Option("format", "o", meaning="columns, such as '%.18i %.8u'"),
    Option("jobs", "j", meaning="these jobs or arrays"),
    Option("long", "l", _NO, meaning="more columns"),
    Option("me", "", _NO, meaning="one's own"),
    Option("name", "n", meaning="of these names"),
    Option("partition", "p", meaning="at these sites"),
    Option("start", "", _NO, meaning="waiting jobs with the start that is expected"),
    Option("states", "t", meaning="in these states, or all; default: those not ended"),
    Option("user", "u", meaning="of these people"),
    _HEAD, _JSON, *_HELP,
)  # fmt: skip
SCANCEL = (
    Option("account", "A", meaning="of this project"),
    Option("me", "", _NO, meaning="one's own"),
    Option("name", "n", meaning="of this name"),
    Option("partition", "p", meaning="at this site"),
    Option("quiet", "Q", _NO, meaning="no word about those that have ended"),
    Option("state", "t", meaning="in this state"),
    Option("user", "u", meaning="of this person"),
    Option("verbose", "v", _NO, meaning="say what was cancelled"),
    Option("batch", "b", _NO, "signals are sent by the policy alone", is_refused=True),
    Option("full", "f", _NO, "signals are sent by the policy alone", is_refused=True),
    Option("signal", "s", Takes.VALUE, "signals are sent by the policy alone; without it the job is ended", is_refused=True),
    Option("interactive", "i", _NO, "name the jobs", is_refused=True),
    _JSON, *_HELP,
)  # fmt: skip
SINFO = (
    Option("Node", "N", _NO, meaning="a line for each node"),
    Option("format", "o", meaning="columns, such as '%P %.6D %N'"),
    Option("nodes", "n", meaning="these nodes"),
    Option("partition", "p", meaning="these sites"),
    Option("states", "t", meaning="in these states"),
    Option("summarize", "s", _NO, meaning="a line for each site"),
    _HEAD, _JSON, *_HELP,
)  # fmt: skip
SACCT = (
    Option("accounts", "A", meaning="of these projects"),
    Option("allocations", "X", _NO, meaning="jobs without their steps, as is done always"),
    Option("allusers", "a", _NO, meaning="of everyone whom you may see"),
    Option("endtime", "E", meaning="that had begun to wait by then"),
    Option("format", "o", meaning="columns, such as jobid,state%20"),
    Option("helpformat", "e", _NO, meaning="the columns that there are"),
    Option("jobs", "j", meaning="these jobs or arrays"),
    Option("name", "", meaning="of these names"),
    Option("starttime", "S", meaning="that had not ended by then; default: midnight, with -j any time"),
    Option("state", "s", meaning="in these states"),
    Option("user", "u", meaning="of these people; default: oneself"),
    *_PARSABLE, _N_HEAD, _JSON, *_HELP,
)  # fmt: skip
SSHARE = (
    Option("accounts", "A", meaning="these members"),
    Option("all", "a", _NO, meaning="all members, as is done always"),
    Option("format", "o", meaning="columns, such as account,fairshare"),
    Option("long", "l", _NO, meaning="more columns"),
    Option("users", "u", Takes.VALUE, "shares are the members'", is_refused=True),
    *_PARSABLE, _N_HEAD, _JSON, *_HELP,
)  # fmt: skip

#: Command → (usage, its table); the docs are made from it.
TABLES: dict[str, tuple[str, tuple[Option, ...]]] = {
    "sbatch": ("sbatch [OPTIONS] SCRIPT [ARGUMENTS]", SBATCH),
    "srun": ("srun [OPTIONS] COMMAND [ARGUMENTS]", SRUN),
    "squeue": ("squeue [OPTIONS]", SQUEUE),
    "scancel": ("scancel [OPTIONS] [JOB…]", SCANCEL),
    "sinfo": ("sinfo [OPTIONS]", SINFO),
    "sacct": ("sacct [OPTIONS]", SACCT),
    "sshare": ("sshare [OPTIONS]", SSHARE),
}


class _Raw(click.Command):
    """Leaves its words to `read_options`: Slurm's options are not click's."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.params = {"words": tuple(args)}
        return []


def _command(run: Callable[[Values, tuple[str, ...]], None], name: str) -> click.Command:
    usage, table = TABLES[name]

    def call(words: tuple[str, ...]) -> None:
        values, rest = read_options(table, words)
        if "help" in values:
            click.echo(help_text(usage, table))
        elif "version" in values:
            click.echo(f"dure {__version__}")
        else:
            run(values, rest)

    json_option = click.Option(["--json", "is_json"], is_flag=True)
    return _Raw(name, callback=call, params=[json_option], help=run.__doc__, add_help_option=False)


def _caller() -> Caller:
    from dure.cli.slurm.spec import Caller

    return Caller(str(Path.cwd()), os.environ, datetime.now().astimezone(), getpass.getuser())


def _sbatch(values: Values, words: tuple[str, ...]) -> None:
    """Hand in a batch script with its #SBATCH lines, as Slurm's sbatch does (docs/slurm.md)."""
    from dure.cli.jobs import attend
    from dure.cli.slurm.spec import batch_spec
    from dure.client import Client

    values, script, args, name = _batch(values, words)
    spec = batch_spec(values, script, args, name, _caller())
    if "test-only" in values:
        click.echo(f"dure sbatch: {spec.name} is well formed", err=True)
        return
    with Client() as dure:
        taken = dure.submit(spec)
        if "json" in values:
            echo_json(taken.model_dump())
        elif "parsable" in values:
            click.echo(taken.job_id)
        elif "quiet" not in values:
            click.echo(f"Submitted batch job {taken.job_id}")
        if "wait" in values:
            sys.exit(max(attend(dure, job_id, None) for job_id in taken.job_ids or (taken.job_id,)))


def _batch(values: Values, words: tuple[str, ...]) -> tuple[Values, str, tuple[str, ...], str]:
    """Options (the command line's win), script, its words, and the name of the job."""
    from dure.cli.slurm.script import script_options
    from dure.twin.files import read_text

    if "wrap" in values:
        if words:
            raise values["wrap"].wrong(f"stands in place of a script, {words[0]!r}")
        return values, f"#!/bin/sh\n{values['wrap'].value}\n", (), "wrap"
    path = words[0] if words else "standard input"
    text = read_text(path if words else "/dev/stdin")
    return merged(script_options(text, path), values), text, words[1:], Path(path).name if words else "sbatch"


def _srun(values: Values, words: tuple[str, ...]) -> None:
    """Run a command's tasks as a job and follow them; inside a job, as a step of it."""
    from dure.cli.jobs import FOLLOW_RETRY_S, attend_and_tell
    from dure.cli.slurm.spec import batch_spec, node_script
    from dure.client import Client

    if not words:
        raise InputError("no command", field="srun")
    inner = [f"--{option.name}" for option in SRUN_OWN if option.name in values]
    if "SLURM_JOB_ID" in os.environ and "DURE_JOB_ID" in os.environ:
        given = [f"--{name}" + (f"={part.value}" if part.value else "") for name, part in values.items()]
        os.execv("/bin/sh", ["/bin/sh", "-c", node_script("srun"), "srun", *given, "--", *words])
    script = f'#!/bin/sh\nexec srun {" ".join(inner)} -- "$@"\n'
    spec = batch_spec(values, script, words, Path(words[0]).name, _caller())
    with Client(retry_s=FOLLOW_RETRY_S) as dure:
        sys.exit(attend_and_tell(dure, dure.submit(spec).job_id, "json" in values))


def _split(values: Values, name: str) -> frozenset[str]:
    return frozenset(part.strip() for part in values[name].value.split(",")) if name in values else frozenset()


def _states(values: Values, name: str) -> frozenset[str]:
    """Short words of the states asked for; empty: all."""
    from dure.cli.slurm.words import known_states

    known, found = known_states(), set()
    for word in _split(values, name):
        if word.lower() == "all":
            return frozenset()
        if word.upper() not in known:
            raise values[name].wrong(f"{word[:40]!r} is no state; known: {', '.join(known)}, all")
        found.add(known[word.upper()])
    return frozenset(found)


def _is_named(job: JobView, names: frozenset[str]) -> bool:
    return not names or job.job_id in names or job.array_id in names or f"{job.array_id}_{job.array_index}" in names


def _squeue(values: Values, words: tuple[str, ...]) -> None:
    """List the jobs that have not ended, in Slurm's columns."""
    from dure.cli.slurm.columns import by_letters, fixed_lines
    from dure.cli.slurm.fields import SQUEUE_FIELDS, SQUEUE_LONG, SQUEUE_SHORT, SQUEUE_START
    from dure.cli.slurm.words import state_rank, state_words
    from dure.client import Client

    _no_words(words)
    with Client() as dure:
        users = _split(values, "user") | ({dure.whoami().user} if "me" in values else frozenset())
        shown = [
            job
            for job in _jobs_in(dure, values)
            if _is_named(job, _split(values, "jobs")) and _passes(values, job, users)
        ]
    if "start" in values:
        shown = [job for job in shown if state_words(job)[0] == "PD"]
    shown.sort(key=lambda job: (job.site or "", state_rank(job), job.submitted_at or datetime.now(UTC), job.job_id))
    if "json" in values:
        echo_json({"jobs": [job.model_dump(mode="json") for job in shown]})
        return
    given = values.get("format")
    default = SQUEUE_START if "start" in values else SQUEUE_LONG if "long" in values else SQUEUE_SHORT
    columns = by_letters(SQUEUE_FIELDS, given.value if given else default, given)
    _say(fixed_lines(columns, shown, "noheader" not in values))


def _jobs_in(dure: Client, values: Values) -> Iterable[JobView]:
    """Jobs in the states asked for: those that have not ended where none are."""
    from dure.cli.slurm.words import state_words
    from dure.client.views import STATES

    wanted = _states(values, "states")
    if "states" in values:
        return (job for job in dure.all_jobs() if not wanted or state_words(job)[0] in wanted)
    return dure.all_jobs(state=[state for state in STATES if state != "ENDED"])


def _passes(values: Values, job: JobView, users: frozenset[str]) -> bool:
    """Whether the filters that the commands share let a job through."""
    filters = (
        (users, job.user), (_split(values, "account") | _split(values, "accounts"), job.project),
        (_split(values, "name"), job.name), (_split(values, "partition"), job.site or ""),
    )  # fmt: skip
    return all(not wanted or value in wanted for wanted, value in filters)


def _scancel(values: Values, words: tuple[str, ...]) -> None:
    """Cancel jobs by id (an array's, or one task's: ID_INDEX) or by filter."""
    from dure.cli.slurm.words import state_words
    from dure.client import ApiError, Client

    filters = [name for name in ("account", "me", "name", "partition", "state", "user") if name in values]
    if not words and not filters:
        raise InputError("name a job, or a filter such as --user", field="scancel")
    states = _states(values, "state")
    done, failures = [], []
    with Client() as dure:
        ids = [] if filters else list(words)
        if filters:
            users = _split(values, "user") | ({dure.whoami().user} if "me" in values else frozenset())
            ids = [
                job.job_id
                for job in _jobs_in(dure, {})
                if _is_named(job, frozenset(words)) and _passes(values, job, users)
                and (not states or state_words(job)[0] in states)
            ]  # fmt: skip
        for job_id in ids:
            try:
                done.append(_cancel(dure, job_id))
            except ApiError as error:
                if not ("quiet" in values and error.status == 409):
                    failures.append(f"{job_id}: {error}")
    if "json" in values:
        echo_json([{"job_id": job.job_id, "state": job.state} for job in done])
    elif "verbose" in values:
        _say([f"{job.job_id} {state_words(job)[1]}" for job in done])
    if failures:
        raise DureError("; ".join(failures))


def _cancel(dure: Client, job_id: str) -> JobView:
    """By its id, or as task ``ARRAY_INDEX`` of an array."""
    from dure.client import ApiError

    try:
        return dure.cancel(job_id)
    except ApiError as error:
        array, _, index = job_id.rpartition("_")
        if error.status != 404 or not array or not index.isdecimal():
            raise
        found = [job for job in dure.all_jobs(array=array) if job.array_index == int(index)]
        if not found:
            raise
        return dure.cancel(found[0].job_id)


def _sinfo(values: Values, words: tuple[str, ...]) -> None:
    """Say what sites and nodes there are and in which state, in Slurm's columns."""
    from dure.cli.slurm.columns import by_letters, fixed_lines
    from dure.cli.slurm.fields import SINFO_FIELDS, SINFO_NODE, SINFO_SHORT, SINFO_SUMMARY, NodeGroup
    from dure.cli.slurm.words import NODE_SHORT, node_state
    from dure.client import Client

    _no_words(words)
    sites, names, states = _split(values, "partition"), _split(values, "nodes"), _split(values, "states")
    with Client() as dure:
        found = dure.nodes()
    shown = [
        node
        for node in found
        if (not sites or node.site in sites) and (not names or node.name in names)
        and (not states or {node_state(node), NODE_SHORT[node_state(node)]} & {state.lower() for state in states})
    ]  # fmt: skip
    if "json" in values:
        echo_json({"nodes": [{**node.model_dump(mode="json"), "state": node_state(node)} for node in shown]})
        return

    def key(node: Node) -> tuple[str, ...]:
        if "Node" in values:
            return node.site, node_state(node), node.name
        return (node.site,) if "summarize" in values else (node.site, node_state(node))

    groups: dict[tuple[str, ...], list[Node]] = {}
    for node in sorted(shown, key=lambda node: (node.site, node_state(node), node.name)):
        groups.setdefault(key(node), []).append(node)
    given = values.get("format")
    default = SINFO_NODE if "Node" in values else SINFO_SUMMARY if "summarize" in values else SINFO_SHORT
    columns = by_letters(SINFO_FIELDS, given.value if given else default, given)
    _say(fixed_lines(columns, [NodeGroup(tuple(group)) for group in groups.values()], "noheader" not in values))


def _sacct(values: Values, words: tuple[str, ...]) -> None:
    """List jobs that have run, run or wait, with their end and exit code, in Slurm's columns."""
    from dure.cli.slurm.columns import by_names
    from dure.cli.slurm.fields import SACCT_DEFAULT, SACCT_FIELDS
    from dure.cli.slurm.words import state_words
    from dure.client import Client

    _no_words(words)
    if "helpformat" in values:
        _say(list(SACCT_FIELDS))
        return
    begin, end = _window(values)
    names, states = _split(values, "jobs"), _states(values, "state")
    given = values.get("format")
    columns = by_names(SACCT_FIELDS, given.value if given else SACCT_DEFAULT, given)
    with Client() as dure:
        users = _split(values, "user")
        if not users and not names and "allusers" not in values:
            users = frozenset({dure.whoami().user})
        shown = [
            job
            for job in dure.all_jobs()
            if _is_named(job, names) and _passes(values, job, users)
            and (not states or state_words(job)[0] in states)
            and (begin is None or job.ended_at is None or job.ended_at >= begin)
            and (end is None or job.submitted_at is None or job.submitted_at <= end)
        ][::-1]  # fmt: skip
    if "json" in values:
        echo_json({"jobs": [job.model_dump(mode="json") for job in shown]})
        return
    _print_fields(values, columns, shown)


def _window(values: Values) -> tuple[datetime | None, datetime | None]:
    from dure.cli.slurm.times import parse_moment

    now = datetime.now().astimezone()

    def moment(name: str) -> datetime | None:
        if name not in values:
            return None
        try:
            return parse_moment(values[name].value, now)
        except (ValueError, OverflowError) as error:
            raise values[name].wrong(str(error)) from None

    midnight = None if "jobs" in values else now.replace(hour=0, minute=0, second=0, microsecond=0)
    return moment("starttime") or midnight, moment("endtime")


def _sshare(values: Values, words: tuple[str, ...]) -> None:
    """Shares of the members beside this month's use, in Slurm's columns."""
    from dure.cli.slurm.columns import by_names
    from dure.cli.slurm.fields import SSHARE_DEFAULT, SSHARE_FIELDS, SSHARE_LONG, shares
    from dure.client import Client

    _no_words(words)
    with Client() as dure:
        rows = shares(dure.members(), dure.usage(by="member"))
    wanted = _split(values, "accounts")
    rows = [row for row in rows if not wanted or row.account in wanted]
    if "json" in values:
        from dataclasses import asdict

        echo_json({"shares": [asdict(row) | {"fairshare": row.fairshare} for row in rows]})
        return
    given = values.get("format")
    default = given.value if given else SSHARE_LONG if "long" in values else SSHARE_DEFAULT
    _print_fields(values, by_names(SSHARE_FIELDS, default, given), rows)


def _print_fields(values: Values, columns: Sequence[Any], rows: Sequence[Any]) -> None:
    from dure.cli.slurm.columns import fixed_lines, parsable_lines

    has_head = "noheader" not in values
    if "parsable" in values or "parsable2" in values:
        _say(parsable_lines(columns, rows, has_head, "|", "parsable" in values))
    else:
        _say(fixed_lines(columns, rows, has_head, has_rule=True))


def _no_words(words: tuple[str, ...]) -> None:
    if words:
        raise InputError(f"takes no word such as {words[0]!r}")


def _say(lines: Sequence[str]) -> None:
    for line in lines:
        click.echo(line)


sbatch = _command(_sbatch, "sbatch")
srun = _command(_srun, "srun")
squeue = _command(_squeue, "squeue")
scancel = _command(_scancel, "scancel")
sinfo = _command(_sinfo, "sinfo")
sacct = _command(_sacct, "sacct")
sshare = _command(_sshare, "sshare")
