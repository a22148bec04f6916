"""An agent's parts by themselves: contact, state, progress, folders."""

import os
import random
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from dure.agent.contact import Backoff, Contact
from dure.agent.folders import Folders, MissingInputError, network_filesystem
from dure.agent.progress import ProgressReader, progress_of
from dure.agent.state import AgentState, StateUnwritableError
from dure.agent.wire import InputFile
from dure.ports.executor import LaunchError


def test_contact_counts_from_the_question():
    contact = Contact(1_000, 500)
    assert contact.left_ms(1_400) == 100
    contact.answered(1_300, 500)
    assert contact.left_ms(1_400) == 400
    contact.answered(1_100, 500)
    assert contact.left_ms(1_400) == 400, "a late answer to an older question takes nothing back"
    assert contact.left_ms(9_999) == 0


def test_backoff_doubles_to_ten_seconds_with_jitter():
    backoff = Backoff(random.Random(1))
    pauses = [backoff.pause_s() for _ in range(10)]
    for idx, pause_s in enumerate(pauses):
        full_s = min(0.2 * 2**idx, 10.0)
        assert full_s / 2 <= pause_s <= full_s
    assert len({pause_s / min(0.2 * 2**idx, 10.0) for idx, pause_s in enumerate(pauses)}) == 10
    backoff.reset()
    assert backoff.pause_s() <= 0.2


def lease(job, fence, attempt=1):
    return SimpleNamespace(job_id=job, fence=fence, lease_id=f"{job}.{attempt}")


def test_state_is_kept(tmp_path):
    first = AgentState(tmp_path / "a.sqlite")
    first.note_fences([lease("j1", 3), lease("j2", 4)])
    first.note_fences([lease("j1", 9, 2)])
    first.note_contact("boot", 123, 456)
    first.note_abandoned(["j1.1", "j2.1"])
    first.forget(["j2.1", "j9.1"])
    first.close()
    second = AgentState(tmp_path / "a.sqlite")
    assert second.agent_id == first.agent_id
    assert second.seen == first.seen
    assert second.abandoned == {"j1.1"}
    assert (second.seen["j1"].fence, second.seen["j1"].lease_id) == (9, "j1.2")
    assert second.last_contact("boot") == (123, 456)
    assert second.last_contact("another boot") is None
    second.close()


def test_a_state_that_cannot_be_written_says_so_and_notes_nothing(tmp_path):
    state = AgentState(tmp_path / "a.sqlite")
    state._db.execute("pragma max_page_count = 1")
    with pytest.raises(StateUnwritableError):
        state.note_fences([lease(f"j{idx}", idx) for idx in range(2000)])
    assert state.seen == {}
    state.close()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b'dure-progress: {"step": 3}', {"step": 3}),
        (b'dure-progress:{"a":{"b":[1]}}\r', {"a": {"b": [1]}}),
        (b'say dure-progress: {"step": 3}', None),
        (b"dure-progress: [1]", None),
        (b"dure-progress: {", None),
        (b'dure-progress: {"x": NaN}', None),
        (b'dure-progress: {"x": "\xff"}', None),
        (b"dure-progress: " + b"[" * 4000, None),
        (b'dure-progress: {"x": "' + b"y" * 5000 + b'"}', None),
    ],
)
def test_progress_lines(line, expected):
    assert progress_of(line) == expected


def test_progress_is_followed_through_torn_lines(tmp_path):
    path = tmp_path / "0.log"
    reader = ProgressReader(path)
    assert not reader.look()
    whole = b'hello\ndure-progress: {"step": 1}\nmore\ndure-progress: {"step": 2}\n'
    seen = []
    with path.open("wb", buffering=0) as file:
        for idx in range(len(whole)):
            file.write(whole[idx : idx + 1])
            if reader.look():
                seen.append(reader.last["step"])
    assert seen == [1, 2]


def test_progress_of_a_long_log_is_its_last(tmp_path):
    path = tmp_path / "0.log"
    path.write_bytes(b'dure-progress: {"step": 1}\n' + b"x" * (3 << 20) + b'\ndure-progress: {"step": 9}\n')
    reader = ProgressReader(path)
    assert reader.look()
    assert reader.last == {"step": 9}
    path.write_bytes(b"")
    assert not reader.look()


def order(job="j2", inputs=()):
    return SimpleNamespace(lease_id=f"{job}.1", job_id=job, launch=SimpleNamespace(inputs=inputs))


def test_inputs_are_links_to_what_the_other_job_left(tmp_path):
    folders = Folders(tmp_path)
    (folders.outputs("j1") / "sub").mkdir(parents=True)
    (folders.outputs("j1") / "sub" / "data.txt").write_text("abc")
    given = (InputFile(job_id="j1", name="prep", path="sub/data.txt"),)
    folders.prepare(order(inputs=given))
    folders.prepare(order(inputs=given))
    assert (folders.inputs("j2") / "prep" / "sub" / "data.txt").read_text() == "abc"


@pytest.mark.parametrize("path", ["../j1/x", "/etc/passwd", "a/../../x", "missing", ""])
def test_bad_inputs_fail_the_job(tmp_path, path):
    folders = Folders(tmp_path)
    folders.outputs("j1").mkdir(parents=True)
    with pytest.raises(MissingInputError):
        folders.prepare(order(inputs=(InputFile(job_id="j1", name="prep", path=path),)))


def test_folders_that_cannot_be_made_refuse_the_launch(tmp_path):
    (tmp_path / "work").write_text("a file in the way")
    with pytest.raises(LaunchError):
        Folders(tmp_path).prepare(order())


@pytest.mark.parametrize("name", ["..", ".", "a/b", "../../etc", "j 1", "작업"])
def test_names_stay_in_their_folder(tmp_path, name):
    folders = Folders(tmp_path)
    for folder in (folders.work(name), folders.outputs(name), folders.checkpoint(name), folders.log(name)):
        assert folder.parent.parent == tmp_path
        assert folder.name not in ("..", ".")
    folders.log(name).mkdir(parents=True)
    assert folders.leases_with_logs() == [name]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("--url", "nowhere"), "DURE_URL: not an address"),
        (("--url", "http://127.0.0.1:1", "--executor", "slurm"), "--shared-dir: a folder that the nodes see"),
        (("--url", "http://127.0.0.1:1", "--executor", "slurm", "--shared-dir", "all", "--data-dir", "all/own"), "--data-dir: it must lie outside"),
        (("--url", "http://127.0.0.1:1", "--shared-dir", "all"), "--shared-dir: it means nothing with --executor local"),
    ],
)
def test_what_the_command_refuses(tmp_path, given, words):
    done = subprocess.run(
        [sys.executable, "-m", "dure.cli.main", "agent", "--site", "s", *given], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 2
    assert words in done.stderr


MOUNTS = """\
22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw
30 27 0:40 / /home rw,relatime shared:1 - ext4 /dev/vdb rw
31 30 0:41 / /home rw,relatime shared:2 - nfs4 storage:/home rw,vers=4.2
32 27 0:42 / /scratch\\040one rw - lustre mgs@tcp:/one rw
33 31 0:43 / /home/kim/own rw - xfs /dev/vdc rw
"""


@pytest.mark.parametrize(
    ("path", "found"),
    [("/home/kim/dure", "nfs4"), ("/home/kim/own/dure", None), ("/homes/kim", None), ("/var/lib", None), ("/scratch one/x", "lustre")],
)
def test_storage_that_is_shared_is_known(path, found):
    assert network_filesystem(Path(path), MOUNTS) == found


def test_the_storage_of_this_machine_is_none_that_is_shared():
    assert network_filesystem(Path("/proc/self"), Path("/proc/self/mountinfo").read_text()) is None


def test_working_folders_go_when_nobody_has_used_them_for_long(tmp_path):
    folders = Folders(tmp_path)
    for job_id in ("old", "running", "young", "back"):
        for folder in (folders.work(job_id), folders.checkpoint(job_id), folders.outputs(job_id)):
            folder.mkdir(parents=True)
            (folder / "file").write_text("x")
    for job_id in ("old", "running", "back"):
        os.utime(folders.work(job_id), (1_000, 1_000))
    folders.note_use("back")
    assert folders.put_away({"running"}, 2_000) == 1
    assert not folders.work("old").exists()
    folders.empty_bin()
    assert {path.name for path in (tmp_path / "work").iterdir()} == {"running", "young", "back"}
    assert not (tmp_path / "bin").exists()
    # What it has saved and made is its own.
    assert (folders.checkpoint("old") / "file").exists()
    assert (folders.outputs("old") / "file").exists()
    assert folders.put_away({"running"}, 2_000) == 0
