"""Starting a service: its folder, its database, the alliance that it begins with, the tokens of the first hour."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from dure.model.alliance import load_alliance
from dure.model.errors import InputError
from dure.service.app import Service
from dure.service.commands import make_project, make_token
from dure.service.identity import Grant, Principal
from dure.service.schemas import NewProject, NewToken

#: The site of this machine in an alliance that `dure up` begins.
MACHINE_SITE = "this-machine"
#: GPUs of a node at most; a machine with more is shown as several.
NODE_GPUS = 8
YEAR_S = 365 * 86_400


@dataclass(frozen=True)
class Begun:
    """What a first start has made; the tokens are shown this once."""

    operator_token: str
    agent_token: str


def data_folder(path: str | None) -> Path:
    """The folder of a service's data, made if it is not there.

    Raises
    ------
    InputError
        It cannot be made or written to.
    """
    base = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    folder = Path(path) if path else Path(base) / "dure"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise InputError(f"cannot be made: {error.strerror}", str(folder), field="--data-dir") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError("may not be written to", str(folder), field="--data-dir")
    return folder


def with_machine(text: str, gpus: int, owner: str, gpu_type: str, reaches: Mapping[str, float]) -> str:
    """An alliance file's text with this machine as one more site of a member, its GPUs under that member's agreements; `reaches`: as of a site."""
    document = yaml.safe_load(text)
    per_node = gpus if gpus < NODE_GPUS else NODE_GPUS
    document["sites"].append(
        {
            "name": MACHINE_SITE,
            "reaches": dict(reaches),
            "clusters": [
                {"name": MACHINE_SITE, "owner": owner, "gpu_type": gpu_type, "gpus": -(-gpus // per_node) * per_node,
                 "gpus_per_node": per_node, "nodes_per_rack": 1, "racks_per_block": 1}
            ],
        }
    )  # fmt: skip
    made: str = yaml.safe_dump(document, sort_keys=False, allow_unicode=True)
    return made


def begin(service: Service, text: str, path: str, policy: str, now: datetime | None = None) -> None:
    """Write what the log begins with: the alliance on today's date.

    Raises
    ------
    InputError
        The alliance's file is wrong.
    """
    load_alliance(text, path)
    moment = now or datetime.now(UTC)
    midnight = moment.replace(hour=0, minute=0, second=0, microsecond=0)
    service.store.begin(
        {
            "alliance": text, "path": path, "policy": policy, "at": midnight.date().isoformat(),
            "start_ms": int(midnight.timestamp() * 1000), "format": 1,
        }
    )  # fmt: skip


def first_tokens(service: Service, members: list[str]) -> Begun:
    """The operator's token, and that of this machine's agent where it is a site; a project `main` for each of some members."""
    root = Principal("operator", (Grant("operator"),))

    def do(command: Any) -> Any:
        return service.writer.do(command, "service").result(timeout=60)

    for member in members:
        do(make_project(NewProject(name="main", member=member), root))
    operator = do(make_token(NewToken(user="operator", role="operator", name="first start", expires_in_s=YEAR_S), None))
    if all(site.name != MACHINE_SITE for site in service.writer.alliance.fleet.sites):
        return Begun(operator[1], "")
    agent = do(make_token(NewToken(user="agent", role="agent", site=MACHINE_SITE, name="this machine",
                                   expires_in_s=YEAR_S), None))  # fmt: skip
    return Begun(operator[1], agent[1])


def keep_secret(path: Path, text: str) -> None:
    """A file that only its owner may read."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
