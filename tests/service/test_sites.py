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
from dure.service.identity import ENROL, Grant, Principal
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


BARN = """
name: barn
clusters:
  - {name: barn, owner: other, gpu_type: H200, gpus: 16, nodes_per_rack: 1}
"""
KEY = "dure_" + "k" * 43


def tell_barn(running, token: str, seq: int = 1, runs=()):
    body = {"agent_id": "b", "boot": "b", "seq": seq, "nodes": [{"name": f"barn-{i}", "gpus": 8} for i in range(2)], "runs": list(runs)}
    return running.client("nobody").post("/api/v1/agents/barn/sync", json=body, headers={"Authorization": f"Bearer {token}"})


def enrol(running, token: str, agent_id: str = "b", key: str = KEY, site: str = "barn"):
    return running.client("nobody").post(
        f"/api/v1/agents/{site}/enrol", json={"agent_id": agent_id, "key": key}, headers={"Authorization": f"Bearer {token}"}
    )


def test_a_site_joins_and_its_agent_enrols_and_works(running):
    tell(running, 1)
    before = submit(running)
    fence = tell(running, 2)[before].fence
    answer = running.client("operator").post("/api/v1/sites", json={"file": BARN})
    assert answer.status_code == 201, answer.text
    assert (answer.json()["site"]["name"], answer.json()["site"]["gpus"], answer.json()["site"]["agent"]) == ("barn", 16, "")
    token = answer.json()["token"]
    # What ran goes on under its lease.
    assert tell(running, 3)[before].fence == fence
    assert tell_barn(running, token).status_code == 401
    assert tell_barn(running, KEY).status_code == 401
    kept = enrol(running, token)
    assert kept.status_code == 201
    assert tell_barn(running, KEY).status_code == 200
    job = running.client("other user").post("/api/v1/jobs", json={"project": "other/main", "command": ["true"], "resources": {"gpus": 16}})
    assert job.status_code == 201
    (lease,) = tell_barn(running, KEY, 2).json()["leases"]
    assert (lease["job_id"], {p["node"] for p in lease["placements"]}) == (job.json()["job_id"], {"barn-0", "barn-1"})
    # The same again, as if the answer had been lost; any other key comes too late.
    assert enrol(running, token).json() == kept.json()
    assert enrol(running, token, key=KEY + "x").status_code == 403
    again = Writer(running.service.store, lambda sites: None)
    again.load()
    assert [s.name for s in again.alliance.fleet.sites] == ["hall", "barn"]
    with running.service.writer.lock:
        running.service.writer.keep_snapshot()
    again.load()
    assert again._kept_seq > 0
    assert again.alliance.nodes_of_site("barn") == ["barn-0", "barn-1"]
    found = audit(running.service.store)
    assert (found.mismatches, found.events) == (0, running.service.writer.seq)


def test_two_agents_with_one_token_at_one_moment(tmp_path):
    """Of those that come with the same token, or the same key, in one batch of the writer one gets it."""
    world = World(on_disk(tmp_path), 0)
    tokens = [world.do(commands.make_enrolment("hall", OPERATOR))[0] for _ in range(2)]
    first, second = (Principal("agent", (Grant(ENROL, site="hall"),), token_id) for token_id in tokens)
    asked = [("a", KEY, first), ("b", KEY + "b", first), ("a", KEY, first), ("c", KEY, second), ("c", KEY + "c", second)]
    found = world.batch(*(commands.enrol("hall", agent, key, who) for agent, key, who in asked))
    assert found[0] == found[2]
    assert [one.status for one in (found[1], found[3])] == [403, 409]
    assert found[4][0] != found[0][0]
    assert [world.batch(commands.enrol("hall", agent, key, who))[0] for agent, key, who in asked[:1]] == [found[0]]
    world.check()
    world.close()


def test_a_key_is_listed_renewed_and_revoked(running):
    token = running.do(commands.make_enrolment("hall", OPERATOR))[1]
    assert enrol(running, token, "a", KEY, "hall").status_code == 201
    headers = {"Authorization": f"Bearer {KEY}"}

    def renew(key: str):
        return running.client("nobody").post("/api/v1/agents/hall/renew", json={"key": key}, headers=headers)

    second = KEY[:-1] + "2"
    kept = renew(second)
    assert kept.status_code == 201
    assert renew(second).json() == kept.json()
    assert renew(KEY).status_code == 409
    listed = {t["token_id"]: t for t in running.client("operator").get("/api/v1/tokens").json()}
    mine = [t for t in listed.values() if t["name"] == "agent a"]
    assert [t["roles"] for t in mine] == [[{"role": "agent", "member": "", "project": "", "site": "hall"}]] * 2
    old, new = sorted(mine, key=lambda t: t["expires_at"])
    assert new["token_id"] == kept.json()["token_id"]
    assert old["expires_at"] < new["expires_at"]
    running.service.writer.clock.pass_by(running.service.writer.now_ms() + 25 * 3_600_000)
    assert renew(second).status_code == 401
    body = {"agent_id": "a", "boot": "b", "seq": 1, "nodes": [], "runs": []}
    url, headers = "/api/v1/agents/hall/sync", {"Authorization": f"Bearer {second}"}
    assert running.client("nobody").post(url, json=body, headers=headers).status_code == 200
    assert running.client("operator").delete(f"/api/v1/tokens/{new['token_id']}").status_code == 204
    assert running.client("nobody").post(url, json=body, headers=headers).status_code == 401


def test_a_token_to_enrol_with_is_good_for_nothing_else_and_not_for_long(running):
    token = running.do(commands.make_enrolment("hall", OPERATOR))[1]
    running.tokens["enrolling"] = token
    for path in ("whoami", "jobs", "sites", "members", "tokens"):
        assert running.client("enrolling").get(f"/api/v1/{path}").status_code == 401
    assert running.client("enrolling").post("/api/v1/agents/hall/renew", json={"key": KEY}).status_code == 401
    assert enrol(running, token, site="elsewhere").status_code == 403
    for who in TOKENS:
        assert enrol(running, running.tokens[who], site="hall").status_code == 403
    for bad in ("dure_short", "x" * 60, KEY + "!", ""):
        assert enrol(running, token, key=bad, site="hall").status_code == 422
    running.service.writer.clock.pass_by(running.service.writer.now_ms() + 3_600_001)
    assert enrol(running, token, site="hall").status_code == 401
    answer = running.client("operator").post("/api/v1/tokens", json={"user": "x", "role": "enrol", "site": "hall"})
    assert answer.status_code == 422


def test_who_may_let_a_site_join_or_an_agent_enrol(running):
    running.tokens["owner admin"] = running.token(user="own", role="member_admin", member="owner")
    for who in running.tokens:
        assert running.client(who).post("/api/v1/sites/hall/enrolment").status_code == (201 if who in ("operator", "owner admin") else 403)
        if who != "operator":
            assert running.client(who).post("/api/v1/sites", json={"file": BARN}).status_code == 403
    assert running.client("operator").post("/api/v1/sites/nowhere/enrolment").status_code == 404


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("name: [", "file:2:"), ("name: barn", "clusters"), (BARN.replace("other", "nobody"), "unknown member"),
        (BARN.replace("name: barn\n", "name: hall\n", 1), "name"), (BARN.replace("gpus: 16", "gpus: 15"), "node"),
        (BARN + "operator: nobody", "unknown member"), (BARN + "colour: red", "unknown key"),
    ],
)  # fmt: skip
def test_a_site_that_is_wrong_is_refused_with_the_reason(shared, file, said):
    seq = shared.service.writer.seq
    answer = shared.client("operator").post("/api/v1/sites", json={"file": file})
    assert answer.status_code == 422
    assert said in answer.text
    assert shared.service.writer.seq == seq
    assert shared.client("operator").get("/readyz").status_code == 200


def test_the_commands_that_let_a_site_join(running, tmp_path):
    path = tmp_path / "barn.yaml"
    path.write_text(BARN)
    env = {"DURE_URL": running.url, "DURE_TOKEN": running.tokens["operator"]}

    def dure(*words):
        return CliRunner().invoke(cli, words, env=env, catch_exceptions=False).stdout

    made = json.loads(dure("site", "add", str(path), "--json"))
    assert (made["site"]["name"], made["site"]["nodes"], made["token"][:5]) == ("barn", 2, "dure_")
    assert enrol(running, made["token"]).status_code == 201
    assert [s["name"] for s in json.loads(dure("site", "list", "--json"))] == ["hall", "barn"]
    assert json.loads(dure("site", "enrol", "barn", "--json"))["token"] != made["token"]
    text = dure("site", "enrol", "barn")
    assert "dure agent --site barn" in text
    path.write_text(BARN.replace("barn", "loft"))
    lines = dure("site", "add", str(path)).splitlines()
    assert lines[0] == "loft has joined: 16 GPUs on 2 nodes"
    assert "DURE_ENROL_TOKEN=dure_" in lines[2]


def test_a_member_that_runs_a_site_may_close_it_and_one_that_owns_a_node_that_node(running):
    answer = running.client("operator").post("/api/v1/sites", json={"file": BARN + "operator: guest\n"})
    assert answer.status_code == 201
    may = {"operator": {"sites/barn", "nodes/barn-0"}, "admin": {"sites/barn", "nodes/barn-0"}, "other admin": {"nodes/barn-0"}}
    for who in TOKENS:
        for what in ("sites/barn", "nodes/barn-0"):
            assert ask(running, f"{what}/cordon", who).status_code == (200 if what in may.get(who, ()) else 403), (who, what)
        enrolment = running.client(who).post("/api/v1/sites/barn/enrolment")
        assert enrolment.status_code == (201 if "sites/barn" in may.get(who, ()) else 403)
