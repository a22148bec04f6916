"""The commands as a person calls them: keys of --json, exit codes, one line for bad input."""

import json
import subprocess
import sys
from pathlib import Path

import click
import pytest
from tests.in_process import caller

from dure.cli.main import cli

ROWS = "".join(
    f"{i} {i * 60} -1 {300 + 40 * (i % 7)} {1 + i % 4} -1 -1 {1 + i % 4} 900 -1 1 {i % 3} 1 -1 -1 -1 -1 -1\n"
    for i in range(1, 61)
)


def process(*args):
    return subprocess.run([sys.executable, "-m", "dure.cli.main", *args], capture_output=True, text=True, check=False)


@pytest.fixture
def dure(monkeypatch, capfd):
    return caller(monkeypatch, capfd)


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "log.swf"
    path.write_text("; Version: 2.2\n" + ROWS)
    return path


def test_replay_has_the_contract_s_keys_and_repeats(log, tmp_path):
    args = ["replay", str(log), "--gpus", "8", "--gpus-per-node", "4", "--policy", "dure", "--json"]
    runs = [process(*args), process(*args, "--html", str(tmp_path / "r.html"), "--records", str(tmp_path / "r.parquet"))]
    found = [json.loads(run.stdout) for run in runs]
    assert set(found[0]) == {
        "jobs", "finished", "wait_mean_s", "wait_p50_s", "wait_p99_s", "jct_mean_s", "jct_p99_s", "utilisation",
        "makespan_s", "preemptions", "guarantee_breaches", "wall_s", "cpu_s", "digest",
    }  # fmt: skip
    assert found[0]["finished"] == found[0]["jobs"] == 60
    assert found[0]["digest"] == found[1]["digest"]
    assert (tmp_path / "r.html").stat().st_size > 100_000
    assert (tmp_path / "r.parquet").exists()


def test_forecast_names_waiting_jobs(log, dure):
    run = dure("forecast", str(log), "--gpus", "4", "--gpus-per-node", "4", "--at", "1800000", "--json")
    found = json.loads(run.stdout)
    assert found["at_ms"] == 1_800_000
    assert found["jobs"]
    for job in found["jobs"]:
        assert job["expected_start_ms"] is None or job["expected_start_ms"] >= 1_800_000
    one = json.loads(dure("forecast", str(log), "--gpus", "4", "--gpus-per-node", "4", "--job", "30", "--json").stdout)
    assert one["at_ms"] == 29 * 60_000
    assert [(job["job_id"], job["waited_ms"]) for job in one["jobs"]] == [("30", 0)]


def swf_of(path, *rows):
    """A log with the rows (id, submitted s, GPUs, run time s)."""
    lines = [f"{i} {at} -1 {run} {gpus} -1 -1 {gpus} -1 -1 1 1 1 -1 -1 -1 -1 -1\n" for i, at, gpus, run in rows]
    path.write_text("; Version: 2.2\n" + "".join(lines))
    return str(path)


def two_waiting(tmp_path):
    """A job has all four GPUs, and two of three GPUs wait."""
    path = swf_of(tmp_path / "two.swf", (1, 0, 4, 7200), (2, 60, 3, 600), (3, 120, 3, 600))
    return ["forecast", path, "--gpus", "4", "--gpus-per-node", "4", "--at", "120000"]


def test_forecast_says_why_each_job_waits(tmp_path, dure):
    found = json.loads(dure(*two_waiting(tmp_path), "--json").stdout)
    first, second = found["jobs"]
    # An hour is assumed of what nobody knows: the one that runs has it still before it.
    start_ms = 120_000 + 3_600_000
    assert first == {
        "job_id": "2", "member": "group1", "gpus": 3, "waited_ms": 60_000, "expected_start_ms": start_ms,
        "reason": "gpus_busy", "rule": 1, "message": "it needs 3 GPUs, free: 0 (pool pool)", "promised_ms": None,
        "pools": [
            {
                "pool": "pool", "reason": "gpus_busy", "message": "it needs 3 GPUs, free: 0",
                "facts": {"needed_milli": 3000, "free_milli": 0},
                "holders": [{"member": "group1", "used_milli": 4000, "borrowed_milli": 0}],
            }
        ],
        "sooner": [],
    }  # fmt: skip
    assert (second["reason"], second["rule"], second["expected_start_ms"]) == ("behind", 3, start_ms + 3_600_000)
    assert second["message"].startswith("job 2 of the same shape stands before it; that one waits because it needs 3")
    assert second["pools"] == first["pools"]


def test_forecast_is_readable(tmp_path, dure):
    lines = dure(*two_waiting(tmp_path)).stdout.splitlines()
    assert len(lines) == 4
    assert lines[0].split() == ["2", "group1", "3", "GPUs", "in", "3,600", "s"]
    assert lines[1] == "    rule 1: it needs 3 GPUs, free: 0 (pool pool)"
    assert lines[3].startswith("    rule 3: job 2 of the same shape stands before it")


def test_forecast_shows_a_promise_and_what_would_be_sooner(tmp_path, dure):
    """Six of eight GPUs are in use; under easy the gang of eight has its node held, and the one of four could be two."""
    path = swf_of(tmp_path / "held.swf", (1, 0, 6, 7200), (2, 60, 8, 600), (3, 61, 4, 600))
    fleet = ["--gpus", "8", "--gpus-per-node", "8", "--at", "61000"]
    text = dure("forecast", path, *fleet, "--policy", "easy").stdout.splitlines()
    assert text[0].endswith("in 3,600 s, promised in 3,539 s")
    assert text[1] == "    rule 5: nodes held for it: 1, of these still in use: 1 (pool pool)"
    free = json.loads(dure("forecast", path, *fleet, "--json").stdout)["jobs"][1]
    assert free["sooner"] == [
        {"kind": "fewer_gpus", "pool": "pool", "amount": 2, "message": "with 2 GPUs it would start now in pool"}
    ]
    assert "    sooner: with 2 GPUs it would start now in pool" in dure("forecast", path, *fleet).stdout


def test_replay_scores_forecasts_where_it_is_told_to(log, dure):
    plain = json.loads(dure("replay", str(log), "--gpus", "4", "--gpus-per-node", "4", "--json").stdout)
    args = ["replay", str(log), "--gpus", "4", "--gpus-per-node", "4", "--forecasts", "5", "--json"]
    found = json.loads(dure(*args).stdout)
    assert found["digest"] == plain["digest"]
    assert set(found) - set(plain) == {
        "forecasts", "forecasts_open", "forecasts_unforeseen", "forecast_error_mean_s", "forecast_error_p5_s",
        "forecast_error_p50_s", "forecast_error_p95_s", "forecast_late_share", "forecast_on_time_share",
    }  # fmt: skip
    assert found["forecasts"] > 10
    assert (found["forecasts_open"], found["forecasts_unforeseen"]) == (0, 0)
    assert found["forecast_error_p5_s"] <= found["forecast_error_p50_s"] <= found["forecast_error_p95_s"]


def test_scale_has_the_contract_s_keys(dure):
    run = dure("bench", "scale", "--gpus", "4000", "--jobs", "2000", "--json")
    assert set(json.loads(run.stdout)) == {
        "jobs", "gpus", "nodes", "policy", "wall_s", "cpu_s", "jobs_per_s", "events_per_s", "peak_rss_mb",
        "utilisation", "preemptions", "lent_gpu_hours", "digest",
    }  # fmt: skip


def test_compare_is_the_same_on_one_process_and_on_two():
    from dure.examples import example_path

    runs = [process("compare", str(example_path("scenario-village")), "--jobs", n, "--json") for n in ("1", "2")]
    assert runs[0].returncode == 0, runs[0].stderr
    found = [json.loads(run.stdout) for run in runs]
    for data in found:
        data["metrics"] = [m for m in data["metrics"] if not m["key"].endswith(("wall_s", "cpu_s"))]
    assert found[0] == found[1]


def test_trace_info_counts(log, dure):
    found = json.loads(dure("trace", "info", str(log), "--json").stdout)
    assert (found["jobs"], found["timed_jobs"], found["users"], found["gpus_max"]) == (60, 60, 3, 4)
    assert found["span_s"] == 59 * 60


def test_alliance_check_counts_and_names_the_line(tmp_path, dure):
    from dure.examples import example_path

    text = example_path("village").read_text(encoding="utf-8")
    good = json.loads(dure("alliance", "check", "example:village", "--json").stdout)
    assert good == json.loads(dure("alliance", "check", str(example_path("village")), "--json").stdout)
    assert good["gpus"] > 0
    assert good["members"] > 1
    (tmp_path / "bad.yaml").write_text(text + "\nnonsense: 1\n", encoding="utf-8")
    bad = dure("alliance", "check", str(tmp_path / "bad.yaml"))
    assert bad.returncode == 2
    assert f"bad.yaml:{len(text.splitlines()) + 2}: nonsense" in bad.stderr


def test_strangers_are_dealt_to_members_by_what_they_ask_for(tmp_path, dure):
    from dure.examples import example_path
    from dure.twin.inputs import fleet_from, with_members_of
    from dure.twin.traces import load_trace

    # Three groups of one, two and four GPUs at a time.
    rows = "".join(f"{i} {i} -1 600 {1 << i % 3} -1 -1 {1 << i % 3} -1 -1 1 1 {i % 3} -1 -1 -1 -1 -1\n" for i in range(1, 31))
    path = tmp_path / "groups.swf"
    path.write_text("; Version: 2.2\n" + rows)
    village = str(example_path("village"))
    trace, terms = load_trace(path), fleet_from(village, None, 8)[1]
    assert len(trace.members) == 3
    mapped = with_members_of(trace, terms)
    guarantee = terms.guarantee_gpus.sum(axis=1)
    by_size = {int(size): int(guarantee[m]) for size, m in zip(mapped.jobs["num_gpus"], mapped.jobs["member"], strict=True)}
    assert [by_size[4], by_size[2], by_size[1]] == sorted(guarantee.tolist(), reverse=True)[:3]
    refused = dure("replay", str(path), "--fleet", village)
    assert refused.returncode == 2
    assert "is not in the alliance" in refused.stderr
    taken = dure("replay", str(path), "--fleet", village, "--map-members", "--json")
    assert json.loads(taken.stdout)["finished"] == 30


def test_help_loads_nothing_heavy():
    code = (
        "import sys; sys.argv = ['dure', '--help']\n"
        "from dure.cli.main import main\n"
        "main()\n"
        "sys.exit(sum(name in sys.modules for name in ('numba', 'numpy', 'pyarrow', 'plotly', 'pydantic', 'ray')))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0
    assert "Replay a trace" in run.stdout


def test_a_closed_pipe_is_no_error(log):
    line = f'"{sys.executable}" -m dure.cli.main trace info "{log}" | true'
    run = subprocess.run(line, shell=True, capture_output=True, text=True, check=False)
    assert run.stderr == ""


def scenario_with(tmp_path, load, variant="{name: one, policy: dure}"):
    path = tmp_path / "scenario.yaml"
    path.write_text(f"name: x\nfleet: {{gpus: 16}}\nload: {load}\ncompare:\n  - {variant}\n", encoding="utf-8")
    return path


def test_a_scenario_s_traces_are_merged_and_shaped(log, tmp_path, dure):
    load = f"{{traces: [{{path: {log}}}, {{path: {log}, format: swf, options: {{num_jobs: 7, arrivals: 2}}}}]}}"
    run = dure("compare", str(scenario_with(tmp_path, load)), "--json")
    found = {metric["key"]: metric["intervals"]["one"] for metric in json.loads(run.stdout)["metrics"]}
    assert found["finished"] == {"mean": 67.0, "low": None, "high": None, "n": 1}


@pytest.mark.parametrize(
    ("load", "variant", "words"),
    [
        ("{traces: [{path: LOG, options: {jobs: 7}}]}", "{name: one}", "load.traces[0].options.jobs: unknown option"),
        ("{traces: [{path: LOG, options: {num_jobs: a}}]}", "{name: one}", "options.num_jobs: must be a number"),
        ("{traces: [{path: LOG, format: text}]}", "{name: one}", "unknown format 'text'"),
        ("{traces: [{path: LOG}]}", "{name: one, overrides: {epoch_ms: 0}}", "overrides.epoch_ms: must be"),
        ("{traces: [{path: LOG}]}", "{name: one, overrides: {is_sleep: 3}}", "is_sleep: must be true or false"),
        ("{traces: [{path: LOG}]}", "{name: one, overrides: {margin: 3}}", "unknown setting 'margin'"),
        ("{traces: [{path: none.swf}]}", "{name: one}", "none.swf"),
    ],
)
def test_a_bad_scenario_is_one_line(log, tmp_path, load, variant, words, dure):
    run = dure("compare", str(scenario_with(tmp_path, load.replace("LOG", str(log)), variant)))
    assert run.returncode == 2
    assert words in run.stderr
    assert run.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("args", "word"),
    [
        (["replay", "LOG", "--gpus", "8", "--html", "none/r.html"], "--html: there is no folder none"),
        (["replay", "LOG", "--gpus", "8", "--records", "."], "--records: is a folder"),
        (["replay", "LOG", "--gpus", "8", "--faults", "rsc"], "faults.preset"),
        (["replay", "--gpus", "8"], "Missing argument 'PATH'"),
        (["forecast", "LOG", "--gpus", "8"], "--at, --job"),
        (["replay", "LOG", "--gpus", "8", "--map-members"], "--map-members"),
        (["forecast", "LOG", "--gpus", "8", "--job", "no"], "no job 'no'"),
        (["forecast", "LOG", "--gpus", "8", "--at", "100", "--job", "no"], "no job 'no'"),
        (["forecast", "LOG", "--gpus", "8", "--at", "-1"], "--at"),
        (["forecast", "LOG", "--gpus", "8", "--at", "soon"], "--at"),
        (["replay", "LOG", "--gpus", "8", "--forecasts", "-1"], "--forecasts"),
        (["compare", "none.yaml", "--jobs", "0"], "--jobs"),
        (["bench", "placement", "--data", ".", "--seeds", "a"], "--seeds"),
        (["replay", "none.swf", "--gpus", "8"], "none.swf"),
        (["replay", "LOG", "--gpus", "8", "--policy", "best"], "policy"),
        (["replay", "LOG"], "--gpus"),
        (["replay", "LOG", "--gpus", "2"], "can never run"),
        (["replay", "LOG", "--fleet", "none.yaml"], "none.yaml"),
        (["replay", "LOG", "--fleet", "example:vilage"], "unknown example 'vilage'; did you mean 'village'?"),
        (["bench", "scale", "--gpus", "0"], "--gpus"),
        (["nothing"], "No such command"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(log, args, word, dure):
    run = dure(*[str(log) if a == "LOG" else a for a in args])
    assert run.returncode == 2
    assert word in run.stderr
    assert run.stderr.count("\n") == 1
    assert run.stdout == ""


def commands(group, name=""):
    context = click.Context(group)
    for each in group.list_commands(context):
        command = group.get_command(context, each)
        if isinstance(command, click.Group):
            yield from commands(command, f"{name}{each} ")
        else:
            yield f"{name}{each}", command


@pytest.mark.parametrize(("name", "command"), [pytest.param(n, c, id=n) for n, c in commands(cli)])
def test_each_command_and_option_is_documented(name, command):
    page = (Path(__file__).parents[2] / "docs" / "cli.md").read_text(encoding="utf-8")
    assert f"`dure {name}" in page
    assert command.help
    for option in command.params:
        if isinstance(option, click.Option):
            assert option.opts[0] in page
    assert any(option.name == "is_json" for option in command.params) or name in ("agent", "compile", "serve", "tour", "up")
