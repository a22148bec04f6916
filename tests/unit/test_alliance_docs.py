"""What is published about the files is what the code does: schemas, key tables, the docs' examples."""

from __future__ import annotations

import json
import re
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from dure.examples import example_names, example_path
from dure.model.alliance import load_alliance
from dure.model.alliance_build import build_fleet
from dure.model.errors import InputError
from dure.model.job_file import JobSpec, Pipeline, load_work
from dure.model.scenario import load_scenario
from dure.model.yaml_file import parse_yaml, plain
from dure.twin.files import PAGES, schema_files, with_key_tables, write_reference

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "alliance.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
AGAIN = "run `python -m dure.twin.files` in the repository's root"


def test_schemas_are_current() -> None:
    published = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "schemas").glob("*.json")}
    assert published == schema_files(), AGAIN


@pytest.mark.parametrize("name", PAGES)
def test_key_tables_are_current(name: str) -> None:
    page = (ROOT / "docs" / name).read_text(encoding="utf-8")
    assert with_key_tables(page, PAGES[name]) == page, AGAIN


def test_a_page_without_markers_is_refused() -> None:
    with pytest.raises(InputError, match="lacks the marker"):
        with_key_tables("# Nothing", PAGES["alliance.md"])


def test_write_reference(tmp_path: Path) -> None:
    (tmp_path / "schemas").mkdir()
    (tmp_path / "docs").mkdir()
    pages = {name: (ROOT / "docs" / name).read_text(encoding="utf-8") for name in PAGES}
    for name, page in pages.items():
        bare = re.sub(r"(<!-- keys of .*-->)[^<]*", r"\1\n", page)
        assert bare != page
        (tmp_path / "docs" / name).write_text(bare, encoding="utf-8")
    write_reference(tmp_path)
    assert {name: (tmp_path / "docs" / name).read_text(encoding="utf-8") for name in PAGES} == pages
    written = {path.name: path.read_text(encoding="utf-8") for path in (tmp_path / "schemas").iterdir()}
    assert len(written) >= 6
    assert written == {name: (ROOT / "schemas" / name).read_text(encoding="utf-8") for name in written}


def as_json(value: Any) -> Any:
    match value:
        case dict():
            return {key: as_json(child) for key, child in value.items()}
        case tuple():
            return [as_json(child) for child in value]
        case date():
            return value.isoformat()
        case _:
            return value


@pytest.mark.parametrize("name", example_names())
def test_examples_fit_the_schemas(name: str) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    kind = "scenario" if name.startswith("scenario") else "alliance"
    validator = jsonschema.Draft202012Validator(json.loads(schema_files()[f"{kind}.schema.json"]))
    value = as_json(plain(parse_yaml(example_path(name).read_text(encoding="utf-8"))))
    assert [error.message for error in validator.iter_errors(value)] == []
    assert not validator.is_valid({**value, "nmae": 1})


def test_the_docs_examples_load() -> None:
    first = next(text for text in EXAMPLES if text.startswith("name: Two workshops"))
    alliance = load_alliance(first, "alliance.yaml")
    fleet, terms = build_fleet(alliance, alliance.start)
    assert fleet.num_gpus == 256
    assert [pool.name for pool in terms.pools] == ["forge-h200/school", "forge-h200", "mill-h200"]
    scenario = next(text for text in EXAMPLES if text.startswith("name: Is the well"))
    assert len(load_scenario(scenario, "scenario.yaml").compare) == 2


def test_the_docs_errors_are_real() -> None:
    first = next(text for text in EXAMPLES if text.startswith("name: Two workshops"))
    shown = [line for line in PAGE.splitlines() if line.startswith("alliance.yaml:")]
    wrong = [first.replace("owner: forge,", "owner: forg,"), first.replace("gpus: 32,", "gpus: 40,")]
    for text, line in zip(wrong, shown, strict=True):
        with pytest.raises(InputError) as caught:
            load_alliance(text, "alliance.yaml")
        assert str(caught.value) == line


JOB_EXAMPLES = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "jobs.md").read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("text", JOB_EXAMPLES)
def test_the_jobs_page_s_examples_load_and_fit_the_schemas(text: str) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    work = load_work(text, "example.yaml")
    kind = "pipeline" if isinstance(work, Pipeline) else "job"
    validator = jsonschema.Draft202012Validator(json.loads(schema_files()[f"{kind}.schema.json"]))
    assert [error.message for error in validator.iter_errors(as_json(plain(parse_yaml(text))))] == []
    # What goes over the wire fits it too, and comes back as it was.
    sent = work.model_dump(mode="json", exclude_defaults=True)
    assert [error.message for error in validator.iter_errors(sent)] == []
    assert type(work).model_validate_json(json.dumps(sent)) == work


def test_the_jobs_page_shows_both_kinds() -> None:
    kinds = {type(load_work(text)) for text in JOB_EXAMPLES}
    assert kinds == {JobSpec, Pipeline}
