"""The commands over real HTTP: keys of --json, exit codes, what a person reads."""

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import time

import pytest

JOB_KEYS = ["job_id", "name", "project", "member", "state", "reason", "expected_start", "attempt", "gpus", "site"]

PIPELINE = """
name: two steps
jobs:
  make: {command: [/bin/sh, -c, "echo made"], outputs: [data]}
  use: {command: [/bin/true], needs: [make], inputs: [make/data]}
"""


@pytest.fixture
def job_file(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text("name: hello\ncommand: [/bin/sh, -c, 'echo hello $WHO; exit $CODE']\nenv: {WHO: you, CODE: '0'}\n")
    return str(path)


def until_ended(service, job_id):
    deadline = time.monotonic() + 20
    while service.jobs[job_id].state != "ENDED":
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return service.jobs[job_id]


def test_submit_logs_jobs(service, dure, job_file):
    job_id = json.loads(dure("submit", job_file, "--json").stdout)["job_id"]
    until_ended(service, job_id)
    assert dure("logs", job_id).stdout == dure("logs", job_id, "-f").stdout == "hello you\n"
    (listed,) = json.loads(dure("jobs", "--json").stdout)
    assert sorted(listed) == sorted(JOB_KEYS)
    assert (listed["job_id"], listed["name"], listed["state"]) == (job_id, "hello", "ENDED")
    shown = dure("jobs").stdout.splitlines()
    assert shown[0].split()[:4] == ["JOB", "NAME", "PROJECT", "STATE"]
    assert shown[1].split()[:4] == [job_id, "hello", "forge/default", "succeeded"]
    assert json.loads(dure("jobs", "--state", "running", "--json").stdout) == []


def test_settings_take_the_file_s_place(service, dure, job_file):
    said = dure("submit", job_file, "--set", "env.WHO=me", "--set", "resources.gpus=4", "--set", "time_limit=1h")
    job = until_ended(service, said.stdout.strip())
    assert (job.spec.env["WHO"], job.spec.env["CODE"], job.spec.resources.gpus) == ("me", "0", 4)
    assert job.spec.time_limit == 3_600_000


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("resources.gpsu=4", "resources.gpsu: unknown key 'gpsu'; did you mean 'gpus'?"),
        ("resources.gpus=many", "resources.gpus: must be a whole number, not 'many'"),
        ("name.first=x", "--set name.first: is no mapping"),
        ("gpus", "--set: must be KEY=VALUE"),
        ("env.A=[", "--set env.A: column"),
        ("=3", "--set: must be KEY=VALUE"),
    ],
)
def test_a_bad_setting_is_one_line(service, dure, job_file, setting, says):
    said = dure("submit", job_file, "--set", setting)
    assert said.returncode == 2
    assert says in said.stderr
    assert said.stderr.count("\n") == 1
    assert not service.jobs


def test_a_bad_file_names_its_line(service, dure, tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text("command: [true]\nresources:\n  gpus: -1\n")
    said = dure("submit", str(path))
    assert said.returncode == 2
    assert f"{path}:1: command[0]: must be text" in said.stderr


@pytest.mark.parametrize(
    ("words", "data", "says"),
    [
        (("submit", "-"), b"command: [\xff]", "byte 0xff is not UTF-8"),
        (("sbatch",), b"#!/bin/sh\n\xff", "/dev/stdin:2: byte 0xff is not UTF-8"),
        (("run", "--", "sh", b"\xff"), b"", "COMMAND: "),
        (("srun", "sh", b"\xff"), b"", "command: "),
        (("sbatch", "--export=ALL", "--wrap=true"), b"", "--export: "),
        (("sbatch", "-J", b"\xff", "--wrap=true"), b"", "--job-name: "),
    ],
)
def test_bytes_that_are_no_text(service, words, data, says):
    command = [sys.executable, "-m", "dure.cli.main", *words]
    env = {**os.environ, b"ODD": b"\xff"} if words[0] == "sbatch" else None
    said = subprocess.run(command, input=data, capture_output=True, check=False, env=env)
    assert said.returncode == 2
    assert says in said.stderr.decode()
    assert said.stderr.count(b"\n") == 1
    assert not service.jobs


def test_submit_from_standard_input(service):
    command = [sys.executable, "-m", "dure.cli.main", "submit", "-"]
    said = subprocess.run(command, input="name: 파이프\ncommand: ['true']\n", capture_output=True, check=True, text=True)
    assert service.jobs[said.stdout.strip()].spec.name == "파이프"


def test_pipelines(service, dure, tmp_path):
    path = tmp_path / "pipeline.yaml"
    path.write_text(PIPELINE)
    assert json.loads(dure("pipeline", "check", str(path), "--json").stdout) == {
        "name": "two steps",
        "jobs": [{"name": "make", "needs": [], "gpus": 1}, {"name": "use", "needs": ["make"], "gpus": 1}],
    }
    assert dure("pipeline", "check", str(path)).stdout.splitlines()[2].split() == ["use", "1", "make"]
    taken = json.loads(dure("submit", str(path), "--json").stdout)
    for job_id in taken["job_ids"].values():
        assert until_ended(service, job_id).outcome == "succeeded"
    shown = json.loads(dure("pipeline", "show", taken["pipeline_id"], "--json").stdout)
    assert [job["name"] for job in shown] == ["make", "use"]
    assert dure("submit", str(path)).stdout.splitlines()[1].split()[0] == "make"
    assert dure("pipeline", "show", "pipe-99").returncode == 2


def test_an_array(service, dure, tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text("command: [/bin/sh, -c, 'echo $DURE_ARRAY_INDEX']\narray: {indices: [3, 5]}\n")
    taken = json.loads(dure("submit", str(path), "--json").stdout)
    assert len(taken["job_ids"]) == 2
    for job_id, index in zip(taken["job_ids"], ("3", "5"), strict=True):
        until_ended(service, job_id)
        assert dure("logs", job_id).stdout == f"{index}\n"
    assert len(json.loads(dure("jobs", "--array", taken["job_id"], "--json").stdout)) == 2


@pytest.mark.parametrize("code", [0, 1, 3, 42])
def test_run_ends_as_the_job_does(service, dure, code):
    said = dure("run", "--gpus", "2", "--project", "forge/x", "--", "/bin/sh", "-c", f"echo out; exit {code}")
    assert (said.returncode, said.stdout) == (code, "out\n")
    (job,) = service.jobs.values()
    assert (job.spec.resources.gpus, job.spec.project, job.spec.name) == (2, "forge/x", "sh")


def test_run_needs_no_dashes_and_stays_in_this_folder(service, dure, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINE", "here")
    script = "print(open('f').read(), __import__('os').environ['MINE'])"
    (tmp_path / "f").write_text("found")
    said = dure("run", "--env", "MINE", "--env", "X=a=b", sys.executable, "-c", script)
    assert (said.returncode, said.stdout) == (0, "found here\n")


def test_run_detached(service, dure):
    job_id = json.loads(dure("run", "--detach", "--json", "--", "true").stdout)["job_id"]
    assert until_ended(service, job_id).spec.command == ("true",)


def test_run_as_json_tells_the_end(service, dure):
    said = dure("run", "--json", "--", "sh", "-c", "echo out; exit 4")
    assert (said.returncode, said.stderr) == (4, "out\n")
    assert json.loads(said.stdout) == {"job_id": "job-1", "state": "ENDED", "outcome": "failed", "exit_code": 4}
    assert json.loads(dure("logs", "job-1", "--json").stdout) == {"job_id": "job-1", "attempt": None, "rank": 0, "text": "out\n"}


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("--time", "soon"), "--time: must be a duration"),
        (("--gpus", "2", "--gpus-per-node", "4"), "`gpus_per_node` is more than `gpus`"),
        (("--env", "NOT_SET_ANYWHERE"), "--env: NOT_SET_ANYWHERE is not set"),
        (("--env", "A B=1"), "--env: string should match"),
        (("--gpus", "-1"), "--gpus: input should be"),
        (("--project", "nobody/x"), "alice may not submit"),
    ],
)
def test_run_refuses(service, dure, args, says):
    said = dure("run", *args, "--", "true")
    assert said.returncode == 2
    assert says in said.stderr
    assert not service.jobs


def test_ctrl_c_cancels_the_job(service):
    command = [sys.executable, "-m", "dure.cli.main", "run", "--", "/bin/sh", "-c", "echo started; sleep 60"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "started\n"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "is cancelled" in errors
    (job,) = service.jobs.values()
    assert job.outcome == "cancelled"


def test_run_of_a_waiting_job_says_why(service):
    command = [sys.executable, "-m", "dure.cli.main", "run", "--gpus", "100", "--", "true"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        line = process.stderr.readline()
        assert line.startswith("dure: job-1 is pending: gpus_busy, expected to start 2031-01-0")
        service.cancel("job-1")
        assert "has not run: cancelled" in process.stderr.read()
    assert process.returncode == 1


def test_cancel(service, dure):
    ids = [dure("run", "--detach", "--", "sleep", "60").stdout.strip() for _ in range(2)]
    assert json.loads(dure("cancel", *ids, "--json").stdout) == [{"job_id": i, "state": "ENDED"} for i in ids]
    said = dure("cancel", ids[0], "job-99")
    assert said.returncode == 2
    assert said.stdout == f"{ids[0]} cancelled\n"
    assert said.stderr == "dure: job-99: no job job-99\n"


def test_explain(service, dure):
    job_id = dure("run", "--detach", "--gpus", "12", "--", "true").stdout.strip()
    found = json.loads(dure("explain", job_id, "--json").stdout)
    assert set(found) >= {"state", "rule", "missing", "held_by", "expected_start", "would_start_if"}
    shown = dure("explain", job_id).stdout
    for part in (
        "PENDING: its member's share", "1 of docs/policy.md", "needed 12, free 0", "mill 6 (2 borrowed)", "2031-01-02",
        "- p: with 8 GPUs it would start", "- p7: busy", "and 12 more",
    ):  # fmt: skip
        assert part in shown
    assert "p8" not in shown
    assert dure("explain", "job-99").returncode == 2


def test_usage_audit_whoami(service, dure):
    assert set(json.loads(dure("usage", "--json").stdout)["rows"][0]) == {
        "key", "gpu_type", "gpu_seconds", "own_gpu_seconds", "borrowed_gpu_seconds", "lent_gpu_seconds", "energy_kwh",
        "attempts",
    }  # fmt: skip
    shown = dure("usage", "--by", "project", "--month", "2031-02").stdout.splitlines()
    assert shown[0] == "2031-02"
    assert shown[2].split() == ["project-one", "H200", "2", "1", "1", "0", "1.2", "3"]
    said = dure("audit", "--json")
    counts = {"events": 12, "decisions": 7, "verified": 7, "mismatches": 0}
    assert (said.returncode, json.loads(said.stdout)) == (0, counts)
    service.audit = {**counts, "mismatches": 2, "findings": [{"seq": 4, "what": "another hash"}]}
    assert json.loads(dure("audit", "--json").stdout) == service.audit
    said = dure("audit")
    assert (said.returncode, said.stderr) == (1, "dure: seq 4, what another hash\n")
    assert said.stdout.split() == ["events", "12", "decisions", "7", "verified", "7", "mismatches", "2"]
    assert json.loads(dure("whoami", "--json").stdout)["user"] == "alice"
    assert "operator of the alliance" in dure("whoami").stdout


def test_tokens_and_projects(service, dure):
    made = json.loads(dure("token", "create", "bob", "--role", "user", "--member", "forge", "--expires-in", "1d", "--json").stdout)
    assert made == {"token_id": "t1", "token": "secret-t1", "expires_at": "2031-01-02T03:04:05Z"}
    assert service.tokens["t1"] == {
        "token_id": "t1", "user": "bob", "role": "user", "member": "forge", "expires_in_s": 86_400,
    }  # fmt: skip
    assert "secret" not in dure("token", "list", "--json").stdout
    assert dure("token", "list").stdout.splitlines()[1].split()[:4] == ["t1", "-", "bob", "user"]
    assert dure("token", "create", "bob", "--expires-in", "tomorrow").returncode == 2
    assert dure("token", "revoke", "t1").returncode == 0
    assert dure("token", "revoke", "t1").returncode == 2
    assert json.loads(dure("project", "create", "new", "--member", "forge", "--weight", "2", "--json").stdout)["weight"] == 2
    assert [line.split()[0] for line in dure("project", "list").stdout.splitlines()] == ["PROJECT", "forge/default", "forge/new"]


def test_members_and_nodes_stand_in_columns(service, dure):
    lines = dure("members").stdout.splitlines()
    assert lines[2].split()[0] == "두레마을"
    # Four Korean characters are eight columns wide: the next column starts at the same place on the screen.
    assert lines[1].index("company") == lines[2].index("company") + 4
    assert json.loads(dure("members", "--json").stdout)[0]["guarantee_gpus"] == 6
    assert [node["state"] for node in json.loads(dure("node", "list", "--json").stdout)] == ["up", "down"]
    assert dure("node", "list").stdout.splitlines()[1].split() == ["n1", "seoul", "H200", "4", "2", "up"]


def test_top_once_fits_the_screen(service, dure, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("LINES", "20")
    for _ in range(30):
        dure("run", "--detach", "--gpus", "9", "--", "true")
    lines = dure("top", "--once").stdout.splitlines()
    assert len(lines) <= 20
    assert max(map(len, lines)) <= 80
    text = "\n".join(lines)
    for part in ("nodes 1 of 2 up", "GPUs 2 of 8 in use", "forge", "RUNNING", "WAITING", "job-30"):
        assert part in text
    assert len(json.loads(dure("top", "--json").stdout)["waiting"]) == 30


def test_top_draws_again_on_a_terminal_and_leaves_it_as_it_was(service):
    parent, child = pty.openpty()
    command = [sys.executable, "-m", "dure.cli.main", "top", "--every", "0.2"]
    with subprocess.Popen(command, stdout=child, stderr=child, stdin=child) as process:
        os.close(child)
        seen = b""
        while seen.count(b"\x1b[H") < 2:
            seen += os.read(parent, 65536)
        process.send_signal(signal.SIGINT)
        try:
            assert process.wait(timeout=20) == 0
        finally:
            process.kill()  # or leaving the block would wait for it
        with contextlib.suppress(OSError):  # the other side is closed
            while part := os.read(parent, 65536):
                seen += part
    os.close(parent)
    assert seen.startswith(b"\x1b[?1049h")
    assert seen.rstrip().endswith(b"\x1b[?1049l")


def test_no_service(dure, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv("DURE_URL", raising=False)
    said = dure("jobs")
    assert said.returncode == 2
    assert "set DURE_URL" in said.stderr


def test_help_is_fast():
    best = min(_help_s() for _ in range(3))
    assert best < 0.5


def _help_s():
    began = time.perf_counter()
    said = subprocess.run([sys.executable, "-m", "dure.cli.main", "--help"], capture_output=True, text=True, check=True)
    assert "submit" in said.stdout
    return time.perf_counter() - began
