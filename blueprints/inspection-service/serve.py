"""Inspects images over HTTP with an ONNX model, until it is told to leave: then it answers what it has, and ends with 75.

`POST /predict` takes an image's pixels, one byte each, and answers its score; `GET /healthz` says whether to send more,
`GET /metrics` is for Prometheus. Its address is in its progress (`url`).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
from batching import Batcher, FullError
from models import Model, make_small_model
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from dure.client import job
from dure.model.errors import InputError
from dure.whole_file import whole_file

#: After it was told to leave it still takes requests for so long, since clients learn of it by its answers.
LEAVING_S = 1.0

#: Answers of so many latest seconds make the p99 that is reported.
RECENT_S = 10.0


class Service:
    """The application, and what it has measured."""

    def __init__(self, model: Model, options: argparse.Namespace) -> None:
        self.model = model
        self.limit = options.limit
        self.objective_s = options.objective_ms / 1000
        self.batcher = Batcher(model.score, options.max_batch, options.max_wait_ms / 1000, options.max_waiting)
        self.is_leaving = False
        self.num_answered = self.num_within = 0
        self.sum_latencies_s = 0.0
        self.recent: deque[tuple[float, float]] = deque()
        registry = CollectorRegistry()
        self.registry = registry
        self.answers = Counter("inspection_answers", "Answers by status.", ["status"], registry=registry)
        buckets = sorted({0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, self.objective_s})
        self.latencies = Histogram(
            "inspection_latency_seconds", "From request to answer.", buckets=buckets, registry=registry
        )
        Gauge("inspection_in_flight", "Requests not yet answered.", registry=registry).set_function(
            lambda: self.batcher.in_flight
        )
        self.app = Starlette(
            routes=[
                Route("/predict", self.predict, methods=["POST"]),
                Route("/healthz", self.healthz),
                Route("/metrics", self.metrics),
            ]
        )

    async def predict(self, request: Request) -> Response:
        """The score of one image, and whether it is beyond the limit."""
        began = time.perf_counter()
        response = await self._predicted(request)
        took_s = time.perf_counter() - began
        self.answers.labels(str(response.status_code)).inc()
        if response.status_code == 200:
            self.latencies.observe(took_s)
            self.recent.append((began, took_s))
            self.sum_latencies_s += took_s
            self.num_answered += 1
            self.num_within += took_s <= self.objective_s
        if self.is_leaving:
            # A connection that is kept could bring a request at the moment when it is closed.
            response.headers["Connection"] = "close"
        return response

    async def _predicted(self, request: Request) -> Response:
        side = self.model.size_px
        body = await request.body()
        if len(body) != side * side:
            return JSONResponse(
                {"error": f"needs {side} × {side} pixels, one byte each; these are {len(body)} bytes"}, 422
            )
        image = np.frombuffer(body, dtype=np.uint8).reshape(side, side).astype(np.float32) / 255
        try:
            score = await self.batcher.ask(image)
        except FullError:
            return JSONResponse({"error": "too many wait"}, 503, {"Retry-After": "1"})
        return JSONResponse({"score": score, "is_defect": score > self.limit})

    async def healthz(self, _request: Request) -> Response:
        """200, or 503 once it is about to leave: what stands before it then sends no more."""
        return JSONResponse(
            {"is_leaving": self.is_leaving, "size_px": self.model.size_px}, 503 if self.is_leaving else 200
        )

    async def metrics(self, _request: Request) -> Response:
        """For Prometheus."""
        return PlainTextResponse(generate_latest(self.registry), media_type=CONTENT_TYPE_LATEST)

    def p99_s(self) -> float | None:
        """Of the latest answers."""
        while self.recent and self.recent[0][0] < time.perf_counter() - RECENT_S:
            self.recent.popleft()
        return float(np.quantile([took_s for _, took_s in self.recent], 0.99)) if self.recent else None


class _Server(uvicorn.Server):
    """Leaves signals to `dure.client.job`."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def main() -> None:
    """Serve."""
    options = _options()
    job.watch_signals()
    kept = job.checkpoint_dir("state/checkpoint")
    service = Service(Model(_model_path(options, kept), options.threads, options.provider), options)
    sys.exit(asyncio.run(_serve(service, options, kept)))


def _model_path(options: argparse.Namespace, kept: Path) -> Path:
    if options.model:
        if not Path(options.model).is_file():
            raise InputError("is not there", path=options.model)
        return Path(options.model)
    handed_on = sorted(job.input_dir("state/input").glob("*/model.onnx"))
    if handed_on:
        return handed_on[0]
    path = kept / "small.onnx"
    if not path.exists():
        with whole_file(path) as draft:
            make_small_model(draft)
    return path


async def _serve(service: Service, options: argparse.Namespace, kept: Path) -> int:
    """Until the time is over (0) or it is told to leave (`job.LEFT`)."""
    with socket.create_server((options.host, options.port), backlog=1024) as listener:
        url = f"http://{options.advertise or listener.getsockname()[0]}:{listener.getsockname()[1]}"
        server = _Server(uvicorn.Config(service.app, log_level="warning", access_log=False, timeout_keep_alive=30))
        work = asyncio.create_task(service.batcher.work())
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        while not server.started and not serving.done():
            await asyncio.sleep(0.01)
        earlier = _earlier(kept)
        load = await _start_load(url, service.model.size_px, options, kept, earlier)
        began = time.monotonic()
        served_s = earlier["served_s"]
        second, told_at, told_sum_s = int(served_s), began, 0.0
        while not job.should_stop() and not serving.done() and (options.for_s == 0 or served_s < options.for_s):
            if load and load.returncode:
                # It has said why on the standard error.
                server.should_exit = True
                await serving
                return load.returncode
            await asyncio.sleep(0.1)
            served_s = earlier["served_s"] + time.monotonic() - began
            if int(served_s) > second:
                second = int(served_s)
                _save(kept, service, earlier, served_s)
                # Little's law: latencies that ended in a time, by that time, are those under way on average.
                now = time.monotonic()
                mean_in_flight = (service.sum_latencies_s - told_sum_s) / (now - told_at)
                told_at, told_sum_s = now, service.sum_latencies_s
                job.report_progress(
                    step=second,
                    url=url,
                    in_flight=mean_in_flight,
                    answered=service.num_answered,
                    p99_s=service.p99_s(),
                )
        # The load of a measurement ends first: it waits for its answers. Other clients learn of the leaving by theirs.
        if load:
            with contextlib.suppress(ProcessLookupError):
                load.send_signal(signal.SIGTERM)
            await load.wait()
        service.is_leaving = True
        await asyncio.sleep(LEAVING_S)
        server.should_exit = True
        await serving
        work.cancel()
    _save(kept, service, earlier, served_s)
    if options.for_s == 0 or served_s < options.for_s:
        return job.LEFT
    _report(kept, service, options)
    return 0


def _earlier(kept: Path) -> dict[str, Any]:
    """What earlier attempts have served."""
    path = kept / "served.json"
    if path.exists():
        return json.loads(path.read_text(encoding="utf-8"))
    return {"served_s": 0.0, "attempts": 0, "answered": 0, "within": 0}


def _save(kept: Path, service: Service, earlier: dict[str, Any], served_s: float) -> None:
    served = {
        "served_s": served_s,
        "attempts": earlier["attempts"] + 1,
        "answered": earlier["answered"] + service.num_answered,
        "within": earlier["within"] + service.num_within,
    }
    with whole_file(kept / "served.json") as draft:
        draft.write_text(json.dumps(served), encoding="utf-8")


async def _start_load(
    url: str, size_px: int, options: argparse.Namespace, kept: Path, earlier: dict[str, Any]
) -> asyncio.subprocess.Process | None:
    if options.load_scale == 0:
        return None
    command = [
        sys.executable, str(Path(__file__).with_name("load.py")), "--url", url, "--scale", str(options.load_scale),
        "--objective-ms", str(options.objective_ms), "--start-s", str(earlier["served_s"]), "--size-px", str(size_px), "--seed", str(options.seed),
        "--out", str(kept / f"load-{earlier['attempts']:03d}.json"),
        *(["--for-s", str(max(0.0, options.for_s - earlier["served_s"] - 1))] if options.for_s else []),
    ]  # fmt: skip
    # Its lines are no progress of this job.
    return await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )


def _report(kept: Path, service: Service, options: argparse.Namespace) -> None:
    served = _earlier(kept)
    reached: dict[str, Any] = {
        "answered": served["answered"],
        "attempts": served["attempts"],
        "objective_s": service.objective_s,
    }
    if options.load_scale:
        # As its clients saw it, from the moment when a request was due.
        loads = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(kept.glob("load-*.json"))]
        due = sum(load["due"] for load in loads)
        reached |= {
            "within_objective": sum(load["within"] for load in loads) / max(1, due),
            "due": due,
            "lost": sum(load["lost"] for load in loads),
            "requests_per_s": due / max(1e-9, sum(load["took_s"] for load in loads)),
            "p50_s": float(np.quantile(np.concatenate([load["latencies_s"] for load in loads]), 0.5)) if due else None,
            "p99_s": float(np.quantile(np.concatenate([load["latencies_s"] for load in loads]), 0.99)) if due else None,
        }
    else:
        reached["within_objective"] = served["within"] / max(1, served["answered"])
    with whole_file(job.output_dir("state/output") / "result.json") as draft:
        draft.write_text(json.dumps(reached, indent=2) + "\n", encoding="utf-8")
    job.report_metrics(**reached)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--model", default="", help="ONNX file; default: the one handed on, else a small one made here."
    )
    parser.add_argument("--limit", type=float, default=0.5, help="A score beyond it is a defect.")
    parser.add_argument("--objective-ms", type=float, default=100, help="Within so much a request is to be answered.")
    parser.add_argument("--max-batch", type=int, default=16, help="Most images that the model is given together.")
    parser.add_argument("--max-wait-ms", type=float, default=3, help="For so long a request waits for others.")
    parser.add_argument("--max-waiting", type=int, default=256, help="More requests than these are refused.")
    parser.add_argument("--threads", type=int, default=1, help="Threads of the model.")
    parser.add_argument(
        "--provider", default="CPUExecutionProvider", help="Of ONNX Runtime, such as CUDAExecutionProvider."
    )
    parser.add_argument(
        "--host", default="127.0.0.1", help="Address to listen on; 0.0.0.0: all (it asks nobody who they are)."
    )
    parser.add_argument("--port", type=int, default=0, help="0: any free one.")
    parser.add_argument("--advertise", default="", help="Name or address that clients reach this machine by.")
    parser.add_argument(
        "--for-s", type=float, default=0, help="Serve for so long, over all attempts; 0: until cancelled."
    )
    parser.add_argument(
        "--load-scale", type=float, default=0, help="Measure itself: replay a trace so many times as fast; 0: no."
    )
    parser.add_argument("--seed", type=int, default=0, help="Of the images of that load.")
    options = parser.parse_args()
    if min(options.max_batch, options.max_waiting, options.threads) < 1 or options.objective_ms <= 0:
        parser.error("max-batch, max-waiting and threads from 1, objective above 0")
    if min(options.for_s, options.load_scale, options.max_wait_ms) < 0:
        parser.error("for-s, load-scale and max-wait-ms from 0")
    if options.host == "0.0.0.0" and not options.advertise:
        options.advertise = socket.gethostname()
    return options


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
