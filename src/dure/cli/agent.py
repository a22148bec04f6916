"""`dure agent`: run a site's leases on this machine."""

from __future__ import annotations

import asyncio
import getpass
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import click
from click.core import ParameterSource

from dure.model.errors import InputError

if TYPE_CHECKING:
    from dure.agent.agent import Agent
    from dure.executors.slurm.engine import Engine
    from dure.ports.executor import Executor


@click.command()
@click.option("--site", required=True, help="The site that this agent serves.")
@click.option("--executor", type=click.Choice(["local", "slurm", "ray"]), default="local", show_default=True, help="What runs the jobs.")
@click.option("--gpus", type=click.IntRange(0), help="Slots that stand for GPUs, on each node; default: the GPUs found.")
@click.option("--gpu-type", default="", help="Default: that of the GPUs found.")
@click.option("--node-names", default="", help="Comma-separated; several: stand-ins for nodes. Default: the host's name.")
@click.option("--url", envvar="DURE_URL", required=True, help="Address of the service (DURE_URL); several of which one leads: with commas.")
@click.option("--enrol", "enrol_token", envvar="DURE_ENROL_TOKEN", default="",
              help="One-time token of `dure site enrol` (better: DURE_ENROL_TOKEN): the agent gets a key of its own.")
@click.option("--token", envvar="DURE_TOKEN", default="", help="Of role agent (better: DURE_TOKEN), instead of a key of its own.")
@click.option("--ca", "ca_file", envvar="DURE_CA_FILE", default="", help="Certificate authorities beside the system's, PEM (DURE_CA_FILE).")
@click.option("--insecure", "is_insecure", envvar="DURE_INSECURE", is_flag=True,
              help="Let the token go to another machine unencrypted (DURE_INSECURE=1).")
@click.option("--log-mib", default=256, type=click.IntRange(1, 1024), show_default=True, help="A task's log is cut there.")
@click.option("--keep-days", default=30, type=click.IntRange(1), show_default=True,
              help="So long the working folder of a job that does not run here is kept.")
@click.option("--data-dir", default="dure-agent", show_default=True, type=click.Path(file_okay=False, path_type=Path),
              help="What the agent must remember: on a disk of this machine.")
@click.option("--checkpoints", envvar="DURE_CHECKPOINTS", default="", metavar="PATH|URL",
              help="So that jobs move between sites: a folder that all of them share, or s3://bucket/path (file://…) to copy from and to.")
@click.option("--partition", default="", help="slurm: whose nodes are offered. Default: Slurm's.")
@click.option("--account", default="", help="slurm: whom Slurm bills. Default: Slurm's.")
@click.option("--address", envvar="RAY_ADDRESS", default="", help="ray: HOST:PORT of a cluster that this machine belongs to (RAY_ADDRESS).")
@click.option("--node-label", default="", help="ray: the label that names its nodes. Default: Ray's own name of each.")
@click.option("--slurmrestd", default="", help="slurm: unix:/path or http://host:port (then with SLURM_JWT), rather than by commands.")
@click.option(
    "--shared-dir", type=click.Path(file_okay=False, path_type=Path),
    help="slurm, ray: for logs, checkpoints and outputs, under the same path on every node.",
)  # fmt: skip
def agent(
    site: str, executor: str, gpus: int | None, gpu_type: str, node_names: str, url: str, enrol_token: str, token: str,
    ca_file: str, is_insecure: bool, log_mib: int, keep_days: int, data_dir: Path, checkpoints: str, partition: str, account: str,
    slurmrestd: str, address: str, node_label: str, shared_dir: Path | None,
) -> None:  # fmt: skip
    """Run the leases of a site, on this machine, as jobs of a Slurm cluster, or as actors of a Ray cluster.

    Connects to the service, never the other way. Jobs go on when the agent is stopped or killed; the next one takes
    them up from the same --data-dir.
    """
    from dure.agent.agent import KEY_FILE, Agent, AgentConfig
    from dure.agent.folders import Folders
    from dure.cli.logs import configure_logging
    from dure.client.settings import Settings
    from dure.client.trust import check_encrypted, trust_of

    for one in Settings(url).urls or [url]:
        check_encrypted(*_parts_of(one), is_insecure)
    trust = trust_of(ca_file)
    configure_logging()
    state_dir, key_file = Folders(data_dir.resolve()).state, data_dir.resolve() / KEY_FILE
    runner: Executor
    slurm = {"--partition": partition, "--account": account, "--slurmrestd": slurmrestd}
    ray = {"--address": address if _is_typed("address") else "", "--node-label": node_label}
    stand_ins = {"--gpus": gpus, "--node-names": node_names}
    if executor == "slurm":
        _refuse_other({**stand_ins, **ray, "--gpu-type": gpu_type}, executor)
        runner = _on_slurm(state_dir, _apart(shared_dir, data_dir), partition, account, slurmrestd)
    elif executor == "ray":
        _refuse_other({**stand_ins, **slurm}, executor)
        runner = _on_ray(state_dir, _apart(shared_dir, data_dir), address, gpu_type, node_label, log_mib)
    else:
        _refuse_other({**slurm, **ray, "--shared-dir": shared_dir}, executor)
        runner = _on_this_machine(state_dir, node_names, gpus, gpu_type, log_mib)
    config = AgentConfig(
        site, url, token, data_dir, keep_days, shared_dir=shared_dir, enrol_token=enrol_token, key_file=key_file,
        ca_file=str(Path(ca_file).resolve()) if ca_file else "", trust=trust, checkpoints=checkpoints,
    )  # fmt: skip
    asyncio.run(_run(Agent(config, runner)))


def _parts_of(address: str) -> tuple[str, str]:
    """Scheme and host."""
    try:
        parts = urlsplit(address)
        host = parts.hostname
    except ValueError:
        host = None
    if not host or parts.scheme not in ("http", "https"):
        raise InputError(f"not an address: {address!r}; write http://host:port or https://host:port", field="DURE_URL")
    return parts.scheme, host


def _is_typed(name: str) -> bool:
    """Whether an option comes from the command line, rather than from a variable that may be there for others."""
    return click.get_current_context().get_parameter_source(name) is ParameterSource.COMMANDLINE


def _refuse_other(options: Mapping[str, object], executor: str) -> None:
    for name, value in options.items():
        if value not in (None, ""):
            raise InputError(f"it means nothing with --executor {executor}", field=name)


def _apart(shared_dir: Path | None, data_dir: Path) -> Path:
    """The shared folder, if the agent's own is on no storage that is shared: its databases must not lie there."""
    from dure.agent.folders import network_filesystem

    if shared_dir is None:
        raise InputError("a folder that the nodes see under the same path is needed", field="--shared-dir")
    if data_dir.resolve().is_relative_to(shared_dir.resolve()):
        raise InputError("it must lie outside of --shared-dir, on a disk of this machine", field="--data-dir")
    found = network_filesystem(data_dir.resolve(), Path("/proc/self/mountinfo").read_text(encoding="utf-8"))
    if found is not None:
        raise InputError(f"it lies on {found}, and must on a disk of this machine", field="--data-dir")
    return shared_dir


def _on_slurm(state_dir: Path, shared_dir: Path, partition: str, account: str, slurmrestd: str) -> Executor:
    from dure.executors.ranks import inherited_env
    from dure.executors.slurm.commands import SlurmCommands
    from dure.executors.slurm.executor import SlurmExecutor
    from dure.executors.slurm.rest import SlurmRest

    # SLURM_CONF says which cluster it is; whatever else Slurm reads from the environment is not the jobs'.
    env = inherited_env() | {name: os.environ[name] for name in ("SLURM_CONF",) if name in os.environ}
    engine: Engine = SlurmCommands(env, account)
    if slurmrestd:
        engine = SlurmRest(slurmrestd, env, account, getpass.getuser(), os.environ.get("SLURM_JWT", ""))
    return SlurmExecutor(state_dir, shared_dir, engine, partition=partition)


def _on_ray(state_dir: Path, shared_dir: Path, address: str, gpu_type: str, node_label: str, log_mib: int) -> Executor:
    from importlib.util import find_spec

    from dure.executors.ray.executor import RayExecutor

    if find_spec("ray") is None:
        raise InputError("Ray is not installed: pip install 'dure[ray]', of the cluster's own version", field="--executor")
    if "://" in address or not address.rpartition(":")[2].isdigit():
        raise InputError(f"not HOST:PORT of a Ray cluster that this machine belongs to: {address!r}", field="--address")
    return RayExecutor(
        state_dir, shared_dir, address, gpu_type=gpu_type, name_label=node_label, log_max_bytes=log_mib << 20
    )


def _on_this_machine(state_dir: Path, node_names: str, gpus: int | None, gpu_type: str, log_mib: int) -> Executor:
    import structlog

    from dure.executors.local import LocalExecutor
    from dure.executors.local_nodes import find_nodes

    nodes = find_nodes([name for name in node_names.split(",") if name], gpus, gpu_type)
    if not any(info.gpus for info in nodes.infos):
        structlog.get_logger(__name__).warning("no gpus", detail="none were found; --gpus N offers slots that stand for them")
    return LocalExecutor(state_dir, nodes, log_max_bytes=log_mib << 20)


async def _run(agent: Agent) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, agent.stop)
    await agent.run()

