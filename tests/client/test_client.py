"""The typed client over real HTTP: both forms, errors, retries, courses of calls, settings, the SDK inside jobs."""

import asyncio
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time

import pytest

from dure.client import ApiError, AsyncClient, Client, UnreachableError, calls, job
from dure.client.client import _Calls, _Method
from dure.client.settings import Settings, load_settings, save_settings
from dure.model.errors import DureError, InputError
from dure.model.job_file import JobSpec, load_work


def spec(script, **more):
    return JobSpec(command=("/bin/sh", "-c", script), **more)


def test_a_job_from_submission_to_its_log(service):
    with Client() as dure:
        taken = dure.submit(spec("echo hello; echo again", name="greeting"))
        assert taken.job_ids == (taken.job_id,)
        assert b"".join(dure.follow(taken.job_id)) == b"hello\nagain\n"
        found = dure.job(taken.job_id)
        assert (found.name, found.state, found.outcome, found.exit_code) == ("greeting", "ENDED", "succeeded", 0)
        assert found.submitted_at <= found.started_at <= found.ended_at
        assert found.spec["command"][0] == "/bin/sh"


def test_the_async_client_does_the_same_at_the_same_time(service):
    async def main():
        async with AsyncClient() as dure:
            taken = await asyncio.gather(*(dure.submit(spec(f"echo {n}")) for n in range(5)))
            texts = []
            for job in taken:
                texts.append(b"".join([part async for part in dure.follow(job.job_id)]))
            return texts, [job.job_id async for job in dure.all_jobs()]

    texts, listed = asyncio.run(main())
    assert sorted(texts) == [b"0\n", b"1\n", b"2\n", b"3\n", b"4\n"]
    assert len(listed) == 5


def test_both_clients_have_every_call():
    described = {name for name, value in vars(calls).items() if callable(value) and getattr(value, "__module__", "") == calls.__name__}
    described = {name for name in described if name.islower() and not name.startswith("_")}
    assert described == {name for name, value in vars(_Calls).items() if isinstance(value, _Method)}


def test_durations_arrive_as_they_were_meant(service):
    sent = load_work("command: [/bin/true]\ntime_limit: 1h30m\ncheckpoint: {every: 500ms, signal: USR1}\n")
    with Client() as dure:
        job_id = dure.submit(sent).job_id
    assert service.jobs[job_id].spec == sent


@pytest.mark.parametrize(
    ("call", "status", "says"),
    [
        (lambda dure: dure.job("job-99"), 404, "no job job-99"),
        (lambda dure: dure.job("../members"), 404, "Not Found"),
        (lambda dure: dure.submit(spec("true", project="nobody/x")), 403, "alice may not submit"),
        (lambda dure: dure.revoke_token("none"), 404, "no token none"),
    ],
)
def test_a_refusal_is_an_error_with_the_service_s_words(service, call, status, says):
    with Client() as dure, pytest.raises(ApiError, match=says) as caught:
        call(dure)
    assert caught.value.status == status
    assert isinstance(caught.value, DureError)


def test_values_that_are_refused_are_named(service):
    wrong = calls.Call("POST", "/jobs", lambda response: None, content=b'{"command": [], "gpsu": 1}', is_idempotent=False)
    with Client() as dure, pytest.raises(ApiError) as caught:
        dure.send(wrong)
    assert caught.value.status == 422
    assert {error.field for error in caught.value.errors} == {"command", "gpsu"}
    assert "gpsu: Extra inputs" in str(caught.value)


def test_a_wrong_token_is_told(service):
    with Client(service.url, "wrong") as dure, pytest.raises(ApiError, match="no token") as caught:
        dure.whoami()
    assert caught.value.status == 401


def test_an_answer_that_is_not_dure_s_is_told(service):
    odd = calls.Call("GET", "/sites", calls._READ_WHOAMI)
    with Client() as dure, pytest.raises(ApiError, match="not answered by Dure"):
        dure.send(odd)


def test_a_service_that_changes_over_is_asked_again(service):
    service.busy_answers = 2
    with Client() as dure:
        assert dure.whoami().user == "alice"
    assert service.requests == ["GET /whoami"] * 3


def test_a_submission_is_never_sent_twice(service):
    service.busy_answers = 1
    with Client() as dure, pytest.raises(ApiError) as caught:
        dure.submit(spec("true"))
    assert caught.value.status == 503
    assert service.requests == ["POST /jobs"]
    assert not service.jobs


class Breaking:
    """A port that takes connections and cuts each off after the request; counts them."""

    def __enter__(self):
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        self.count = 0
        self.thread = threading.Thread(target=self.serve)
        self.thread.start()
        return self

    def serve(self):
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            self.count += 1
            connection.recv(65536)
            connection.close()

    def __exit__(self, *error):
        self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()
        self.thread.join()


class Following(Breaking):
    """A port that answers as a service does that does not lead."""

    def serve(self):
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            self.count += 1
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 503 x\r\nDure-Leader: \r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
            connection.close()


@pytest.mark.parametrize("is_async", [False, True])
def test_a_broken_connection_is_tried_again_only_where_that_does_no_harm(is_async):
    async def ask(port, call):
        async with AsyncClient(port.url, retry_s=0.5) as dure:
            await dure.send(call)

    def ask_blocking(port, call):
        with Client(port.url, retry_s=0.5) as dure:
            dure.send(call)

    for call, is_repeated in ((calls.whoami(), True), (calls.cancel("x"), True), (calls.submit(spec("true")), False)):
        with Breaking() as port:
            with pytest.raises(UnreachableError, match=r"no answer from http://127" if is_repeated else "may have taken"):
                asyncio.run(ask(port, call)) if is_async else ask_blocking(port, call)
            assert (port.count > 1) == is_repeated, call.path


@pytest.mark.parametrize("is_async", [False, True])
def test_of_several_addresses_the_one_that_leads_is_found_also_for_a_submission(service, is_async):
    """One is nobody's, one follows, one leads: what was surely not taken goes to the next, and what may have been does not."""
    leader = load_settings()

    async def submit(urls):
        async with AsyncClient(urls, leader.token, retry_s=5) as dure:
            return [(await dure.submit(spec("true"))).job_id, (await dure.whoami()).user]

    def submit_blocking(urls):
        with Client(urls, leader.token, retry_s=5) as dure:
            return [dure.submit(spec("true")).job_id, dure.whoami().user]

    with socket.create_server(("127.0.0.1", 0)) as free:
        nobody = f"http://127.0.0.1:{free.getsockname()[1]}"
    with Following() as follower:
        urls = f"{nobody}, {follower.url}/,{leader.url}"
        job_id, user = asyncio.run(submit(urls)) if is_async else submit_blocking(urls)
        assert follower.count == 1
    assert (user, list(service.jobs)) == ("alice", [job_id])
    with Breaking() as port, Client(f"{port.url},{leader.url}", leader.token, retry_s=5) as dure:
        with pytest.raises(UnreachableError, match="may have taken"):
            dure.submit(spec("true"))
        assert port.count == 1
        assert len(service.jobs) == 1
        # The next call does not start with the one that broke off.
        assert dure.whoami().user == "alice"
        assert port.count == 1


def test_nobody_there():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    began = time.monotonic()
    with Client(f"http://127.0.0.1:{port}", retry_s=0.4) as dure, pytest.raises(UnreachableError):
        dure.whoami()
    assert 0.2 < time.monotonic() - began < 20


def test_a_service_that_comes_back_in_time_is_not_noticed(tmp_path, monkeypatch):
    from stand_in import TOKEN, StandIn

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    answers = []

    def ask():
        with Client(f"http://127.0.0.1:{port}", TOKEN, retry_s=20) as dure:
            answers.append(dure.whoami().user)

    asking = threading.Thread(target=ask)
    asking.start()
    time.sleep(0.3)
    monkeypatch.setattr(socket, "create_server", lambda address, make=socket.create_server: make(("127.0.0.1", port)))
    with StandIn(tmp_path).serving():
        asking.join()
    assert answers == ["alice"]


def test_a_log_in_small_pieces_is_whole(service):
    service.log_bytes_max = 7
    with Client() as dure:
        job_id = dure.submit(spec("for i in 1 2 3 4 5 6 7 8 9; do echo line $i; done")).job_id
        text = b"".join(dure.follow(job_id)).decode()
    assert text == "".join(f"line {i}\n" for i in range(1, 10))


def test_a_log_is_followed_over_attempts(service):
    with Client() as dure:
        job_id = dure.submit(spec("echo first")).job_id
        while not dure.job(job_id).is_ended:
            time.sleep(0.01)
        found = service.jobs[job_id]
        path = service.folder / "second.log"  # as after a reclaim: the same job, a second attempt
        path.write_bytes(b"second\n")
        found.logs[2, 0], found.attempt = path, 2
        assert b"".join(dure.follow(job_id)) == b"first\nsecond\n"
        assert b"".join(dure.follow(job_id, attempt=2)) == b"second\n"


def test_changes_end_with_the_job(service):
    with Client() as dure:
        job_id = dure.submit(spec("sleep 0.3; exit 3")).job_id
        seen = list(dure.changes(job_id))
    assert [found.state for found in seen][-2:] == ["RUNNING", "ENDED"]
    assert seen[-1].exit_code == 3


def test_all_jobs_goes_through_the_pages(service, monkeypatch):
    with Client() as dure:
        ids = dure.submit_batch([spec("true") for _ in range(5)]).job_ids
        page = dure.jobs(limit=2)
        assert [job.job_id for job in page.jobs] == [ids[4], ids[3]]
        assert [job.job_id for job in dure.jobs(limit=2, after=page.next).jobs] == [ids[2], ids[1]]
        assert [job.job_id for job in dure.all_jobs()] == list(reversed(ids))
        assert list(dure.all_jobs(project="other/one")) == []
        assert len(list(dure.all_jobs(state=("RUNNING", "ENDED")))) == 5
        assert dure.jobs(state=["PENDING", "SUSPENDED"]).jobs == ()
        assert [event.seq for event in dure.events(after=1, limit=2).events] == [2, 3]


class TestSettings:
    @pytest.fixture(autouse=True)
    def _home(self, tmp_path, monkeypatch):
        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
        monkeypatch.delenv("DURE_URL", raising=False)
        monkeypatch.delenv("DURE_TOKEN", raising=False)

    def test_the_file_is_its_owner_s_only(self):
        path = save_settings(Settings("http://a:1", "secret"))
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert load_settings() == Settings("http://a:1", "secret")
        assert list(path.parent.iterdir()) == [path]

    def test_the_file_s_token_is_not_sent_elsewhere(self, monkeypatch):
        save_settings(Settings("http://a:1", "secret"))
        monkeypatch.setenv("DURE_URL", "http://elsewhere:1")
        assert load_settings() == Settings("http://elsewhere:1", "")
        monkeypatch.setenv("DURE_URL", "http://a:1/")
        assert load_settings().token == "secret"
        monkeypatch.setenv("DURE_TOKEN", "other")
        assert load_settings().token == "other"

    def test_nothing_said(self):
        with pytest.raises(InputError, match="set DURE_URL, or start one with `dure up`"):
            load_settings()

    @pytest.mark.parametrize("text", ["", "[]", "{}", '{"url', "3", '{"token": "x"}'])
    def test_a_broken_file(self, text, tmp_path):
        (tmp_path / "dure").mkdir()
        (tmp_path / "dure" / "client.json").write_text(text)
        with pytest.raises(InputError, match="must be"):
            load_settings()

    def test_no_address(self, monkeypatch):
        monkeypatch.setenv("DURE_URL", "localhost:8080")
        with pytest.raises(InputError, match="must start with http"):
            load_settings()


@pytest.mark.parametrize(
    ("url", "token", "says"),
    [
        ("http://", "", "DURE_URL: 'http://' names no host"),
        ("http://[::1", "", "DURE_URL: .* is no address"),
        ("http://a:port", "", "DURE_URL: .* is no address"),
        ("http://a", "열쇠", "DURE_TOKEN: has characters"),
        ("http://a", "a\nb", "DURE_TOKEN: has characters"),
    ],
)
def test_what_can_be_no_address_or_token(url, token, says):
    with pytest.raises(InputError, match=says):
        Client(url, token)


def test_the_environment_s_proxy_is_not_asked_for_this_machine(service, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{nobody.getsockname()[1]}")
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        with Client(timeout_s=5) as dure:
            assert dure.whoami().user == "alice"


JOB = """
import sys
from dure.client import job
job.watch_signals()
job.report_progress(step=1, loss=float("nan"), phase="warm")
assert not job.should_stop()
print(job.array_index(), job.checkpoint_dir().is_dir(), flush=True)
while not job.should_stop():
    pass
print("left", flush=True)
job.leave()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_job_speaks_and_is_spoken_to(number, tmp_path):
    env = {**os.environ, "DURE_CHECKPOINT_DIR": str(tmp_path / "c"), "DURE_ARRAY_INDEX": "7"}
    with subprocess.Popen([sys.executable, "-c", JOB], stdout=subprocess.PIPE, text=True, env=env) as process:
        line = process.stdout.readline()
        assert line.startswith("dure-progress: ")
        assert json.loads(line.removeprefix("dure-progress: ")) == {"step": 1, "loss": None, "phase": "warm"}
        assert process.stdout.readline() == "7 True\n"
        process.send_signal(number)
        assert process.stdout.read() == "left\n"
    assert process.returncode == job.LEFT == 75


def test_outside_a_job(monkeypatch):
    monkeypatch.delenv("DURE_CHECKPOINT_DIR", raising=False)
    monkeypatch.delenv("DURE_ARRAY_INDEX", raising=False)
    assert job.array_index() is None
    with pytest.raises(InputError, match="does not run as a job"):
        job.checkpoint_dir()
    with pytest.raises(InputError, match="loss: must be text"):
        job.report_progress(step=1, loss=[1])
