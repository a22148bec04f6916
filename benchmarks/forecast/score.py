"""Promised and foretold starts against what came: virtual clusters of Philly and a day of the reference alliance.

``python benchmarks/forecast/score.py`` (two minutes) writes results.json and results.md beside this file, and
docs/validation.md has a part of them. At 48 moments of each replay the starts of all waiting jobs are forecast by what
is known then; the replay goes on with the jobs that come later, and each forecast is scored by the job's next start.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dure.model.fleet import Fleet, uniform_fleet
from dure.model.jobs import Trace
from dure.model.terms import Terms
from dure.policy.config import named_policy
from dure.twin.data import data_dir
from dure.twin.faults import generate_faults
from dure.twin.foresight import even_moments
from dure.twin.generate import LoadSpec, generate
from dure.twin.inputs import reference_alliance
from dure.twin.metrics import measure
from dure.twin.replay import replay
from dure.twin.result import NEVER, RunResult
from dure.twin.start_errors import ERROR_QUANTILES, StartErrors, forecasts
from dure.twin.traces import capacity_for_load, load_trace, select_members
from dure.twin.traces.shape import with_checkpoints

HOUR_MS, DAY_MS = 3_600_000, 86_400_000
NUM_MOMENTS = 48
POLICIES = ("dure", "easy", "conservative")
PHILLY_LOAD = 0.85
#: Of the reference day's gangs of at least a node, one in so many is reserved, so long ahead.
RESERVED_ONE_IN, RESERVED_AHEAD_MS = 50, 4 * HOUR_MS


@dataclass(frozen=True)
class Setting:
    """A load on a fleet under a policy."""

    name: str
    policy: str
    trace: Trace
    fleet: Fleet
    terms: Terms | None
    moments_ms: list[int]
    horizon_ms: int = NEVER
    fault_preset: str = "off"


def philly(data: Path) -> Iterator[Setting]:
    """Each virtual cluster with at least a thousand jobs on a cluster of its own."""
    whole = load_trace(data / "philly_2017" / "philly.csv.gz")
    for name in sorted(whole.members):
        trace = with_checkpoints(select_members(whole, [name]), 600_000)
        if len(trace.jobs) < 1_000:
            continue
        gpus = max(capacity_for_load(trace, PHILLY_LOAD), int(trace.jobs["num_gpus"].max()))
        fleet = uniform_fleet(-(-gpus // 8) * 8, 8)
        for policy in POLICIES:
            yield Setting(f"Philly {name}", policy, trace, fleet, None, even_moments(trace, NUM_MOMENTS))


def reference_days() -> Iterator[Setting]:
    """The second of three days of the reference alliance at two loads, with failures and gangs reserved in advance.

    The first day fills the fleet, the third lets those start who wait at the end of the second.
    """
    fleet, terms = reference_alliance(1 << 60)
    moments_ms = [DAY_MS + DAY_MS * i // NUM_MOMENTS for i in range(NUM_MOMENTS)]
    for load in (0.9, 1.1):
        trace = with_reservations(generate(LoadSpec(3.0, load), fleet, terms, 1))
        name = f"reference day, load {load:g}"
        yield Setting(name, "dure", trace, fleet, terms, moments_ms, 3 * DAY_MS, "rsc1")


def with_reservations(trace: Trace) -> Trace:
    """The same jobs; some gangs are known in advance and begin a fixed time after they are submitted."""
    jobs = trace.jobs.copy()
    gangs = np.flatnonzero(jobs["num_gpus"] >= 8)[::RESERVED_ONE_IN]
    jobs["begin_ms"][gangs] = jobs["submit_ms"][gangs] + RESERVED_AHEAD_MS
    return replace(trace, jobs=jobs)


def run(setting: Setting, is_told: bool = False) -> RunResult:
    """The replay with its forecasts; `is_told`: of the true run times of the jobs known by then."""
    faults = generate_faults(setting.fleet, setting.fault_preset, 3 * DAY_MS, 1)
    return replay(
        setting.trace, setting.fleet, named_policy(setting.policy), setting.terms, faults=faults, seed=1,
        horizon_ms=setting.horizon_ms, is_rejecting=True, forecast_at_ms=setting.moments_ms, is_told=is_told,
    )  # fmt: skip


def absolute_errors_s(rows: NDArray[Any], start_ms: NDArray[Any]) -> dict[str, float]:
    """Mean and median absolute error of the starts `start_ms` foretold for the promises `rows`."""
    error_s = np.abs(rows["start_ms"] - start_ms) / 1000
    return {"mae_s": float(error_s.mean()), "median_s": float(np.median(error_s))} if len(rows) else {}


def of_first_starts(result: RunResult) -> NDArray[Any]:
    """The forecasts of first starts of jobs that wait for whatever comes free."""
    rows = forecasts(result.promises)
    first, begin = result.jobs["first_start_ms"], result.trace.jobs["begin_ms"]
    is_first = (rows["start_ms"] != NEVER) & (rows["start_ms"] == first[rows["job"]])
    return rows[is_first & (rows["promised_ms"] != NEVER) & (begin[rows["job"]] < rows["made_ms"])]


def guess_from_past_waits_ms(result: RunResult, rows: NDArray[Any]) -> NDArray[Any]:
    """A plain guess of the same first starts at the same moments.

    Of the jobs that had started by then after waiting at least as long as this one has, the median further
    wait; where there is none, as long again as it has waited.
    """
    first, submit = result.jobs["first_start_ms"], result.trace.jobs["submit_ms"]
    guess_ms = np.zeros(len(rows), np.int64)
    for at_ms in np.unique(rows["made_ms"]):
        past = np.sort((first - submit)[(first != NEVER) & (first <= at_ms)])
        at = np.flatnonzero(rows["made_ms"] == at_ms)
        waited = at_ms - submit[rows["job"][at]]
        longer = np.searchsorted(past, waited, side="left")
        middle = np.minimum((longer + len(past)) // 2, max(len(past) - 1, 0))
        rest = np.where(longer < len(past), past[middle] - waited, waited) if len(past) else waited
        guess_ms[at] = at_ms + rest
    return guess_ms


def scored(setting: Setting) -> dict:
    """All that is kept of a setting."""
    started = time.perf_counter()
    result = run(setting)
    of = measure(result)
    first, told = of_first_starts(result), of_first_starts(run(setting, is_told=True))
    return {
        "setting": setting.name, "policy": setting.policy, "jobs": len(setting.trace.jobs),
        "gpus": setting.fleet.num_gpus, "digest": result.digest,
        "seconds": round(time.perf_counter() - started, 2),
        "promised": {name: asdict(errors) for name, errors in of.promised_by_kind.items()},
        "foretold": asdict(of.foretold),
        "foretold_by_horizon": {
            "more" if np.isinf(edge_s) else f"{edge_s:.0f}": asdict(errors)
            for edge_s, errors in of.foretold_by_horizon.items()
        },
        "first_starts": {
            "n": len(first),
            "forecast": absolute_errors_s(first, first["promised_ms"]),
            "past_waits": absolute_errors_s(first, guess_from_past_waits_ms(result, first)),
            "told": absolute_errors_s(told, told["promised_ms"]),
        },
    }  # fmt: skip


def span(seconds: float) -> str:
    """A duration with its sign, in its largest fitting unit."""
    for unit_s, unit in ((DAY_MS / 1000, "d"), (HOUR_MS / 1000, "h"), (60, "min")):
        if abs(seconds) >= unit_s:
            return f"{seconds / unit_s:.1f} {unit}".replace("-", "−")
    return f"{seconds:.0f} s".replace("-", "−") if round(seconds) else "0"


def row_of(words: list[str], of: dict) -> str:
    errors = StartErrors(**of)
    if errors.n == 0:
        return f"| {' | '.join(words)} | 0 | {errors.num_open} |" + " |" * (len(ERROR_QUANTILES) + 4)
    cells = [span(errors.ahead_p50_s), *map(span, errors.quantiles_s), span(errors.mean_s)]
    shares = [f"{errors.late_share:.1%}", f"{errors.on_time_share:.1%}"]
    return f"| {' | '.join([*words, f'{errors.n:,}', f'{errors.num_open:,}', *cells, *shares])} |"


def tables(rows: list[dict]) -> str:
    """Promises by kind, forecasts by horizon, forecasts beside past waits."""
    quantiles = " | ".join(f"p{q * 100:g}" for q in ERROR_QUANTILES)
    columns = f"scored | open | ahead, median | {quantiles} | mean | late | on time |"
    rule = "--:|" * (len(ERROR_QUANTILES) + 6)
    lines = ["## Starts that the policy promised", ""]
    lines += [f"| setting | policy | promise | {columns}", f"|---|---|---|{rule}"]
    for row in rows:
        lines += [row_of([row["setting"], row["policy"], kind], of) for kind, of in row["promised"].items()]
    lines += ["", "## Starts that were foretold", ""]
    lines += [f"| setting | policy | ahead up to | {columns}", f"|---|---|---|{rule}"]
    for row in rows:
        for edge, of in row["foretold_by_horizon"].items():
            lines.append(row_of([row["setting"], row["policy"], edge if edge == "more" else span(float(edge))], of))
        lines.append(row_of([row["setting"], row["policy"], "all"], row["foretold"]))
    lines += [
        "", "## Absolute error of the forecasts of first starts: mean / median", "",
        "Beside them a plain guess from past waits, and the same forecast were it told the true run times of the jobs "
        "that had come by then.", "",
        "| setting | policy | scored | forecast | past waits | forecast, told |", "|---|---|--:|--:|--:|--:|",
    ]  # fmt: skip
    for row in rows:
        of = row["first_starts"]
        if of["n"]:
            cells = [f"{span(of[k]['mae_s'])} / {span(of[k]['median_s'])}" for k in ("forecast", "past_waits", "told")]
            lines.append(f"| {row['setting']} | {row['policy']} | {of['n']:,} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    data = data_dir()
    if data is None:
        sys.exit("no data: set DURE_DATA")
    here = Path(__file__).resolve().parent
    rows = []
    for settings in (philly(data), reference_days()):
        for setting in settings:
            rows.append(scored(setting))
            print(f"{setting.name}, {setting.policy}: {rows[-1]['seconds']} s", file=sys.stderr)
    machine = {
        "cores": os.cpu_count(), "architecture": platform.machine(), "system": platform.system(),
        "python": platform.python_version(),
    }  # fmt: skip
    found = {"date": datetime.date.today().isoformat(), "machine": machine, "moments": NUM_MOMENTS, "rows": rows}
    (here / "results.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    words = (
        f"# Promised and foretold starts, scored\n\n{found['date']}, {machine['system']} on {machine['architecture']}, "
        f"{machine['cores']} cores, Python {machine['python']}. Written by score.py, which says what was run. "
        "Errors are actual less promised start, positive: later. On time: within a minute or a tenth of the time ahead. Open: the "
        "job had not started when the run ended.\n\n"
    )
    (here / "results.md").write_text(words + tables(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
