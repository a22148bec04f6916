"""A cell site's radio says what it releases: by the API, by the command, and by a forecast of measured loads."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from tests.ran.loads_files import write_days
from tests.service.running import Running
from tests.service.world import ALLIANCE, document_of_today

from dure.cli.main import cli
from dure.cli.ran_fence import Measured, released_now, tell
from dure.client import Client
from dure.client.errors import ApiError
from dure.model.errors import InputError
from dure.ran.fence_words import FenceTeller
from dure.ran.forecast import calibrate_fence
from dure.ran.guard_run import CALIBRATION_SEED
from dure.ran.site import SiteModel
from dure.service import commands
from dure.service.audit import audit
from dure.service.schemas import Sync

MAST = f"""  - name: mast
    kind: cell
    operator: owner
    cells:
      vacate: 2s
      weekdays: {24 * [0]}
      weekends: {24 * [0]}
    clusters:
      - {{name: mast, owner: owner, gpu_type: H200, gpus: 8, gpus_per_node: 2, nodes_per_rack: 1}}
"""

JOB = {"project": "owner/main", "command": ["true"], "checkpoint": {"every": "1m", "signal": "USR1", "grace": "2s"},
       "resources": {"gpus": 4, "sites": ["mast"]}}  # fmt: skip


@pytest.fixture
def running(tmp_path):
    # The hours never open it: what never opens takes no job, so that one hour of the week is all open.
    text = ALLIANCE.replace("agreements:", MAST.replace("weekends: [0, ", "weekends: [1, ") + "agreements:")
    found = Running(tmp_path, document=document_of_today() | {"alliance": text})
    yield found
    found.close()


def tell_mast(running, seq: int, *runs) -> dict:
    nodes = [{"name": f"mast-{n}", "gpus": 2} for n in range(4)]
    form = {"agent_id": "m", "boot": "b", "seq": seq, "nodes": nodes, "runs": list(runs)}
    running.do(commands.take_sync("mast", Sync.model_validate(form)))
    return {lease.job_id: lease for lease in running.service.writer.leases_at("mast")}


def site(running, name: str = "mast") -> dict:
    return next(s for s in running.client("operator").get("/api/v1/sites").json() if s["name"] == name)


def release(running, part, for_s, who: str = "operator", name: str = "mast"):
    return running.client(who).post(f"/api/v1/sites/{name}/release", params={"part": part, "for_s": for_s})


def node_states(running) -> dict[str, str]:
    return {n["name"]: n["state"] for n in running.client("operator").get("/api/v1/nodes").json() if n["site"] == "mast"}


def test_what_is_released_takes_work_and_what_is_taken_back_is_left(running):
    tell_mast(running, 1)
    held = release(running, 0, 3600).json()
    assert (held["released"], held["nodes_up"]) == (0.0, 0)
    answer = running.client("operator").post("/api/v1/jobs", json=JOB)
    assert answer.status_code == 201, answer.text
    job = answer.json()["job_id"]
    assert running.client("operator").get(f"/api/v1/jobs/{job}").json()["reason"] == "radio"
    answer = release(running, 0.6, 720)
    assert answer.status_code == 200, answer.text
    assert answer.json()["released"] == 0.6
    assert answer.json()["released_until"] is not None
    lease = tell_mast(running, 2)[job]
    assert {p.node for p in lease.placements} == {"mast-0", "mast-1"}
    assert node_states(running) == {"mast-0": "up", "mast-1": "up", "mast-2": "radio", "mast-3": "radio"}
    run = {"lease_id": lease.lease_id, "fence": lease.fence, "state": "running", "started_ms": 1}
    tell_mast(running, 3, run)
    release(running, 0.3, 720)
    lease = tell_mast(running, 4, run)[job]
    assert (lease.action, lease.cause) == ("vacate", "radio")
    assert tell_mast(running, 5, {**run, "state": "exited", "exit_code": 75}) == {}
    assert audit(running.service.store).mismatches == 0
    (first, *_) = [e for e in running.client("operator").get("/api/v1/events?limit=1000").json()["events"]
                   if any(s["type"] == "CellsReleased" for s in e["body"]["stimuli"])]  # fmt: skip
    assert first["actor"] == "user:root"


def test_a_start_is_foreseen_for_the_end_of_the_radio_s_word(tmp_path):
    text = ALLIANCE.replace("agreements:", MAST.replace(f"{24 * [0]}", f"{24 * [1]}") + "agreements:")
    running = Running(tmp_path, document=document_of_today() | {"alliance": text})
    try:
        tell_mast(running, 1)
        until = release(running, 0, 1800).json()["released_until"]
        answer = running.client("operator").post("/api/v1/jobs", json=JOB)
        found = running.client("operator").get(f"/api/v1/jobs/{answer.json()['job_id']}/explain").json()
        assert (found["rule"], found["expected_start"]) == (10, until)
    finally:
        running.close()


def test_only_who_runs_a_cell_site_speaks_for_it(running):
    assert release(running, 0.5, 60, "admin").status_code == 403
    assert release(running, 0.5, 60, name="nowhere").status_code == 404
    refused = release(running, 0.5, 60, name="hall")
    assert (refused.status_code, "no cell site" in refused.json()["detail"]) == (422, True)
    for part, for_s in ((1.1, 60), (-0.1, 60), ("nan", 60), (0.5, -1), (0.5, 86_401)):
        assert release(running, part, for_s).status_code == 422
    assert (site(running, "hall")["released"], site(running, "hall")["released_until"]) == (None, None)
    running.tokens["owner admin"] = running.token(user="own", role="member_admin", member="owner")
    assert release(running, 0.5, 60, "owner admin").status_code == 200


def command(running, *words: str):
    env = {"DURE_URL": running.url, "DURE_TOKEN": running.tokens["operator"]}
    return CliRunner().invoke(cli, words, env=env)


def test_the_command(running):
    done = command(running, "site", "release", "mast", "--part", "0.5", "--for", "10m")
    assert done.exit_code == 0, done.output
    assert done.output.startswith("mast releases 50% until ")
    view = json.loads(command(running, "site", "release", "mast", "--part", "0.25", "--for", "1h", "--json").output)
    assert view["released"] == 0.25
    assert command(running, "site", "release", "mast", "--part", "0.5", "--for", "soon").exception.field == "--for"
    assert command(running, "site", "release", "mast", "--part", "1.5", "--for", "1h").exit_code == 2
    # Taken back: the hours count.
    assert "by its hours" in command(running, "site", "release", "mast", "--part", "1", "--for", "0s").output


def test_a_forecast_of_measured_loads_is_told(running, tmp_path, capsys):
    early, late = write_days(tmp_path / "mast-early.csv", days=4), write_days(tmp_path / "mast-late.csv", days=1, first_day=5)
    rows = late.read_text().splitlines()
    now = tmp_path / "mast-now.csv"
    # At 2:00, and ten minutes more with every round but the last.
    now.write_text("\n".join(rows[: 1 + 2 * 30]) + "\n")
    release(running, 1, 3600)
    heard, slept, num = [], [], [2 * 30]

    def show(told):
        heard.append((told, site(running)["released"]))

    def sleep(seconds):
        slept.append(seconds)
        if seconds > 300 and len(heard) < 3:
            num[0] += 5
            now.write_text("\n".join(rows[: 1 + num[0]]) + "\n")

    measured = Measured((str(early),), (str(now),), 20)
    learnt = calibrate_fence(SiteModel(), measured.known, 100_000, 1 ^ CALIBRATION_SEED, lambda done, of: None)
    with Client(running.url, running.tokens["operator"]) as dure:
        with pytest.raises(InputError, match="no site"):
            released_now(dure, "nowhere")
        with pytest.raises(InputError, match="no cell site"):
            released_now(dure, "hall")
        tell(dure, "mast", measured, FenceTeller(learnt, SiteModel(), released_now(dure, "mast")), 4, show, sleep)
    assert [(told["windows"], told["new_windows"]) for told, _ in heard] == [(60, 60), (65, 5), (70, 5), (70, 0)]
    assert all(told["part"] == pytest.approx(said, abs=1e-3) for told, said in heard)
    first, last = heard[0][0], heard[-1][0]
    # Whole sevenths, of what the radio can do without by night; nothing once the file has stopped growing.
    assert 0 < first["part"] < 1
    assert first["part"] * 7 == pytest.approx(round(first["part"] * 7))
    assert (last["part"], last["sms_kept"]) == (0.0, 132.0)
    assert sum(seconds > 300 for seconds in slept) == 3
    running.tokens["user of guest"] = running.token(user="u", role="user", member="guest")
    with Client(running.url, running.tokens["user of guest"]) as other, pytest.raises(ApiError) as refused:
        tell(other, "mast", measured, FenceTeller(learnt, SiteModel(), 0.0), 1, show, sleep)
    assert refused.value.status == 403
    # Half a row is no load.
    now.write_text(now.read_text() + "2018-03-05 02:20")
    assert len(measured.read()[0].hour) == 70
    assert "not read" in capsys.readouterr().err
    running.close()
    with Client(running.url, running.tokens["operator"], retry_s=0) as dure:
        tell(dure, "mast", measured, FenceTeller(learnt, SiteModel(), 0.0), 1, lambda told: heard.append((told, None)), lambda seconds: None)
    assert "not told" in capsys.readouterr().err
    assert heard[-1][0]["is_told"] is False
