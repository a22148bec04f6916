"""Where an agent keeps what belongs to jobs, all of it below one folder, and on which storage that is."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote

from dure.agent.wire import InputFile, LeaseOrder
from dure.model.errors import DureError
from dure.ports.executor import LaunchError


class MissingInputError(DureError):
    """What a job is to read is not there: it is the job that fails, not the site."""


#: File systems that several machines have at once: SQLite's log of writes cannot lie there.
_NETWORK = (
    "nfs", "cifs", "smb", "lustre", "gpfs", "beegfs", "ceph", "glusterfs", "afs", "9p", "pvfs", "panfs", "wekafs",
    "fuse.sshfs", "fuse.glusterfs", "fuse.juicefs", "fuse.ceph",
)  # fmt: skip


def network_filesystem(path: Path, mounts: str) -> str | None:
    """The type of the file system that holds a path, if other machines may write to it as well.

    Parameters
    ----------
    path : Path
        Resolved; it need not be there yet.
    mounts : str
        As ``/proc/self/mountinfo`` has them.
    """
    holders = [(0, "")]
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        at = Path(before.split()[4].replace("\\040", " "))
        if path.is_relative_to(at):
            holders.append((len(at.parts), after.split()[0]))
    # Of several on one point the last counts.
    *_, (_, found) = sorted(holders, key=lambda holder: holder[0])
    return found if found.startswith(_NETWORK) else None


def name_of(of: str) -> str:
    """The name of a folder for an id, whatever is in it."""
    return quote(of, safe="") if of.strip(".") else of.replace(".", "%2E")


@dataclass(frozen=True)
class Folders:
    """Folders of an agent's data. ``checkpoints``: storage that several sites share for those of jobs; None: in ``root``."""

    root: Path
    checkpoints: Path | None = None

    @property
    def state(self) -> Path:
        """Of the executor."""
        return self.root / "executor"

    @property
    def logs(self) -> Path:
        """One folder a lease."""
        return self.root / "logs"

    def log(self, lease_id: str) -> Path:
        """Logs of an attempt, ``<rank>.log``."""
        return self.logs / name_of(lease_id)

    def log_bytes(self, lease_id: str) -> list[int] | None:
        """Size of each rank's log; None: there is none any more."""
        sizes: list[int] = []
        folder = self.log(lease_id)
        while True:
            try:
                sizes.append((folder / f"{len(sizes)}.log").stat().st_size)
            except FileNotFoundError:
                return sizes or None

    def leases_with_logs(self) -> list[str]:
        """Leases whose logs have not been sent whole."""
        return [unquote(path.name) for path in self.logs.iterdir()] if self.logs.is_dir() else []

    def checkpoint(self, job_id: str) -> Path:
        """The same for each attempt of a job."""
        return (self.checkpoints or self.root / "checkpoints") / name_of(job_id)

    def checkpoint_note(self, job_id: str) -> Path:
        """Where it stands whose attempt the checkpoint is."""
        return self.root / "checkpoints-of" / name_of(job_id)

    def outputs(self, job_id: str) -> Path:
        """Of a job; those of its pipeline find its files here."""
        return self.root / "outputs" / name_of(job_id)

    def inputs(self, job_id: str) -> Path:
        """Of a job: links to the outputs of others."""
        return self.root / "inputs" / name_of(job_id)

    @property
    def cache(self) -> Path:
        """Outputs by the digest of what they hang on (`dure.client.cached`)."""
        return self.root / "cache"

    def work(self, job_id: str) -> Path:
        """Working directory of a job that names none."""
        return self.root / "work" / name_of(job_id)

    def prepare(self, lease: LeaseOrder) -> None:
        """Make the folders of an attempt, and the links to its inputs.

        Raises
        ------
        LaunchError
            They cannot be made.
        MissingInputError
            An input is not there, or its path leads elsewhere.
        """
        try:
            for folder in (self.outputs(lease.job_id), self.work(lease.job_id)):
                folder.mkdir(parents=True, exist_ok=True)
            self.note_use(lease.job_id)
            for given in lease.launch.inputs if lease.launch is not None else ():
                self._link(lease.job_id, given)
        except OSError as error:
            raise LaunchError(f"{lease.lease_id}: {error}") from error

    def _link(self, job_id: str, given: InputFile) -> None:
        source = _inside(self.outputs(given.job_id), given.path)
        target = _inside(self.inputs(job_id), f"{given.name}/{given.path}")
        if not source.exists():
            raise MissingInputError(f"input {given.name}/{given.path}: job {given.job_id} has left no such file at this site")
        target.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            target.symlink_to(source)

    def explain(self, lease_id: str, why: str) -> None:
        """Tell the user, in the log of an attempt that does not start.

        Raises
        ------
        OSError
            It cannot be written.
        """
        self.log(lease_id).mkdir(parents=True, exist_ok=True)
        (self.log(lease_id) / "0.log").write_text(f"dure: {why}\n")

    def put_away(self, in_use: Collection[str], before_s: float) -> int:
        """Take away, for `empty_bin` to remove, what working folders and links to inputs jobs have, and what the cache holds, that
        are not in use and were last before a moment, epoch s; how many.
        """
        kept, num = {name_of(job_id) for job_id in in_use}, 0
        for of in ("work", "inputs", "cache"):
            for folder in _entries(self.root / of):
                with contextlib.suppress(OSError):
                    if folder.name not in kept and folder.stat().st_mtime < before_s:
                        (self.root / "bin").mkdir(exist_ok=True)
                        folder.rename(self.root / "bin" / f"{of} {folder.name}")
                        num += 1
        return num

    def empty_bin(self) -> None:
        """Remove what was put away; this may take long."""
        shutil.rmtree(self.root / "bin", ignore_errors=True)

    def note_use(self, job_id: str) -> None:
        """A lease of the job begins, or is over: its folders are kept from now on for as long as they may be."""
        for folder in (self.work(job_id), self.inputs(job_id)):
            with contextlib.suppress(OSError):
                os.utime(folder)

    def leave(self, job_ids: Collection[str]) -> None:
        """No lease of some jobs is here any more: what they have left is kept for as long as it may be, the rest is removed."""
        for job_id in job_ids:
            self.note_use(job_id)
            self.remove_empty(job_id)

    def remove_empty(self, job_id: str) -> None:
        """The folders of a job that has left nothing in them."""
        for folder in (self.outputs(job_id), self.inputs(job_id), self.work(job_id)):
            with contextlib.suppress(OSError):
                folder.rmdir()
        # On shared storage the next attempt may begin in it at this moment.
        if self.checkpoints is None:
            with contextlib.suppress(OSError):
                self.checkpoint(job_id).rmdir()
                self.checkpoint_note(job_id).unlink()


def _entries(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


def _inside(folder: Path, path: str) -> Path:
    parts = Path(path).parts
    if ".." in parts or Path(path).is_absolute() or not parts:
        raise MissingInputError(f"input {path!r}: a path must stay in its folder")
    return folder.joinpath(*parts)
