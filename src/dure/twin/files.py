"""Reading the files that a person wrote, and writing what is made from their models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dure.model.alliance import Alliance, load_alliance
from dure.model.blueprint_file import Blueprint
from dure.model.errors import InputError
from dure.model.file_docs import key_tables, schema_text, with_part
from dure.model.job_file import JobSpec, Pipeline
from dure.model.oidc_file import OidcFile
from dure.model.scenario import Known, Scenario, load_scenario
from dure.model.yaml_file import FileModel

#: Published schemas: file name to model.
SCHEMAS: dict[str, type[FileModel]] = {
    "alliance.schema.json": Alliance,
    "blueprint.schema.json": Blueprint,
    "job.schema.json": JobSpec,
    "oidc.schema.json": OidcFile,
    "pipeline.schema.json": Pipeline,
    "scenario.schema.json": Scenario,
}

#: Pages of ``docs/`` and the models whose keys they list.
PAGES: dict[str, tuple[type[FileModel], ...]] = {
    "alliance.md": (Alliance, Scenario),
    "blueprints.md": (Blueprint,),
    "jobs.md": (JobSpec, Pipeline),
    "sign-in.md": (OidcFile,),
}
_BEGIN, _END = "<!-- keys of {}: made from the models -->", "<!-- end of keys -->"


def read_text(path: str | Path) -> str:
    """The UTF-8 text of a file.

    Raises
    ------
    InputError
        No such file, no permission, a folder, or not UTF-8 (with the line).
    """
    try:
        raw = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", str(path)) from None
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise InputError(f"byte 0x{raw[error.start]:02x} is not UTF-8", str(path), line) from None


def read_alliance(path: str | Path) -> Alliance:
    """The alliance in a file; raises InputError with path, line and field."""
    return load_alliance(read_text(path), str(path))


def read_scenario(path: str | Path, known: Known | None = None) -> Scenario:
    """The scenario in a file; raises InputError with path, line and field."""
    return load_scenario(read_text(path), str(path), known)


def beside(scenario_path: str | Path, name: str) -> Path:
    """The file that a scenario means by ``name``: relative paths start at the scenario's folder."""
    return Path(scenario_path).parent / name


def write_reference(root: Path) -> None:
    """Write ``schemas/`` and the key tables of the pages under ``root`` from the models."""
    for name, text in schema_files().items():
        (root / "schemas" / name).write_text(text, encoding="utf-8")
    for name, models in PAGES.items():
        page = root / "docs" / name
        page.write_text(with_key_tables(page.read_text(encoding="utf-8"), models), encoding="utf-8")


def schema_files() -> dict[str, str]:
    """Name and text of each published schema."""
    return {name: schema_text(model) for name, model in SCHEMAS.items()}


def with_key_tables(page: str, models: Sequence[type[FileModel]]) -> str:
    """A Markdown page with the key tables between its markers replaced.

    Raises
    ------
    InputError
        A marker is missing.
    """
    for model in models:
        page = with_part(page, _BEGIN.format(model.__name__), _END, key_tables(model))
    return page


if __name__ == "__main__":
    write_reference(Path.cwd())
