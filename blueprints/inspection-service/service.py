"""The application: images in, scores out, and what it has measured of itself."""

from __future__ import annotations

import time
from collections import deque

import numpy as np
from batching import Batcher, FullError
from models import Model
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

#: Answers of so many latest seconds make the p99 that is reported.
RECENT_S = 10.0

#: Upper ends of the latency histogram's buckets, s; the objective is one more.
BUCKETS_S = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


class Service:
    """The application, and what it has measured.

    Parameters
    ----------
    limit : float
        A score beyond it is a defect.
    """

    def __init__(self, model: Model, batcher: Batcher, limit: float, objective_s: float) -> None:
        self.model = model
        self.batcher = batcher
        self.limit = limit
        self.objective_s = objective_s
        self.is_leaving = False
        self.num_answered = self.num_within = 0
        self.sum_latencies_s = 0.0
        self.recent: deque[tuple[float, float]] = deque()
        self.registry = registry = CollectorRegistry()
        self.answers = Counter("inspection_answers", "Answers by status.", ["status"], registry=registry)
        self.latencies = Histogram(
            "inspection_latency_seconds", "From request to answer.", buckets=sorted({*BUCKETS_S, objective_s}),
            registry=registry,
        )  # fmt: skip
        in_flight = Gauge("inspection_in_flight", "Requests not yet answered.", registry=registry)
        in_flight.set_function(lambda: batcher.in_flight)
        routes = [
            Route("/predict", self.predict, methods=["POST"]),
            Route("/healthz", self.healthz),
            Route("/metrics", self.metrics),
        ]
        self.app = Starlette(routes=routes)

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
            error = f"needs {side} × {side} pixels, one byte each; these are {len(body)} bytes"
            return JSONResponse({"error": error}, 422)
        image = np.frombuffer(body, dtype=np.uint8).reshape(side, side).astype(np.float32) / 255
        try:
            score = await self.batcher.ask(image)
        except FullError:
            return JSONResponse({"error": "too many wait"}, 503, {"Retry-After": "1"})
        return JSONResponse({"score": score, "is_defect": score > self.limit})

    async def healthz(self, _request: Request) -> Response:
        """200, or 503 once it is about to leave: what stands before it then sends no more."""
        said = {"is_leaving": self.is_leaving, "size_px": self.model.size_px, "limit": self.limit}
        return JSONResponse(said, 503 if self.is_leaving else 200)

    async def metrics(self, _request: Request) -> Response:
        """For Prometheus."""
        return PlainTextResponse(generate_latest(self.registry), media_type=CONTENT_TYPE_LATEST)

    def p99_s(self) -> float | None:
        """Of the latest answers."""
        while self.recent and self.recent[0][0] < time.perf_counter() - RECENT_S:
            self.recent.popleft()
        return float(np.quantile([took_s for _, took_s in self.recent], 0.99)) if self.recent else None
