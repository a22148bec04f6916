"""`dure`: the command and what all of its commands share."""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from dure import __version__
from dure.model.errors import DureError, InputError
from dure.model.finite import finite

#: Command → (module, attribute): a module is imported when its command is called, so that `--help` is fast.
_COMMANDS = {
    "agent": ("dure.cli.agent", "agent", "Run a site's leases on this machine."),
    "alliance": ("dure.cli.alliance", "alliance", "Read and check an alliance file."),
    "audit": ("dure.cli.shared", "audit", "Replay the service's log and prove every decision again."),
    "bench": ("dure.cli.bench", "bench", "Measure placement and scale."),
    "blueprint": ("dure.cli.blueprint", "blueprint", "Jobs and pipelines of many fields, to be taken and changed."),
    "cancel": ("dure.cli.jobs", "cancel", "Take jobs back."),
    "compare": ("dure.cli.twin", "compare", "Compare policies or alliances in a scenario."),
    "compile": ("dure.cli.twin", "compile_kernels", "Compile every kernel once."),
    "explain": ("dure.cli.jobs", "explain", "Why does a job wait, and until when?"),
    "forecast": ("dure.cli.twin", "forecast", "When will the waiting jobs start?"),
    "jobs": ("dure.cli.jobs", "jobs", "List jobs."),
    "login": ("dure.cli.login", "login", "Sign in with your organisation's provider."),
    "logout": ("dure.cli.login", "logout", "End and forget the token that `dure login` kept."),
    "logs": ("dure.cli.jobs", "logs", "What a job has written."),
    "members": ("dure.cli.shared", "members", "Shares, use and loans of the members."),
    "node": ("dure.cli.sites", "node", "List the machines; close, empty and open them."),
    "pipeline": ("dure.cli.jobs", "pipeline", "Check a pipeline file; show a pipeline's jobs."),
    "project": ("dure.cli.shared", "project", "List and make projects."),
    "ran": ("dure.cli.ran", "ran", "Cell sites: the radio first, the rest of the GPU lent; energy."),
    "replay": ("dure.cli.twin", "replay", "Replay a trace on a fleet under a policy."),
    "run": ("dure.cli.jobs", "run", "Run a command as a job and follow it."),
    "sacct": ("dure.cli.slurm.commands", "sacct", "Slurm's sacct: jobs that have run."),
    "sbatch": ("dure.cli.slurm.commands", "sbatch", "Slurm's sbatch: hand in a batch script."),
    "scancel": ("dure.cli.slurm.commands", "scancel", "Slurm's scancel: cancel jobs."),
    "serve": ("dure.cli.serve", "serve", "Run the service alone."),
    "service": ("dure.cli.jobs", "service", "Where a service is running."),
    "sinfo": ("dure.cli.slurm.commands", "sinfo", "Slurm's sinfo: sites and nodes."),
    "site": ("dure.cli.sites", "site", "Add sites, list them; close, empty and open them."),
    "squeue": ("dure.cli.slurm.commands", "squeue", "Slurm's squeue: jobs not ended."),
    "srun": ("dure.cli.slurm.commands", "srun", "Slurm's srun: run tasks and follow them."),
    "sshare": ("dure.cli.slurm.commands", "sshare", "Slurm's sshare: shares and use."),
    "submit": ("dure.cli.jobs", "submit", "Hand in a job file or a pipeline file."),
    "token": ("dure.cli.shared", "token", "List, make and revoke tokens."),
    "top": ("dure.cli.top", "top", "The alliance at a glance, live."),
    "tour": ("dure.cli.tour", "tour", "A trace and a day of the reference alliance, with reports."),
    "trace": ("dure.cli.trace", "trace", "Look into recorded load."),
    "twin": ("dure.cli.goodput", "twin", "Models that need no trace: time lost to failures."),
    "up": ("dure.cli.serve", "up", "Start everything on this machine."),
    "usage": ("dure.cli.shared", "usage", "GPU time and energy by member, project or user."),
    "whoami": ("dure.cli.shared", "whoami", "Whose token is this, and what may it do?"),
}


class _Lazy(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, attribute, _ = _COMMANDS[cmd_name]
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, _COMMANDS[name][2]) for name in sorted(_COMMANDS)])


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="dure")
@click.option("--insecure", is_flag=True, help="Let the token go to another machine unencrypted (DURE_INSECURE=1).")
def cli(insecure: bool) -> None:
    """Dure (두레): one GPU fleet that many organisations own and use together."""
    if insecure:
        os.environ["DURE_INSECURE"] = "1"


def main() -> None:
    """Run the command.

    Exit codes: 0 done, 2 bad input or usage (one line on standard error), 130 interrupted.
    """
    try:
        cli.main(standalone_mode=False)
        sys.stdout.flush()
    except DureError as error:
        _fail(str(error))
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(2)
    except click.ClickException as error:
        _fail(error.format_message())
    except BrokenPipeError:
        # The reader has gone (`dure … | head`): what is still buffered has no way out.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (click.exceptions.Abort, KeyboardInterrupt):
        sys.exit(130)


def _fail(message: str) -> None:
    click.echo("dure: " + " ".join(message.split()), err=True)
    sys.exit(2)


def emit(data: dict[str, Any], is_json: bool) -> None:
    """Print a result: as JSON, or a key a line. What is not a number (nan) is null in JSON."""
    if is_json:
        echo_json(data)
        return
    width = max((len(key) for key in data), default=0)
    for key, value in data.items():
        click.echo(f"{key:<{width}}  {_number(value) if isinstance(value, float) else value}")


def _number(value: float) -> str:
    return f"{value:,.3f}" if value == 0 or abs(value) >= 0.1 else f"{value:.3g}"


def echo_json(value: Any) -> None:
    """Print a value as one line of JSON; what is not a number (nan) is null."""
    click.echo(json.dumps(finite(value), ensure_ascii=False, allow_nan=False))


class OwnFile(click.Path):
    """Path of a file that an operator writes, or `example:NAME` of one that comes with Dure."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path, of an example where it is in the package."""
        from dure.examples import EXAMPLE, example_path

        if str(value).startswith(EXAMPLE):
            value = str(example_path(str(value).removeprefix(EXAMPLE)))
        return super().convert(value, param, ctx)


def check_output(path: str | None, field: str) -> None:
    """Before hours of work: whether a file can be written there.

    Raises
    ------
    InputError
        Its folder is absent or may not be written to, or a folder has its name.
    """
    if path is None:
        return
    target = Path(path)
    if target.is_dir():
        raise InputError("is a folder; name a file", path, field=field)
    if not target.parent.is_dir():
        raise InputError(f"there is no folder {target.parent}", path, field=field)
    if not os.access(target.parent, os.W_OK):
        raise InputError(f"the folder {target.parent} may not be written to", path, field=field)


@contextmanager
def progress(label: str) -> Iterator[Callable[[int, int], None]]:
    """A bar with the time left, on standard error and only on a terminal: gives the callback (done, total) that
    moves it, and fills it when the work has come to its end.
    """
    bar = click.progressbar(
        length=1, label=label, show_eta=True, file=sys.stderr, hidden=not sys.stderr.isatty(), width=30
    )

    def move(done: int, total: int) -> None:
        bar.length = max(total, 1)
        bar.update(done - bar.pos)

    with bar:
        yield move
        move(bar.length or 1, bar.length or 1)


if __name__ == "__main__":
    main()
