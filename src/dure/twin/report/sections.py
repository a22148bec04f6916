"""The page's sections about one run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from dure.twin.metrics import MS_PER_HOUR, RunMetrics
from dure.twin.report import balances, over_time, starts, waits, work
from dure.twin.report.figure import Plot, Table, count_cell, name_cell, number_cell, seconds_cell
from dure.twin.report.markup import facts, figure, paragraph, section, table_html
from dure.twin.report.words import Text, count, duration, joined, number, percent, same, word
from dure.twin.result import RunResult
from dure.twin.start_errors import ERROR_QUANTILES

#: Keys of the sections about a run, in order.
SECTIONS = (
    "sec_use", "sec_wait", "sec_work", "sec_lending", "sec_frag", "sec_power", "sec_starts", "sec_members",
    "sec_provenance",
)  # fmt: skip

#: Place of the median among the quantiles of errors.
MEDIAN = ERROR_QUANTILES.index(0.5)

#: Columns of the table of members.
MEMBER_COLUMNS = (
    "member", "guarantee", "jobs", "finished", "mean", "p50", "p99", "slowdown", "used", "lent", "borrowed",
    "balance",
)  # fmt: skip


@dataclass(frozen=True)
class ShownRun:
    """A run on the page.

    Attributes
    ----------
    key : str
        ``run0``…, the first being the one shown at the start.
    num_points : int
        Most points of a line.
    specs : dict
        Plot specifications of the whole page, added to by each figure.
    """

    key: str
    result: RunResult
    metrics: RunMetrics
    num_points: int
    specs: dict[str, Any]

    def figures(self, *plots: Plot) -> str:
        """Plots below each other."""
        return "".join(figure(self.key, plot, self.specs) for plot in plots)

    def pair(self, *plots: Plot) -> str:
        """Plots beside each other where the page is wide."""
        return f'<div class="pair">{self.figures(*plots)}</div>'


def run_sections(run: ShownRun) -> str:
    """All sections of SECTIONS."""
    bodies = (_use, _waiting, _work, _lending, _fragmentation, _power, _starts, _members, _provenance)
    return "".join(section(key, body(run), run.key) for key, body in zip(SECTIONS, bodies, strict=True))


def _use(run: ShownRun) -> str:
    if len(run.result.series.t_ms) < 2:
        return paragraph(word("no_series"))
    plots = [over_time.use_plot(run.result, run.num_points)]
    if len(run.result.member_names) > 1:
        plots.append(over_time.members_plot(run.result))
    return paragraph(word("hint"), "hint pointer") + run.figures(*plots)


def _waiting(run: ShownRun) -> str:
    of = run.metrics
    if not of.wait_s.n:
        return paragraph(word("headline_empty"))
    slow = {key: number(getattr(of.slowdown, key)) for key in ("mean", "p50", "p99")}
    text = word("slowdown_text", **slow)
    plots = [waits.wait_size_plot(of)]
    if len(of.by_member) > 1:
        text = joined(text, word("fairness_text", jain="–" if math.isnan(of.jain) else f"{of.jain:.3f}"))
        plots.append(waits.wait_member_plot(run.result))
    return paragraph(text) + run.pair(*plots)


def _work(run: ShownRun) -> str:
    of = run.metrics
    if not any(row.gpu_h for row in of.by_work):
        return paragraph(word("work_none"))
    return paragraph(work.work_text(of)) + run.figures(work.work_plot(of))


def _lending(run: ShownRun) -> str:
    result, of = run.result, run.metrics
    if not result.lent_gpu_ms.any():
        return paragraph(word("lending_none"))
    used_gpu_h = float(result.used_gpu_ms.sum()) / MS_PER_HOUR
    share = percent(of.lent_gpu_h / used_gpu_h if used_gpu_h else math.nan)
    text = word("lending_text", lent=count(of.lent_gpu_h), share=share)
    reclaims = word("reclaims_none")
    if of.reclaim_s.n:
        quantiles = {key: duration(getattr(of.reclaim_s, key)) for key in ("p50", "p99", "max")}
        reclaims = word("reclaims", n=count(of.reclaim_s.n), **quantiles)
    body = paragraph(joined(text, reclaims)) + run.pair(
        balances.lending_plot(result), balances.balance_plot(of)
    )
    if len(result.series.t_ms) > 1:
        plots = [over_time.lent_plot(result, run.num_points)]
        if result.series.member_credits.any():
            plots.append(over_time.credits_plot(result))
        body += run.pair(*plots)
    return body


def _fragmentation(run: ShownRun) -> str:
    if len(run.result.series.t_ms) < 2:
        return paragraph(word("no_series"))
    fragmented, share = over_time.fragmented_share(run.result)
    text = word("frag_text", frag=count(fragmented), share=percent(share))
    return paragraph(text) + run.figures(over_time.fragmentation_plot(run.result, run.num_points))


def _power(run: ShownRun) -> str:
    result = run.result
    if len(result.series.t_ms) < 2 or not result.series.site_power_w.any():
        return paragraph(word("power_none"))
    energy_kwh = sum(run.metrics.energy_kwh.values())
    used_gpu_h = float(result.used_gpu_ms.sum()) / MS_PER_HOUR
    text = word(
        "energy_text",
        energy=number(energy_kwh / 1000),
        per=number(energy_kwh / used_gpu_h if used_gpu_h else math.nan),
    )
    plots = over_time.power_plot(result, run.num_points), balances.sites_plot(result)
    return paragraph(joined(text, _cap_text(result))) + run.pair(*plots)


def _cap_text(result: RunResult) -> Text:
    """Whether any site drew more than its cap at any sample."""
    capped = [(s, site.power_cap_w) for s, site in enumerate(result.fleet.sites) if site.power_cap_w]
    if not capped:
        return word("cap_absent")
    num_over = sum(int((result.series.site_power_w[s] > cap_w).sum()) for s, cap_w in capped)
    return word("cap_broken", n=count(num_over)) if num_over else word("cap_kept")


def _starts(run: ShownRun) -> str:
    of = run.metrics
    texts = [
        word(
            key, n=count(errors.n), on_time=percent(errors.on_time_share), late=percent(errors.late_share),
            p50=duration(errors.quantiles_s[MEDIAN]),
        )
        for key, errors in (("promised_text", of.promised), ("foretold_text", of.foretold))
        if errors.n
    ]  # fmt: skip
    if of.promised.num_open + of.foretold.num_open:
        texts.append(word("promise_open", n=count(of.promised.num_open + of.foretold.num_open)))
    if of.foretold.num_unforeseen:
        texts.append(word("unforeseen", n=count(of.foretold.num_unforeseen)))
    if not texts:
        return paragraph(word("promise_none"))
    plots = (starts.start_error_plot(of), starts.error_share_plot(run.result))
    return paragraph(joined(*texts)) + (run.figures(*plots) if of.promised.n + of.foretold.n else "")


def _members(run: ShownRun) -> str:
    rows = []
    for row, lent in zip(run.metrics.by_member, run.metrics.lending, strict=True):
        counts = (lent.guarantee_gpus, row.num_jobs, row.num_finished)
        times_s = (row.wait_s.mean, row.wait_s.p50, row.wait_s.p99)
        hours = (lent.used_gpu_h, lent.lent_gpu_h, lent.borrowed_gpu_h, lent.balance_gpu_h)
        rows.append(
            [
                name_cell(row.name),
                *(count_cell(value) for value in counts),
                *(seconds_cell(value) for value in times_s),
                number_cell(row.slowdown.mean),
                *(count_cell(value) for value in hours),
            ]
        )
    table = Table([word(f"col_{key}") for key in MEMBER_COLUMNS], rows)
    return paragraph(word("members_text"), "hint") + table_html(table, word("sec_members"), is_sortable=True)


def _provenance(run: ShownRun) -> str:
    result, c = run.result, run.result.counters
    cost = {"wall": number(result.wall_s), "cpu": number(result.cpu_s), "rss": count(result.peak_rss_mb)}
    faults = (c.num_node_failures, c.num_job_failures, c.num_quarantined)
    versions = ", ".join(f"{name} {version}" for name, version in sorted(result.versions.items()))
    return paragraph(word("prov_text")) + facts(
        [
            ("prov_source", same(result.trace.source)),
            ("prov_trace", same(result.trace.digest())),
            ("prov_policy", same(result.policy)),
            ("prov_seed", same(str(result.seed))),
            ("prov_digest", same(result.digest)),
            ("prov_versions", same(versions or "–")),
            ("prov_cost", word("prov_cost_value", **cost)),
            ("prov_events", same(f"{count(c.num_events)}, {count(c.num_decisions)}")),
            ("prov_backfilled", same(f"{count(c.num_backfilled)}, {count(c.num_resizes)}")),
            ("prov_faults", same(", ".join(count(n) for n in faults))),
        ]
    )
