"""Plans for robots over HTTP, as a job at a cell site: ``python -m dure.cli.plan_service``.

`POST /plan` takes what a device saw (`PlanAsked`) and answers the plan's knots: from MuJoCo rollouts, or with `--network FILE` from a
network that was trained to plan alike, in ONNX Runtime. Its address is in its progress (`url`), so that devices find it by the job's
`service`. Told to leave it answers a little longer, tells each client to close, and ends with 75.
Requests are answered in order of their coming: a robot that asks every 20 ms keeps it busy for what a plan takes.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import uvicorn
from fastapi import FastAPI, Response
from pydantic import BaseModel, Field

from dure.cli.serve import listen
from dure.client import job
from dure.ran.control_network import ControlNetwork
from dure.ran.control_task import HORIZON, KNOTS, Plan, Robot

#: After it was told to leave it still answers for so long: clients learn of it by its answers.
LEAVING_S = 0.5
#: Seconds between two words on how many plans were made.
TELL_S = 1.0


class PlanAsked(BaseModel):
    """State (m, rad, m/s, rad/s), the force that acts (N), places from now on (m), the plan so far (N)."""

    state: list[float] = Field(min_length=4, max_length=4)
    force_n: float
    place_m: list[float] = Field(min_length=HORIZON + 1, max_length=HORIZON + 1)
    knots_n: list[float] = Field(min_length=KNOTS, max_length=KNOTS)


class PlanService:
    """The application, and what it has done."""

    def __init__(self, plan: Plan) -> None:
        self.num_plans = 0
        self.is_leaving = False
        self.app = FastAPI(openapi_url=None)

        @self.app.post("/plan")
        async def answer(asked: PlanAsked, response: Response) -> list[float]:
            self.num_plans += 1
            if self.is_leaving:
                response.headers["Connection"] = "close"
            found = plan(np.array(asked.state), asked.force_n, np.array(asked.place_m), np.array(asked.knots_n))
            return list(map(float, found))


class _Server(uvicorn.Server):
    """Leaves signals to `dure.client.job`."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(plan: Plan, host: str, port: int, advertise: str) -> None:
    """Until told to leave."""
    service, attempt = PlanService(plan), int(os.environ.get("DURE_ATTEMPT", "1"))
    with listen(host, port) as listener:
        url = f"http://{advertise or listener.getsockname()[0]}:{listener.getsockname()[1]}"
        server = _Server(uvicorn.Config(service.app, log_level="warning", access_log=False, timeout_keep_alive=30))
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        while not server.started and not serving.done():
            await asyncio.sleep(0.01)
        step, told_at = 0, 0.0
        while not (job.should_stop() or serving.done()):
            if asyncio.get_running_loop().time() - told_at >= TELL_S:
                step, told_at = step + 1, asyncio.get_running_loop().time()
                job.report_progress(step=step, url=url, attempt=attempt, plans=service.num_plans)
            await asyncio.sleep(0.05)
        service.is_leaving = True
        await asyncio.sleep(LEAVING_S)
        server.should_exit = True
        await serving


def main() -> None:
    """Serve."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--host", default="127.0.0.1", help="Where it listens; 0.0.0.0 for other machines.")
    parser.add_argument("--port", type=int, default=0, help="0: any that is free.")
    parser.add_argument("--advertise", default="", help="What devices reach it by; default: where it listens.")
    parser.add_argument("--network", type=Path, metavar="FILE", help="An ONNX file such as the blueprint robot-control makes; default: plan with MuJoCo.")
    options = parser.parse_args()
    job.watch_signals()
    plan: Plan = ControlNetwork(options.network).plan if options.network else Robot().plan
    asyncio.run(serve(plan, options.host, options.port, options.advertise))
    job.leave()


if __name__ == "__main__":
    job.run_program(main)
