"""Runs of the Tennessee Eastman plant, and what an alarm says of them.

Process: J. J. Downs, E. F. Vogel, Computers & Chemical Engineering 17(3), 1993. Runs, with a plant-wide control and 52 variables
every 3 minutes: L. H. Chiang, E. L. Russell, R. D. Braatz, "Fault Detection and Diagnosis in Industrial Systems", Springer, 2001.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dure.model.errors import InputError

#: Those of the 21 faults whose runs are here.
FAULTS = (1, 2, 4, 6, 11, 14)

SAMPLE_MIN = 3
NUM_VARIABLES = 52

#: In a test run the fault begins after so many samples; in a training run it is there from the first.
NORMAL_SAMPLES = 160

#: So many alarms in a row are taken for a detection when its delay is asked, as in the book.
RUN_OF_ALARMS = 6

Array = NDArray[np.float64]


def read_run(folder: Path, fault: int, *, is_test: bool) -> Array:
    """A run, samples by variables; fault 0: none.

    Raises
    ------
    InputError
        The file is missing or of another form.
    """
    path = folder / f"d{fault:02d}{'_te' if is_test else ''}.dat.gz"
    if not path.is_file():
        raise InputError("is not there: set DURE_DATA to the folder that holds physical_ai/tep", path=str(path))
    table = np.loadtxt(path)
    # d00 is stored with its samples as columns.
    run = table.T if table.shape[0] == NUM_VARIABLES else table
    if run.shape[1] != NUM_VARIABLES:
        raise InputError(f"has {run.shape[1]} variables, not {NUM_VARIABLES}", path=str(path))
    return run


def smoothed(values: Array, weight: float) -> Array:
    """Exponentially weighted mean of values so far; ``weight`` is the newest one's, 1: not smoothed."""
    means = np.empty_like(values)
    mean = values[0]
    for at, value in enumerate(values):
        mean = (1 - weight) * mean + weight * value
        means[at] = mean
    return means


def limit_of(values: Array, false_alarms: float) -> float:
    """What normal values exceed in this share of samples."""
    return float(np.quantile(values, 1 - false_alarms))


def delay_min(alarms: NDArray[np.bool_]) -> float | None:
    """Minutes until the first of `RUN_OF_ALARMS` alarms in a row; None: there are never so many."""
    rows = np.lib.stride_tricks.sliding_window_view(alarms, RUN_OF_ALARMS).all(axis=1)
    return float(np.argmax(rows) * SAMPLE_MIN) if rows.any() else None
