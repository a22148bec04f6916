"""Parts that pages share: tables that change in place, figures, states, charts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from nicegui import ui

from dure.console.frame import Frame
from dure.console.session import MOUNT
from dure.console.terms import OUTCOMES, STATES, term
from dure.console.words import Words
from dure.service.schemas import JobView

Tone = Literal["good", "bad", "wait", "go", "calm"]
Row = dict[str, Any]

_STATE_TONES: dict[str, Tone] = {"PENDING": "wait", "ADMITTED": "go", "RUNNING": "go", "SUSPENDED": "wait", "COMPLETING": "go"}
_OUTCOME_TONES: dict[str, Tone] = {"succeeded": "good", "cancelled": "calm"}

_LINK = """<q-td :props="props"><a v-if="props.row[props.col.name + '_href']" :href="props.row[props.col.name + '_href']">{{
  props.value }}</a><span v-else>{{ props.value }}</span></q-td>"""
_STATE = """<q-td :props="props"><span v-if="props.value" class="dure-state"
  :data-tone="props.row[props.col.name + '_tone']">{{ props.value }}</span></q-td>"""
_LINKS = """<q-td :props="props"><template v-for="(link, i) in props.value" :key="link.text"><span v-if="i">, </span><a
  :href="link.href">{{ link.text }}</a></template></q-td>"""
_SLOTS = {"link": _LINK, "state": _STATE, "links": _LINKS}


def column(name: str, label: str, kind: Literal["text", "number", "link", "links", "state"] = "text") -> Row:
    """A column of a `Table`.

    Of a link the row has the address as `name_href`, of a state the tone as `name_tone`; links are pairs of text and href.
    """
    return {"name": name, "field": name, "label": label, "kind": kind}


class Table:
    """A table whose rows are sent again only when they have changed."""

    def __init__(self, frame: Frame, title: str, columns: Sequence[Row], row_key: str, empty: str) -> None:
        language = frame.words.language
        how = "{maximumFractionDigits: 2, signDisplay: 'negative'}"
        number = f"value => value === null ? '' : new Intl.NumberFormat('{language}', {how}).format(value)"
        made = []
        for col in columns:
            is_number = col["kind"] == "number"
            made.append({**col, "align": "right" if is_number else "left", "sortable": col["kind"] != "links"}
                        | ({":format": number} if is_number else {}))  # fmt: skip
        self._table = ui.table(columns=made, rows=[], row_key=row_key).classes("dure-table")
        self._table.props(f'flat dense hide-pagination aria-label="{title}" no-data-label="{empty}" hide-no-data=false')
        for col in columns:
            if col["kind"] in _SLOTS:
                self._table.add_slot(f"body-cell-{col['name']}", _SLOTS[col["kind"]])
        self._rows: list[Row] | None = None

    def show(self, rows: list[Row]) -> None:
        """Show these rows."""
        if rows != self._rows:
            self._rows = rows
            self._table.rows = rows

    def show_if(self, is_shown: bool) -> None:
        """Whether the table is there at all."""
        self._table.visible = is_shown


class Figures:
    """A line of single numbers, each with what it counts."""

    def __init__(self, names: Mapping[str, str]) -> None:
        self._values: dict[str, ui.label] = {}
        with ui.element("div").classes("dure-figures"):
            for key, name in names.items():
                with ui.element("div").classes("dure-figure"):
                    ui.label(name).classes("what")
                    self._values[key] = ui.label("–").classes("value")

    def show(self, values: Mapping[str, str]) -> None:
        """Show these values."""
        for key, value in values.items():
            self._values[key].text = value


class Chart:
    """A chart whose options are sent again only when they have changed."""

    def __init__(self, frame: Frame, title: str, height_px: int) -> None:
        self.ink, self.line = ("#c9d1d9", "#363c43") if frame.is_dark else ("#3a4149", "#d5d9de")
        self._chart = ui.echart({}, renderer="svg").style(f"height: {height_px}px; width: 100%")
        self._chart.props(f'role=img aria-label="{title}"')
        self._options: dict[str, Any] = {}

    def show(self, options: dict[str, Any], height_px: int | None = None) -> None:
        """Draw these options, in the theme's colours."""
        whole = {"animation": False, "textStyle": {"color": self.ink, "fontFamily": "inherit"}, **options}
        if whole == self._options:
            return
        self._options = whole
        if height_px is not None:
            self._chart.style(f"height: {height_px}px")
        self._chart.options.clear()
        self._chart.options.update(whole)
        self._chart.update()

    def show_if(self, is_shown: bool) -> None:
        """Whether the chart is there at all."""
        self._chart.visible = is_shown

    def axis(self, kind: Literal["value", "category"], label: Mapping[str, Any] | None = None, **more: Any) -> dict[str, Any]:
        """An axis in the theme's colours."""
        return {
            "type": kind, "axisLabel": {"color": self.ink, "hideOverlap": True, **(label or {})}, "axisLine": {"lineStyle": {"color": self.line}},
            "splitLine": {"lineStyle": {"color": self.line}}, "nameTextStyle": {"color": self.ink}, **more,
        }  # fmt: skip


def section(title: str) -> ui.column:
    """A part of a page under a heading of its own."""
    box = ui.column().classes("dure-section")
    with box:
        heading(title)
    return box


def heading(text: str) -> None:
    """A second-level heading."""
    with ui.element("h2"):
        ui.label(text)


def state_of(words: Words, job: JobView) -> tuple[str, Tone]:
    """A job's state, or how it ended, and its tone."""
    if job.state == "ENDED":
        return term(words, OUTCOMES, job.outcome), _OUTCOME_TONES.get(job.outcome or "", "bad")
    return term(words, STATES, job.state), _STATE_TONES[job.state]


def job_href(job_id: str) -> str:
    """Where a job's page is."""
    return f"{MOUNT}/jobs/{job_id}"
