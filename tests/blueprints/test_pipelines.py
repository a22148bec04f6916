"""Pipelines as the blueprints need them: hundreds of tasks, files handed on, a stage that is tried again."""

import json
import sys

import pytest
from tests.blueprints.alliance import Alliance
from tests.service.processes import until

from dure.model.job_file import Pipeline, load_pipeline, load_work

NUM_SHARDS = 400
SHARD = """
import json, os, pathlib, sys
given = json.loads((pathlib.Path(os.environ["DURE_INPUT_DIR"]) / "make/numbers.json").read_text())
if int(sys.argv[1]) == 7 and os.environ["DURE_ATTEMPT"] == "1":
    sys.exit("the first attempt of this one fails")
(pathlib.Path(os.environ["DURE_OUTPUT_DIR"]) / "part").write_text(str(given[int(sys.argv[1])] ** 2))
"""
JOIN = """
import os, pathlib
from dure.client import job
parts = [int(path.read_text()) for path in pathlib.Path(os.environ["DURE_INPUT_DIR"]).glob("*/part")]
job.report_metrics(parts=len(parts), total=sum(parts))
"""


def fan(num: int) -> Pipeline:
    """Make numbers, square each in a job of its own, add them up."""
    make = f"import json, os, pathlib; (pathlib.Path(os.environ['DURE_OUTPUT_DIR']) / 'numbers.json').write_text(json.dumps(list(range({num}))))"
    cpu = {"gpus": 0, "cpus": 0.1}
    jobs = {"make": {"command": [sys.executable, "-c", make], "resources": cpu, "outputs": ["numbers.json"]}}
    for i in range(num):
        jobs[f"shard-{i}"] = {
            "command": [sys.executable, "-S", "-c", SHARD, str(i)], "needs": ["make"], "inputs": ["make/numbers.json"],
            "outputs": ["part"], "resources": cpu, "retries": 1,
        }  # fmt: skip
    jobs["join"] = {
        "command": [sys.executable, "-c", JOIN], "resources": cpu, "needs": [f"shard-{i}" for i in range(num)],
        "inputs": [f"shard-{i}/part" for i in range(num)],
    }  # fmt: skip
    return load_pipeline(json.dumps({"name": "fan", "jobs": jobs}))


@pytest.mark.slow
def test_four_hundred_tasks_between_one_and_one(tmp_path):
    """OSMO broke at 101, its users asked for 400 (its issue 411)."""
    pipeline = fan(NUM_SHARDS)
    with Alliance(tmp_path) as alliance:
        ids = alliance.guest.submit_pipeline(pipeline).job_ids
        assert len(ids) == NUM_SHARDS + 2
        until(lambda: alliance.guest.job(ids["join"]).is_ended, 400)
        jobs = {name: alliance.guest.job(job_id) for name, job_id in ids.items()}
        assert {job.outcome for job in jobs.values()} == {"succeeded"}
        assert {name: job.attempt for name, job in jobs.items() if job.attempt > 1} == {"shard-7": 2}
        last = alliance.guest.logs(ids["join"]).data.decode().splitlines()[-1]
        assert json.loads(last.removeprefix("dure-metrics: ")) == {"parts": NUM_SHARDS, "total": sum(i * i for i in range(NUM_SHARDS))}
        begun = min(jobs[f"shard-{i}"].started_at for i in range(NUM_SHARDS))
        assert jobs["make"].ended_at <= begun
        assert max(jobs[f"shard-{i}"].ended_at for i in range(NUM_SHARDS)) <= jobs["join"].started_at


def test_an_equal_stage_is_not_run_again(tmp_path):
    """The second pipeline takes the first stage's outputs, the third has another file and makes its own."""
    work = tmp_path / "work"
    work.mkdir()
    (work / "text").write_text("one")
    make = "import os, pathlib; out = pathlib.Path(os.environ['DURE_OUTPUT_DIR']); (out / 'made').write_text(pathlib.Path('text').read_text()); open('ran', 'a').write('x')"
    use = "import os, pathlib; print('read', (pathlib.Path(os.environ['DURE_INPUT_DIR']) / 'make/made').read_text())"
    cpu = {"gpus": 0, "cpus": 0.1}
    jobs = {
        "make": {"command": [sys.executable, "-c", make], "resources": cpu, "outputs": ["made"], "workdir": str(work), "cache": ["text"]},
        "use": {"command": [sys.executable, "-c", use], "resources": cpu, "needs": ["make"], "inputs": ["make/made"]},
    }
    pipeline = load_pipeline(json.dumps({"name": "twice", "jobs": jobs}))
    said = []
    with Alliance(tmp_path) as alliance:
        for text in ("one", "one", "two"):
            (work / "text").write_text(text)
            ids = alliance.guest.submit_pipeline(pipeline).job_ids
            until(lambda ids=ids: alliance.guest.job(ids["use"]).is_ended, 60)
            assert alliance.guest.job(ids["use"]).outcome == "succeeded"
            said.append(alliance.guest.logs(ids["use"]).data.decode().strip())
            taken = "outputs taken from an earlier run" in alliance.guest.logs(ids["make"]).data.decode()
            assert taken == (len(said) == 2)
    assert said == ["read one", "read one", "read two"]
    assert (work / "ran").read_text() == "xx"


def test_unlike_processes_start_together(tmp_path):
    """A learner waits for what two simulators send; they can only have been there at one time."""
    learn = """
import os, socket
server = socket.create_server((os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])))
server.settimeout(30)
heard = sorted(server.accept()[0].recv(100).decode() for _ in range(2))
print("heard", *heard)
"""
    simulate = """
import os, socket, time
for _ in range(100):
    try:
        peer = socket.create_connection((os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])), 1)
        break
    except OSError:
        time.sleep(0.1)
peer.send(f"{os.environ['DURE_ROLE']}-{os.environ['DURE_ROLE_RANK']}{os.environ['SCENE']}".encode())
"""
    python = [sys.executable, "-c"]
    job = {
        "name": "loop", "command": [*python, learn], "tasks_per_node": 0, "resources": {"gpus": 3, "topology": "node"},
        "roles": [{"name": "simulate", "tasks": 2, "command": [*python, simulate], "env": {"SCENE": "x"}}],
    }  # fmt: skip
    with Alliance(tmp_path) as alliance:
        job_id = alliance.guest.submit(load_work(json.dumps(job))).job_id
        until(lambda: alliance.guest.job(job_id).is_ended, 60)
        assert alliance.guest.job(job_id).outcome == "succeeded", alliance.guest.logs(job_id).data
        assert alliance.guest.logs(job_id).data.decode().splitlines()[-1] == "heard simulate-0x simulate-1x"
