"""For programs that run as a job of Dure: how far they are, where their checkpoints go, when they must leave.

>>> from dure.client import job
>>> for step in range(first_step, 1000):
...     train(step)
...     job.report_progress(step=step, loss=loss)
...     if job.should_stop():
...         save(job.checkpoint_dir() / "latest.pt")
...         job.leave()
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import NoReturn

from dure.model.errors import InputError

#: How a line of the standard output begins that tells of progress.
PROGRESS = "dure-progress: "

#: Exit code of a job that was told to leave and is to be started again (EX_TEMPFAIL); 0 would say that it is done.
LEFT = 75

Value = str | int | float | bool | None


class _Stop:
    """Whether a signal to leave has come."""

    is_watching = False
    has_come = False


def report_progress(*, step: int, **fields: Value) -> None:
    """Say how far the job is: a line on the standard output that its agent reads.

    Raises
    ------
    InputError
        A field is no text, number, true/false or None.
    """
    for name, value in fields.items():
        if not isinstance(value, str | int | float | bool | None):
            raise InputError(f"must be text, a number, true/false or None, not {type(value).__name__}", field=name)
    said = {key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in fields.items()}
    sys.stdout.write(f"{PROGRESS}{json.dumps({'step': step, **said}, allow_nan=False)}\n")
    sys.stdout.flush()


def checkpoint_dir() -> Path:
    """The job's folder for checkpoints, the same for each of its attempts; made where it is not there.

    Raises
    ------
    InputError
        Not inside a job.
    """
    path = Path(_said("DURE_CHECKPOINT_DIR"))
    path.mkdir(parents=True, exist_ok=True)
    return path


def array_index() -> int | None:
    """The job's index in its array; None where it belongs to none."""
    text = os.environ.get("DURE_ARRAY_INDEX", "")
    return int(text) if text else None


def watch_signals() -> None:
    """From now on SIGTERM and SIGUSR1 no longer end the process but make `should_stop` true.

    `should_stop` does this at its first call; call this earlier if a signal may come before that. Only the main thread may.
    """
    if not _Stop.is_watching:
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, _note)
        _Stop.is_watching = True


def should_stop() -> bool:
    """Whether the job was told to save its work and leave; its grace has then begun."""
    watch_signals()
    return _Stop.has_come


def leave() -> NoReturn:
    """End the process so that the job is started again: after `should_stop`, once the work is saved."""
    sys.exit(LEFT)


def _note(_number: int, _frame: FrameType | None) -> None:
    _Stop.has_come = True


def _said(name: str) -> str:
    value = os.environ.get(name)
    if not value:
        raise InputError("is not set: this does not run as a job of Dure", field=name)
    return value
