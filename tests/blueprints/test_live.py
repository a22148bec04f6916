"""Every blueprint of the catalogue at its small size on the live service: taken back once in mid-run, finished, its goal reached, billed."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from tests.blueprints.alliance import DATA, NEED_DATA, Alliance, small_words

from dure.client.blueprints import Entry, catalogue

ENTRIES = catalogue()


def imports_of(program: Path) -> set[str]:
    """Names of the packages and modules that it imports."""
    nodes = list(ast.walk(ast.parse(program.read_text(encoding="utf-8"))))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return {name.partition(".")[0] for name in plain | {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}}


def needs_libraries(entry: Entry) -> None:
    """Skip where the libraries that its programs import are not installed."""
    missing = []
    for name in sorted(set().union(*(imports_of(path) for path in entry.folder.glob("*.py")))):
        if not (entry.folder / f"{name}.py").is_file() and name != "__future__":
            found = subprocess.run([sys.executable, "-c", f"import importlib.util, sys; sys.exit(importlib.util.find_spec({name!r}) is None)"], check=False)
            missing += [name] if found.returncode else []
    if missing:
        pytest.skip(f"{entry.about.name} needs {', '.join(missing)}: run `make blueprints`")


@pytest.fixture(scope="module")
def alliance(tmp_path_factory):
    with Alliance(tmp_path_factory.mktemp("blueprints")) as found:
        yield found


@pytest.mark.slow
@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.about.name)
def test_it_is_taken_back_once_and_reaches_its_goal(alliance, entry, record_property):
    needs_libraries(entry)
    if entry.about.name in NEED_DATA and not (DATA / "physical_ai").is_dir():
        pytest.skip(f"{entry.about.name} needs recorded data: DURE_DATA")
    before = sum(row.gpu_seconds for row in alliance.operator.usage().rows if row.key == "guest")
    found = alliance.run_and_reclaim(*small_words(entry))
    result, metric = found.result, entry.about.metric
    assert result["state"] == "succeeded"
    assert result["attempts"] == len(entry.stages) + 1, "one attempt each, and one more after it was taken back"
    assert metric.is_reached(result["metrics"][metric.name], is_small=True), result["metrics"]
    billed = sum(row.gpu_seconds for row in alliance.operator.usage().rows if row.key == "guest") - before
    assert billed == pytest.approx(result["gpu_seconds"], rel=0.05, abs=2.0)
    assert billed > 0
    print(f"{entry.about.name}: {metric.name} {result['metrics'][metric.name]:.4g}, free after {found.free_s:.2f} s, {found.wall_s:.0f} s in all, {billed:.0f} GPU-s billed")


def test_the_catalogue_s_files_are_whole():
    assert {"job-shop"} <= {entry.about.name for entry in ENTRIES}
    for entry in ENTRIES:
        assert entry.folder.name == entry.about.name
        assert entry.stages
        assert (entry.folder / "README.md").is_file()
        assert list(entry.folder.glob("result.*")), f"{entry.folder} shows no result"
        entry.work(is_small=True)
