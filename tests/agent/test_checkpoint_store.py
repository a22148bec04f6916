"""Copies of checkpoints, on a disk and in an S3-compatible store over HTTP: the same tests."""

import os
import random
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest

pytest.importorskip("s3fs", reason="s3fs is not installed (pip install 'dure[objects]')")

from dure.agent import checkpoint_store
from dure.agent.checkpoint_store import CheckpointStore, StoreError
from dure.model.errors import InputError


@pytest.fixture(scope="module")
def s3():
    """Address of the server; what an agent would have in its environment is set meanwhile."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
    words = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", url.rpartition(":")[2]]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    env = {"AWS_ENDPOINT_URL": url, "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "us-east-1"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in env.items():
            patch.setenv(name, value)
        try:
            until = time.monotonic() + 60
            while True:
                try:
                    httpx.put(f"{url}/kept", timeout=5)
                    break
                except httpx.TransportError:
                    assert time.monotonic() < until, "no S3 server"
                    time.sleep(0.1)
            yield url
        finally:
            process.terminate()
            process.wait()


@pytest.fixture(params=["file", "s3"])
def url(request, tmp_path):
    if request.param == "file":
        return f"file://{tmp_path}/store"
    request.getfixturevalue("s3")
    return f"s3://kept/{tmp_path.name}"


@pytest.fixture
def store(url):
    return CheckpointStore(url)


def write(folder, **files):
    for name, text in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def tree(folder):
    """All that a folder holds, in words."""
    found = {}
    for place, folders, names in os.walk(folder):
        for name in [*folders, *names]:
            path = Path(place, name)
            said = f"-> {path.readlink()}" if path.is_symlink() else "folder" if path.is_dir() else path.read_bytes()
            found[str(path.relative_to(folder))] = said if path.is_symlink() or path.is_dir() else (said, path.stat().st_mode & 0o777)
    return found


def test_what_was_left_comes_back_whole(store, tmp_path):
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    chance = random.Random(seed)
    left = write(tmp_path / "left", step="100", **{"step-100__rank 0.pt": "weights", "step-100__%2F?&#한": "odd"})
    (left / "large").write_bytes(chance.randbytes((9 << 20) + 7))
    (left / "large").chmod(0o600)
    (left / "nothing").write_bytes(b"")
    (left / "empty").mkdir()
    (left / "latest").symlink_to("step-100")
    (left / "whole").symlink_to(left / "step-100" / "rank 0.pt")
    copy = store.keep("j1", 7, left)
    assert copy.size == sum(path.stat().st_size for path in left.rglob("*") if path.is_file() and not path.is_symlink() and path.parent.name != "latest")
    found = CheckpointStore(store.url).newest("j1", below=8)
    assert found == copy
    store.fetch(found, write(tmp_path / "there", old="what was here before"))
    expected = tree(left) | {"whole": "-> step-100/rank 0.pt"}
    assert tree(tmp_path / "there") == expected
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


def test_the_newest_below_a_fence_is_found_and_older_ones_go(store, tmp_path):
    assert store.newest("j1", 100) is None
    for fence in (3, 5):
        assert store.keep("j1", fence, write(tmp_path / "left", n=str(fence))).fence == fence
    assert store.newest("j1", 5) is None
    assert store.newest("j1", 6).fence == 5
    # A late one, of an attempt that was given up: it is kept, and takes nothing away from a later one.
    store.keep("j1", 4, write(tmp_path / "late", n="4"))
    assert (store.newest("j1", 5).fence, store.newest("j1", 6).fence) == (4, 5)
    store.fetch(store.newest("j1", 6), tmp_path / "there")
    assert (tmp_path / "there/n").read_text() == "5"
    assert store.newest("j10", 100) is None


def test_a_copy_is_made_once(store, tmp_path):
    store.keep("j1", 3, write(tmp_path / "left", n="3"))
    assert store.keep("j1", 3, write(tmp_path / "left", n="changed")).entries[0].size == 1
    store.fetch(store.newest("j1", 4), tmp_path / "there")
    assert (tmp_path / "there/n").read_text() == "3"


def test_of_nothing_there_is_no_copy_but_of_what_was_taken_away(store, tmp_path):
    assert store.keep("j1", 3, tmp_path / "never") is None
    store.keep("j1", 4, write(tmp_path / "left", n="4"))
    (tmp_path / "left/n").unlink()
    assert store.keep("j1", 5, tmp_path / "never") is None
    assert store.newest("j1", 6).fence == 4
    assert store.keep("j1", 5, tmp_path / "left").entries == ()
    store.fetch(store.newest("j1", 6), write(tmp_path / "there", n="old"))
    assert tree(tmp_path / "there") == {}


def test_a_copy_that_was_cut_short_is_none_and_is_made_again(store, tmp_path, monkeypatch):
    store.keep("j1", 3, write(tmp_path / "left", n="3"))

    class Killed(BaseException):
        pass

    def die(*_, **__):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(store._fs, "pipe_file", die)
        with pytest.raises(Killed):
            store.keep("j1", 5, write(tmp_path / "left", n="5", more="more"))
    again = CheckpointStore(store.url)
    assert again.newest("j1", 9).fence == 3
    # Nor is one whose last word is torn.
    again._fs.pipe_file(f"{again._at('j1', 5)}.json", b'{"version": 1, "ent')
    assert again.newest("j1", 9).fence == 3
    assert again.keep("j1", 5, write(tmp_path / "left", n="5")).fence == 5
    assert again.newest("j1", 9).fence == 5


def test_what_is_not_what_was_written_is_refused_and_the_folder_stays(store, tmp_path):
    copy = store.keep("j1", 3, write(tmp_path / "left", n="three", m="m"))
    there = write(tmp_path / "there", n="two")
    store._fs.pipe_file(f"{store._at('j1', 3)}/n", b"thr")
    with pytest.raises(StoreError, match="n is not what was written"):
        store.fetch(copy, there)
    store._fs.rm(f"{store._at('j1', 3)}/n")
    with pytest.raises(StoreError, match=r"NoSuchKey|FileNotFound"):
        store.fetch(copy, there)
    assert tree(there) == {"n": (b"two", 0o644)}


@pytest.mark.parametrize("entry", [
    {"path": "../n", "kind": "file"}, {"path": "/n", "kind": "file"}, {"path": "a/../../n", "kind": "folder"},
    {"path": "a/n", "kind": "link", "target": "../../n"}, {"path": "n", "kind": "link", "target": "/etc/passwd"},
])  # fmt: skip
def test_nothing_is_written_outside(tmp_path, entry):
    store = CheckpointStore(f"file://{tmp_path}/store")
    copy = checkpoint_store.Copy("j1", 3, (checkpoint_store.Entry(**entry),))
    with pytest.raises(StoreError, match="leads out of the checkpoint"):
        store.fetch(copy, tmp_path / "a" / "there")
    assert not (tmp_path / "n").exists()


def test_links_that_lead_out_and_pipes_are_left_out(tmp_path):
    store = CheckpointStore(f"file://{tmp_path}/store")
    left = write(tmp_path / "left", n="n")
    (left / "out").symlink_to("/etc/passwd")
    os.mkfifo(left / "pipe")
    assert [entry.path for entry in store.keep("j1", 3, left).entries] == ["n"]


def test_readers_and_writers_at_once(store, tmp_path):
    """Of a job that moves all the time: whoever fetches gets a whole copy of one attempt, or looks again."""
    stop = threading.Event()
    failures = []

    def keep():
        mine = CheckpointStore(store.url)
        for fence in range(1, 40):
            folder = write(tmp_path / f"left-{fence}", **{f"f{idx}": f"{fence}" * 1000 for idx in range(4)})
            mine.keep("j1", fence, folder)
        stop.set()

    def read(name):
        mine, num = CheckpointStore(store.url), 0
        while not stop.is_set() or not num:
            copy = mine.newest("j1", 1 << 40)
            if copy is None:
                continue
            try:
                mine.fetch(copy, tmp_path / name)
            except StoreError:
                continue
            num += 1
            found = {(tmp_path / name / f"f{idx}").read_text() for idx in range(4)}
            if found != {f"{copy.fence}" * 1000}:
                failures.append(found)

    threads = [threading.Thread(target=keep), *(threading.Thread(target=read, args=(f"r{idx}",)) for idx in range(2))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert store.newest("j1", 1 << 40).fence == 39


def test_a_store_that_cannot_be_reached_or_is_none(tmp_path, s3, monkeypatch):
    with pytest.raises(InputError, match="--checkpoints"):
        CheckpointStore("nonsense://x")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(StoreError, match="checkpoints of j1"):
        CheckpointStore("s3://kept/x").newest("j1", 3)
