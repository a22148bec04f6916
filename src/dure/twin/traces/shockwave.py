"""Shockwave's traces (NSDI'23): Gavel's tab-separated lines with five fields more, among them the run time."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dure.model.errors import InputError
from dure.model.jobs import Trace, make_jobs
from dure.twin.traces.text import finish

#: Fields of a line: job type, command, folder, steps' argument, needs data, steps, scale factor, mode, weight,
#: SLO factor, run time in s, arrival in s.
NUM_FIELDS = 12


def read_shockwave(path: Path, lines: list[str]) -> tuple[Trace, list[str]]:
    """Read a trace; the run time is the trace's own, in s, at the batch size that the job starts with.

    An SLO factor above 0 makes a deadline: that many run times after submission (Gavel's rule; -1: none).
    ``extra``: job_type, mode (static, accordion, gns), total_steps, weight.

    Raises
    ------
    InputError
        With file and line: not twelve fields, or a number that is none or out of range.
    """
    jobs = make_jobs(len(lines))
    kinds: list[str] = []
    modes: list[str] = []
    numbers = np.zeros((len(lines), 2))
    dynamic = 0
    for i, line in enumerate(lines):
        cells = line.split("\t")
        if len(cells) != NUM_FIELDS:
            raise InputError(f"{len(cells)} fields, a line has {NUM_FIELDS}, separated by tabs", str(path), i + 1)
        try:
            steps, scale, weight = float(cells[5]), int(cells[6]), float(cells[8])
            slo, run_s, arrival = float(cells[9]), float(cells[10]), float(cells[11])
        except ValueError:
            raise InputError(
                "steps, scale factor, weight, SLO, run time and arrival must be numbers", str(path), i + 1
            ) from None
        if not (0 <= steps <= 1e15 and 1 <= scale <= 100_000 and 0 <= weight <= 1e9 and -1e9 <= slo <= 1e6):
            raise InputError("steps, scale factor, weight or SLO out of range", str(path), i + 1)
        if not (0 <= run_s <= 4e9 and 0 <= arrival <= 4e9 and max(slo, 0) * run_s <= 4e9):
            raise InputError("run time or arrival below 0 or beyond 4e9 s", str(path), i + 1)
        jobs["submit_ms"][i] = arrival * 1000
        jobs["duration_ms"][i] = max(run_s * 1000, 1)
        jobs["num_gpus"][i] = scale
        if slo > 0:
            jobs["deadline_ms"][i] = int((arrival + slo * run_s) * 1000)
        kinds.append(cells[0])
        modes.append(cells[7])
        dynamic += cells[7] != "static"
        numbers[i] = steps, weight
    notes = []
    if dynamic:
        notes.append(f"{dynamic:,} jobs change their batch size as they run: run time as if they kept the first.")
    extra = {
        "job_type": np.array(kinds, dtype=str), "mode": np.array(modes, dtype=str), "total_steps": numbers[:, 0],
        "weight": numbers[:, 1],
    }  # fmt: skip
    return finish(jobs, [str(i) for i in range(len(jobs))], "shockwave", extra=extra), notes
