"""Copies of checkpoints on storage that all sites reach: one of each attempt that has left one, whole or not there at all.

Below the store's address, for a job and the fence of an attempt:

    JOB/0000000000000000042/…       the files
    JOB/0000000000000000042.json    what they are, with sizes and SHA-256; written last: without it there is no copy

A copy is never changed. Whoever has made one removes those of lower fences: who reads one of them just then finds this
one, which is as good, when it looks again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO, Literal
from urllib.parse import quote

import structlog

from dure.agent.folders import name_of
from dure.model.errors import DureError, InputError

_AT_A_TIME = 8
_CHUNK = 8 << 20
_MANIFEST = re.compile(r"(\d{19})\.json")

_log = structlog.get_logger(__name__)


class StoreError(DureError):
    """The store cannot be reached, or has not what it should have."""


@dataclass(frozen=True)
class Entry:
    """A file, with its size, SHA-256 and permissions; a link inside of the folder; or a folder that holds nothing."""

    path: str
    kind: Literal["file", "link", "folder"]
    size: int = 0
    sha256: str = ""
    mode: int = 0
    target: str = ""


@dataclass(frozen=True)
class Copy:
    """A checkpoint as the attempt with this fence has left it."""

    key: str
    fence: int
    entries: tuple[Entry, ...]

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(entry.size for entry in self.entries)


class CheckpointStore:
    """Storage at an fsspec address: ``s3://bucket/path``, ``file:///path``…

    Every method blocks, and raises StoreError.

    Raises
    ------
    InputError
        Nothing here knows such an address.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        try:
            from fsspec.core import url_to_fs

            # Other agents write there as well: what was listed before is not believed.
            self._fs, self._root = url_to_fs(url, use_listings_cache=False, skip_instance_cache=True)
        except (ImportError, ValueError) as error:
            raise InputError(f"{url!r}: {error} (dure[objects] has what s3:// needs)", field="--checkpoints") from error

    def newest(self, key: str, below: int) -> Copy | None:
        """The copy of a job's checkpoint with the highest fence below one."""
        with self._told(f"the checkpoints of {key}"):
            for fence in sorted(self._fences(key), reverse=True):
                copy = self._copy(key, fence) if fence < below else None
                if copy is not None:
                    return copy
        return None

    def fetch(self, copy: Copy, folder: Path) -> None:
        """Put a copy in the place of a folder: as a whole, or not at all."""
        coming, gone = folder.with_name(f".{folder.name}.coming"), folder.with_name(f".{folder.name}.gone")
        with self._told(f"the checkpoint of {copy.key}, fence {copy.fence}"):
            for left in (coming, gone):
                shutil.rmtree(left, ignore_errors=True)
            coming.mkdir(parents=True)
            files = [entry for entry in copy.entries if entry.kind == "file"]
            with ThreadPoolExecutor(_AT_A_TIME) as pool:
                list(pool.map(lambda entry: self._get(copy, entry, _inside(coming, entry.path)), files))
            for entry in copy.entries:
                path = _inside(coming, entry.path)
                if entry.kind == "folder":
                    path.mkdir(parents=True, exist_ok=True)
                elif entry.kind == "link":
                    _inside(coming, os.path.normpath(Path(entry.path).parent / entry.target))
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.symlink_to(entry.target)
            with contextlib.suppress(FileNotFoundError):
                folder.rename(gone)
            coming.rename(folder)
            shutil.rmtree(gone, ignore_errors=True)

    def keep(self, key: str, fence: int, folder: Path) -> Copy | None:
        """Copy what an attempt has left, unless that was done before; None: there is nothing, and was nothing."""
        with self._told(f"a copy of the checkpoint of {key}, fence {fence}"):
            known = self._copy(key, fence)
            if known is not None:
                return known
            found = list(_entries(folder))
            if not found and (not folder.is_dir() or self.newest(key, fence) is None):
                return None
            with ThreadPoolExecutor(_AT_A_TIME) as pool:
                entries = tuple(pool.map(lambda entry: self._put(key, fence, entry, folder), found))
            copy = Copy(key, fence, entries)
            words = {"version": 1, "entries": [asdict(entry) for entry in entries]}
            self._fs.makedirs(self._at(key), exist_ok=True)
            self._fs.pipe_file(f"{self._at(key, fence)}.json", json.dumps(words).encode())
        self._remove_below(key, fence)
        return copy

    def _remove_below(self, key: str, fence: int) -> None:
        try:
            older = [name for name in self._names(key) if name[:19].isdigit() and int(name[:19]) < fence]
            # First what says that a copy is there.
            for name in sorted(older, key=lambda name: not _MANIFEST.fullmatch(name)):
                self._fs.rm(f"{self._at(key)}/{name}", recursive=True)
        except Exception as error:
            _log.warning("older copies of a checkpoint stay", job=key, error=str(error))

    def _at(self, key: str, fence: int | None = None) -> str:
        return f"{self._root}/{name_of(key)}" + ("" if fence is None else f"/{fence:019d}")

    def _names(self, key: str) -> list[str]:
        self._fs.invalidate_cache()
        try:
            return [str(path).rstrip("/").rpartition("/")[2] for path in self._fs.ls(self._at(key), detail=False)]
        except FileNotFoundError:
            return []

    def _fences(self, key: str) -> list[int]:
        return [int(found[1]) for name in self._names(key) if (found := _MANIFEST.fullmatch(name))]

    def _copy(self, key: str, fence: int) -> Copy | None:
        try:
            words = json.loads(self._fs.cat_file(f"{self._at(key, fence)}.json"))
        except (FileNotFoundError, ValueError):
            # A manifest that is cut short is none: its writer has died, or still writes.
            return None
        if words["version"] != 1:
            raise StoreError(f"{key}, fence {fence}: written by a later version of Dure")
        return Copy(key, fence, tuple(Entry(**entry) for entry in words["entries"]))

    def _put(self, key: str, fence: int, entry: Entry, folder: Path) -> Entry:
        if entry.kind != "file":
            return entry
        to = f"{self._at(key, fence)}/{_quoted(entry.path)}"
        self._fs.makedirs(to.rpartition("/")[0], exist_ok=True)
        with (folder / entry.path).open("rb") as source, self._fs.open(to, "wb") as target:
            size, sha256 = _carry(source, target)
        return Entry(entry.path, "file", size, sha256, entry.mode)

    def _get(self, copy: Copy, entry: Entry, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._fs.open(f"{self._at(copy.key, copy.fence)}/{_quoted(entry.path)}", "rb") as source, path.open("wb") as target:
            _, sha256 = _carry(source, target)
        if sha256 != entry.sha256:
            raise StoreError(f"{copy.key}, fence {copy.fence}: {entry.path} is not what was written")
        path.chmod(entry.mode)

    @contextlib.contextmanager
    def _told(self, what: str) -> Iterator[None]:
        try:
            yield
        except StoreError:
            raise
        except Exception as error:  # Each storage has errors of its own.
            raise StoreError(f"{what}: {type(error).__name__}: {error}") from error


def _carry(source: BinaryIO, target: BinaryIO) -> tuple[int, str]:
    """Copy all that is left; bytes, and their SHA-256."""
    digest, size = hashlib.sha256(), 0
    while chunk := source.read(_CHUNK):
        digest.update(chunk)
        size += len(chunk)
        target.write(chunk)
    return size, digest.hexdigest()


def _quoted(path: str) -> str:
    """Names that no storage and no address takes for something else."""
    return "/".join(quote(part, safe=" ") for part in path.split("/"))


def _entries(folder: Path) -> Iterator[Entry]:
    """What a folder holds; links out of it, and what is neither file nor folder, are left out."""
    for place, folders, names in os.walk(folder):
        for name in [*folders, *names]:
            path = Path(place, name)
            inside = str(path.relative_to(folder))
            mode = path.lstat().st_mode
            if stat.S_ISLNK(mode):
                target = Path(os.path.normpath(path.parent / path.readlink()))
                if target.is_relative_to(folder):
                    yield Entry(inside, "link", target=os.path.relpath(target, path.parent))
                else:
                    _log.warning("a link out of a checkpoint is not copied", path=str(path), target=str(target))
            elif stat.S_ISREG(mode):
                yield Entry(inside, "file", mode=stat.S_IMODE(mode))
            elif stat.S_ISDIR(mode):
                if not any(path.iterdir()):
                    yield Entry(inside, "folder")
            else:
                _log.warning("neither file nor folder, not copied", path=str(path))


def _inside(folder: Path, path: str | Path) -> Path:
    """A path of a manifest, which must stay in its folder."""
    if Path(path).is_absolute() or ".." in Path(path).parts:
        raise StoreError(f"{path!s}: leads out of the checkpoint")
    return folder / path

