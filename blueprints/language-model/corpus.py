"""Text as bytes: which files are read, which are held out, and which bytes each step sees."""

from __future__ import annotations

import fnmatch
import hashlib
import os
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dure.model.errors import InputError

#: Folders of the standard library that not every installation has, or that are tables rather than text.
LEFT_OUT = {
    "__pycache__", "dist-packages", "distutils", "encodings", "ensurepip", "idlelib", "lib2to3", "site-packages", "test",
    "tests", "tkinter", "turtledemo",
}  # fmt: skip
#: What the building of an interpreter writes: other text on each machine.
MADE_BY_BUILD = ("_sysconfigdata", "config-")
#: One file in so many is held out.
HELD_OUT_OF = 16
#: The least that is taken for a corpus.
MIN_BYTES = 100_000


@dataclass(frozen=True)
class Corpus:
    """Bytes to learn from and bytes to be judged by; a zero byte ends each file.

    Attributes
    ----------
    train, held_out : numpy.ndarray of uint8
    digest : str
        SHA-256 over the names and contents of all files.
    """

    train: np.ndarray
    held_out: np.ndarray
    digest: str


def read_corpus(folder: str, pattern: str, context: int) -> Corpus:
    """Read all files beneath `folder` in the order of their names; a hash of its name holds a file out.

    Parameters
    ----------
    folder : str
        Empty: the running interpreter's standard library, without `LEFT_OUT`.
    context : int
        Bytes that a window foretells: there has to be more on either side.

    Raises
    ------
    InputError
        There is too little text.
    """
    root = Path(folder or sysconfig.get_path("stdlib"))
    names = sorted(_names(root, pattern, all_of_it=bool(folder)))
    digest = hashlib.sha256()
    parts: dict[bool, list[bytes]] = {True: [], False: []}
    for name in names:
        text = (root / name).read_bytes() + b"\0"
        digest.update(f"{name}\0{len(text)}\0".encode() + text)
        parts[is_held_out(name)].append(text)
    train, held_out = (np.frombuffer(b"".join(parts[is_out]), dtype=np.uint8) for is_out in (False, True))
    if len(train) < MIN_BYTES or not len(held_out):
        raise InputError(
            f"{len(train)} bytes to learn from and {len(held_out)} to be judged by are too few ({pattern})", path=str(root)
        )
    if min(len(train), len(held_out)) <= context:
        raise InputError(f"{len(held_out)} held-out bytes are fewer than a window", field="--context")
    return Corpus(train, held_out, digest.hexdigest())


def is_held_out(name: str) -> bool:
    """Whether the file of this name is held out: the same on every machine, whatever other files there are."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") % HELD_OUT_OF == 0


def _names(root: Path, pattern: str, *, all_of_it: bool) -> Iterator[str]:
    for place, folders, files in os.walk(root):
        if not all_of_it:
            folders[:], files = (
                [name for name in names if name not in LEFT_OUT and not name.startswith(MADE_BY_BUILD)] for names in (folders, files)
            )
        for name in fnmatch.filter(files, pattern):
            yield (Path(place) / name).relative_to(root).as_posix()


def windows_of_step(text: np.ndarray, seed: int, step: int, batch: int, context: int) -> np.ndarray:
    """The windows that a step learns from, whatever came before and however many ranks share them.

    Returns
    -------
    numpy.ndarray of uint8, shape (batch, context + 1)
        Each byte but the last is read, each but the first is to be foretold.
    """
    offsets = np.random.default_rng([seed, step]).integers(0, len(text) - context, batch)
    return text[offsets[:, None] + np.arange(context + 1)]


def windows_of_test(text: np.ndarray, context: int, most_bytes: int) -> np.ndarray:
    """Windows that cover `text` once (its last, broken one left out), or evenly spaced ones of them.

    Parameters
    ----------
    most_bytes : int
        So many bytes are foretold at most; 0: all.

    Returns
    -------
    numpy.ndarray of uint8, shape (windows, context + 1)
    """
    num_windows = (len(text) - 1) // context
    places = np.arange(num_windows)
    if most_bytes and most_bytes // context < num_windows:
        places = np.linspace(0, num_windows - 1, max(1, most_bytes // context)).astype(np.int64)
    return text[places[:, None] * context + np.arange(context + 1)]
