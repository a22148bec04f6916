"""`dure members`, `usage`, `audit`, `whoami`, `token`, `project`: what the members share and who may do what."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from dure.cli.main import echo_json, emit
from dure.cli.table import Cell, said, shown, table

if TYPE_CHECKING:
    from dure.client.views import Member, View

ROLES = ("operator", "member_admin", "project_lead", "user", "auditor", "agent")


def listed(found: Sequence[View], columns: dict[str, str], is_json: bool) -> None:
    """Print a list: all of its keys as JSON, or the columns (heading: attribute)."""
    if is_json:
        echo_json([view.model_dump(mode="json") for view in found])
        return
    rows: list[list[Cell | datetime]] = [[getattr(view, name) for name in columns.values()] for view in found]
    for line in table(list(columns), rows):
        click.echo(line)


@click.command()
@click.option("--json", "is_json", is_flag=True)
def members(is_json: bool) -> None:
    """What each member is guaranteed, uses, borrows and lends now, in GPUs."""
    from dure.client import Client

    with Client() as dure:
        found = dure.members()
    if is_json:
        echo_json([member.model_dump(mode="json") for member in found])
        return
    for line in member_lines(found):
        click.echo(line)


def member_lines(found: Sequence[Member]) -> list[str]:
    """A table of members."""
    return table(
        ("MEMBER", "KIND", "GUARANTEE", "USED", "BORROWED", "LENT", "WAITING"),
        [
            (m.name, m.kind, m.guarantee_gpus, m.used_gpus, m.borrowed_gpus, m.lent_gpus, m.waiting_jobs) for m in found
        ],
    )


@click.command()
@click.option("--by", type=click.Choice(("member", "project", "user")), default="member", show_default=True)
@click.option("--month", default="", help="YYYY-MM; default: this one.")
@click.option("--json", "is_json", is_flag=True)
def usage(by: str, month: str, is_json: bool) -> None:
    """GPU time of a month: on one's own GPUs, borrowed and lent beside each other; energy where it was measured."""
    from dure.client import Client

    with Client() as dure:
        found = dure.usage(by=by, month=month)
    if is_json:
        echo_json(found.model_dump(mode="json"))
        return
    rows = [
        (
            row.key, row.gpu_type, row.gpu_seconds / 3600, row.own_gpu_seconds / 3600, row.borrowed_gpu_seconds / 3600,
            row.lent_gpu_seconds / 3600, row.energy_kwh, row.attempts,
        )
        for row in found.rows
    ]  # fmt: skip
    headers = (by.upper(), "TYPE", "GPU-HOURS", "OWN", "BORROWED", "LENT", "KWH", "ATTEMPTS")
    for line in [*([found.month] if found.month else []), *table(headers, rows)]:
        click.echo(line)


@click.command()
@click.option("--json", "is_json", is_flag=True)
def audit(is_json: bool) -> None:
    """Replay the service's whole log, prove every decision again and check the chain of hashes.

    Exit code 1 on any mismatch.
    """
    from dure.client import Client

    with Client() as dure:
        found = dure.audit()
    counts = found.model_dump(mode="json", exclude=set() if is_json and found.mismatches else {"findings"})
    emit(counts, is_json)
    if found.mismatches:
        for finding in found.findings:
            click.echo(f"dure: {said(finding)}", err=True)
        sys.exit(1)


@click.command()
@click.option("--json", "is_json", is_flag=True)
def whoami(is_json: bool) -> None:
    """Whose token this is, and what it may do."""
    from dure.client import Client

    with Client() as dure:
        found = dure.whoami()
    if is_json:
        echo_json(found.model_dump(mode="json"))
        return
    facts: dict[str, Any] = {"user": found.user, "roles": ", ".join(role.words for role in found.roles) or "none"}
    facts |= {"default project": found.default_project} if found.default_project else {}
    facts |= {"expires": shown(found.expires_at)} if found.expires_at else {}
    emit(facts, False)


@click.group()
def project() -> None:
    """List and make projects."""


@project.command("list")
@click.option("--json", "is_json", is_flag=True)
def list_projects(is_json: bool) -> None:
    """The projects that you may see."""
    from dure.client import Client

    with Client() as dure:
        listed(dure.projects(), {"PROJECT": "name", "MEMBER": "member", "WEIGHT": "weight"}, is_json)


@project.command("create")
@click.argument("name")
@click.option("--member", required=True)
@click.option("--weight", type=click.FloatRange(0, min_open=True), default=None, help="Beside the member's other projects; default: 1.")
@click.option("--json", "is_json", is_flag=True)
def create_project(name: str, member: str, weight: float | None, is_json: bool) -> None:
    """Make a project of a member's."""
    from dure.client import Client

    with Client() as dure:
        emit(dure.create_project(name, member, weight).model_dump(mode="json"), is_json)


@click.group()
def token() -> None:
    """List, make and revoke tokens."""


@token.command("list")
@click.option("--json", "is_json", is_flag=True)
def list_tokens(is_json: bool) -> None:
    """The tokens that you may see, without their secrets."""
    from dure.client import Client

    columns = {
        "TOKEN": "token_id", "NAME": "name", "USER": "user", "ROLES": "role_words",
        "EXPIRES": "expires_at", "REVOKED": "is_revoked",
    }  # fmt: skip
    with Client() as dure:
        listed(dure.tokens(), columns, is_json)


@token.command("create")
@click.argument("user")
@click.option("--role", type=click.Choice(ROLES), default="user", show_default=True)
@click.option("--member", default="", help="Where the role holds.")
@click.option("--project", default="", help="Where the role holds.")
@click.option("--site", default="", help="Of an agent.")
@click.option("--expires-in", default="", help="Such as 30d; default: the service's own.")
@click.option("--name", default="", help="To know it by.")
@click.option("--json", "is_json", is_flag=True)
def create_token(
    user: str, role: str, member: str, project: str, site: str, expires_in: str, name: str, is_json: bool
) -> None:
    """Make a token for someone; its secret is printed this once."""
    from dure.client import Client
    from dure.model.errors import InputError
    from dure.model.yaml_file import parse_duration

    try:
        expires_in_s = parse_duration(expires_in) // 1000 if expires_in else None
    except ValueError as error:
        raise InputError(str(error), field="--expires-in") from None
    with Client() as dure:
        made = dure.create_token(
            user, role, member=member, project=project, site=site, expires_in_s=expires_in_s, name=name
        )
    emit(made.model_dump(mode="json"), is_json)


@token.command()
@click.argument("token_id")
@click.option("--json", "is_json", is_flag=True)
def revoke(token_id: str, is_json: bool) -> None:
    """End a token's life."""
    from dure.client import Client

    with Client() as dure:
        dure.revoke_token(token_id)
    emit({"revoked": token_id}, is_json)
