"""`dure up` and `dure serve`: the live service, with and without an agent for this machine."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import ssl
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dure.cli.main import OwnFile
from dure.model.errors import InputError

if TYPE_CHECKING:
    from dure.service.app import Service
    from dure.service.oidc import OidcConfig

#: Says whether it went well and whether the service is to stop.
Tour = Callable[[], tuple[bool, bool]]
#: What the console needs beyond the service; without them the service runs without it.
_CONSOLE_PACKAGES = ("nicegui", "babel")

_OPTIONS = (
    click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; the default is this machine's own."),
    click.option("--port", default=8080, type=click.IntRange(0, 65535), show_default=True, help="0: any free one."),
    click.option("--data-dir", type=click.Path(file_okay=False), help="Folder of the data; default: in your home folder."),
    click.option("--database", default="", help="SQLAlchemy URL; default: SQLite in the data folder."),
    click.option("--alliance", type=OwnFile(), default="example:alliance", show_default=True, help="Alliance to begin with."),
    click.option("--policy", default="dure", show_default=True, help="Policy to begin with."),
    click.option("--oidc", type=click.Path(dir_okay=False), help="File that says how people sign in with an OpenID Connect provider."),
    click.option("--tls-cert", type=click.Path(dir_okay=False), help="Certificate with its chain, PEM: the service speaks https."),
    click.option("--tls-key", type=click.Path(dir_okay=False), help="Its key, PEM, without a passphrase."),
    click.option("--ttl-s", default=7200, type=click.IntRange(10, 30 * 86_400), show_default=True,
                 help="So long an agent goes on without contact."),
)  # fmt: skip


def _with_options(command: Any) -> Any:
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@dataclass(frozen=True)
class _Options:
    """What both commands are told."""

    host: str
    port: int
    data_dir: str | None
    database: str
    alliance: str
    policy: str
    oidc: str | None
    tls_cert: str | None
    tls_key: str | None
    ttl_s: int


@dataclass(frozen=True)
class _Tls:
    """Files of a certificate and its key."""

    cert: str
    key: str


@click.command()
@_with_options
def serve(**options: Any) -> None:
    """Run the service alone; agents come from elsewhere."""
    _run(_Options(**options), None)


@click.command()
@_with_options
@click.option("--gpus", type=click.IntRange(1, 1024), default=8, show_default=True,
              help="GPUs of this machine; stand-ins where it has none.")  # fmt: skip
@click.option("--owner", default="", help="Member that brings this machine in; default: the alliance's first.")
@click.option("--gpu-type", default="", help="Type of this machine's GPUs, of the alliance's; default: its first.")
@click.option("--reaches", multiple=True, metavar="AREA=MS", help="An area whose devices this machine serves, and the round trip there; again for more.")
@click.option("--tour", "is_touring", is_flag=True, help="Play a short tour through the API once it is up.")
@click.option("--once", "is_once", is_flag=True, help="With --tour: stop after it, with exit code 0, or 1 where it failed.")
def up(gpus: int, owner: str, gpu_type: str, reaches: tuple[str, ...], is_touring: bool, is_once: bool, **options: Any) -> None:
    """Start everything on this machine: service, database and an agent, loaded with the reference alliance.

    Prints the address and, at the first start, the operator's token. Runs until it is stopped; jobs go on meanwhile and
    are taken up at the next start.
    """
    if is_once and not is_touring:
        raise InputError("goes with --tour", field="--once")
    is_good = _run(_Options(**options), _Machine(gpus, owner, gpu_type, _trips(reaches)), is_touring, is_once)
    if is_once and not is_good:
        sys.exit(1)


@dataclass(frozen=True)
class _Machine:
    """What this machine is as a site: of whom, and with what; ``reaches`` as of a site in an alliance's file."""

    gpus: int
    owner: str
    gpu_type: str
    reaches: dict[str, float]


def _trips(reaches: Sequence[str]) -> dict[str, float]:
    """``city=2.5`` as areas with ms."""
    found = {}
    for text in reaches:
        area, _, trip = text.partition("=")
        try:
            found[area] = float(trip)
        except ValueError:
            raise InputError(f"{text!r} is not AREA=MS; write city=2.5", field="--reaches") from None
    return found


def _run(given: _Options, machine: _Machine | None, is_touring: bool = False, is_once: bool = False) -> bool:
    """Serve until stopped; whether the tour, if there was one, went well."""
    from dure.cli.logs import configure_logging
    from dure.policy.config import named_policy
    from dure.service.app import Service, Settings
    from dure.service.up import begin, data_folder, with_machine
    from dure.twin.files import read_text
    from dure.twin.warm import warm

    named_policy(given.policy)
    oidc, tls = _provider(given.oidc), _tls(given.tls_cert, given.tls_key)
    folder = data_folder(given.data_dir)
    text = read_text(given.alliance)
    listener = listen(given.host, given.port)
    # What a tour tells is not to be lost between the lines of what went as it should.
    configure_logging(logging.WARNING if is_touring else logging.INFO)
    click.echo("Getting ready (the first time this takes twenty seconds) …", err=True)
    warm()
    port, is_everywhere = listener.getsockname()[1], given.host in ("0.0.0.0", "::")
    scheme = "http" if tls is None else "https"
    url = f"{scheme}://{_in_url('127.0.0.1' if is_everywhere else given.host)}:{port}"
    told = f"{scheme}://{socket.getfqdn()}:{port}" if is_everywhere else url
    database = given.database or f"sqlite:///{folder / 'dure.db'}"
    service = Service(Settings(database, folder, ttl_ms=given.ttl_s * 1000, oidc=oidc, url=told))
    service.store.open()
    is_new = service.store.document() is None
    if is_new:
        if machine is not None:
            text = with_machine(text, machine.gpus, *_owner_and_type(text, given.alliance, machine.owner, machine.gpu_type), machine.reaches)
        begin(service, text, given.alliance, given.policy)
    service.open()
    agent_token = _greet(service, folder, url if tls is None else told, is_new)
    tour = _tour(url, folder, is_once) if is_touring else None
    return asyncio.run(_serve(service, listener, url, folder if machine is not None else None, agent_token, tour, tls))


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _tls(cert: str | None, key: str | None) -> _Tls | None:
    """A certificate and its key that fit together; None: neither is given."""
    if cert is None and key is None:
        return None
    if cert is None or key is None:
        raise InputError("go together", field="--tls-cert, --tls-key")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, lambda: "")
    except (OSError, ValueError, ssl.SSLError) as error:
        raise InputError(f"no certificate with its key in {key}: {error}", cert, field="--tls-cert") from None
    return _Tls(cert, key)


def _provider(path: str | None) -> OidcConfig | None:
    """The provider that people sign in with, and the packages for it."""
    if path is None:
        return None
    from dure.service.oidc import load_oidc

    if find_spec("authlib") is None or find_spec("itsdangerous") is None:
        raise InputError("needs the packages of dure[oidc]", field="--oidc")
    return load_oidc(Path(path))


def _tour(url: str, folder: Path, is_once: bool) -> Tour:
    """The tour as a call that says whether it went well and whether the service is to stop."""

    def play_it() -> tuple[bool, bool]:
        from dure.cli.live_tour import play

        try:
            play(url, (folder / "operator.token").read_text(encoding="utf-8").strip())
        except Exception as error:  # whatever it was, the service must not be left waiting for the tour
            click.echo(f"dure: the tour failed: {error}", err=True)
            return False, is_once
        click.echo(f"\nThe alliance stays up at {url}; stop it with Ctrl-C." if not is_once else "\nThe tour went well.")
        sys.stdout.flush()
        return True, is_once

    return play_it


def _owner_and_type(text: str, source: str, owner: str, gpu_type: str) -> tuple[str, str]:
    from dure.model.alliance import load_alliance

    spec = load_alliance(text, source)
    members, types = [m.name for m in spec.members], [t.name for t in spec.gpu_types if t.scale == "node"]
    if owner and owner not in members:
        raise InputError(f"no member {owner!r}; there are {', '.join(members)}", source, field="--owner")
    if gpu_type and gpu_type not in types:
        raise InputError(f"no GPU type {gpu_type!r} of single nodes; there are {', '.join(types)}", source, field="--gpu-type")
    return owner or members[0], gpu_type or types[0]


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens for HTTP; raises InputError where it cannot."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # named: else answers wait for Nagle
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        raise InputError(f"cannot listen on {host} port {port}: {error.strerror}", field="--port") from None
    listener.listen(1024)
    return listener


def _greet(service: Service, folder: Path, url: str, is_new: bool) -> str:
    """Say where it is; at the first start make and show the operator's token."""
    from dure.client.settings import Settings, save_settings
    from dure.service.up import first_tokens, keep_secret

    secret = folder / "agent.token"
    if is_new:
        made = first_tokens(service, sorted(service.writer.member_names))
        if made.agent_token:
            keep_secret(secret, made.agent_token)
        keep_secret(folder / "operator.token", made.operator_token)
        click.echo(f"operator token (shown once): {made.operator_token}")
    elif not service.writer.is_leading:
        click.echo("another service leads; this one waits to take over", err=True)
    click.echo(f"Dure is up: {url}")
    operator = folder / "operator.token"
    if operator.is_file():
        with contextlib.suppress(OSError):
            save_settings(Settings(url, operator.read_text(encoding="utf-8").strip()))
    sys.stdout.flush()
    return secret.read_text(encoding="utf-8").strip() if secret.is_file() else ""


def _mount_console(app: Any, service: Service) -> None:
    """Serve the console too, where its packages are installed."""
    import structlog

    try:
        from dure.console.mount import mount
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _CONSOLE_PACKAGES:
            raise
        structlog.get_logger("dure").warning("no console", missing=error.name, install="dure[console]")
    else:
        mount(app, service)


async def _serve(
    service: Service, listener: socket.socket, url: str, agent_folder: Path | None, token: str, tour: Tour | None, tls: _Tls | None
) -> bool:
    import uvicorn

    from dure.service.app import create_app

    app = create_app(service)
    _mount_console(app, service)
    config = uvicorn.Config(
        app, log_level="warning", timeout_graceful_shutdown=5, access_log=False,
        ssl_certfile=None if tls is None else tls.cert, ssl_keyfile=None if tls is None else tls.key,
    )  # fmt: skip
    server = uvicorn.Server(config)
    agent = None

    def leave() -> None:
        service.wake_all()
        server.should_exit = True

    tasks: list[asyncio.Task[Any]] = [asyncio.create_task(server.serve(sockets=[listener]))]
    if agent_folder is not None and token:
        agent = _agent_of(service, url, agent_folder, token, tls)
        at_work = asyncio.create_task(agent.run())
        at_work.add_done_callback(lambda _: leave())
        tasks.append(at_work)

    def stop() -> None:
        # The agent first: its open question would keep the server waiting.
        if agent is not None:
            agent.stop()
        else:
            leave()

    async def guide() -> bool:
        if tour is None:
            return True
        is_good, is_over = await asyncio.to_thread(tour)
        if is_over:
            stop()
        return is_good

    touring = asyncio.create_task(guide())
    loop = asyncio.get_running_loop()
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    try:
        await asyncio.gather(*tasks)
        return touring.result() if touring.done() else True
    finally:
        await asyncio.to_thread(service.close)


def _only(cert: str) -> ssl.SSLContext:
    """Trust in one certificate, whatever it is called: that of the service in this same process."""
    context = ssl.create_default_context(cafile=cert)
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.check_hostname = False
    return context


def _agent_of(service: Service, url: str, folder: Path, token: str, tls: _Tls | None) -> Any:
    from dure.agent.agent import Agent, AgentConfig
    from dure.agent.folders import Folders
    from dure.executors.local import LocalExecutor
    from dure.executors.local_nodes import find_nodes
    from dure.service.up import MACHINE_SITE

    alliance = service.writer.alliance
    names = alliance.nodes_of_site(MACHINE_SITE)
    per_node = int(alliance.fleet.nodes["num_gpus"][alliance.node_index(names[0])]) if names else 0
    home = folder / "agent"
    runner = LocalExecutor(Folders(home.resolve()).state, find_nodes(names, per_node, ""))
    return Agent(AgentConfig(MACHINE_SITE, url, token, home, trust=None if tls is None else _only(tls.cert)), runner)
