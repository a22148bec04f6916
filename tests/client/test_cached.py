"""Outputs taken from an earlier run: only where all that they hang on is equal, whole or not at all."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from dure.client import cached

PROGRAM = """
import os, sys
from pathlib import Path
from dure.client import job
with open("ran", "a") as file:
    file.write("x")
out = job.output_dir()
(out / "model").mkdir(exist_ok=True)
(out / "model" / "weights").write_text(Path("train.txt").read_text() + (job.input_dir() / "data" / "rows").read_text())
if "none" not in sys.argv:
    (out / "note.txt").write_text("note")
job.report_metrics(score=0.5)
sys.exit(int(os.environ.get("CODE", "0")))
"""
SAID = {"project": "a/b", "env": {}, "setup": "", "array_index": None, "files": ["*.txt"], "inputs": ["data/rows"], "outputs": ["model", "note.txt"]}


class Job:
    """A folder with a program, and runs of it."""

    def __init__(self, tmp_path):
        self.root = tmp_path
        self.work = tmp_path / "work"
        (tmp_path / "input" / "data").mkdir(parents=True)
        (tmp_path / "input" / "data" / "rows").write_text("rows")
        self.work.mkdir()
        (self.work / "train.txt").write_text("one ")
        (self.work / "program.py").write_text(PROGRAM)

    def start(self, *arguments, said=SAID, program="program.py", **env):
        self.number = getattr(self, "number", 0) + 1
        own = {
            "DURE_CACHE_DIR": str(self.root / "cache"), "DURE_CACHE_KEY": json.dumps(said), "DURE_OUTPUT_DIR": str(self.root / f"output-{self.number}"),
            "DURE_INPUT_DIR": str(self.root / "input"),
        }  # fmt: skip
        command = [sys.executable, "-P", "-m", "dure.client.cached", sys.executable, program, *arguments]
        return subprocess.Popen(
            command, cwd=self.work, env={**os.environ, **own, **env}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )

    def run(self, *arguments, **more):
        with self.start(*arguments, **more) as process:
            out, error = process.communicate(timeout=60)
        self.out, self.error = out, error
        return process.returncode

    @property
    def runs(self):
        return len((self.work / "ran").read_text())

    def outputs(self):
        folder = self.root / f"output-{self.number}"
        return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def job(tmp_path):
    return Job(tmp_path)


def test_the_second_run_takes_outputs_and_metrics_of_the_first(job):
    assert job.run() == 0
    first, said = job.outputs(), job.out
    assert first == {"model/weights": "one rows", "note.txt": "note"}
    assert job.run() == 0
    assert (job.runs, job.outputs()) == (1, first)
    assert 'dure-metrics: {"score": 0.5}' in said
    assert 'dure-metrics: {"score": 0.5}' in job.out


@pytest.mark.parametrize("change", ["file", "new file", "input", "argument", "env", "project", "index"])
def test_whatever_the_outputs_hang_on_makes_it_run_again(job, change):
    assert job.run() == 0
    said, arguments = dict(SAID), []
    if change == "file":
        (job.work / "train.txt").write_text("two ")
    elif change == "new file":
        (job.work / "more.txt").write_text("")
    elif change == "input":
        (job.root / "input" / "data" / "rows").write_text("other")
    elif change == "argument":
        arguments = ["more"]
    else:
        said |= {"env": {"A": "1"}} if change == "env" else {"project": "a/c"} if change == "project" else {"array_index": 3}
    assert job.run(*arguments, said=said) == 0
    assert job.runs == 2


def test_a_failed_run_is_not_kept(job):
    assert job.run(CODE="3") == 3
    assert job.run(CODE="3") == 3
    assert job.runs == 2


def test_a_run_that_left_not_all_is_not_kept(job):
    assert job.run("none") == 0
    assert "an output is missing" in job.error
    assert job.run("none") == 0
    assert job.runs == 2


@pytest.mark.parametrize("damage", ["changed", "gone", "about"])
def test_an_entry_that_is_not_whole_is_made_anew(job, damage):
    assert job.run() == 0
    (entry,) = (job.root / "cache").iterdir()
    if damage == "changed":
        (entry / "outputs" / "model" / "weights").write_text("torn")
    elif damage == "gone":
        (entry / "outputs" / "note.txt").unlink()
    else:
        (entry / "about.json").write_text("{")
    for _ in range(2):
        assert job.run() == 0
        assert job.outputs()["model/weights"] == "one rows"
    assert job.runs == 2
    assert [path.name for path in (job.root / "cache").iterdir()] == [entry.name]


def test_a_pattern_that_fits_no_file_is_told(job):
    assert job.run(said={**SAID, "files": ["*.md"]}) == 2
    assert "no file fits '*.md'" in job.error


def test_one_of_many_ranks_always_runs(job):
    assert job.run(WORLD_SIZE="2") == 0
    assert job.run(WORLD_SIZE="2") == 0
    assert job.runs == 2


def test_told_to_leave_it_leaves_as_its_command_does(job):
    (job.work / "long.py").write_text(
        "import time\nfrom dure.client import job\njob.watch_signals()\nopen('up', 'w').close()\nwhile not job.should_stop():\n    time.sleep(0.01)\njob.leave()\n"
    )
    with job.start(program="long.py") as process:
        until = time.monotonic() + 30
        while not (job.work / "up").exists():
            assert time.monotonic() < until
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGUSR1)
        assert process.wait(30) == 75
    assert not (job.root / "cache").exists()


def test_a_signal_that_comes_before_its_command_is_passed_on(job, monkeypatch):
    """As if it came between the handlers and the start."""
    real = signal.signal

    def early(number, handler):
        before = real(number, handler)
        if number == signal.SIGTERM:
            os.kill(os.getpid(), signal.SIGTERM)
        return before

    kept = {number: signal.getsignal(number) for number in cached._SIGNALS}
    monkeypatch.setattr(signal, "signal", early)
    try:
        assert cached._run([sys.executable, "-c", "import time; time.sleep(60)"], job.root / "metrics") == 128 + signal.SIGTERM
    finally:
        monkeypatch.undo()
        for number, handler in kept.items():
            signal.signal(number, handler)
