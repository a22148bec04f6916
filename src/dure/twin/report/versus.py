"""The page's section that compares runs."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import Any

from dure.model.intervals import Interval
from dure.twin.comparison import MORE_IS_BETTER, NEITHER_IS_BETTER, ComparedMetric, Comparison
from dure.twin.report import over_time, waits
from dure.twin.report.compared import interval_plots, metric_text
from dure.twin.report.markup import figure, paragraph, scrolling, section, small_figure
from dure.twin.report.words import count, word
from dure.twin.result import RunResult

#: Shares, whose differences are in percentage points.
_SHARES = ("utilisation", "goodput")


def compare_section(
    results: Sequence[RunResult], comparison: Comparison, num_points: int, specs: dict[str, Any]
) -> str:
    """Table, intervals, waiting times and queues of all runs beside each other."""
    key = "compare_text" if comparison.num_seeds > 1 else "compare_one_seed"
    small = "".join(small_figure("all", plot, specs) for plot in interval_plots(comparison))
    plots = waits.ecdf_plot(results), over_time.queue_runs_plot(results, num_points)
    body = (
        paragraph(word(key, baseline=comparison.names[0], n=count(comparison.num_seeds)))
        + _table(comparison)
        + f'<h3>{word("compare_plots").html()}</h3><div class="small">{small}</div>'
        + f'<div class="pair">{"".join(figure("all", plot, specs) for plot in plots)}</div>'
    )
    return section("sec_compare", body)


def _table(comparison: Comparison) -> str:
    names = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in comparison.names)
    head = f'<tr><th scope="col">{word("metric").html()}</th>{names}</tr>'
    rows = "".join(_row(metric, comparison.names) for metric in comparison.metrics)
    caption = word("sec_compare")
    return scrolling(
        f'<table class="compare"><caption>{caption.html()}</caption><thead>{head}</thead>'
        f"<tbody>{rows}</tbody></table>",
        caption,
    )


def _row(metric: ComparedMetric, names: Sequence[str]) -> str:
    """A row of the table; none where the metric is 0 or unknown in every run."""
    means = {name: of.mean for name, of in metric.intervals.items() if of.n}
    if not any(means.values()):
        return ""
    best = _best(metric.key, means)
    cells = "".join(
        f"<td>{_mean(metric.key, metric.intervals[name], means.get(name) == best)}"
        f"{_difference(metric.key, metric.differences.get(name))}</td>"
        for name in names
    )
    return f'<tr><th scope="row">{word(metric.key).html()}</th>{cells}</tr>'


def _best(key: str, means: dict[str, float]) -> float | None:
    """The best mean; None where none is better than another."""
    if key in NEITHER_IS_BETTER or len(set(means.values())) < 2:
        return None
    return max(means.values()) if key in MORE_IS_BETTER else min(means.values())


def _mean(key: str, of: Interval, is_best: bool) -> str:
    mean = metric_text(key, of.mean).html()
    return (f"<strong>{mean}</strong>" if is_best else mean) + _half(key, of)


def _difference(key: str, of: Interval | None) -> str:
    """A difference with its sign, that of shares in percentage points."""
    if of is None or not of.n:
        return ""
    plus = "+" if of.mean > 0 else ""
    if key in _SHARES:
        half = "" if math.isnan(of.high) else f" ± {(of.high - of.mean) * 100:.2f}"
        points = f"{plus}{of.mean * 100:.2f}{half}".replace("-", "−")
        return f'<span class="difference">{word("points_n", n=points).html()}</span>'
    mean = metric_text(key, of.mean)
    return f'<span class="difference">{plus}{mean.html()}{_half(key, of)}</span>'


def _half(key: str, of: Interval) -> str:
    """Half of the interval, after a ±; nothing where there is none."""
    if math.isnan(of.high):
        return ""
    return f" <small>± {metric_text(key, of.high - of.mean).html()}</small>"
