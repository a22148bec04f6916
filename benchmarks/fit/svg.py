"""Small line plots as SVG, without a plotting library."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 560, 300, 52, 262, 34
COLOURS = ("#1f4e8c", "#d9601a", "#8a8a8a")
TICKS = {"1 s": 1, "10 s": 10, "1 min": 60, "10 min": 600, "1 h": 3600, "10 h": 36_000,
         "1 d": 86_400, "10 d": 864_000}


def _page(path: Path, title: str, marks: list[str], curves: dict[str, str]) -> None:
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        f'font-size="11" role="img" aria-label="{title}">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        f'<text x="{LEFT}" y="20" font-size="13" font-weight="bold">{title}</text>', *marks,
    ]
    for idx, (name, points) in enumerate(curves.items()):
        colour = COLOURS[idx % len(COLOURS)]
        dash = ' stroke-dasharray="5 3"' if idx else ""
        lines.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.8"{dash}/>')
        x = WIDTH - 330 + idx * 110
        ends = f'x1="{x}" y1="16" x2="{x + 18}" y2="16"'
        lines.append(f'<line {ends} stroke="{colour}" stroke-width="2"{dash}/>')
        lines.append(f'<text x="{x + 22}" y="20">{name}</text>')
    path.write_text("\n".join([*lines, "</svg>"]) + "\n")


def _scale(x: np.ndarray, y: np.ndarray, x_max: float, y_max: float) -> str:
    px = LEFT + x / x_max * (WIDTH - LEFT - 12)
    py = BOTTOM - y / y_max * (BOTTOM - TOP)
    return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(px, py, strict=True))


def _grid(x_ticks: dict[str, float], y_ticks: dict[str, float]) -> list[str]:
    marks = []
    for label, part in x_ticks.items():
        x = LEFT + part * (WIDTH - LEFT - 12)
        marks.append(f'<line x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{BOTTOM}" stroke="#e3e3e3"/>')
        marks.append(f'<text x="{x:.1f}" y="{BOTTOM + 16}" text-anchor="middle">{label}</text>')
    for label, part in y_ticks.items():
        y = BOTTOM - part * (BOTTOM - TOP)
        marks.append(f'<line x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - 12}" y2="{y:.1f}" stroke="#e3e3e3"/>')
        marks.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{label}</text>')
    return marks


def cdf_svg(path: Path, title: str, log_s: np.ndarray, curves: dict[str, np.ndarray]) -> None:
    """Cumulative distributions of run times (``log_s``: natural logarithm of seconds)."""
    x_max = float(log_s[-1])
    x_ticks = {label: math.log(s) / x_max for label, s in TICKS.items() if math.log(s) <= x_max}
    marks = _grid(x_ticks, {f"{p}%": p / 100 for p in (0, 25, 50, 75, 100)})
    _page(path, f"{title}: run time", marks, {n: _scale(log_s, y, x_max, 1.0) for n, y in curves.items()})


def lines_svg(path: Path, title: str, series: dict[str, list[float]]) -> None:
    """Lines over the hours of a week."""
    y_max = math.ceil(max(max(values) for values in series.values()))
    days = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
    x_ticks = {day: (24 * i + 12) / 168 for i, day in enumerate(days)}
    marks = _grid(x_ticks, {str(y): y / y_max for y in range(y_max + 1)})
    hours = np.arange(168) + 0.5
    _page(path, title, marks, {n: _scale(hours, np.array(v), 168, y_max) for n, v in series.items()})
