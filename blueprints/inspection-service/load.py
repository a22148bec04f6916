"""Sends images to inspection services at the moments of a real trace, and says how they were answered.

A request's latency counts from when it was due, so a service that is slow does not get fewer requests. One that is refused goes
to the next address; what was sent and got no answer is lost.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
from arrivals import due_s, read_arrivals_s

from dure.client import job
from dure.model.errors import InputError
from dure.whole_file import whole_file

#: A request that nobody takes is tried again for so long.
PATIENCE_S = 10.0


@dataclass
class Load:
    """The addresses, and what became of the requests."""

    urls: list[str]
    image: bytes
    latencies_s: list[float] = field(default_factory=list)
    num_answered: int = 0
    num_refused: int = 0
    num_lost: int = 0

    async def ask(self, client: httpx.AsyncClient, number: int, due_at: float) -> None:
        """One request, until it is answered or lost."""
        turn = number
        while time.perf_counter() - due_at < PATIENCE_S:
            if not self.urls:
                await asyncio.sleep(0.05)
                continue
            url = self.urls[turn % len(self.urls)]
            turn += 1
            try:
                answer = await client.post(f"{url}/predict", content=self.image)
            except (httpx.ConnectError, httpx.ConnectTimeout):
                # Nobody was reached, so nothing was lost yet.
                self.num_refused += 1
                await asyncio.sleep(0.02)
                continue
            except httpx.HTTPError as error:
                print(f"{url} took a request and gave no answer: {error!r}", file=sys.stderr, flush=True)
                break
            if answer.status_code == 200:
                self.latencies_s.append(time.perf_counter() - due_at)
                self.num_answered += 1
                return
            self.num_refused += 1
            await asyncio.sleep(0.02)
        self.latencies_s.append(time.perf_counter() - due_at)
        self.num_lost += 1


def main() -> None:
    """Send, then report."""
    options = _options()
    job.watch_signals()
    folder = Path(os.environ.get("DURE_DATA") or Path(__file__).parents[3] / "shared" / "data") / "llm_inference"
    moments_s = due_s(read_arrivals_s(folder, options.trace), options.scale, options.start_s, options.for_s)
    rng = np.random.default_rng(options.seed)
    load = Load(_read_urls(options), rng.integers(0, 256, options.size_px**2, dtype=np.uint8).tobytes())
    took_s = asyncio.run(_send(load, moments_s.tolist(), options))
    objective_s = options.objective_ms / 1000
    due = len(load.latencies_s)
    within = load.num_answered and sum(latency_s <= objective_s for latency_s in load.latencies_s)
    result = {
        "due": due, "answered": load.num_answered, "within": within, "refused": load.num_refused, "lost": load.num_lost,
        "took_s": took_s, "latencies_s": [round(latency_s, 5) for latency_s in load.latencies_s],
    }  # fmt: skip
    if options.out:
        with whole_file(options.out) as draft:
            draft.write_text(json.dumps(result), encoding="utf-8")
    job.report_metrics(
        within_objective=within / max(1, due), due=due, lost=load.num_lost, refused=load.num_refused,
        requests_per_s=due / max(1e-9, took_s),
        p50_s=float(np.quantile(load.latencies_s, 0.5)) if due else None,
        p99_s=float(np.quantile(load.latencies_s, 0.99)) if due else None,
    )  # fmt: skip


async def _send(load: Load, moments_s: list[float], options: argparse.Namespace) -> float:
    """Send all, or stop at a signal; then wait for what is under way. Gives how long it sent, s."""
    limits = httpx.Limits(max_connections=500, max_keepalive_connections=100)
    async with httpx.AsyncClient(timeout=httpx.Timeout(30, connect=2), limits=limits) as client:
        began = time.perf_counter()
        asked: set[asyncio.Task[None]] = set()
        second = 0
        for number, moment_s in enumerate(moments_s):
            while (left_s := began + moment_s - time.perf_counter()) > 0 and not job.should_stop():
                await asyncio.sleep(min(left_s, 0.1))
            if job.should_stop():
                break
            task = asyncio.create_task(load.ask(client, number, began + moment_s))
            asked.add(task)
            task.add_done_callback(asked.discard)
            if moment_s >= second + 1:
                second = int(moment_s)
                load.urls[:] = _read_urls(options)
                job.report_progress(
                    step=second, answered=load.num_answered, refused=load.num_refused, lost=load.num_lost
                )
        took_s = time.perf_counter() - began
        await asyncio.gather(*asked)
    return took_s


def _read_urls(options: argparse.Namespace) -> list[str]:
    """Those given, or those that `replicas.py` keeps in a file."""
    if not options.urls_from:
        return list(options.url)
    path = Path(options.urls_from)
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else []


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--url", action="append", default=[], help="Address of a service; as often as there are.")
    parser.add_argument(
        "--urls-from", default="", help="File with their addresses, read each second: what replicas.py writes."
    )
    parser.add_argument("--trace", choices=("conv", "code"), default="conv", help="Whose times.")
    parser.add_argument("--scale", type=float, default=10, help="So many times as fast; 1 is 5.5 a second of conv.")
    parser.add_argument("--start-s", type=float, default=0, help="Begin so far in the trace (of the scaled time).")
    parser.add_argument("--for-s", type=float, default=60, help="Send for so long.")
    parser.add_argument("--size-px", type=int, default=64, help="Side of the images.")
    parser.add_argument("--objective-ms", type=float, default=100, help="Within so much a request is to be answered.")
    parser.add_argument("--out", default="", help="File for all latencies.")
    parser.add_argument("--seed", type=int, default=0, help="Of the image.")
    options = parser.parse_args()
    if bool(options.url) == bool(options.urls_from):
        parser.error("give either --url or --urls-from")
    if options.scale <= 0 or options.for_s < 0 or options.start_s < 0 or options.size_px < 1:
        parser.error("scale above 0, times from 0, size from 1")
    return options


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
