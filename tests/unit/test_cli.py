"""The commands as a person calls them: keys of --json, exit codes, one line for bad input."""

import json
import subprocess
import sys

import pytest

ROWS = "".join(
    f"{i} {i * 60} -1 {300 + 40 * (i % 7)} {1 + i % 4} -1 -1 {1 + i % 4} 900 -1 1 {i % 3} 1 -1 -1 -1 -1 -1\n"
    for i in range(1, 61)
)


def dure(*args):
    return subprocess.run([sys.executable, "-m", "dure.cli.main", *args], capture_output=True, text=True, check=False)


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "log.swf"
    path.write_text("; Version: 2.2\n" + ROWS)
    return path


def test_replay_has_the_contract_s_keys_and_repeats(log, tmp_path):
    args = ["replay", str(log), "--gpus", "8", "--gpus-per-node", "4", "--policy", "dure", "--json"]
    runs = [dure(*args), dure(*args, "--html", str(tmp_path / "r.html"), "--records", str(tmp_path / "r.parquet"))]
    found = [json.loads(run.stdout) for run in runs]
    assert set(found[0]) == {
        "jobs", "finished", "wait_mean_s", "wait_p50_s", "wait_p99_s", "jct_mean_s", "jct_p99_s", "utilisation",
        "makespan_s", "preemptions", "guarantee_breaches", "wall_s", "cpu_s", "digest",
    }  # fmt: skip
    assert found[0]["finished"] == found[0]["jobs"] == 60
    assert found[0]["digest"] == found[1]["digest"]
    assert (tmp_path / "r.html").stat().st_size > 100_000
    assert (tmp_path / "r.parquet").exists()


def test_forecast_names_waiting_jobs(log):
    run = dure("forecast", str(log), "--gpus", "4", "--gpus-per-node", "4", "--at", "1800", "--json")
    jobs = json.loads(run.stdout)["jobs"]
    assert jobs
    assert all(job["expected_start_s"] is None or job["expected_start_s"] >= 1800 for job in jobs)


def test_scale_has_the_contract_s_keys():
    run = dure("bench", "scale", "--gpus", "4000", "--jobs", "2000", "--json")
    assert set(json.loads(run.stdout)) == {
        "jobs", "gpus", "nodes", "policy", "wall_s", "cpu_s", "jobs_per_s", "events_per_s", "peak_rss_mb",
        "utilisation", "preemptions", "lent_gpu_hours", "digest",
    }  # fmt: skip


def test_compare_is_the_same_on_one_process_and_on_two():
    from dure.examples import example_path

    runs = [dure("compare", str(example_path("scenario-village")), "--jobs", n, "--json") for n in ("1", "2")]
    assert runs[0].returncode == 0, runs[0].stderr
    found = [json.loads(run.stdout) for run in runs]
    for data in found:
        data["metrics"] = [m for m in data["metrics"] if not m["key"].endswith(("wall_s", "cpu_s"))]
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("args", "word"),
    [
        (["replay", "none.swf", "--gpus", "8"], "none.swf"),
        (["replay", "LOG", "--gpus", "8", "--policy", "best"], "policy"),
        (["replay", "LOG"], "--gpus"),
        (["replay", "LOG", "--gpus", "2"], "can never run"),
        (["replay", "LOG", "--fleet", "none.yaml"], "none.yaml"),
        (["bench", "scale", "--gpus", "0"], "at least 1"),
        (["nothing"], "No such command"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(log, args, word):
    run = dure(*[str(log) if a == "LOG" else a for a in args])
    assert run.returncode == 2
    assert word in run.stderr
    assert "Traceback" not in run.stderr
    assert run.stdout == ""
