"""The catalogue: the folders of blueprints on this machine, and a copy of one as a start of one's own."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from dure.model.blueprint_file import Blueprint, load_blueprint, stages_of, work_of
from dure.model.errors import InputError
from dure.model.job_file import JobSpec, Pipeline, load_work, placed_in
from dure.model.yaml_file import nearest

ABOUT = "blueprint.yaml"
#: In the catalogue's folder: what the twin says of each on the reference fleet.
ON_FLEET = "on-fleet.json"
_WORK = ("pipeline.yaml", "job.yaml")
#: What a blueprint's runs leave in its folder.
_LEFT = ("state", "__pycache__", "*.pyc")


@dataclass(frozen=True)
class OnFleet:
    """What the twin says of a blueprint at its reference size on the reference fleet (`dure.cli.blueprint_fleet`).

    Attributes
    ----------
    time_p50_s, time_p95_s : float
        From handing in to the last end, over a day's quarters of an hour.
    cost : float
        Of its GPU-hours, in `currency`.
    """

    time_p50_s: float
    time_p95_s: float
    gpu_hours: float
    cost: float
    currency: str


@dataclass(frozen=True)
class Entry:
    """A blueprint and its folder."""

    folder: Path
    about: Blueprint

    @property
    def work_file(self) -> Path:
        """Its `job.yaml` or `pipeline.yaml`.

        Raises
        ------
        InputError
            It has neither, or both.
        """
        found = [self.folder / name for name in _WORK if (self.folder / name).is_file()]
        if len(found) != 1:
            raise InputError("has to have either a job.yaml or a pipeline.yaml", str(self.folder))
        return found[0]

    @property
    def stages(self) -> tuple[str, ...]:
        """Names of its jobs."""
        return stages_of(self.written)

    @property
    def written(self) -> JobSpec | Pipeline:
        """Its job or pipeline as the file has it; raises InputError."""
        return load_work(_text(self.work_file), str(self.work_file))

    @property
    def on_fleet(self) -> OnFleet | None:
        """Time and cost on the reference fleet; None: the twin was not asked, as of a copy of one's own."""
        if self.folder.parent != catalogue_folder():
            return None
        found = on_fleet().get(self.about.name)
        return None if found is None else OnFleet(**found)

    def work(self, is_small: bool = False, settings: tuple[str, ...] = ()) -> JobSpec | Pipeline:
        """What is handed in; raises InputError."""
        path = self.work_file
        return placed_in(work_of(self.about, _text(path), str(path), is_small, settings), str(self.folder.resolve()))


def catalogue_folder() -> Path:
    """Where the blueprints are: beside the sources in a checkout, inside the package where it is installed.

    Raises
    ------
    InputError
        This installation has none.
    """
    package = Path(__file__).resolve().parents[1]
    for folder in (package.parents[1] / "blueprints", package / "blueprints"):
        if folder.is_dir():
            return folder
    raise InputError("this installation has no blueprints")


@cache
def on_fleet() -> dict[str, dict[str, Any]]:
    """What the twin says of the catalogue's blueprints, by name."""
    path = catalogue_folder() / ON_FLEET
    found: dict[str, dict[str, Any]] = json.loads(_text(path))["blueprints"]
    return found


def catalogue() -> list[Entry]:
    """All blueprints, by name; raises InputError."""
    return [read_entry(path.parent) for path in sorted(catalogue_folder().glob(f"*/{ABOUT}"))]


def find_entry(name: str) -> Entry:
    """The blueprint of a name, or that in a folder (with a `/`, or `.`).

    Raises
    ------
    InputError
        There is none, or its file is wrong.
    """
    if "/" in name or name == ".":
        return read_entry(Path(name))
    folder = catalogue_folder() / name
    if not (folder / ABOUT).is_file():
        known = [path.parent.name for path in sorted(catalogue_folder().glob(f"*/{ABOUT}"))]
        raise InputError(f"no blueprint{nearest(name, known)}; `dure blueprint list` has them")
    return read_entry(folder)


def read_entry(folder: Path) -> Entry:
    """The blueprint in a folder; raises InputError."""
    path = folder / ABOUT
    return Entry(folder, load_blueprint(_text(path), str(path)))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot be read: {getattr(error, 'strerror', None) or error}", str(path)) from None


#: What proves that a copy still resumes: `dure blueprint new` writes it, its owner changes it with the program.
_TEST = '''"""Interrupted or not, `{name}` says the same: run with `python -m pytest {file}`."""

from pathlib import Path

import pytest

from dure.client.resuming import assert_work_resumes_exactly


@pytest.mark.parametrize("signal_name", ["TERM", "USR1"])
def test_it_resumes_exactly(tmp_path, signal_name):
    assert_work_resumes_exactly(Path(__file__).parent, tmp_path, signal_name, settings=[])
'''


def copy_entry(entry: Entry, name: str, target: Path) -> None:
    """A folder of one's own, with a test that it resumes.

    Raises
    ------
    InputError
        The folder is there already or cannot be made, or the name cannot be one.
    """
    if target.exists():
        raise InputError("is there already", str(target))
    about = _text(entry.folder / ABOUT).replace(f"name: {entry.about.name}", f"name: {name}", 1)
    load_blueprint(about, str(target / ABOUT))
    draft = target.with_name(f".{target.name}.draft")
    file = f"test_{name.replace('-', '_')}.py"
    try:
        shutil.copytree(entry.folder, draft, ignore=shutil.ignore_patterns(*_LEFT, "result.*"))
        (draft / ABOUT).write_text(about, encoding="utf-8")
        # A stage that is another blueprint's program stays there.
        work = (draft / entry.work_file.name).read_text(encoding="utf-8")
        aside = f"workdir: {entry.folder.resolve().parent}/"
        (draft / entry.work_file.name).write_text(work.replace("workdir: ../", aside), encoding="utf-8")
        (draft / file).write_text(_TEST.format(name=name, file=file), encoding="utf-8")
        draft.rename(target)
    except OSError as error:
        raise InputError(f"cannot be made: {error.strerror}", str(target)) from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)
