"""Inspects images over HTTP with an ONNX model, until it is told to leave: then it answers what it has, and ends with 75.

`POST /predict` takes an image's pixels, one byte each, and answers its score; `GET /healthz` says whether to send more,
`GET /metrics` is for Prometheus. Its address is in its progress (`url`). With `--for-s` it brings its own load, a trace of a real
service, and ends when that is over.
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
from collections.abc import Iterator
from pathlib import Path

import uvicorn
from batching import Batcher
from load import read_record
from models import Model, make_small_model

from dure.client import job
from dure.model.errors import InputError
from dure.whole_file import whole_file
from service import Service

#: After it was told to leave it still takes requests for so long, since clients learn of it by its answers.
LEAVING_S = 1.0


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
    model = Model(_model_path(options, kept), options.threads, options.provider)
    batcher = Batcher(model.score, options.max_batch, options.max_wait_ms / 1000, options.max_waiting)
    limit = model.limit if options.limit is None else options.limit
    service = Service(model, batcher, limit, options.objective_ms / 1000)
    code = asyncio.run(_serve(service, options, kept))
    if code == 0:
        _report(kept, service.objective_s)
    sys.exit(code)


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
    """Until its own load is over (0) or it is told to leave (`job.LEFT`)."""
    # Named as TCP: asyncio sets TCP_NODELAY only then, and without it an answer may wait for the client's delayed acknowledgement, 40 ms.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((options.host, options.port))
        listener.listen(1024)
        url = f"http://{options.advertise or listener.getsockname()[0]}:{listener.getsockname()[1]}"
        server = _Server(uvicorn.Config(service.app, log_level="warning", access_log=False, timeout_keep_alive=30))
        work = asyncio.create_task(service.batcher.work())
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        while not server.started and not serving.done():
            await asyncio.sleep(0.01)
        load = await _start_load(url, options, kept) if options.for_s else None
        ended = asyncio.create_task(load.wait()) if load else asyncio.create_task(_never())
        telling = asyncio.create_task(_tell(service, url, kept))
        while not (job.should_stop() or serving.done() or ended.done()):
            await asyncio.sleep(0.05)
        telling.cancel()
        # Its own load ends first: it waits for its answers. Other clients learn of the leaving by theirs.
        if load and not ended.done():
            with contextlib.suppress(ProcessLookupError):
                load.send_signal(signal.SIGTERM)
        if load:
            code = await ended
            # The signal ends a load that is still starting; it has sent nothing then.
            if code in (-signal.SIGTERM, -signal.SIGUSR1) and job.should_stop():
                code = job.LEFT
        else:
            code = job.LEFT
            service.is_leaving = True
            await asyncio.sleep(LEAVING_S)
        server.should_exit = True
        await serving
        work.cancel()
    return code


async def _never() -> int:
    return await asyncio.get_running_loop().create_future()


async def _start_load(url: str, options: argparse.Namespace, kept: Path) -> asyncio.subprocess.Process:
    command = [
        sys.executable, str(Path(__file__).with_name("load.py")), "--url", url, "--scale", str(options.load_scale),
        "--for-s", str(options.for_s), "--objective-ms", str(options.objective_ms), "--record", str(kept / "load.json"),
    ]  # fmt: skip
    # Its lines are no progress of this job.
    return await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.DEVNULL)


async def _tell(service: Service, url: str, kept: Path) -> None:
    """Each second, how much is under way and how late answers are; seconds are counted over all attempts."""
    counted = kept / "seconds.json"
    second = json.loads(counted.read_text(encoding="utf-8")) if counted.exists() else 0
    told_at, told_sum_s = time.monotonic(), 0.0
    while True:
        second += 1
        with whole_file(counted) as draft:
            draft.write_text(json.dumps(second), encoding="utf-8")
        # Little's law: latencies that ended in a time, by that time, are those under way on average.
        now = time.monotonic()
        in_flight = (service.sum_latencies_s - told_sum_s) / max(1e-3, now - told_at)
        told_at, told_sum_s = now, service.sum_latencies_s
        job.report_progress(
            step=second, url=url, attempt=int(os.environ.get("DURE_ATTEMPT", "1")), in_flight=in_flight,
            answered=service.num_answered, p99_s=service.p99_s(),
        )  # fmt: skip
        await asyncio.sleep(1)


def _report(kept: Path, objective_s: float) -> None:
    """As clients saw it, from the moment when a request was due."""
    metrics = read_record(kept / "load.json").metrics(objective_s)
    with whole_file(job.output_dir("state/output") / "result.json") as draft:
        draft.write_text(json.dumps({**metrics, "objective_s": objective_s}, indent=2) + "\n", encoding="utf-8")
    job.report_metrics(**metrics)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--model", default="", help="ONNX file; default: the one handed on, else a small one made here."
    )
    parser.add_argument("--limit", type=float, default=None, help="A score beyond it is a defect; default: what the model says.")
    parser.add_argument("--objective-ms", type=float, default=200, help="Within so much a request is to be answered.")
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
        "--for-s", type=float, default=0, help="Measure itself under a load for so long, then end; 0: serve until cancelled."
    )
    parser.add_argument("--load-scale", type=float, default=4, help="Of that load: a trace so many times as fast.")
    options = parser.parse_args()
    if min(options.max_batch, options.max_waiting, options.threads) < 1 or options.objective_ms <= 0:
        parser.error("max-batch, max-waiting and threads from 1, objective above 0")
    if min(options.for_s, options.max_wait_ms) < 0 or options.load_scale <= 0:
        parser.error("for-s and max-wait-ms from 0, load-scale above 0")
    if options.host == "0.0.0.0" and not options.advertise:
        options.advertise = socket.gethostname()
    return options


if __name__ == "__main__":
    job.run_program(main)
