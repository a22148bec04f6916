"""`dure`: the command and what all of its commands share."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from typing import Any

import click

from dure import __version__
from dure.model.errors import DureError

#: Command → (module, attribute): a module is imported when its command is called, so that `--help` is fast.
_COMMANDS = {
    "alliance": ("dure.cli.alliance", "alliance", "Read and check an alliance file."),
    "bench": ("dure.cli.bench", "bench", "Measure placement and scale."),
    "compare": ("dure.cli.twin", "compare", "Compare policies or alliances in a scenario."),
    "compile": ("dure.cli.twin", "compile_kernels", "Compile every kernel once."),
    "forecast": ("dure.cli.twin", "forecast", "When will the waiting jobs start?"),
    "replay": ("dure.cli.twin", "replay", "Replay a trace on a fleet under a policy."),
    "tour": ("dure.cli.tour", "tour", "A real trace and a day of the reference alliance, with a report."),
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
def cli() -> None:
    """Dure (두레): one GPU fleet that many organisations own and use together."""


def main() -> None:
    """Run the command; a DureError is one line on standard error and exit code 2."""
    try:
        cli.main(standalone_mode=False)
    except DureError as error:
        click.echo(f"dure: {error}", err=True)
        sys.exit(2)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except click.exceptions.Abort:
        sys.exit(130)


def emit(data: dict[str, Any], is_json: bool) -> None:
    """Print a result: as JSON, or a key a line."""
    if is_json:
        click.echo(json.dumps(data, ensure_ascii=False))
        return
    width = max((len(key) for key in data), default=0)
    for key, value in data.items():
        click.echo(f"{key:<{width}}  {f'{value:,.3f}' if isinstance(value, float) else value}")


def progress_bar(label: str) -> tuple[Any, Callable[[int, int], None]]:
    """A bar with the time left, on standard error and only on a terminal; and the callback that moves it."""
    bar = click.progressbar(
        length=1, label=label, show_eta=True, file=sys.stderr, hidden=not sys.stderr.isatty(), width=30
    )

    def move(done: int, total: int) -> None:
        bar.length = max(total, 1)
        bar.update(done - bar.pos)

    return bar, move


if __name__ == "__main__":
    main()
