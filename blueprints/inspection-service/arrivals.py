"""When requests came to a real service.

Azure's traces of two LLM services, November 2023 (P. Patel et al., ISCA 2024; CC-BY-4.0): here only their times are used, as
people come in bursts that no constant rate has.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dure.model.errors import InputError


def read_arrivals_s(folder: Path, trace: str) -> NDArray[np.float64]:
    """Seconds from the first request of ``conv`` or ``code``.

    Raises
    ------
    InputError
        The trace is not there.
    """
    path = folder / f"AzureLLMInferenceTrace_{trace}.csv.gz"
    if not path.is_file():
        raise InputError("is not there: set DURE_DATA to the folder that holds llm_inference", path=str(path))
    moments = np.loadtxt(path, "datetime64[ns]", delimiter=",", usecols=0, skiprows=1)
    return np.sort((moments - moments.min()) / np.timedelta64(1, "s"))


def due_s(arrivals_s: NDArray[np.float64], scale: float, start_s: float, for_s: float) -> NDArray[np.float64]:
    """When requests are due, ``scale`` times as fast: those from ``start_s`` on, counted from there, over and over.

    Parameters
    ----------
    for_s : float
        Of this time only.
    """
    once_s = arrivals_s[-1] / scale
    rounds = np.arange(start_s // once_s, (start_s + for_s) // once_s + 1)
    moments = (rounds[:, None] * once_s + arrivals_s / scale).ravel() - start_s
    return moments[(moments >= 0) & (moments < for_s)]
