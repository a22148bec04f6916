"""`dure site`, `dure node`: what there is, letting a site join, and closing, emptying and opening what is there."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import click

from dure.cli.main import echo_json
from dure.cli.shared import listed
from dure.cli.table import shown
from dure.model.errors import InputError
from dure.model.yaml_file import parse_duration

if TYPE_CHECKING:
    from dure.client.views import NewToken, Node, Site, SiteJoined

SITE_COLUMNS = {
    "SITE": "name", "STATE": "state", "AGENT": "agent", "GPUS": "gpus", "ONLINE": "online_gpus", "USED": "used_gpus",
    "NODES": "nodes", "UP": "nodes_up", "RELEASED": "released",
}  # fmt: skip
NODE_COLUMNS = {
    "NODE": "name", "SITE": "site", "TYPE": "gpu_type", "GPUS": "gpus", "USED": "used_gpus", "STATE": "state",
}  # fmt: skip
_NOTICE = click.option("--notice", default="", help="Such as 10m; default: that of a job above its member's share.")
_JSON = click.option("--json", "is_json", is_flag=True)


def _seconds(text: str, option: str) -> float:
    try:
        return parse_duration(text) / 1000
    except ValueError as error:
        raise InputError(str(error), field=option) from None


def _notice_s(notice: str) -> float | None:
    return _seconds(notice, "--notice") if notice else None


def _show(view: Site | Node, is_json: bool) -> None:
    if is_json:
        echo_json(view.model_dump(mode="json"))
    else:
        click.echo(f"{view.name} is {view.state}")


@click.group()
def site() -> None:
    """Add, list, close, empty and open sites."""


@site.command("list")
@_JSON
def list_sites(is_json: bool) -> None:
    """The sites, their agents, and what is in use."""
    from dure.client import Client

    with Client() as dure:
        listed(dure.sites(), SITE_COLUMNS, is_json)


@site.command("add")
@click.argument("path", type=click.Path())
@_JSON
def add_site(path: str, is_json: bool) -> None:
    """Let a site join the running alliance: PATH has the keys of a site in an alliance's file.

    Prints the token with which its agent enrols, this once.
    """
    from dure.client import Client
    from dure.model.alliance_growth import load_site
    from dure.twin.files import read_text

    text = read_text(path)
    load_site(text, path)
    with Client() as dure:
        made = dure.add_site(text)
    if is_json:
        echo_json(made.model_dump(mode="json"))
        return
    click.echo(f"{made.site.name} has joined: {made.site.gpus} GPUs on {made.site.nodes} nodes")
    _tell_agent(made.site.name, made)


@site.command("enrol")
@click.argument("name")
@_JSON
def enrol(name: str, is_json: bool) -> None:
    """Make a token with which an agent of a site enrols, once, within an hour. It is printed this once."""
    from dure.client import Client

    with Client() as dure:
        made = dure.make_enrolment(name)
    if is_json:
        echo_json(made.model_dump(mode="json"))
    else:
        _tell_agent(name, made)


def _tell_agent(name: str, made: NewToken | SiteJoined) -> None:
    click.echo(f"On a machine of {name}, before {shown(made.expires_at) if made.expires_at else 'long'}:")
    click.echo(f"  DURE_URL=… DURE_ENROL_TOKEN={made.token} dure agent --site {shlex.quote(name)}")


@site.command("cordon")
@click.argument("name")
@_JSON
def cordon_site(name: str, is_json: bool) -> None:
    """Close a site: nothing new starts there, what runs goes on."""
    from dure.client import Client

    with Client() as dure:
        _show(dure.cordon_site(name), is_json)


@site.command("drain")
@click.argument("name")
@_NOTICE
@_JSON
def drain_site(name: str, notice: str, is_json: bool) -> None:
    """Close a site, and make what runs there save its work, leave and go on elsewhere.

    Returns at once; the site is `draining` until all have left.
    """
    from dure.client import Client

    with Client() as dure:
        _show(dure.drain_site(name, _notice_s(notice)), is_json)


@site.command("uncordon")
@click.argument("name")
@_JSON
def uncordon_site(name: str, is_json: bool) -> None:
    """Open a site again. Nodes that were closed by themselves stay closed."""
    from dure.client import Client

    with Client() as dure:
        _show(dure.uncordon_site(name), is_json)


@site.command("release")
@click.argument("name")
@click.option("--part", type=click.FloatRange(0, 1), required=True, help="Of the site's GPUs, rounded down to whole nodes of each cluster.")
@click.option("--for", "how_long", required=True, help="Such as 10m. Then its hours count again: at once, where it is 0s.")
@_JSON
def release_site(name: str, part: float, how_long: str, is_json: bool) -> None:
    """Say what part of a cell site its radio releases for some time, in place of its hours.

    What runs on the rest leaves within the site's `vacate`.
    """
    from dure.client import Client

    for_s = _seconds(how_long, "--for")
    with Client() as dure:
        view = dure.release_site(name, part, for_s)
    if is_json:
        echo_json(view.model_dump(mode="json"))
    else:
        click.echo(f"{view.name} releases {view.released:.0%}" + (f" until {shown(view.released_until)}" if view.released_until else " by its hours"))


@click.group()
def node() -> None:
    """List, close, empty and open nodes."""


@node.command("list")
@_JSON
def list_nodes(is_json: bool) -> None:
    """The machines, what is in them and in use."""
    from dure.client import Client

    with Client() as dure:
        listed(dure.nodes(), NODE_COLUMNS, is_json)


@node.command("cordon")
@click.argument("name")
@_JSON
def cordon_node(name: str, is_json: bool) -> None:
    """Close a node: nothing new starts there, what runs goes on."""
    from dure.client import Client

    with Client() as dure:
        _show(dure.cordon_node(name), is_json)


@node.command("drain")
@click.argument("name")
@_NOTICE
@_JSON
def drain_node(name: str, notice: str, is_json: bool) -> None:
    """Close a node, and make what runs there save its work, leave and go on elsewhere.

    Returns at once; the node is `draining` until all have left. Gangs leave whole.
    """
    from dure.client import Client

    with Client() as dure:
        _show(dure.drain_node(name, _notice_s(notice)), is_json)


@node.command("uncordon")
@click.argument("name")
@_JSON
def uncordon_node(name: str, is_json: bool) -> None:
    """Open a node again. It stays closed as long as its site is."""
    from dure.client import Client

    with Client() as dure:
        _show(dure.uncordon_node(name), is_json)
