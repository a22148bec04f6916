"""The catalogue's files, its commands, and what a test of resumption finds out."""

import json
import shutil
import subprocess
import sys

import pytest
from tests.in_process import caller

from dure.cli.blueprint_docs import with_table
from dure.cli.blueprint_fleet import stages
from dure.client.blueprints import catalogue, catalogue_folder, copy_entry, find_entry, on_fleet
from dure.client.resuming import assert_resumes_exactly
from dure.model.blueprint_file import load_blueprint, work_of
from dure.model.errors import InputError
from dure.model.job_file import Pipeline

ABOUT = """
name: own
title: {en: Mine, ko: 내 것}
field: mobility
extra: own
metric: {name: score, better: higher, reached: 2, goal: 1, small_goal: 0.5}
expected_cpu_s: 10
small_cpu_s: 1
checkpoint_mib: 0
parameters:
  steps: {default: 10, small: 3, help: Steps.}
  quick: {default: false, small: true, help: Whether.}
"""
JOB = "name: own\ncommand: [python3, own.py]\nworkdir: .\n"
PIPELINE = "name: own\njobs:\n  one: {command: [a]}\n  two: {command: [b], needs: [one]}\n"


@pytest.fixture
def dure(monkeypatch, capfd):
    return caller(monkeypatch, capfd)


def test_the_list_has_the_contract_s_keys(dure):
    found = json.loads(dure("blueprint", "list", "--json").stdout)
    assert [row["name"] for row in found] == sorted(path.parent.name for path in catalogue_folder().glob("*/blueprint.yaml"))
    for row in found:
        assert set(row) == {"name", "field", "stages", "metric", "expected_cpu_s", "extra", "on_fleet"}


def test_the_twin_was_asked_about_each():
    assert set(on_fleet()) == {entry.about.name for entry in catalogue()}
    for entry in catalogue():
        work, found = stages(entry), entry.on_fleet
        assert [stage.name for stage in work if stage.run_ms <= 0] == []
        assert sum(stage.run_ms for stage in work) / 1000 == pytest.approx(entry.about.expected_cpu_s, rel=0.1)
        gpu_hours = sum(stage.num_gpus * stage.run_ms for stage in work) / 3_600_000
        assert found.gpu_hours == pytest.approx(gpu_hours, abs=1e-4), "run `make docs`"
        assert max(stage.run_ms for stage in work) / 1000 <= found.time_p50_s <= found.time_p95_s
        assert found.cost == pytest.approx(300 * gpu_hours, abs=0.1)


def test_every_blueprint_is_shown(dure):
    for entry in catalogue():
        assert dure("blueprint", "show", entry.about.name).stdout.startswith(f"{entry.about.name}: ")
        assert json.loads(dure("blueprint", "show", entry.about.name, "--json").stdout)["stages"] == list(entry.stages)
    assert "0.004" in dure("blueprint", "show", "language-model").stdout, "small numbers are not rounded away"


def test_the_small_size_and_settings_become_options_or_keys():
    about = load_blueprint(ABOUT)
    job = work_of(about, JOB, "job.yaml", is_small=True, settings=["steps=5", "resources.gpus=4", "env.A='1'"])
    assert job.command == ("python3", "own.py", "--steps", "5", "--quick", "true")
    assert (job.resources.gpus, job.env) == (4, {"A": "1"})
    assert work_of(about, JOB, "job.yaml", is_small=False, settings=[]).command == ("python3", "own.py")
    of_two = ABOUT.replace("  steps:", "  two.steps:").replace("  quick:", "  one.quick:")
    pipeline = work_of(load_blueprint(of_two), PIPELINE, "pipeline.yaml", is_small=True, settings=["jobs.one.priority=high"])
    assert isinstance(pipeline, Pipeline)
    assert (pipeline.jobs["one"].command, pipeline.jobs["two"].command) == (("a", "--quick", "true"), ("b", "--steps", "3"))
    assert pipeline.jobs["one"].priority == "high"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (ABOUT.replace("goal: 1,", "goal: 3,"), "metric.reached: 2.0 does not reach `goal` 3.0"),
        (ABOUT.replace("better: higher", "better: more"), ":6: metric.better"),
        (ABOUT.replace("field: mobility", "field: cooking"), ":4: field"),
        (ABOUT + "more: 1\n", "unknown key 'more'"),
    ],
)
def test_what_is_wrong_is_said_with_line_and_field(text, words):
    with pytest.raises(InputError) as caught:
        load_blueprint(text, "b.yaml")
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("show", "job-shp"), "no blueprint 'job-shp'; did you mean 'job-shop'?"),
        (("run", "job-shop", "--set", "efort=3"), "--set: job-shop has no parameter 'efort'"),
        (("new", "mine", "--from", "none"), "no blueprint 'none'"),
        (("show", "./nowhere"), "nowhere/blueprint.yaml: cannot be read"),
    ],
)
def test_bad_input_is_one_line(dure, words, said):
    found = dure("blueprint", *words)
    assert found.returncode == 2
    assert said in found.stderr
    assert len(found.stderr.splitlines()) == 1


def test_the_page_s_table_is_that_of_the_files():
    page = (catalogue_folder().parent / "docs" / "blueprints.md").read_text(encoding="utf-8")
    assert with_table(page) == page, "run `make docs`"


COUNTS = """
import json, sys
from dure.client import job
job.watch_signals()
kept = job.checkpoint_dir() / "n"
n, drift = json.loads(kept.read_text()) if kept.exists() else (0, 0)
while n < 6:
    n += 1
    drift += n * FACTOR
    kept.write_text(json.dumps([n, drift]))
    job.report_progress(step=n, drift=drift, wall_s=__import__("time").time())
    __import__("time").sleep(0.2)
    if job.should_stop():
        job.leave()
job.report_metrics(drift=drift)
"""


def test_a_program_that_resumes_passes_and_one_that_does_not_is_found_out(tmp_path):
    (tmp_path / "good.py").write_text(COUNTS.replace("FACTOR", "1"))
    story = assert_resumes_exactly(tmp_path, ["good.py"], tmp_path / "good", (2, 1))
    assert (story.attempts, story.metrics) == (3, {"drift": 21})
    (tmp_path / "bad.py").write_text(COUNTS.replace("FACTOR", "__import__('os').getpid()"))
    with pytest.raises(AssertionError):
        assert_resumes_exactly(tmp_path, ["bad.py"], tmp_path / "bad", (2,))
    (tmp_path / "again.py").write_text(COUNTS.replace("FACTOR", "1").replace("json.dumps([n, drift])", "json.dumps([n - 1, drift - n])"))
    with pytest.raises(AssertionError, match="lost or done twice"):
        assert_resumes_exactly(tmp_path, ["again.py"], tmp_path / "again", (2,))
    (tmp_path / "deaf.py").write_text(COUNTS.replace("FACTOR", "1").replace("job.should_stop()", "False"))
    with pytest.raises(AssertionError, match="it was done before"):
        assert_resumes_exactly(tmp_path, ["deaf.py"], tmp_path / "deaf", (2,))


def test_a_copy_is_one_s_own(tmp_path, dure):
    pytest.importorskip("ortools")
    pytest.importorskip("matplotlib")
    copy_entry(find_entry("job-shop"), "my-shop", tmp_path / "my-shop")
    own = find_entry(str(tmp_path / "my-shop"))
    assert own.about.name == "my-shop"
    assert own.work().workdir == str(tmp_path / "my-shop")
    with pytest.raises(InputError, match="is there already"):
        copy_entry(find_entry("job-shop"), "my-shop", tmp_path / "my-shop")
    assert dure("blueprint", "show", f"{tmp_path}/my-shop").stdout.startswith("my-shop: ")
    if (catalogue_folder() / "factory").is_dir():
        copy_entry(find_entry("factory"), "my-plant", tmp_path / "my-plant")
        assert find_entry(f"{tmp_path}/my-plant").work().jobs["schedule"].workdir == str(catalogue_folder().resolve() / "job-shop")


@pytest.mark.slow
def test_a_copy_s_own_test_passes(tmp_path):
    pytest.importorskip("ortools")
    pytest.importorskip("matplotlib")
    copy_entry(find_entry("job-shop"), "my-shop", tmp_path / "my-shop")
    found = subprocess.run([sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(tmp_path / "my-shop")], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert found.returncode == 0, found.stdout[-3000:]
    assert "2 passed" in found.stdout
    shutil.rmtree(tmp_path / "my-shop")
