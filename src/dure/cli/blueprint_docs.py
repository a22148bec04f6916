"""The table in docs/blueprints.md, from the blueprints' own files: ``python -m dure.cli.blueprint_docs`` writes it."""

from __future__ import annotations

from pathlib import Path

from dure.client.blueprints import Entry, catalogue
from dure.model.file_docs import with_part

BEGIN, END = "<!-- blueprints: made from their files -->", "<!-- end of blueprints -->"


def table() -> str:
    """A line a blueprint."""
    lines = [
        "| blueprint | field | metric | reached | goal | published or known | CPU-s (small) | checkpoint | on the reference fleet |",
        "|---|---|---|---:|---:|---|---:|---:|---:|",
        *map(_line, catalogue()),
    ]
    return "\n".join(lines)


def _line(entry: Entry) -> str:
    about, metric = entry.about, entry.about.metric
    known = "" if metric.known is None else f"{metric.known:g}: {metric.known_from}"
    sign = "≤" if metric.better == "lower" else "≥"
    return (
        f"| [{about.name}](../blueprints/{about.name}/README.md) | {about.field} | `{metric.name}` | {metric.reached:g} | {sign} {metric.goal:g} "
        f"| {known} | {about.expected_cpu_s:,.0f} ({about.small_cpu_s:,.0f}) | {about.checkpoint_mib:g} MiB | {_on_fleet(entry)} |"
    )


def _on_fleet(entry: Entry) -> str:
    found = entry.on_fleet
    if found is None:
        return ""
    return f"{found.time_p50_s / 60:.1f} min (95%: {found.time_p95_s / 60:.1f}), {found.cost:,.0f} {found.currency}"


def with_table(page: str) -> str:
    """The page with its table replaced; raises InputError where it has no place for it."""
    return with_part(page, BEGIN, END, table() + "\n")


if __name__ == "__main__":
    path = Path("docs/blueprints.md")
    path.write_text(with_table(path.read_text(encoding="utf-8")), encoding="utf-8")
