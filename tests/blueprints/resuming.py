"""Runs a blueprint's program without Dure, tells it to leave on the way, and puts its attempts together."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dure.client.job import LEFT, METRICS, PROGRESS

BLUEPRINTS = Path(__file__).parents[2] / "blueprints"


@dataclass
class Story:
    """What a program said over all its attempts.

    Attributes
    ----------
    series : dict
        Step → the fields of its progress line, times (names that end in ``_s``) left out.
    """

    attempts: int = 0
    said: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    metrics: dict[str, Any] | None = None

    @property
    def series(self) -> dict[int, dict[str, Any]]:
        return dict(self.said)


def _untimed(fields: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if not key.endswith("_s")}


def play(folder: str, command: Sequence[str], state: Path, stop_after: Sequence[int] = (), number: int = signal.SIGTERM, env: dict[str, str] | None = None) -> Story:
    """Run ``command`` (its first word a script of the folder) until it is done.

    Parameters
    ----------
    stop_after : sequence of int
        In the attempt of that place, the signal is sent after so many progress lines; then it has to leave with 75.
    """
    story = Story()
    dirs = {f"DURE_{kind}_DIR": str(state / kind.lower()) for kind in ("CHECKPOINT", "OUTPUT", "INPUT")}
    own = {**os.environ, "OMP_NUM_THREADS": "1", **(env or {}), **dirs}
    while story.metrics is None:
        left = stop_after[story.attempts] if story.attempts < len(stop_after) else None
        story.attempts += 1
        with subprocess.Popen(
            [sys.executable, *command], cwd=BLUEPRINTS / folder, env=own, stdout=subprocess.PIPE, text=True, start_new_session=True,
        ) as process:  # fmt: skip
            assert process.stdout is not None
            lines = []
            for line in process.stdout:
                lines.append(line)
                if line.startswith(PROGRESS):
                    fields = _untimed(json.loads(line.removeprefix(PROGRESS)))
                    story.said.append((fields["step"], fields))
                    if left is not None:
                        left -= 1
                        if left == 0:
                            process.send_signal(number)
                elif line.startswith(METRICS):
                    story.metrics = _untimed(json.loads(line.removeprefix(METRICS)))
        if story.metrics is None:
            assert left is not None and left <= 0, f"it ended with {process.returncode} and no metrics:\n" + "".join(lines[-50:])
            assert process.returncode == LEFT, f"told to leave, it ended with {process.returncode}:\n" + "".join(lines[-50:])
        else:
            assert process.returncode == 0, "".join(lines[-50:])
            assert story.attempts > len(stop_after), "it was done before it was told to leave: stop it earlier"
    return story


def assert_resumes_exactly(folder: str, command: Sequence[str], tmp_path: Path, stop_after: Sequence[int], **more: Any) -> Story:
    """The same series and metrics, interrupted or not; no step is done twice. Gives the interrupted run's."""
    whole = play(folder, command, tmp_path / "whole", **more)
    parts = play(folder, command, tmp_path / "parts", stop_after, **more)
    assert parts.attempts == len(stop_after) + 1
    assert [step for step, _ in parts.said] == [step for step, _ in whole.said], "steps were lost or done twice"
    assert parts.series == whole.series
    assert parts.metrics == whole.metrics
    return parts
