"""Runs a job's command, or takes what it left at an earlier run with equal command, files and inputs: ``python -m dure.client.cached COMMAND…``.

The agent puts this before the command of a job with `cache`. An entry is found by the digest of all that the outputs hang on: project, command,
environment and setup of the job file, array index, the files named by `cache`, and the contents of all inputs. It holds the declared outputs with their digests,
and the metrics that were reported. Only what ended with 0 and left all outputs is kept, and only of a job of one process.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

#: What the agent says: folder of the cache, and what the key is made of besides contents (JSON).
CACHE_DIR, CACHE_KEY = "DURE_CACHE_DIR", "DURE_CACHE_KEY"
#: Where `job.report_metrics` writes too.
METRICS_FILE = "DURE_METRICS_FILE"
_ABOUT = "about.json"
_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT, signal.SIGHUP)


def digest_of(path: Path) -> str:
    """SHA-256 of a file, or of a folder's files by name."""
    if not path.is_dir():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    sha = hashlib.sha256()
    for each in sorted(each for each in path.rglob("*") if each.is_file()):
        sha.update(f"{each.relative_to(path)}\0{digest_of(each)}\n".encode())
    return sha.hexdigest()


def key_of(command: Sequence[str], said: dict[str, Any], workdir: Path, inputs: Path) -> str:
    """The name of the entry that fits.

    Parameters
    ----------
    said : dict
        ``files`` are patterns beneath ``workdir``, ``inputs`` paths beneath ``inputs``; all the rest goes in as it is.

    Raises
    ------
    FileNotFoundError
        A pattern fits no file.
    """
    contents: dict[str, str] = {}
    for pattern in said["files"]:
        found = sorted(path for path in workdir.glob(pattern) if path.is_file())
        if not found:
            raise FileNotFoundError(f"cache: no file fits {pattern!r} in {workdir}")
        contents |= {f"file {path.relative_to(workdir)}": digest_of(path) for path in found}
    contents |= {f"input {path}": digest_of(inputs / path) for path in said["inputs"]}
    return hashlib.sha256(json.dumps([list(command), said, contents], sort_keys=True).encode()).hexdigest()


def take(entry: Path, outputs: Path) -> list[str] | None:
    """Copy an entry's outputs; its lines of metrics, or None where there is none, or none that is whole."""
    try:
        about = json.loads((entry / _ABOUT).read_text(encoding="utf-8"))
        if any(digest_of(entry / "outputs" / name) != digest for name, digest in about["outputs"].items()):
            return None
        for name in about["outputs"]:
            _copy(entry / "outputs" / name, outputs / name)
        os.utime(entry)
    except (OSError, ValueError, KeyError):
        return None
    return list(about["metrics"])


def keep(entry: Path, outputs: Path, names: Sequence[str], metrics: Sequence[str]) -> bool:
    """Keep an entry, whole or not at all; False: an output is missing, or there is no room."""
    if not all((outputs / name).exists() for name in names):
        return False
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=entry.parent, prefix=".") as draft:
            made = Path(draft) / "made"
            for name in names:
                _copy(outputs / name, made / "outputs" / name)
            digests = {name: digest_of(made / "outputs" / name) for name in names}
            (made / _ABOUT).write_text(json.dumps({"outputs": digests, "metrics": list(metrics)}), encoding="utf-8")
            # What is there is no longer whole, or another run has just kept the same.
            shutil.rmtree(entry, ignore_errors=True)
            made.rename(entry)
    except OSError:
        return False
    return True


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True)
    else:
        shutil.copy2(source, target)


def _run(command: Sequence[str], metrics: Path) -> int:
    """The command's exit code. Signals go to the whole process group: here they are only passed on where it was not there yet."""
    early: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        early.append(number)

    for one in _SIGNALS:
        signal.signal(one, note)
    with subprocess.Popen(list(command), env={**os.environ, METRICS_FILE: str(metrics)}) as process:
        for number in early:
            process.send_signal(number)
        code = process.wait()
    return code if code >= 0 else 128 - code


def _lines(path: Path) -> Iterator[str]:
    if path.exists():
        yield from path.read_text(encoding="utf-8").splitlines()


def main(command: list[str]) -> int:
    """Take or run; the exit code."""
    said = json.loads(os.environ[CACHE_KEY])
    outputs, inputs = Path(os.environ["DURE_OUTPUT_DIR"]), Path(os.environ["DURE_INPUT_DIR"])
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        # Ranks look at different moments: some could find an entry and some not.
        os.execvp(command[0], command)
    try:
        key = key_of(command, said, Path.cwd(), inputs)
    except OSError as error:
        print(f"dure: {error}", file=sys.stderr)
        return 2
    entry = Path(os.environ[CACHE_DIR]) / key
    metrics = take(entry, outputs)
    if metrics is not None:
        print(f"dure: outputs taken from an earlier run ({key[:12]})", *metrics, sep="\n", flush=True)
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        told = Path(scratch) / "metrics"
        code = _run(command, told)
        if code == 0 and not keep(entry, outputs, said["outputs"], list(_lines(told))):
            print("dure: not kept for later runs: an output is missing, or the disk is full", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
