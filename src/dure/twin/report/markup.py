"""Pieces of the page's HTML: sections, figures, tables."""

from __future__ import annotations

import html
import json
import math
from typing import Any

from dure.twin.report.figure import Plot, Table
from dure.twin.report.words import Text, word


def paragraph(text: Text, kind: str = "") -> str:
    """A paragraph, ``kind`` being its class."""
    return f'<p class="{kind}">{text.html()}</p>' if kind else f"<p>{text.html()}</p>"


def section(key: str, body: str, run: str = "") -> str:
    """A section with its heading; of several runs only the shown one's carries the id."""
    ident = f' id="{key}"' if run in ("", "run0") else ""
    return f'<section{ident} data-section="{key}"><h2>{word(key).html()}</h2>{body}</section>'


def facts(pairs: list[tuple[str, Text]]) -> str:
    """A list of terms (keys of the dictionary) and what they are."""
    items = "".join(f"<dt>{word(key).html()}</dt><dd>{value.html()}</dd>" for key, value in pairs)
    return f'<dl class="facts">{items}</dl>'


def figure(run: str, plot: Plot, specs: dict[str, Any]) -> str:
    """A plot with heading, caption and table; its specification goes into ``specs``."""
    return (
        f'<figure><h3>{plot.title.html()}</h3><div class="scroll">{_box(run, plot, specs)}</div>'
        f"<figcaption>{plot.caption.html()}</figcaption>"
        f"<details><summary>{word('as_table').html()}</summary>{table_html(plot.table, plot.title)}</details>"
        "</figure>"
    )


def small_figure(run: str, plot: Plot, specs: dict[str, Any]) -> str:
    """A plot with a heading only, where a table beside it says the same."""
    return f"<figure><h4>{plot.title.html()}</h4>{_box(run, plot, specs)}</figure>"


def _box(run: str, plot: Plot, specs: dict[str, Any]) -> str:
    """The empty element that the script draws into."""
    ident = f"{run}-{plot.key}"
    specs[ident] = {"data": plot.data, "layout": plot.layout, "height": plot.height}
    label = html.escape(json.dumps(plot.title.plot(), ensure_ascii=False))
    width = f"min-width:{plot.min_width}px;" if plot.min_width else ""
    return (
        f'<div class="plot" id="{ident}" role="group" data-label="{label}" '
        f'style="{width}height:{plot.height}px"></div>'
    )


def table_html(table: Table, caption: Text, is_sortable: bool = False) -> str:
    """A table that scrolls in its own box; the first column names the rows."""
    head = "".join(_head(text, is_sortable) for text in table.header)
    rows = "".join(
        f"<tr>{''.join(_cell(i, text, value, is_sortable) for i, (text, value) in enumerate(row))}</tr>"
        for row in table.rows
    )
    kind = ' class="sortable"' if is_sortable else ""
    return scrolling(
        f"<table{kind}><caption>{caption.html()}</caption><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>",
        caption,
    )


def scrolling(table: str, caption: Text) -> str:
    """A box in which a wide table scrolls, reachable by keyboard."""
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{html.escape(caption.en)}">{table}</div>'
    )


def _head(text: Text, is_sortable: bool) -> str:
    inner = f'<button type="button">{text.html()}</button>' if is_sortable else text.html()
    return f'<th scope="col">{inner}</th>'


def _cell(column: int, text: Text, value: float | None, is_sortable: bool) -> str:
    if column == 0:
        return f'<th scope="row">{text.html()}</th>'
    is_number = is_sortable and value is not None and not math.isnan(value)
    return f'<td data-v="{value:.10g}">{text.html()}</td>' if is_number else f"<td>{text.html()}</td>"
