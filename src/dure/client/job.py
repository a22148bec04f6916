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
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import NoReturn

from dure.model.errors import InputError
from dure.model.finite import finite

#: How a line of the standard output begins that tells of progress, and one that tells what a job has reached.
PROGRESS, METRICS = "dure-progress: ", "dure-metrics: "

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
    _say(PROGRESS, {"step": step, **fields})


def report_metrics(**fields: Value) -> None:
    """Say at its end what the job has reached: a line on the standard output that `dure blueprint run` reads.

    Raises
    ------
    InputError
        A field is no text, number, true/false or None.
    """
    line = _say(METRICS, fields)
    if "DURE_METRICS_FILE" in os.environ:  # kept with its outputs (`dure.client.cached`)
        with Path(os.environ["DURE_METRICS_FILE"]).open("a", encoding="utf-8") as file:
            file.write(line)


def _say(mark: str, fields: dict[str, Value]) -> str:
    for name, value in fields.items():
        if not isinstance(value, str | int | float | bool | None):
            raise InputError(f"must be text, a number, true/false or None, not {type(value).__name__}", field=name)
    line = f"{mark}{json.dumps(finite(fields), allow_nan=False)}\n"
    sys.stdout.write(line)
    sys.stdout.flush()
    return line


def checkpoint_dir(default: Path | str | None = None) -> Path:
    """The job's folder for checkpoints, the same for each of its attempts; made where it is not there.

    Parameters
    ----------
    default : path
        For a program that also runs outside of Dure.

    Raises
    ------
    InputError
        Not inside a job, and no default.
    """
    return _folder("DURE_CHECKPOINT_DIR", default)


def output_dir(default: Path | str | None = None) -> Path:
    """Where the job leaves the files that it hands on; as `checkpoint_dir`."""
    return _folder("DURE_OUTPUT_DIR", default)


def input_dir(default: Path | str | None = None) -> Path:
    """Where the files lie that others of its pipeline handed on, one folder for each; as `checkpoint_dir`."""
    return _folder("DURE_INPUT_DIR", default)


def _folder(variable: str, default: Path | str | None) -> Path:
    said = os.environ.get(variable)
    if not said and default is None:
        raise InputError("is not set: this does not run as a job of Dure", field=variable)
    path = Path(said or default or "")
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


def run_program(main: Callable[[], object]) -> None:
    """Run a program's `main`; what is wrong with what it was given is said in one line on the standard error, with exit code 2."""
    try:
        main()
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


def _note(_number: int, _frame: FrameType | None) -> None:
    _Stop.has_come = True

