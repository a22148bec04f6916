"""Prometheus metrics of a service."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dure.service.app import Service


_METHODS = ("GET", "POST", "DELETE", "HEAD", "PUT", "PATCH", "OPTIONS")


class Metrics:
    """What the service counts, and what it reads off the live state when it is asked."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "dure_http_requests", "HTTP requests.", ["method", "route", "status"], registry=self.registry
        )
        self._latency = Histogram(
            "dure_http_request_seconds", "Time to answer.", ["route"], registry=self.registry,
            buckets=(0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5, 30),
        )  # fmt: skip
        self.registry.register(self)

    def count_request(self, scope: Any, status: int, seconds: float) -> None:
        """One answered request, under its route's path."""
        route = getattr(scope.get("route"), "path", "other")
        method = scope["method"] if scope["method"] in _METHODS else "other"
        self._requests.labels(method, route, str(status)).inc()
        self._latency.labels(route).observe(seconds)

    def collect(self) -> Iterator[Any]:
        """The live state, in Prometheus' terms."""
        writer = self._service.writer
        yield GaugeMetricFamily("dure_leading", "1: this service writes.", value=int(writer.is_leading))
        yield GaugeMetricFamily("dure_commands_waiting", "Commands that wait for the writer.", value=writer.num_waiting())
        yield CounterMetricFamily("dure_log_entries", "Entries of the event log.", value=writer.seq)
        if writer.alliance is None:
            return
        g = writer.alliance.policy_core.state.g[0]
        for name, words, field in (
            ("dure_queue_jobs", "Jobs that wait.", "queue_jobs"), ("dure_gpus_online_milli", "GPUs online.", "online_milli"),
            ("dure_gpus_used_milli", "GPUs in use.", "used_milli"),
        ):  # fmt: skip
            yield GaugeMetricFamily(name, words, value=int(g[field]))
        for name, words, field in (
            ("dure_starts", "Attempts started.", "starts"), ("dure_preemptions", "Attempts told to leave.", "preemptions"),
            ("dure_reclaims", "Claims on lent GPUs.", "reclaims"), ("dure_guarantee_breaches", "Claims met late.", "breaches"),
            ("dure_failures", "Attempts lost.", "failures"),
        ):  # fmt: skip
            yield CounterMetricFamily(name, words, value=int(g[field]))
        used = GaugeMetricFamily("dure_member_gpus_used", "GPUs in use by member.", labels=["member"])
        lent = GaugeMetricFamily("dure_member_gpus_lent", "GPUs that the member lends now.", labels=["member"])
        borrowed = GaugeMetricFamily("dure_member_gpus_borrowed", "GPUs that the member borrows now.", labels=["member"])
        for view in self._service.views.members():
            used.add_metric([view.name], view.used_gpus)
            lent.add_metric([view.name], view.lent_gpus)
            borrowed.add_metric([view.name], view.borrowed_gpus)
        yield from (used, lent, borrowed)
        accounts = CounterMetricFamily("dure_engine_accounts", "Attempts that an engine has accounted for.", labels=["site", "by"])
        differing = CounterMetricFamily(
            "dure_engine_account_differences", "Those of them whose GPU time differs from Dure's.", labels=["site", "by"]
        )
        counts = writer.accounts
        for site, by in sorted({(site, by) for site, by, _ in counts}):
            accounts.add_metric([site, by], counts[site, by, False] + counts[site, by, True])
            differing.add_metric([site, by], counts[site, by, True])
        yield from (accounts, differing)
        cycle = GaugeMetricFamily("dure_cycle_seconds", "Time of a decision, of the last ones.", labels=["quantile"])
        recent = sorted(writer.cycle_s)
        for q in (0.5, 0.99):
            cycle.add_metric([str(q)], recent[min(int(len(recent) * q), len(recent) - 1)] if recent else 0.0)
        yield cycle

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(self.registry)
