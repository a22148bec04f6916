"""Sends images to inspection services at the moments of a real trace, and says how they were answered.

A request's latency counts from when it was due, so a service that is slow does not get fewer requests. Scoring an image changes
nothing, so one that nobody answers is asked again, of the next address. Told to leave, it waits for what is under way, keeps its
place in the trace and ends with 75: each request is sent in one attempt or another.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from arrivals import due_s, read_arrivals_s
from numpy.typing import NDArray

from dure.client import job
from dure.model.errors import InputError
from dure.whole_file import whole_file

#: Images made where none were handed on.
NUM_MADE_IMAGES = 16


@dataclass
class Record:
    """What became of the requests, over all attempts.

    Attributes
    ----------
    began_at : float
        Time of day (Unix, s) when the trace's start was or would have been, of the latest attempt.
    position_s : float
        Moment of the (scaled) trace up to which requests were sent.
    refused, broken : int
        Answers that said no (or nobody listened), and requests that were taken and not answered; both are tried again.
    lost : int
        Requests that nobody answered in the end.
    found, false_alarms : int
        Images with a defect, and without, that were said to have one.
    answers : list of (float, float)
        When a request was due, s from the trace's start, and its latency, s.
    """

    began_at: float = 0.0
    position_s: float = 0.0
    sent: int = 0
    sent_s: float = 0.0
    refused: int = 0
    broken: int = 0
    lost: int = 0
    defective: int = 0
    found: int = 0
    false_alarms: int = 0
    answers: list[tuple[float, float]] = field(default_factory=list)

    def metrics(self, objective_s: float) -> dict[str, float | int | None]:
        """What is reported; a request that was lost was not answered within the objective."""
        latencies_s = np.array([latency_s for _, latency_s in self.answers])
        p50_s, p99_s = np.quantile(latencies_s, [0.5, 0.99]).tolist() if self.answers else (None, None)
        good = len(self.answers) - self.defective
        return {
            "within_objective": float((latencies_s <= objective_s).sum() / max(1, self.sent)),
            "sent": self.sent, "lost": self.lost, "refused": self.refused, "broken": self.broken,
            "defects_found": self.found / self.defective if self.defective else None,
            "false_alarms": self.false_alarms / good if good else None,
            "requests_each_s": self.sent / max(1e-9, self.sent_s), "p50_s": p50_s, "p99_s": p99_s,
        }  # fmt: skip


@dataclass
class Images:
    """What is sent: pixels of each image, and whether it has a defect."""

    pixels: list[bytes]
    is_defective: list[bool]


@dataclass
class Load:
    """The addresses, the images, and what became of the requests; one is given up after ``patience_s``."""

    urls: list[str]
    images: Images
    record: Record
    patience_s: float
    #: Those of `urls` that have said that they are about to leave: asked only where there is no other.
    leaving: set[str] = field(default_factory=set)

    async def ask(self, client: httpx.AsyncClient, number: int, due_at: float, moment_s: float) -> None:
        """One request, until it is answered or lost; ``due_at`` by the clock, ``moment_s`` of the trace."""
        image_idx = number % len(self.images.pixels)
        turn = number
        while time.perf_counter() - due_at < self.patience_s:
            urls = [url for url in self.urls if url not in self.leaving] or self.urls
            if urls:
                url = urls[turn % len(urls)]
                turn += 1
                answer = await self._try(client, url, self.images.pixels[image_idx])
                if answer is not None:
                    self.record.answers.append((moment_s, time.perf_counter() - due_at))
                    self._count(bool(answer["is_defect"]), self.images.is_defective[image_idx])
                    return
            await asyncio.sleep(0.02)
        self.record.lost += 1

    async def _try(self, client: httpx.AsyncClient, url: str, pixels: bytes) -> dict[str, Any] | None:
        try:
            answer = await client.post(f"{url}/predict", content=pixels)
        except (httpx.ConnectError, httpx.ConnectTimeout):
            self.record.refused += 1
        except httpx.HTTPError as error:
            print(f"{url} took a request and gave no answer: {error!r}", file=sys.stderr, flush=True)
            self.record.broken += 1
        else:
            if answer.headers.get("connection") == "close":
                # What comes when it closes its port would be broken off.
                self.leaving.add(url)
            if answer.status_code == 200:
                return answer.json()
            self.record.refused += 1
        return None

    def _count(self, is_said: bool, is_true: bool) -> None:
        self.record.defective += is_true
        self.record.found += is_true and is_said
        self.record.false_alarms += is_said and not is_true


def main() -> None:
    """Send, then report."""
    options = _options()
    job.watch_signals()
    kept = Path(options.record) if options.record else job.checkpoint_dir("state/checkpoint") / "load.json"
    record = read_record(kept)
    folder = Path(os.environ.get("DURE_DATA") or Path(__file__).parents[3] / "shared" / "data") / "llm_inference"
    moments_s = due_s(read_arrivals_s(folder, options.trace), options.scale, options.start_s, options.for_s)
    load = Load(_read_urls(options), _read_images(options), record, options.patience_s)
    is_done = asyncio.run(_send(load, moments_s, options))
    with whole_file(kept) as draft:
        draft.write_text(json.dumps(asdict(record)), encoding="utf-8")
    if not is_done:
        job.leave()
    job.report_metrics(**record.metrics(options.objective_ms / 1000))


def read_record(path: Path) -> Record:
    """Of earlier attempts; a new one where there are none."""
    return Record(**json.loads(path.read_text(encoding="utf-8"))) if path.exists() else Record()


async def _send(load: Load, moments_s: NDArray[np.float64], options: argparse.Namespace) -> bool:
    """Send what was not sent yet, or stop at a signal; then wait for what is under way. Gives whether all were sent."""
    record = load.record
    limits = httpx.Limits(max_connections=500, max_keepalive_connections=100)
    async with httpx.AsyncClient(timeout=httpx.Timeout(30, connect=2), limits=limits) as client:
        asked: set[asyncio.Task[None]] = set()
        listing = asyncio.create_task(_follow_urls(load, options))
        # When the trace's start would have been.
        began = time.perf_counter() - record.position_s
        record.began_at = time.time() - record.position_s
        first_s, second = record.position_s, int(record.position_s)
        for number in range(record.sent, len(moments_s)):
            moment_s = float(moments_s[number])
            record.position_s = moment_s
            if not await _is_due(began + moment_s):
                break
            if moment_s >= second + 1:
                second = int(moment_s)
                job.report_progress(step=second, sent=record.sent, replicas=len(load.urls), lost=record.lost)
            task = asyncio.create_task(load.ask(client, number, began + moment_s, moment_s))
            asked.add(task)
            task.add_done_callback(asked.discard)
            record.sent += 1
        is_done = record.sent == len(moments_s) and await _is_due(began + options.for_s)
        if is_done:
            record.position_s = options.for_s
        record.sent_s += record.position_s - first_s
        await asyncio.gather(*asked)
        listing.cancel()
    return is_done


async def _follow_urls(load: Load, options: argparse.Namespace) -> None:
    """Read the addresses anew each second, to the last answer."""
    while True:
        await asyncio.sleep(1)
        load.urls[:] = _read_urls(options)
        load.leaving.intersection_update(load.urls)


async def _is_due(at: float) -> bool:
    """Wait until then; false where the job has to leave before."""
    while (left_s := at - time.perf_counter()) > 0 and not job.should_stop():
        await asyncio.sleep(min(left_s, 0.1))
    return not job.should_stop()


def _read_urls(options: argparse.Namespace) -> list[str]:
    """Those given, or those that `replicas.py` keeps in a file."""
    if not options.urls_from:
        return list(options.url)
    path = Path(options.urls_from)
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else []


def _read_images(options: argparse.Namespace) -> Images:
    """Those given or handed on (what `visual-inspection` leaves), or noise."""
    handed_on = sorted(job.input_dir("state/input").glob("*/test_images.npz"))
    path = Path(options.images) if options.images else next(iter(handed_on), None)
    if path is None:
        made = np.random.default_rng(0).integers(0, 256, (NUM_MADE_IMAGES, options.size_px**2), dtype=np.uint8)
        return Images([image.tobytes() for image in made], [False] * NUM_MADE_IMAGES)
    try:
        with np.load(path) as found:
            return Images([image.tobytes() for image in found["images"]], found["is_defective"].tolist())
    except (OSError, KeyError, ValueError) as error:
        raise InputError(f"holds no images with `is_defective`: {error}", path=str(path)) from None


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--url", action="append", default=[], help="Address of a service; as often as there are.")
    parser.add_argument(
        "--urls-from", default="", help="File with their addresses, read each second: what replicas.py writes."
    )
    parser.add_argument("--trace", choices=("conv", "code"), default="conv", help="Whose times.")
    parser.add_argument("--scale", type=float, default=4, help="So many times as fast; 1 is 5.5 a second of conv.")
    parser.add_argument("--start-s", type=float, default=0, help="Begin so far in the trace (of the scaled time).")
    parser.add_argument("--for-s", type=float, default=60, help="Send for so long.")
    parser.add_argument("--images", default="", help="What to send (.npz); default: what was handed on, or noise.")
    parser.add_argument("--size-px", type=int, default=64, help="Side of noise.")
    parser.add_argument("--objective-ms", type=float, default=200, help="Within so much a request is to be answered.")
    parser.add_argument("--patience-s", type=float, default=10, help="For so long a request is tried again.")
    parser.add_argument("--record", default="", help="File for what became of them; default: with the checkpoints.")
    options = parser.parse_args()
    if bool(options.url) == bool(options.urls_from):
        parser.error("give either --url or --urls-from")
    if options.scale <= 0 or options.for_s < 0 or options.start_s < 0 or options.size_px < 1:
        parser.error("scale above 0, times from 0, size from 1")
    return options


if __name__ == "__main__":
    job.run_program(main)
