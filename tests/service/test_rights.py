"""Who may do what: each role at each route, at what is its own and what is not; and nothing seeps through."""

from __future__ import annotations

import itertools

import pytest
from tests.service.running import TOKENS

from dure.service import commands
from dure.service.schemas import Sync

ALL = tuple(TOKENS)
#: Who sees what is in guest/main, guest/side, other/main.
SEE = {
    "guest/main": {"operator", "auditor", "admin", "lead", "user", "user2", "member user"},
    "guest/side": {"operator", "auditor", "admin", "member user", "other project"},
    "other/main": {"operator", "auditor", "other admin", "other user"},
}
SUBMIT = {project: seen - {"auditor"} for project, seen in SEE.items()}
#: Who may change a job of `user`'s in guest/main, of `other project`'s in guest/side, of `other user`'s in other/main.
CHANGE = {
    "guest/main": {"operator", "admin", "lead", "user"},
    "guest/side": {"operator", "admin", "other project"},
    "other/main": {"operator", "other admin", "other user"},
}
OWNER = {"guest/main": "user", "guest/side": "other project", "other/main": "other user"}
PEOPLE = set(ALL) - {"agent"}


def job(project: str, **more):
    return {"project": project, "command": ["true"], "name": project, **more}


def submit(running, who: str, project: str, **more) -> str:
    answer = running.client(who).post("/api/v1/jobs", json=job(project, **more))
    assert answer.status_code == 201, answer.text
    return answer.json()["job_id"]


@pytest.fixture(scope="module")
def jobs(shared):
    return {project: submit(shared, owner, project) for project, owner in OWNER.items()}


@pytest.mark.parametrize(("who", "project"), list(itertools.product(ALL, SEE)))
def test_jobs(shared, jobs, who, project):
    client, name = shared.client(who), jobs[project]
    sees, may = who in SEE[project], who in CHANGE[project]
    for path in ("", "/explain", "/logs"):
        answer = client.get(f"/api/v1/jobs/{name}{path}")
        assert answer.status_code == (200 if sees else 404), path
        assert sees or name not in answer.text.replace(f"no job '{name}'", "")
    listed = client.get("/api/v1/jobs").json()["jobs"]
    assert (name in {j["job_id"] for j in listed}) == sees
    for filters in ({"project": project}, {"member": project.partition("/")[0]}, {"user": TOKENS[OWNER[project]]["user"]}):
        found = {j["job_id"] for j in client.get("/api/v1/jobs", params=filters).json()["jobs"]}
        assert (name in found) == sees, filters
    refused = 403 if sees else 404
    assert client.post(f"/api/v1/jobs/{name}/progress", json={"step": 1}).status_code == (204 if may else refused)
    assert client.post("/api/v1/jobs", json=job(project)).status_code == (201 if who in SUBMIT[project] else 403)
    batch = {"jobs": [job(project), job(project)]}
    assert client.post("/api/v1/jobs/batch", json=batch).status_code == (201 if who in SUBMIT[project] else 403)
    pipeline = {"project": project, "jobs": {"a": {"command": ["true"]}}}
    assert client.post("/api/v1/pipelines", json=pipeline).status_code == (201 if who in SUBMIT[project] else 403)
    mine = submit(shared, OWNER[project], project)
    assert client.post(f"/api/v1/jobs/{mine}/cancel").status_code == (200 if may else refused)
    # To wait for a job is to learn of its end.
    for own in sorted(p for p in SUBMIT if who in SUBMIT[p])[:1]:
        answer = client.post("/api/v1/jobs", json=job(own, depends_on=[{"job": name}]))
        assert answer.status_code == (201 if sees else 422)
        assert sees or answer.json()["detail"] == f"no job {name!r}"


GET = {
    "/api/v1/whoami": set(ALL), "/api/v1/members": set(ALL), "/api/v1/sites": set(ALL), "/api/v1/nodes": PEOPLE,
    "/api/v1/agents": {"operator", "auditor", "admin", "other admin"}, "/api/v1/usage": set(ALL), "/api/v1/projects": set(ALL),
    "/api/v1/tokens": set(ALL), "/api/v1/audit": {"operator", "auditor"}, "/api/v1/events": {"operator", "auditor"},
}  # fmt: skip


@pytest.mark.parametrize(("path", "who"), list(itertools.product(GET, ALL)))
def test_reading(shared, path, who):
    assert shared.client(who).get(path).status_code == (200 if who in GET[path] else 403)


@pytest.mark.parametrize("path", GET)
def test_without_a_token(shared, path):
    for headers in ({}, {"Authorization": "Bearer dure_x"}, {"Authorization": "Basic eDp5"}, {"Authorization": "Bearer"}):
        answer = shared.client("nobody").get(path, headers=headers)
        assert answer.status_code == 401
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("who", ALL)
def test_projects(shared, who):
    client = shared.client(who)
    listed = {p["name"] for p in client.get("/api/v1/projects").json()}
    everything = {"owner/main"} if who in ("operator", "auditor") else set()
    own = {project for project, seen in SEE.items() if who in seen}
    assert {p for p in listed if not p.rpartition("/")[2].startswith("by-")} == everything | own
    allowed = {"guest": {"operator", "admin"}, "other": {"operator", "other admin"}}
    for member, may in allowed.items():
        new = {"name": f"by-{who}".replace(" ", "-"), "member": member}
        assert client.post("/api/v1/projects", json=new).status_code == (201 if who in may else 403), member


@pytest.mark.parametrize("who", ALL)
@pytest.mark.parametrize(
    ("form", "may"),
    [
        ({"role": "operator"}, {"operator"}),
        ({"role": "auditor"}, {"operator"}),
        ({"role": "agent", "site": "hall"}, {"operator"}),
        ({"role": "member_admin", "member": "guest"}, {"operator", "admin"}),
        ({"role": "project_lead", "project": "guest/main"}, {"operator", "admin"}),
        ({"role": "user", "project": "guest/side"}, {"operator", "admin"}),
        ({"role": "user", "member": "other"}, {"operator", "other admin"}),
        ({"role": "user", "project": "other/main", "member": "guest"}, set()),
        ({"role": "operator", "member": "guest"}, set()),
        ({"role": "agent", "site": "hall", "member": "guest"}, set()),
    ],
)
def test_making_tokens(shared, who, form, may):
    answer = shared.client(who).post("/api/v1/tokens", json={"user": "new", **form})
    if who in may:
        assert answer.status_code == 201
        new = shared.client("nobody").get("/api/v1/whoami", headers={"Authorization": f"Bearer {answer.json()['token']}"})
        assert new.json()["roles"][0]["role"] == form["role"]
        gone = shared.client(who).delete(f"/api/v1/tokens/{answer.json()['token_id']}")
        assert gone.status_code == 204
        again = shared.client("nobody").get("/api/v1/whoami", headers={"Authorization": f"Bearer {answer.json()['token']}"})
        assert again.status_code == 401
    else:
        assert answer.status_code in ((422, 403) if not may else (403,))


def test_tokens_of_others_are_neither_seen_nor_ended(shared):
    """`uma` is a user in guest and an admin of other: two people for all that anybody knows."""
    every = {t["token_id"]: t for t in shared.client("operator").get("/api/v1/tokens").json()}
    assert {t["user"] for t in every.values()} >= {form["user"] for form in TOKENS.values()}
    assert not any("hash" in t or "token" in t for t in every.values())
    members = {"admin": "guest", "other admin": "other"}

    def place(token):
        (role,) = token["roles"]
        return role["member"]

    for who in ALL:
        me = TOKENS[who]
        listed = {t["token_id"] for t in shared.client(who).get("/api/v1/tokens").json()}
        member = me.get("member") or me.get("project", "").partition("/")[0]
        wanted = {
            i for i, t in every.items()
            if who == "operator" or (t["user"] == me["user"] and place(t) == member) or (place(t) and members.get(who) == place(t))
        }  # fmt: skip
        assert listed == wanted, who
        for token_id in set(every) - listed:
            assert shared.client(who).delete(f"/api/v1/tokens/{token_id}").status_code == 404


def test_only_the_sites_agent_syncs(shared):
    for who in ALL:
        body = {"agent_id": "a", "boot": "b", "seq": 1, "nodes": [], "runs": []}
        answer = shared.client(who).post("/api/v1/agents/hall/sync", json=body)
        assert answer.status_code == (200 if who == "agent" else 403)
        answer = shared.client(who).post("/api/v1/agents/elsewhere/sync", json=body)
        assert answer.status_code == 403
        answer = shared.client(who).post("/api/v1/agents/hall/logs/none.1/0", content=b"x")
        assert answer.status_code == (404 if who == "agent" else 403)


def sync(running, **runs):
    form = {"agent_id": "a", "boot": "b", "seq": 1, "nodes": [{"name": f"hall-{i}", "gpus": 8} for i in range(2)], "runs": list(runs.values())}
    return running.do(commands.take_sync("hall", Sync.model_validate(form)))


def test_ids_of_other_members_jobs_do_not_seep_through(running):
    """Explanations, causes, nodes and usage name the other member, never its job."""
    sync(running)
    lent = [submit(running, "user", "guest/main", resources={"gpus": 8}) for _ in range(2)]
    claim = submit(running, "operator", "owner/main", resources={"gpus": 8})
    waiting = submit(running, "other user", "other/main", resources={"gpus": 8})
    behind = submit(running, "user", "guest/main", resources={"gpus": 8})
    aside = submit(running, "other project", "guest/side", resources={"gpus": 8})
    names = {"guest/main": {*lent, behind}, "guest/side": {aside}, "other/main": {waiting}, "owner/main": {claim}}
    for who in PEOPLE:
        mine = set().union(*(names[p] for p in names if who in SEE.get(p, {"operator", "auditor"})))
        others = set().union(*names.values()) - mine
        texts = [running.client(who).get(f"/api/v1/{path}").text for path in ("nodes", "usage?by=user", "jobs", "members", "sites")]
        texts += [running.client(who).get(f"/api/v1/jobs/{name}{more}").text for name in mine for more in ("", "/explain")]
        for text in texts:
            for name in others:
                assert name not in text, (who, name, text)
    left = running.client("user").get(f"/api/v1/jobs/{lent[-1]}").json(), running.client("user").get(f"/api/v1/jobs/{lent[0]}").json()
    assert "a job of owner" in {a["cause"] for one in left for a in one["attempts"]}
    assert claim in {a["cause"] for name in lent for a in running.client("operator").get(f"/api/v1/jobs/{name}").json()["attempts"]}
    why = running.client("other user").get(f"/api/v1/jobs/{waiting}/explain").json()
    assert {h["member"] for h in why["held_by"]} <= {"owner", "guest"}


def test_usage_shows_ones_own(running):
    sync(running)
    submit(running, "user", "guest/main", resources={"gpus": 1})
    submit(running, "other user", "other/main", resources={"gpus": 1})
    seen = {"operator": {"guest", "other", "owner"}, "auditor": {"guest", "other", "owner"}, "admin": {"guest"},
            "user": {"guest"}, "other user": {"other"}, "other project": set(), "agent": set()}  # fmt: skip
    running.service.writer.clock.pass_by(running.service.writer.now_ms() + 60_000)
    for who, members in seen.items():
        rows = running.client(who).get("/api/v1/usage").json()["rows"]
        assert {row["key"] for row in rows} == members, who
