"""For tests: runs a program without Dure, tells it to leave on the way, and holds its attempts against a run that was left alone."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dure.client.blueprints import catalogue_folder, read_entry
from dure.client.job import LEFT, METRICS, PROGRESS
from dure.model.job_file import JobSpec, Pipeline, PipelineJob, pipeline_order

#: Lines of a program's output that a failure shows.
_LINES_SHOWN = 50


@dataclass
class Story:
    """What a program said over all its attempts.

    Attributes
    ----------
    said : list of (int, dict)
        Step and fields of each progress line in order, times (names that end in ``_s``) left out.
    metrics : dict or None
        Of its end, times left out.
    heard_s : list of list of float
        Of each attempt, seconds from its start to each progress line.
    """

    attempts: int = 0
    said: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    metrics: dict[str, Any] | None = None
    heard_s: list[list[float]] = field(default_factory=list)

    @property
    def series(self) -> dict[int, dict[str, Any]]:
        """Fields by step."""
        return dict(self.said)


def play(
    folder: Path | str, command: Sequence[str], state: Path, stop_after: Sequence[int] = (), number: int = signal.SIGTERM, env: Mapping[str, str] | None = None,
) -> Story:  # fmt: skip
    """Run a script until it is done.

    Parameters
    ----------
    folder : path or str
        Of the program; a name: of that blueprint of the catalogue.
    command : sequence of str
        A script of the folder and its arguments.
    state : Path
        Where its checkpoints, outputs and inputs are.
    stop_after : sequence of int
        In the attempt of that place, the signal is sent after so many progress lines; then it has to leave with 75.

    Raises
    ------
    AssertionError
        It ends otherwise than it has to.
    """
    place = catalogue_folder() / folder if isinstance(folder, str) else folder
    story = Story()
    dirs = {f"DURE_{kind.upper()}_DIR": str(state / kind) for kind in ("checkpoint", "output", "input")}
    while story.metrics is None:
        left = stop_after[story.attempts] if story.attempts < len(stop_after) else 0
        story.attempts += 1
        lines: list[str] = []
        story.heard_s.append([])
        began = time.monotonic()
        with subprocess.Popen(
            [sys.executable, *command], cwd=place, env={**os.environ, "OMP_NUM_THREADS": "1", **(env or {}), **dirs},
            stdout=subprocess.PIPE, text=True, start_new_session=True,
        ) as process:  # fmt: skip
            assert process.stdout is not None
            told = 0
            for line in process.stdout:
                lines.append(line)
                if line.startswith(PROGRESS):
                    story.heard_s[-1].append(time.monotonic() - began)
                    fields = _untimed(line.removeprefix(PROGRESS))
                    story.said.append((fields["step"], fields))
                    told += 1
                    if told == left:
                        process.send_signal(number)
                elif line.startswith(METRICS):
                    story.metrics = (story.metrics or {}) | _untimed(line.removeprefix(METRICS))
        tail = "".join(lines[-_LINES_SHOWN:])
        if story.metrics is not None:
            assert process.returncode == 0, f"it ended with {process.returncode}:\n{tail}"
            assert story.attempts > len(stop_after), f"it was done before it was told to leave:\n{tail}"
        else:
            assert 0 < left <= told, f"it ended with {process.returncode} and no metrics:\n{tail}"
            assert process.returncode == LEFT, f"told to leave, it ended with {process.returncode}, not {LEFT}:\n{tail}"
    return story


def _untimed(text: str) -> dict[str, Any]:
    return {key: value for key, value in json.loads(text).items() if not key.endswith("_s")}


def assert_resumes_exactly(folder: Path | str, command: Sequence[str], scratch: Path, stop_after: Sequence[int], **more: Any) -> Story:
    """The same series and metrics, interrupted or not, and no step done twice; gives the interrupted run's.

    Parameters
    ----------
    scratch : Path
        A folder for the state of both runs.
    folder, command, stop_after, more
        As `play` has them.
    """
    whole = play(folder, command, scratch / "whole", **more)
    parts = play(folder, command, scratch / "parts", stop_after, **more)
    _assert_same(whole, parts)
    return parts


def _assert_same(whole: Story, parts: Story) -> None:
    assert [step for step, _ in parts.said] == [step for step, _ in whole.said], "steps were lost or done twice"
    assert parts.series == whole.series
    assert parts.metrics == whole.metrics


def assert_work_resumes_exactly(folder: Path, scratch: Path, signal_name: str = "TERM", settings: Sequence[str] = ()) -> None:
    """Each job of a blueprint at its small size: once alone, once interrupted half-way, with the same end.

    Parameters
    ----------
    settings : sequence of str
        As `dure blueprint run --set` has them.
    """
    work = read_entry(folder).work(is_small=True, settings=tuple(settings))
    jobs: Mapping[str, JobSpec | PipelineJob] = work.jobs if isinstance(work, Pipeline) else {work.name: work}
    order = pipeline_order(work) if isinstance(work, Pipeline) else list(jobs)
    for name in order:
        job = jobs[name]
        states = [scratch / way / name for way in ("whole", "parts")]
        for state in states:
            hand_on(job, state)
        command = script_of(job)
        number = signal.Signals[f"SIG{signal_name}"]
        whole = play(folder, command, states[0], number=number, env=job.env)
        half = len(whole.said) // 2
        parts = play(folder, command, states[1], (half,) if half else (), number=number, env=job.env)
        _assert_same(whole, parts)


def hand_on(job: JobSpec, state: Path) -> None:
    """Links to its inputs, as an agent makes them."""
    for given in job.inputs:
        name, _, path = given.partition("/")
        target = state / "input" / name / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(state.parent / name / "output" / path)


def script_of(job: JobSpec) -> Sequence[str]:
    """A job's program and its arguments, without the interpreter."""
    interpreter, *command = job.command
    assert Path(interpreter).name in ("python", "python3"), f"it is not run by Python: {shlex.join(job.command)}"
    return command
