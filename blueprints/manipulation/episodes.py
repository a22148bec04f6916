"""Work that consists of episodes: one after another, saved, left when told so, gone on with."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from dure.client import job
from dure.model.errors import InputError
from dure.whole_file import whole_file


def digest(parameters: Mapping[str, Any]) -> str:
    """Of the parameters that results hang on."""
    return hashlib.sha256(json.dumps(dict(parameters), sort_keys=True).encode()).hexdigest()


def load(path: Path, parameters: Mapping[str, Any]) -> dict[str, Any] | None:
    """A checkpoint of these parameters; None where there is none.

    Raises
    ------
    InputError
        It is of a run with other ones.
    """
    if not path.exists():
        return None
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    if state["digest"] != digest(parameters):
        raise InputError("is of a run with other parameters: take another folder, or remove it", path=str(path))
    return state


def save(path: Path, parameters: Mapping[str, Any], **state: Any) -> None:
    """Write a checkpoint."""
    with whole_file(path) as draft:
        torch.save({"digest": digest(parameters), **state}, draft)


def play_all(
    num: int,
    play: Callable[[int], tuple[dict[str, Any], dict[str, Any]]],
    path: Path,
    parameters: Mapping[str, Any],
    save_every_s: float,
) -> list[dict[str, Any]]:
    """What `play` gives for 0, 1, …, `num` − 1: its first part is kept, its second one is told as progress.

    Parameters
    ----------
    path
        Where the checkpoint is.
    """
    state = load(path, parameters)
    rows: list[dict[str, Any]] = state["rows"] if state else []
    saved = time.monotonic()
    while len(rows) < num:
        row, fields = play(len(rows))
        rows.append(row)
        job.report_progress(step=len(rows), **fields)
        if job.should_stop():
            save(path, parameters, rows=rows)
            job.leave()
        if time.monotonic() - saved >= save_every_s:
            save(path, parameters, rows=rows)
            saved = time.monotonic()
    save(path, parameters, rows=rows)
    return rows
