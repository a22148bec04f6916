"""The report's page: headline, contents, sections; plots go in as data that the page's script draws."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from importlib import resources
from typing import Any

import numpy as np
import plotly.offline

from dure.twin.comparison import Comparison
from dure.twin.metrics import RunMetrics
from dure.twin.report.markup import facts, paragraph, section
from dure.twin.report.sections import SECTIONS, ShownRun, run_sections
from dure.twin.report.versus import compare_section
from dure.twin.report.words import Text, count, duration, joined, percent, same, word
from dure.twin.result import RunResult

#: Most points of a line, and of one line summed over all runs that are drawn: what keeps the file small.
POINTS_A_LINE_MAX, POINTS_ALL_RUNS_MAX = 2_000, 4_000

#: Nothing may be fetched: the browser itself refuses what the page does not carry.
CONTENT_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; "
    "base-uri 'none'; form-action 'none'"
)

DEFINED = (
    "wait", "jct", "slowdown", "utilisation", "goodput", "jain", "guarantee", "lent", "reclaim", "preemption",
    "start",
)  # fmt: skip


def render(
    results: Sequence[RunResult], metrics: Sequence[RunMetrics], comparison: Comparison, title: str
) -> str:
    """The whole page as one HTML text; ``results`` has one run a name, ``metrics`` the same runs' numbers."""
    specs: dict[str, Any] = {}
    num_points = min(POINTS_A_LINE_MAX, POINTS_ALL_RUNS_MAX // len(results))
    runs = [
        ShownRun(f"run{i}", result, of, num_points, specs)
        for i, (result, of) in enumerate(zip(results, metrics, strict=True))
    ]
    if len(runs) == 1:
        opening = _header_one(runs[0], title)
    else:
        opening = _header_many(results, comparison, title)
        opening += compare_section(results, comparison, num_points, specs) + _picker(results)
    shown = "".join(
        f'<div class="run" data-run="{i}"{" hidden" if i else ""}>{run_sections(run)}</div>'
        for i, run in enumerate(runs)
    )
    first = ("sec_compare",) if len(runs) > 1 else ()
    contents = _contents((*first, *SECTIONS, "sec_definitions", "sec_notes"))
    return _document(title, contents, opening + shown + _definitions() + _notes(results), specs)


def _document(title: str, contents: str, body: str, specs: dict[str, Any]) -> str:
    assets = resources.files("dure.twin.report") / "assets"
    style = (assets / "page.css").read_text("utf-8")
    script = (assets / "page.js").read_text("utf-8")
    data = json.dumps(specs, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    data = data.replace("<", "\\u003c")  # as an escape it cannot end the script element
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{CONTENT_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{style}</style>\n</head>\n<body>\n"
        f'<a class="skip" href="#main">{word("skip").html()}</a>\n{contents}\n<main id="main">{body}</main>\n'
        f'<script type="application/json" id="plots">{data}</script>\n'
        f"<script>{plotly.offline.get_plotlyjs()}</script>\n<script>{script}</script>\n</body>\n</html>\n"
    )


def _contents(keys: Sequence[str]) -> str:
    links = "".join(f'<li><a href="#{key}">{word(key).html()}</a></li>' for key in keys)
    return (
        f'<nav class="bar"><span class="brand">Dure</span><ul>{links}</ul><div class="switches">'
        '<button type="button" data-set="lang" data-value="en" lang="en" class="always">English</button>'
        '<button type="button" data-set="lang" data-value="ko" lang="ko" class="always">한국어</button>'
        f'<button type="button" id="theme">{word("theme").html()}</button></div></nav>'
        f"<noscript>{paragraph(word('no_script'), 'bar-note')}</noscript>"
    )


# ---------------------------------------------------------------- what was replayed, what came out


def _header_one(run: ShownRun, title: str) -> str:
    of = run.metrics
    replayed = word("replayed", policy=run.result.name, seed=str(run.result.seed), **_load(run.result))
    fates = {key: count(of.outcomes[key]) for key in ("running", "waiting", "cancelled", "rejected")}
    fate = paragraph(word("unfinished", **fates)) if of.summary["finished"] < of.summary["jobs"] else ""
    return _header(title, replayed, _headline(of), fate + _key_figures(of))


def _header_many(results: Sequence[RunResult], comparison: Comparison, title: str) -> str:
    seeds = word("seeds_n", n=count(comparison.num_seeds)) if comparison.num_seeds > 1 else word("seeds_1")
    replayed = word(
        "replayed_many",
        runs=word("runs_n", n=str(len(results))),
        names=", ".join(result.name for result in results),
        seeds=seeds,
        **_load(results[0]),
    )
    return _header(title, replayed, _headline_many(comparison), "")


def _header(title: str, replayed: Text, headline: Text, more: str) -> str:
    texts = paragraph(replayed, "replayed") + paragraph(headline, "headline")
    return f"<header><h1>{html.escape(title)}</h1>{texts}{more}</header>"


def _load(result: RunResult) -> dict[str, Text | str]:
    """What the sentences about the load are filled with."""
    num_members = len(np.unique(result.trace.jobs["member"]))
    num_sites = len(result.fleet.sites)
    last_ms = int(result.trace.jobs["submit_ms"].max(initial=0))
    return {
        "source": result.trace.source,
        "jobs": count(len(result.jobs)),
        "members": word("members_1") if num_members == 1 else word("members_n", n=count(num_members)),
        "span": duration((last_ms - result.start_ms) / 1000),
        "gpus": count(result.fleet.num_gpus),
        "sites": word("sites_1") if num_sites == 1 else word("sites_n", n=count(num_sites)),
    }


def _headline(of: RunMetrics) -> Text:
    if not of.wait_s.n:
        return word("headline_empty")
    first = word(
        "headline_instant" if of.instant_share >= 0.5 else "headline",
        finished=percent(of.summary["finished"] / of.summary["jobs"]),
        share=percent(of.instant_share),
        p50=duration(of.wait_s.p50),
        p99=duration(of.wait_s.p99),
        utilisation=percent(of.summary["utilisation"]),
    )
    breaches = of.counters.num_guarantee_breaches
    return joined(first, word("guarantee_broken", n=count(breaches)) if breaches else word("guarantee_kept"))


def _headline_many(comparison: Comparison) -> Text:
    intervals = {metric.key: metric.intervals for metric in comparison.metrics}
    wait_s = {name: of.mean for name, of in intervals["wait_mean_s"].items() if of.n}
    if not wait_s:
        return word("headline_empty")
    best, worst = min(wait_s, key=lambda name: wait_s[name]), max(wait_s, key=lambda name: wait_s[name])
    used = [of.mean for of in intervals["utilisation"].values()]
    first = word(
        "headline_same" if duration(wait_s[best]) == duration(wait_s[worst]) else "headline_many",
        best=best,
        best_wait=duration(wait_s[best]),
        worst=worst,
        worst_wait=duration(wait_s[worst]),
        low=percent(min(used)),
        high=percent(max(used)),
    )
    breaches = sum(of.mean * of.n for of in intervals["guarantee_breaches"].values())
    kept = word("guarantee_broken_many", n=count(breaches)) if breaches else word("guarantee_kept_many")
    return joined(first, kept)


def _key_figures(of: RunMetrics) -> str:
    figures = (
        ("key_utilisation", same(percent(of.summary["utilisation"]))),
        ("key_wait_mean", duration(of.wait_s.mean)),
        ("key_wait_p99", duration(of.wait_s.p99)),
        ("key_lent", same(count(of.lent_gpu_h))),
        ("key_preemptions", same(count(of.counters.num_preemptions))),
        ("key_breaches", same(count(of.counters.num_guarantee_breaches))),
    )
    items = (f"<div><dt>{word(key).html()}</dt><dd>{value.html()}</dd></div>" for key, value in figures)
    return f'<dl class="keys">{"".join(items)}</dl>'


def _picker(results: Sequence[RunResult]) -> str:
    options = "".join(
        f'<option value="{i}">{html.escape(result.name)} · {result.seed}</option>'
        for i, result in enumerate(results)
    )
    label = f'<label for="run">{word("run_shown").html()}</label>'
    return f'<p class="picker">{label} <select id="run">{options}</select></p>'


# ---------------------------------------------------------------- closing sections


def _definitions() -> str:
    return section("sec_definitions", facts([(f"def_{key}", word(f"def_{key}_text")) for key in DEFINED]))


def _notes(results: Sequence[RunResult]) -> str:
    notes = dict.fromkeys(note for result in results for note in result.notes)
    if not notes:
        return section("sec_notes", paragraph(word("notes_none")))
    items = "".join(f"<li>{html.escape(note)}</li>" for note in notes)
    return section("sec_notes", f"{paragraph(word('notes_language'), 'hint')}<ul>{items}</ul>")
