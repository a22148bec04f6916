"""An agent enrols with a one-time token and works with a key of its own, over TLS; whatever is lost in between."""

from __future__ import annotations

import asyncio
import json
import os
import random
import runpy
import ssl
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.service.certificates import Authority
from tests.service.processes import AgentProcess, Nursery, begin, free_port, kill, until
from tests.service.running import ROOT

from dure.agent.contact import Backoff
from dure.agent.keys import KeyFile, Keyring, Keys
from dure.agent.service import NoAnswerError, RefusedError, Service
from dure.client import Client, UnreachableError
from dure.executors.clock import Clock
from dure.model.errors import InputError
from dure.model.job_file import JobSpec, Resources
from dure.service import commands

_proxy = runpy.run_path(str(Path(__file__).parent.parent / "agent" / "proxy.py"))
Proxy, PASS, NO_ANSWERS, REFUSE = (_proxy[name] for name in ("Proxy", "PASS", "NO_ANSWERS", "REFUSE"))


@pytest.fixture
def token(running):
    return running.do(commands.make_enrolment("hall", ROOT))[1]


class Enrolling:
    """The key of an agent in a folder, at a service."""

    def __init__(self, folder, url: str, token: str, agent_id: str = "a") -> None:
        self.service = Service([url], "", "hall")
        self.file = KeyFile(folder / "agent.key")
        self.ring = Keyring(self.file, self.service, agent_id, token, Clock(), Backoff(random.Random(0)))

    def report(self, seq: int = 1):
        return {"agent_id": "a", "boot": "b", "seq": seq, "nodes": [], "runs": [], "wait_s": 0}


def keys_of(running) -> list:
    return [t for t in running.client("operator").get("/api/v1/tokens").json() if t["name"] == "agent a"]


def test_an_answer_that_is_lost_is_asked_for_again_and_there_is_one_key(running, token, tmp_path):
    proxy = Proxy(running.port)

    async def first(url: str):
        enrolling = Enrolling(tmp_path, url, token)
        proxy.mode = NO_ANSWERS
        task = asyncio.create_task(enrolling.ring.take())
        while not keys_of_thread:
            await asyncio.sleep(0.05)
            keys_of_thread.extend(await asyncio.to_thread(keys_of, running))
        # The process dies: nothing has been heard.
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        kept = enrolling.file.read()
        assert (kept.key, bool(kept.pending)) == ("", True)
        await enrolling.service.close()

    async def again(url: str):
        enrolling = Enrolling(tmp_path, url, token)
        await enrolling.ring.take()
        assert (await enrolling.service.sync(enrolling.report())).leases == ()
        await enrolling.service.close()
        return enrolling.file.read()

    keys_of_thread: list = []
    with proxy.running() as url:
        asyncio.run(first(url))
        proxy.mode = PASS
        kept = asyncio.run(again(url))
        assert asyncio.run(again(url)) == kept
    assert (kept.pending, kept.expires_ms > 0) == ("", True)
    (key,) = keys_of(running)
    assert key["roles"][0]["role"] == "agent"


def test_the_key_is_its_owner_s_alone_and_the_token_is_needed_once(running, token, tmp_path):
    async def go(*given):
        enrolling = Enrolling(tmp_path, running.url, *given)
        try:
            await enrolling.ring.take()
            await enrolling.service.sync(enrolling.report())
        finally:
            await enrolling.service.close()

    with pytest.raises(InputError, match="dure site enrol"):
        asyncio.run(go(""))
    asyncio.run(go(token))
    assert stat.S_IMODE((tmp_path / "agent.key").stat().st_mode) == 0o600
    # Its token has been taken away, or is past its time: the key goes on.
    asyncio.run(go(""))
    running.service.writer.clock.pass_by(running.service.writer.now_ms() + 2 * 3_600_000)
    asyncio.run(go(token))
    assert len(keys_of(running)) == 1


def test_another_token_gets_another_key_and_one_that_is_refused_none(running, token, tmp_path):
    async def go(given: str, agent_id: str = "a"):
        enrolling = Enrolling(tmp_path, running.url, given, agent_id)
        try:
            await enrolling.ring.take()
        finally:
            await enrolling.service.close()
        return enrolling.file.read().key

    first = asyncio.run(go(token))
    assert asyncio.run(go("dure_" + "n" * 43)) == first
    second = asyncio.run(go(running.do(commands.make_enrolment("hall", ROOT))[1]))
    assert second != first
    (tmp_path / "agent.key").unlink()
    with pytest.raises(RefusedError, match="has been used"):
        asyncio.run(go(token))
    (tmp_path / "agent.key").write_text("{")
    with pytest.raises(InputError, match="no agent's key"):
        asyncio.run(go(token))


def test_a_key_is_renewed_at_half_its_time_also_when_the_answer_is_lost(running, token, tmp_path):
    proxy = Proxy(running.port)

    async def go(url: str):
        enrolling = Enrolling(tmp_path, url, token)
        await enrolling.ring.take()
        first = enrolling.file.read()
        # It was made as long ago as it has still to go.
        enrolling.file.write(Keys(first.key, 2 * int(time.time() * 1000) - first.expires_ms - 60_000, first.expires_ms, first.enrolled_with))
        await enrolling.service.close()
        enrolling = Enrolling(tmp_path, url, token)
        await enrolling.ring.take()
        proxy.mode = REFUSE
        task = asyncio.create_task(enrolling.ring.keep_good())
        while not enrolling.file.read().pending:
            await asyncio.sleep(0.05)
        await asyncio.sleep(0.2)
        task.cancel()
        pending = enrolling.file.read().pending
        assert enrolling.file.read().key == first.key
        proxy.mode = PASS
        await enrolling.service.close()
        enrolling = Enrolling(tmp_path, url, token)
        await enrolling.ring.take()
        await enrolling.service.sync(enrolling.report(1))
        task = asyncio.create_task(enrolling.ring.keep_good())
        while enrolling.file.read().key == first.key:
            await asyncio.sleep(0.05)
        task.cancel()
        assert enrolling.file.read().key == pending
        await enrolling.service.sync(enrolling.report(2))
        await enrolling.service.close()

    with proxy.running() as url:
        asyncio.run(go(url))
    assert len(keys_of(running)) == 2


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Real processes of service and agent that speak https, with certificates of an authority made here."""
    folder = tmp_path_factory.mktemp("tls")
    authority, port = Authority(folder), free_port()
    cert, key = authority.certify("localhost", "127.0.0.1")
    operator, _ = begin(folder, f"sqlite:///{folder / 'dure.db'}")
    nursery = Nursery(folder)
    pid = nursery.start("--port", str(port), "--data-dir", str(folder), "--tls-cert", cert, "--tls-key", key)
    yield folder, f"https://localhost:{port}", operator, authority
    kill(pid)
    nursery.close()


@pytest.fixture
def trusting(site, monkeypatch):
    monkeypatch.setenv("DURE_CA_FILE", str(site[3].path))


def test_an_agent_enrols_and_runs_jobs_and_its_next_process_needs_no_token(site, trusting, monkeypatch):
    folder, url, operator, _ = site
    with Client(url, operator, retry_s=60) as dure:
        until(lambda: dure.whoami().user == "root")
        monkeypatch.setenv("DURE_ENROL_TOKEN", dure.make_enrolment("hall").token)
        agent = AgentProcess(folder, url, "")
        monkeypatch.delenv("DURE_ENROL_TOKEN")
        try:
            until(lambda: len([n for n in dure.nodes() if n.state == "up"]) == 2)
            assert stat.S_IMODE((folder / "agent" / "agent.key").stat().st_mode) == 0o600
            spec = JobSpec(project="owner/main", command=("sh", "-c", "echo $DURE_URL $DURE_CA_FILE; sleep 1"), resources=Resources(gpus=1))
            first = dure.submit(spec).job_id
            until(lambda: dure.job(first).state == "RUNNING")
            agent.kill()
            agent = AgentProcess(folder, url, "")
            until(lambda: dure.job(first).is_ended)
            assert dure.job(first).outcome == "succeeded"
            assert b"".join(dure.follow(first)).decode() == f"{url} {site[3].path}\n"
            assert [t.name for t in dure.tokens() if t.name and t.name.startswith("agent ")] != []
        finally:
            agent.kill()


def test_who_does_not_trust_the_authority_sends_nothing(site, tmp_path, monkeypatch):
    _, url, operator, _ = site
    monkeypatch.setenv("DURE_CA_FILE", str(Authority(tmp_path, "another").path))
    with Client(url, operator, retry_s=0) as dure, pytest.raises(UnreachableError, match=r"(?i)certificate"):
        dure.whoami()
    monkeypatch.delenv("DURE_CA_FILE")
    with Client(url, operator, retry_s=0) as dure, pytest.raises(UnreachableError, match=r"(?i)certificate"):
        dure.whoami()

    async def ask() -> None:
        service = Service([url], "dure_x", "hall", ssl.create_default_context())
        with pytest.raises(NoAnswerError, match=r"(?i)certificate"):
            await service.sync({"seq": 1, "wait_s": 0})
        await service.close()

    asyncio.run(ask())


def test_who_speaks_plainly_is_not_heard(site, trusting):
    _, url, operator, _ = site
    with Client(url.replace("https", "http"), operator, retry_s=0) as dure, pytest.raises(UnreachableError):
        dure.whoami()


def run(*words: str, **env: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "dure.cli.main", *words], env={**os.environ, **env}, capture_output=True, text=True, check=False)


def test_no_token_goes_to_another_machine_unencrypted(tmp_path):
    env = {"DURE_URL": "http://198.51.100.7:1", "DURE_TOKEN": "x"}
    for words in (("jobs",), ("agent", "--site", "hall", "--data-dir", str(tmp_path))):
        done = run(*words, **env)
        assert done.returncode == 2
        assert "would go to 198.51.100.7 unencrypted" in done.stderr
        assert len(done.stderr.splitlines()) == 1
    for url in ("http://127.0.0.1:1", "http://127.1.2.3", "http://localhost:1", "http://[::1]:1", "https://dure.example.org"):
        Client(url, "x").close()
    with pytest.raises(InputError, match="unencrypted"):
        Client("http://localhost.example.org", "x")
    done = run("--insecure", "whoami", DURE_URL="http://0.0.0.0:1", DURE_TOKEN="x")
    assert "no answer from http://0.0.0.0:1" in done.stderr
    done = run("whoami", DURE_URL="http://0.0.0.0:1", DURE_TOKEN="x", DURE_INSECURE="1")
    assert "no answer from http://0.0.0.0:1" in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("serve", "--tls-cert", "{cert}"), "go together"), (("serve", "--tls-cert", "{cert}", "--tls-key", "{other}"), "no certificate with its key"),
        (("serve", "--tls-cert", "nowhere", "--tls-key", "{other}"), "no certificate with its key"),
        (("agent", "--site", "s", "--url", "https://localhost", "--ca", "{other}"), "no file of certificates"),
        (("agent", "--site", "s", "--url", "https://localhost", "--ca", "nowhere"), "no file of certificates"),
        (("agent", "--site", "s", "--url", "http://[::1"), "not an address"),
    ],
)  # fmt: skip
def test_files_that_are_none_are_one_line(tmp_path, words, said):
    authority = Authority(tmp_path)
    cert, _ = authority.certify("localhost")
    _, other = authority.certify("other")
    done = run(*(word.format(cert=cert, other=other) for word in words))
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_what_an_agent_says_when_it_cannot_enrol(running, tmp_path):
    done = run("agent", "--site", "hall", "--gpus", "1", "--data-dir", str(tmp_path / "a"), DURE_URL=running.url)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("dure: DURE_ENROL_TOKEN: there is no key here yet")
    done = run("agent", "--site", "hall", "--gpus", "1", "--data-dir", str(tmp_path / "b"), DURE_URL=running.url, DURE_ENROL_TOKEN="dure_x")
    assert done.returncode == 2
    assert "the service refuses to enrol: 401" in done.stderr.splitlines()[-1]
    assert "agent up" in [json.loads(line)["event"] for line in done.stderr.splitlines()[:-1]]
