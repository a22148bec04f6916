"""Sites and nodes are closed, emptied and opened by those who run them; all of it is in the log."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from tests.service.running import TOKENS
from tests.service.world import OPERATOR, World, on_disk

from dure.cli.main import cli
from dure.model.events import Cordon, Drain, Uncordon
from dure.service import commands
from dure.service.audit import audit
from dure.service.schemas import Sync
from dure.service.writer import Writer


def tell(running, seq: int, *runs) -> dict:
    nodes = [{"name": name, "gpus": 8} for name in ("hall-0", "hall-1")]
    form = {"agent_id": "a", "boot": "b", "seq": seq, "nodes": nodes, "runs": list(runs)}
    running.do(commands.take_sync("hall", Sync.model_validate(form)))
    return {lease.job_id: lease for lease in running.service.writer.leases_at("hall")}


def submit(running, **more) -> str:
    answer = running.client("operator").post(
        "/api/v1/jobs", json={"project": "owner/main", "command": ["true"], "resources": {"gpus": 8}, **more}
    )
    assert answer.status_code == 201, answer.text
    return answer.json()["job_id"]


def ask(running, what: str, who: str = "operator"):
    return running.client(who).post(f"/api/v1/{what}")


def test_a_node_is_emptied_and_opened_again(running):
    tell(running, 1)
    first = submit(running, checkpoint={"every": "1m", "signal": "USR1"})
    lease = tell(running, 2)[first]
    there = lease.placements[0].node
    (other,) = {"hall-0", "hall-1"} - {there}
    run = {"lease_id": lease.lease_id, "fence": lease.fence, "state": "running", "started_ms": 1}
    tell(running, 3, run)
    answer = ask(running, f"nodes/{there}/drain?notice_s=600")
    assert answer.status_code == 200
    assert (answer.json()["state"], answer.json()["jobs"]) == ("draining", [first])
    lease = tell(running, 4, run)[first]
    assert (lease.action, lease.cause) == ("vacate", "drained")
    lease = tell(running, 5, {**run, "state": "exited", "exit_code": 75})[first]
    assert (lease.attempt, lease.placements[0].node) == (2, other)
    detail = running.client("user").get(f"/api/v1/jobs/{first}")
    assert detail.status_code == 404
    attempts = running.client("operator").get(f"/api/v1/jobs/{first}").json()["attempts"]
    assert [(a["state"], a["cause"]) for a in attempts] == [("vacated", "drained"), ("leased", "")]
    second = submit(running)
    why = running.client("operator").get(f"/api/v1/jobs/{second}/explain").json()
    assert (why["reason"], why["rule"], why["missing"]["nodes"]) == ("closed", 7, 1)
    assert running.client("operator").get(f"/api/v1/jobs/{second}").json()["reason"] == "closed"
    assert {n["name"]: n["state"] for n in running.client("user").get("/api/v1/nodes").json()} == {there: "drained", other: "up"}
    assert ask(running, f"nodes/{there}/uncordon").json()["state"] == "silent"
    assert tell(running, 6)[second].placements[0].node == there
    assert audit(running.service.store).mismatches == 0
    actors = [e["actor"] for e in running.client("operator").get("/api/v1/events?limit=1000").json()["events"]
              if any(s["type"] in ("Drain", "Uncordon") for s in e["body"]["stimuli"])]  # fmt: skip
    assert actors == ["user:root", "user:root"]


def test_a_restart_forgets_nothing(running):
    tell(running, 1)
    ask(running, "sites/hall/cordon")
    job = submit(running)
    assert tell(running, 2) == {}
    again = Writer(running.service.store, lambda sites: None)
    again.load()
    assert again.alliance.closing_of_site("hall") == "cordoned"
    with running.service.writer.lock:
        running.service.writer.keep_snapshot()
    again.load()
    assert again.alliance.closing_of_site("hall") == "cordoned"
    assert ask(running, "sites/hall/uncordon").json()["state"] == "open"
    assert job in tell(running, 3)
    assert audit(running.service.store).mismatches == 0


def test_an_agent_that_waits_is_asked_at_once_what_it_has_when_its_site_is_opened(running):
    tell(running, 1)
    ask(running, "sites/hall/cordon")
    tell(running, 2)
    event = running.service.change_of("hall")
    ask(running, "sites/hall/uncordon")
    running.client("operator").get("/healthz")
    assert event.is_set()


RUNS_OWNER = {"operator"}


@pytest.mark.parametrize("who", TOKENS)
@pytest.mark.parametrize("what", ["sites/hall", "nodes/hall-0"])
def test_who_may(shared, who, what):
    """The hall and all in it are the owner's, who has no administrator here yet."""
    for word in ("cordon", "drain", "uncordon"):
        assert ask(shared, f"{what}/{word}", who).status_code == (200 if who in RUNS_OWNER else 403)
    assert ask(shared, f"{what}/cordon", "nobody").status_code == 401


def test_the_owner_s_administrator_may(running):
    running.tokens["owner admin"] = running.token(user="own", role="member_admin", member="owner")
    for what in ("sites/hall", "nodes/hall-0"):
        for word in ("cordon", "drain?notice_s=0", "uncordon"):
            assert ask(running, f"{what}/{word}", "owner admin").status_code == 200


def test_what_there_is_not(shared):
    for what in ("sites/nowhere/cordon", "nodes/hall-9/drain", "nodes/x/uncordon"):
        assert ask(shared, what).status_code == 404
    for what in ("sites/hall/drain?notice_s=-1", "nodes/hall-0/drain?notice_s=nan", "nodes/hall-0/cordon?notice_s=1"):
        assert ask(shared, what).status_code == 422


def test_the_commands(running):
    tell(running, 1)
    env = {"DURE_URL": running.url, "DURE_TOKEN": running.tokens["operator"]}

    def dure(*words):
        found = CliRunner().invoke(cli, [*words, "--json"], env=env, catch_exceptions=False)
        return json.loads(found.stdout)

    assert [(s["name"], s["state"], s["nodes_up"]) for s in dure("site", "list")] == [("hall", "open", 2)]
    assert {n["state"] for n in dure("node", "list")} == {"up"}
    assert dure("site", "cordon", "hall")["state"] == "cordoned"
    assert {n["state"] for n in dure("node", "list")} == {"cordoned"}
    assert dure("site", "drain", "hall", "--notice", "5m")["state"] == "drained"
    assert dure("site", "uncordon", "hall")["state"] == "open"
    assert dure("node", "drain", "hall-1")["state"] == "drained"
    tell(running, 2)
    assert {n["name"]: n["state"] for n in dure("node", "list")} == {"hall-0": "up", "hall-1": "drained"}
    assert dure("node", "cordon", "hall-0")["state"] == "cordoned"
    assert dure("node", "uncordon", "hall-0")["state"] == "silent"
    text = CliRunner().invoke(cli, ["node", "drain", "hall-0"], env=env, catch_exceptions=False).stdout
    assert text == "hall-0 is drained\n"


def test_whatever_happens_while_nodes_are_closed_and_opened(tmp_path):
    """Random work with operators in between: nothing lost, nothing doubled, all proved."""
    for seed in range(8):
        folder = tmp_path / str(seed)
        folder.mkdir()
        world = World(on_disk(folder), seed)
        chance, drained = world.chance, 0
        for _ in range(150):
            match chance.choice(("sync", "sync", "submit", "finish", "operate", "time", "snapshot")):
                case "sync":
                    world.sync()
                case "submit":
                    world.submit(2)
                case "finish":
                    world.agent.finish(4)
                case "operate":
                    place = chance.choice(({"site": "hall"}, {"node": "hall-0"}, {"node": "hall-1"}))
                    asked = chance.choice((Cordon, Drain, Uncordon, Uncordon))(**place)
                    drained += isinstance(asked, Drain)
                    world.do(commands.operate(asked, OPERATOR))
                case "time":
                    world.wall.advance(chance.choice((1, 1000, 90_000)))
                case "snapshot":
                    world.writer.keep_snapshot()
        assert drained
        world.check()
        for place in ({"site": "hall"}, {"node": "hall-0"}, {"node": "hall-1"}):
            world.do(commands.operate(Uncordon(**place), OPERATOR))
        world.settle()
        world.check()
        world.close()
