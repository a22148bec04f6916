"""Puts the plant's lives together, draws them, and ends with 1 where foresight does not pay."""

from __future__ import annotations

import argparse
import csv
import json
import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
from plant import RULES

from dure.client import job
from dure.model.errors import InputError
from dure.whole_file import whole_file

mpl.use("agg")
import matplotlib.pyplot as plt


def main() -> int:
    """Report; 1: below the gate."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gate", type=float, default=0.0, help="Share of the time that foresight has to save, at the lower end of its 95% interval.")
    given = parser.parse_args()
    lives = read_lives(job.input_dir("state/input"))
    hours = {rule: np.array([lives[rule, seed]["hours"] for seed in sorted({s for _, s in lives})]) for rule in RULES}
    saved = {rule: 1 - hours["foreseen"] / hours[rule] for rule in RULES[:2]}
    mean = {rule: float(part.mean()) for rule, part in saved.items()}
    half = {rule: float(1.96 * part.std(ddof=1) / np.sqrt(len(part))) for rule, part in saved.items()}
    totals = {rule: {key: float(np.mean([row[key] for (r, _), row in lives.items() if r == rule])) for key in ("hours", "failures", "renewals", "down_h")} for rule in RULES}
    lower = mean["when it fails"] - half["when it fails"]
    reached = {
        "time_saved": mean["when it fails"], "time_saved_ci95": half["when it fails"], "time_saved_on_fixed": mean["fixed time"],
        "time_saved_on_fixed_ci95": half["fixed time"], "failures_avoided": 1 - totals["foreseen"]["failures"] / max(totals["when it fails"]["failures"], 1e-9),
        "lives": len(hours["foreseen"]), "is_passed": lower >= given.gate,
    }  # fmt: skip
    out = job.output_dir("state/output")
    with whole_file(out / "result.json") as draft:
        draft.write_text(json.dumps({**reached, "by_rule": totals}, indent=2) + "\n")
    with whole_file(out / "result.png") as draft:
        draw(hours, totals, draft)
    job.report_metrics(**reached)
    return 0 if reached["is_passed"] else 1


def read_lives(inputs: Path) -> dict[tuple[str, int], dict[str, float]]:
    """Rows of all shards by rule and seed.

    Raises
    ------
    InputError
        There is none, or a life is missing under some rule.
    """
    found: dict[tuple[str, int], dict[str, float]] = {}
    for path in sorted(inputs.glob("*/weeks.csv")):
        with path.open() as file:
            for row in csv.DictReader(file):
                found[row["rule"], int(row["seed"])] = {key: float(value) for key, value in row.items() if key not in ("rule", "seed")}
    if not found or any((rule, seed) not in found for _, seed in found for rule in RULES):
        raise InputError("has no whole lives", str(inputs))
    return found


def draw(hours: dict[str, np.ndarray], totals: dict[str, dict[str, float]], path: Path) -> None:
    """Hours of the orders by rule, and what the machines stood for."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained", width_ratios=(3, 2))
    left.boxplot([hours[rule] for rule in RULES], orientation="horizontal", tick_labels=RULES, widths=0.6)
    left.invert_yaxis()
    left.set(xlabel="hours for the same orders", title=f"{len(hours[RULES[0]])} lives of the plant, maintained …")
    places = np.arange(len(RULES))
    right.barh(places - 0.2, [totals[rule]["failures"] for rule in RULES], 0.38, label="failures", color="#c44e52")
    right.barh(places + 0.2, [totals[rule]["renewals"] for rule in RULES], 0.38, label="planned renewals", color="#4c72b0")
    right.set(yticks=places, yticklabels=[], xlabel="in a life")
    right.invert_yaxis()
    right.legend()
    figure.savefig(path, format="png", dpi=100)
    plt.close(figure)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except InputError as error:
        print(f"report: {error}", file=sys.stderr)
        sys.exit(2)
