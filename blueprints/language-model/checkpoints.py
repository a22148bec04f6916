"""Checkpoints of all ranks together, written while training goes on, and readable by any number of ranks."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from gang import Gang

from dure.model.errors import InputError
from dure.whole_file import whole_file

#: Names the folder of the newest whole checkpoint.
POINTER = "latest.json"


class Checkpoints:
    """One folder for each checkpoint, and a file that names the newest whole one.

    Parameters
    ----------
    digest : str
        Of the parameters that a run hangs on: another run's checkpoint is refused.
    """

    def __init__(self, folder: Path, gang: Gang, digest: str) -> None:
        self.folder, self.gang, self.digest = folder, gang, digest
        self._writing: tuple[int, Future[Any]] | None = None
        self._newest = -1

    def find(self) -> Path | None:
        """The newest whole checkpoint; broken ones, and others that nothing names any more, are removed.

        Raises
        ------
        InputError
            It is another run's.
        """
        pointer = self.folder / POINTER
        said = json.loads(pointer.read_text(encoding="utf-8")) if pointer.exists() else None
        if said and said["digest"] != self.digest:
            raise InputError("is of a run with other parameters or text: take another folder, or remove it", path=str(pointer))
        # Until all have read it: the first one to go on may write the next one.
        dist.barrier(self.gang.saving)
        if self.gang.rank == 0:
            self._remove(lambda name: not said or name != said["folder"])
        dist.barrier(self.gang.saving)
        return self.folder / said["folder"] if said else None

    def load(self, path: Path, state: dict[str, Any]) -> None:
        """Fill `state` in place, each rank its part, however many ranks wrote it."""
        dcp.load(state, checkpoint_id=path, process_group=self.gang.saving)

    def begin(self, step: int, state: dict[str, Any]) -> None:
        """Copy `state` and write it while the caller goes on."""
        self.finish()
        saved = dcp.async_save(state, checkpoint_id=self._path(step), process_group=self.gang.saving)
        assert isinstance(saved, Future)
        self._writing = step, saved

    def is_writing(self) -> bool:
        """Whether one is under way; one that has become whole is named as the newest."""
        if self._writing and self._writing[1].done():
            self.finish()
        return self._writing is not None

    def finish(self) -> None:
        """Wait for the one under way."""
        if self._writing:
            step, saved = self._writing
            saved.result()
            self._writing = None
            self._name_newest(step)

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Write `state` now."""
        self.finish()
        if self._newest != step:
            dcp.save(state, checkpoint_id=self._path(step), process_group=self.gang.saving)
            self._name_newest(step)

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"

    def _name_newest(self, step: int) -> None:
        self._newest = step
        # Rank 0 coordinates: that its part is done says that those of all ranks are.
        if self.gang.rank == 0:
            name = self._path(step).name
            with whole_file(self.folder / POINTER) as draft:
                draft.write_text(json.dumps({"folder": name, "step": step, "digest": self.digest}), encoding="utf-8")
            # Only older ones: another rank may be at work on the next one already.
            self._remove(lambda other: other < name)

    def _remove(self, is_over: Callable[[str], bool]) -> None:
        for path in self.folder.glob("step-*"):
            if is_over(path.name):
                shutil.rmtree(path)
