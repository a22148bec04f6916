"""`dure top`: the alliance on one screen, drawn again every few seconds."""

from __future__ import annotations

import shutil
import sys
import time
from datetime import datetime
from typing import TYPE_CHECKING

import click

from dure.cli.jobs import job_lines
from dure.cli.main import echo_json
from dure.cli.shared import member_lines
from dure.cli.table import fitted, shown

if TYPE_CHECKING:
    from dure.client import Client
    from dure.client.views import JobView, Member, Node

#: Terminal: go to the upper left; clear from here to the line's end; to the screen's end; other screen on and off.
_HOME, _CLEAR_LINE, _CLEAR_REST, _SCREEN_ON, _SCREEN_OFF = "\x1b[H", "\x1b[K", "\x1b[J", "\x1b[?1049h", "\x1b[?1049l"


@click.command()
@click.option("--once", is_flag=True, help="One screen, then leave; so also where there is no terminal.")
@click.option("--every", default=2.0, show_default=True, type=click.FloatRange(0.2), help="Seconds between two screens.")
@click.option("--json", "is_json", is_flag=True, help="What one screen shows, as JSON.")
def top(once: bool, every: float, is_json: bool) -> None:
    """The alliance at a glance: nodes, the members that are busy, what runs, what waits and why. Ctrl-C leaves."""
    from dure.client import Client

    with Client() as dure:
        if is_json:
            members, nodes, running, waiting = _look(dure, 100)
            parts = {"members": members, "nodes": nodes, "running": running, "waiting": waiting}
            echo_json({key: [view.model_dump(mode="json") for view in part] for key, part in parts.items()})
            return
        if once or not sys.stdout.isatty():
            size = shutil.get_terminal_size((120, 40))
            click.echo("\n".join(line.rstrip() for line in _screen(dure, size.columns, size.lines)))
            return
        _refresh(dure, every)


def _refresh(dure: Client, every_s: float) -> None:
    sys.stdout.write(_SCREEN_ON)
    try:
        while True:
            size = shutil.get_terminal_size()
            lines = _screen(dure, size.columns, size.lines)
            sys.stdout.write(_HOME + "\r\n".join(line + _CLEAR_LINE for line in lines) + _CLEAR_REST)
            sys.stdout.flush()
            time.sleep(every_s)
    except KeyboardInterrupt:
        return
    finally:
        sys.stdout.write(_SCREEN_OFF)
        sys.stdout.flush()


_Seen = tuple[tuple["Member", ...], tuple["Node", ...], tuple["JobView", ...], tuple["JobView", ...]]


def _look(dure: Client, limit: int) -> _Seen:
    running = dure.jobs(state=("ADMITTED", "RUNNING", "SUSPENDED", "COMPLETING"), limit=limit).jobs
    return dure.members(), dure.nodes(), running, dure.jobs(state="PENDING", limit=limit).jobs


def _screen(dure: Client, columns: int, height: int) -> list[str]:
    """As many lines as the terminal has, each as wide as it is."""
    members, nodes, running, waiting = _look(dure, min(max(height, 1), 1000))
    up = [node for node in nodes if node.state == "up"]
    used, gpus = sum(node.used_gpus for node in nodes), sum(node.gpus for node in nodes)
    head = [
        f"{dure.settings.url}  {shown(datetime.now().astimezone())}",
        f"nodes {len(up):,} of {len(nodes):,} up   GPUs {used:,.0f} of {gpus:,} in use   {_bar(used, gpus, 30)}",
        "",
    ]
    busy = [m for m in members if m.used_gpus or m.lent_gpus or m.waiting_jobs]
    busy.sort(key=lambda m: (-m.used_gpus, -m.waiting_jobs, m.name))
    member_part = member_lines(busy[: max(height // 3, 1)])
    left = max(height - len(head) - len(member_part) - 6, 2)
    num_running = min(len(running), max(left // 2, left - len(waiting)))
    lines = [
        *head, *member_part, "", "RUNNING", *job_lines(running[:num_running]), "", "WAITING", *job_lines(waiting),
    ]  # fmt: skip
    return [fitted(line, columns) for line in lines[:height]]


def _bar(part: float, whole: float, columns: int) -> str:
    filled = round(columns * min(part / whole, 1)) if whole else 0
    return "[" + "#" * filled + "." * (columns - filled) + "]"
