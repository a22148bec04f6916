"""`dure agent`: run a site's leases on this machine."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dure.model.errors import InputError

if TYPE_CHECKING:
    from dure.agent.agent import Agent


@click.command()
@click.option("--site", required=True, help="The site that this agent serves.")
@click.option("--executor", type=click.Choice(["local"]), default="local", show_default=True, help="What runs the jobs.")
@click.option("--gpus", type=click.IntRange(0), help="Slots that stand for GPUs, on each node; default: the GPUs found.")
@click.option("--gpu-type", default="", help="Default: that of the GPUs found.")
@click.option("--node-names", default="", help="Comma-separated; several: stand-ins for nodes. Default: the host's name.")
@click.option("--url", envvar="DURE_URL", required=True, help="Address of the service (DURE_URL); several of which one leads: with commas.")
@click.option("--token", envvar="DURE_TOKEN", default="", help="Of role agent (better: DURE_TOKEN).")
@click.option("--log-mib", default=256, type=click.IntRange(1, 1024), show_default=True, help="A task's log is cut there.")
@click.option("--keep-days", default=30, type=click.IntRange(1), show_default=True,
              help="So long the working folder of a job that does not run here is kept.")
@click.option("--data-dir", default="dure-agent", show_default=True, type=click.Path(file_okay=False, path_type=Path))
def agent(
    site: str, executor: str, gpus: int | None, gpu_type: str, node_names: str, url: str, token: str, log_mib: int,
    keep_days: int, data_dir: Path,
) -> None:  # fmt: skip
    """Run the leases of a site on this machine.

    Connects to the service, never the other way. Jobs go on when the agent is stopped or killed; the next one takes
    them up from the same --data-dir.
    """
    import structlog

    from dure.agent.agent import Agent, AgentConfig
    from dure.agent.folders import Folders
    from dure.client.settings import Settings
    from dure.executors.local import LocalExecutor
    from dure.executors.local_nodes import find_nodes

    for address in Settings(url).urls or [url]:
        if not address.startswith(("http://", "https://")):
            raise InputError(f"not an address: {address!r}; write http://host:port or https://host:port", field="DURE_URL")
    _log_as_json()
    nodes = find_nodes([name for name in node_names.split(",") if name], gpus, gpu_type)
    if not any(info.gpus for info in nodes.infos):
        structlog.get_logger(__name__).warning("no gpus", detail="none were found; --gpus N offers slots that stand for them")
    runner = LocalExecutor(Folders(data_dir.resolve()).state, nodes, log_max_bytes=log_mib << 20)
    asyncio.run(_run(Agent(AgentConfig(site, url, token, data_dir, keep_days), runner)))


async def _run(agent: Agent) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, agent.stop)
    await agent.run()


def _log_as_json() -> None:
    import structlog

    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
