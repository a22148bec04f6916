"""Gavel's replays (OSDI'20): tab-separated, run time from steps and the throughput of a GPU type."""

from __future__ import annotations

import gzip
import json
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np

from dure.model.errors import InputError
from dure.model.jobs import UNKNOWN, Trace, WorkProfile, make_jobs
from dure.twin.traces.text import finish

#: The type on which run times are given.
REFERENCE_TYPE = "v100"


def _throughputs(path: Path) -> dict[str, dict[str, float]]:
    """Steps per second of each ``('job type', scale factor)`` alone, by GPU type; {} if not found."""
    for folder in (path.parent, path.parent.parent):
        found = folder / "simulation_throughputs.json.gz"
        if found.is_file():
            try:
                table = json.loads(gzip.decompress(found.read_bytes()))
                return {
                    key: {kind: float(table[kind][key]["null"]) for kind in table if key in table[kind]}
                    for key in table[REFERENCE_TYPE]
                }
            except (OSError, EOFError, zlib.error, ValueError, TypeError, KeyError, AttributeError) as error:
                raise InputError(
                    f"damaged table of throughputs: {type(error).__name__}: {str(error)[:80]}", str(found),
                    field=REFERENCE_TYPE,
                ) from None  # fmt: skip
    return {}


def read_gavel(path: Path, lines: list[str]) -> tuple[Trace, list[str]]:
    """Read a trace; run times are UNKNOWN where no throughputs stand beside it or a job's is 0."""
    speed = _throughputs(path)
    jobs = make_jobs(len(lines))
    kinds: list[str] = []
    steps_of: list[float] = []
    place: dict[str, int] = {}
    for i, line in enumerate(lines):
        cells = line.split("\t")
        if len(cells) != 7:
            raise InputError(f"{len(cells)} fields, a line has 7, separated by tabs", str(path), i + 1)
        try:
            steps, arrival, scale = float(cells[4]), float(cells[5]), int(cells[6])
        except ValueError:
            raise InputError("steps, arrival and scale factor must be numbers", str(path), i + 1) from None
        if not (0 <= steps <= 1e15 and 0 <= arrival <= 4e9 and 1 <= scale <= 100_000):
            raise InputError("steps or arrival below 0, or scale factor below 1", str(path), i + 1)
        key = str((cells[0], scale))
        rate = speed.get(key, {}).get(REFERENCE_TYPE, 0.0)
        jobs["submit_ms"][i] = arrival * 1000
        jobs["num_gpus"][i] = scale
        if rate > 0 and steps / rate < 4e9:
            jobs["duration_ms"][i] = max(steps / rate * 1000, 1)
            jobs["profile"][i] = place.setdefault(key, len(place))
        kinds.append(cells[0])
        steps_of.append(steps)
    unknown = int((jobs["duration_ms"] == UNKNOWN).sum())
    notes = [f"{unknown:,} jobs have no known throughput, so no run time."] if unknown else []
    extra = {"job_type": np.array(kinds, dtype=str), "total_steps": np.array(steps_of)}
    trace = finish(jobs, [str(i) for i in range(len(jobs))], "gavel", extra=extra)
    return replace(trace, profiles=tuple(_profile(key, speed[key]) for key in place)), notes


def _profile(key: str, rates: dict[str, float]) -> WorkProfile:
    """Speeds relative to the reference type; a type on which it cannot run is left to its own speed."""
    best = rates[REFERENCE_TYPE]
    return WorkProfile(key, {kind: max(round(1000 * r / best), 1) for kind, r in rates.items() if r > 0})
