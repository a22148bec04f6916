"""What a plot and a table of the report are, and the tokens that stand in them until the page draws them.

In a plot's specification (plotly.js) a colour ``@name`` is the style sheet's ``--name``, so that light, dark
and print have their own; ``{"en": …, "ko": …}`` and ``{"wide": …, "narrow": …}`` stand for the value that
fits the reader.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dure.twin.report.words import Text, count, duration, number, same, word

#: Categorical colours of the style sheet, ``--c0``…; beyond them a line is grey.
NUM_COLOURS = 6

DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")

#: Ticks of a logarithmic time axis: seconds, and whether a narrow plot shows it too.
TIME_TICKS = (
    (1, True),
    (10, False),
    (60, True),
    (600, False),
    (3_600, True),
    (6 * 3_600, False),
    (86_400, True),
    (7 * 86_400, False),
    (30 * 86_400, True),
    (365 * 86_400, True),
)


@dataclass(frozen=True)
class Table:
    """Rows of cells; a cell is a text and the number it sorts by (None: it is a name)."""

    header: list[Text]
    rows: list[list[tuple[Text, float | None]]]


@dataclass(frozen=True)
class Plot:
    """One figure.

    Attributes
    ----------
    key : str
        Unique in a run.
    title, caption : Text
    height : int
        Pixels.
    data, layout : list, dict
        plotly.js, with tokens.
    table : Table
        The same in words.
    min_width : int
        Pixels below which the figure scrolls sideways.
    """

    key: str
    title: Text
    caption: Text
    height: int
    data: list[dict[str, Any]]
    layout: dict[str, Any]
    table: Table
    min_width: int = 0


def rounded(values: NDArray[Any]) -> list[float | int | None]:
    """Five significant digits, whole numbers as such: what a plot can show, and a third of the bytes."""
    return [compact(float(value)) for value in values]


def compact(value: float) -> float | int | None:
    """``value`` in five significant digits, a whole number as such; None if not finite."""
    if not math.isfinite(value):
        return None
    short = float(f"{value:.5g}") if abs(value) < 100_000 else round(value)
    return int(short) if short == int(short) else short


def colour(i: int) -> str:
    """The ``i``-th categorical colour."""
    return f"@c{i}" if i < NUM_COLOURS else "@rest"


def dash_style(i: int) -> str:
    """The ``i``-th line style, so that lines differ in more than colour."""
    return DASHES[i % len(DASHES)]


def axis_title(key: str) -> dict[str, Any]:
    """An axis title from the dictionary."""
    return {"text": word(key).plot()}


def in_languages(texts: Sequence[Text]) -> dict[str, list[str]]:
    """Names or labels for a plot, in both languages."""
    return {"en": [plain(text.en) for text in texts], "ko": [plain(text.ko) for text in texts]}


def plain(name: str) -> str:
    """A name in a plot, in which ``<`` would start a tag."""
    return same(name).plot()["en"]


def shortened(text: Text, length: int) -> Text:
    """A text cut to ``length`` characters, with an ellipsis where it was longer."""
    en, ko = (part if len(part) <= length else part[: length - 1] + "…" for part in (text.en, text.ko))
    return Text(en, ko)


def top_and_rest(size: NDArray[Any], num: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Indices of the ``num`` largest, largest first, and of all others; a single other is not left over."""
    order = np.argsort(-size, kind="stable")
    kept = num + 1 if len(size) == num + 1 else num
    return order[:kept], order[kept:]


def time_axis(longest_s: float) -> dict[str, Any]:
    """A log axis from 1 s to beyond ``longest_s`` with ticks that people say."""
    last = max(60.0, longest_s)
    ticks = [(s, is_narrow) for s, is_narrow in TIME_TICKS if s <= last * 1.5]
    few = [s for s, is_narrow in ticks if is_narrow]
    return {
        "type": "log",
        "range": [-0.08, math.log10(last) + 0.12],
        "tickvals": {"wide": [s for s, _ in ticks], "narrow": few},
        "ticktext": {
            "wide": in_languages([_tick(s) for s, _ in ticks]),
            "narrow": in_languages([_tick(s) for s in few]),
        },
    }


def _tick(seconds: int) -> Text:
    if seconds == 1:
        return Text("≤ 1 s", "1초 이하")
    return {7 * 86_400: Text("1 wk", "1주"), 365 * 86_400: Text("1 y", "1년")}.get(seconds) or _whole(seconds)


def _whole(seconds: int) -> Text:
    label = duration(seconds)
    return Text(label.en.replace(".0", ""), label.ko.replace(".0", ""))


def thousands(value: float) -> str:
    """At most four characters, for cells and ticks; empty for 0."""
    if value <= 0:
        return ""
    for unit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= 0.9995 * unit:
            return f"{value / unit:.3g}{letter}" if value < 999.5 * unit else f"{value / unit:.0f}{letter}"
    return f"{value:.2g}" if value < 1 else f"{value:.3g}"


def cell(text: str, value: float) -> tuple[Text, float | None]:
    """A table's cell and the number it sorts by."""
    return same(text), value


def name_cell(text: str) -> tuple[Text, float | None]:
    """A table's cell with a name."""
    return same(text), None


def number_cell(value: float) -> tuple[Text, float | None]:
    """A table's cell with three significant digits."""
    return same(number(value)), value


def count_cell(value: float) -> tuple[Text, float | None]:
    """A table's cell with a whole number."""
    return same(count(value)), value


def seconds_cell(value: float) -> tuple[Text, float | None]:
    """A table's cell with a duration."""
    return duration(value), value
