"""The language model: what it computes, that ranks leave together and go on exactly, that a lost rank ends its gang."""

import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.blueprints.modules import Load, ModulesOf

from dure.client.blueprints import catalogue_folder
from dure.client.job import LEFT, METRICS, PROGRESS
from dure.client.resuming import assert_resumes_exactly

torch = pytest.importorskip("torch")

FOLDER = catalogue_folder() / "language-model"
TINY = [
    "--steps", "12", "--batch", "6", "--context", "64", "--width", "32", "--layers", "2", "--heads", "2",
    "--validation-kib", "1", "--save-every-s", "0",
]  # fmt: skip
#: So many steps of the test follow the twelve of training: 16 windows, 6 at a time.
ALL_STEPS = 15


@pytest.fixture
def load(modules_of: ModulesOf) -> Load:
    return modules_of(FOLDER)


def test_bytes_before_alone_decide(load: Load) -> None:
    torch.manual_seed(1)
    model = load("model").LanguageModel(32, 2, 2)
    tokens = torch.randint(0, 256, (2, 16))
    changed = tokens.clone()
    changed[:, 9:] = 7
    with torch.no_grad():
        seen, other = model(tokens), model(changed)
    assert torch.equal(seen[:, :9], other[:, :9])
    assert not torch.equal(seen[:, 9], other[:, 9])


def test_turned_products_hang_on_distance(load: Load) -> None:
    model = load("model")
    generator = torch.Generator().manual_seed(2)
    query, key = torch.randn(2, 1, 8, generator=generator)
    turn = model.turns(20, 8, torch.device("cpu"))
    products = model.rotate(query.expand(20, 8), turn) @ model.rotate(key.expand(20, 8), turn).T
    for distance in (0, 3, 11):
        along = products.diagonal(distance)
        assert torch.allclose(along, along[0].expand_as(along), atol=1e-5)
    assert not torch.allclose(products[0, 3], products[0, 11], atol=1e-3)


def test_files_are_held_out_by_name_alone(load: Load, tmp_path: Path) -> None:
    corpus = load("corpus")
    names = [f"part{number % 3}/file{number}.txt" for number in range(64)]
    for number, name in enumerate(names):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(bytes([number + 1]) * 3000)
    read = corpus.read_corpus(str(tmp_path), "*.txt", 64)
    held_out = [number for number, name in enumerate(names) if corpus.is_held_out(name)]
    assert 0 < len(held_out) < 16
    assert set(read.held_out.tolist()) == {0, *(number + 1 for number in held_out)}
    assert not set(read.held_out.tolist()) - {0} & set(read.train.tolist())
    assert len(read.train) + len(read.held_out) == 64 * 3001
    (tmp_path / names[0]).write_bytes(b"other" * 600)
    assert corpus.read_corpus(str(tmp_path), "*.txt", 64).digest != read.digest


def test_windows_of_a_step_hang_on_seed_and_step(load: Load) -> None:
    corpus = load("corpus")
    text = np.arange(10_000, dtype=np.uint64).astype(np.uint8)
    seen = corpus.windows_of_step(text, 1, 5, 8, 32)
    assert seen.shape == (8, 33)
    assert np.array_equal(seen, corpus.windows_of_step(text, 1, 5, 8, 32))
    assert not np.array_equal(seen, corpus.windows_of_step(text, 1, 6, 8, 32))
    assert not np.array_equal(seen, corpus.windows_of_step(text, 2, 5, 8, 32))
    assert np.array_equal(np.diff(seen.astype(int)) % 256, np.ones((8, 32)))


def test_windows_of_the_test_foretell_each_byte_once(load: Load) -> None:
    corpus = load("corpus")
    text = np.arange(203, dtype=np.uint8)
    assert np.array_equal(corpus.windows_of_test(text, 20, 0)[:, 1:].ravel(), np.arange(1, 201))
    some = corpus.windows_of_test(text, 20, 60)
    assert some[:, 0].tolist() == [0, 80, 180]


def test_counts_are_smoothed_as_witten_and_bell_say(load: Load) -> None:
    compare = load("compare")
    train, held_out = (np.frombuffer(text, dtype=np.uint8) for text in (b"abracadabra", b"abrad"))

    def chance(context: bytes, byte: int) -> float:
        shorter = chance(context[1:], byte) if context else 1 / 256
        after = [b"abracadabra"[at + len(context)] for at in range(11 - len(context)) if b"abracadabra".startswith(context, at)]
        if not after:
            return shorter
        return (after.count(byte) + len(set(after)) * shorter) / (len(after) + len(set(after)))

    expected = np.mean([-math.log2(chance(b"abrad"[at - 2 : at], b"abrad"[at])) for at in range(2, 5)])
    assert compare.counted_bits(train, held_out, 2) == pytest.approx(expected)


def test_xz_knows_what_it_has_seen(load: Load) -> None:
    rng = np.random.default_rng(4)
    text = rng.integers(0, 256, 20_000).astype(np.uint8)
    compare = load("compare")
    assert compare.compressed_bits(text, text[5000:9000]) < 0.7
    assert compare.compressed_bits(text, rng.integers(0, 256, 4000).astype(np.uint8)) == pytest.approx(8, abs=0.1)


def test_time_of_a_killed_attempt_counts(load: Load, tmp_path: Path) -> None:
    attempts = load("goodput").Attempts
    first = attempts(tmp_path, time.time() - 100)
    first.note_alive()
    os.utime(tmp_path / "attempts.json", (first.began + 40, first.began + 40))
    second = attempts(tmp_path, time.time() - 5)
    assert second.spent_s() == pytest.approx(45, abs=1)


@pytest.mark.parametrize(
    "arguments",
    [["--steps", "0"], ["--width", "30", "--heads", "4"], ["--text", "/nowhere"], ["--parallel", "magic"], ["--context", "99999999"]],
)
def test_bad_arguments_end_with_2(arguments: list[str], tmp_path: Path) -> None:
    gang = Gang(["train.py", *TINY, *arguments], tmp_path, 1)
    assert gang.wait() == [2]
    assert "Traceback" not in gang.said()


class Gang:
    """Ranks of one attempt, started as an agent starts them; ended with the block."""

    def __init__(self, command: Sequence[str], state: Path, size: int) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        state.mkdir(parents=True, exist_ok=True)
        self.paths = [state / f"said-{time.time_ns()}-{rank}" for rank in range(size)]
        self.ranks = []
        for rank, path in enumerate(self.paths):
            env = os.environ | {
                "DURE_CHECKPOINT_DIR": str(state / "checkpoint"), "DURE_OUTPUT_DIR": str(state / "output"),
                "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size),
                "NODE_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1",
            }  # fmt: skip
            with path.open("wb") as file:
                self.ranks.append(subprocess.Popen([sys.executable, *command], cwd=FOLDER, env=env, stdout=file, stderr=subprocess.STDOUT))

    def __enter__(self) -> "Gang":
        return self

    def __exit__(self, *_: object) -> None:
        for rank in self.ranks:
            rank.kill()
            rank.wait()

    def said(self, rank: int = 0) -> str:
        return self.paths[rank].read_text(encoding="utf-8")

    def steps(self) -> list[dict[str, Any]]:
        return [untimed(line.removeprefix(PROGRESS)) for line in self.said().splitlines(keepends=True) if line.startswith(PROGRESS) and line.endswith("\n")]

    def metrics(self) -> dict[str, Any]:
        (line,) = [line for line in self.said().splitlines() if line.startswith(METRICS)]
        return untimed(line.removeprefix(METRICS))

    def wait_for(self, step: int) -> None:
        """Until rank 0 has told of `step`."""
        until = time.monotonic() + 300
        while not any(fields["step"] >= step for fields in self.steps()):
            assert time.monotonic() < until, self.said()
            assert self.ranks[0].poll() is None, self.said()
            time.sleep(0.01)

    def wait(self, timeout_s: float = 300) -> list[int]:
        return [rank.wait(timeout_s) for rank in self.ranks]


def untimed(line: str) -> dict[str, Any]:
    return {key: value for key, value in json.loads(line).items() if not key.endswith("_s")}


@pytest.mark.slow
@pytest.mark.parametrize(("parallel", "number"), [("ddp", signal.SIGTERM), ("fsdp2", signal.SIGUSR1)])
def test_goes_on_exactly(parallel: str, number: int, tmp_path: Path) -> None:
    story = assert_resumes_exactly(
        "language-model", ["train.py", *TINY, "--parallel", parallel], tmp_path, stop_after=[5, 8], number=number
    )
    assert sorted(story.series) == list(range(1, ALL_STEPS + 1))
    whole, parts = ((tmp_path / name / "output/curve.csv").read_text() for name in ("whole", "parts"))
    assert whole == parts


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp2"])
def test_two_ranks_leave_together_and_a_lost_one_ends_the_gang(parallel: str, tmp_path: Path) -> None:
    command = ["train.py", *TINY, "--parallel", parallel]
    with Gang(command, tmp_path / "whole", 2) as whole:
        assert whole.wait() == [0, 0], whole.said()
    said: list[dict[str, Any]] = []
    with Gang(command, tmp_path / "parts", 2) as told:
        told.wait_for(3)
        told.ranks[1].send_signal(signal.SIGTERM)
        assert told.wait() == [LEFT, LEFT], told.said()
        said += told.steps()
    with Gang(command, tmp_path / "parts", 2) as lost:
        lost.wait_for(said[-1]["step"] + 3)
        lost.ranks[1].kill()
        began = time.monotonic()
        assert lost.ranks[0].wait(20) not in (0, LEFT), lost.said()
        assert time.monotonic() - began < 20
        assert lost.steps()[0]["step"] == said[-1]["step"] + 1
        said += lost.steps()
    with Gang(command, tmp_path / "parts", 2) as last:
        assert last.wait() == [0, 0], last.said()
        said += last.steps()
        assert last.metrics() == whole.metrics()
    series = {fields["step"]: fields for fields in whole.steps()}
    assert sorted(series) == list(range(1, ALL_STEPS + 1))
    assert all(series[fields["step"]] == fields for fields in said)
    assert {fields["step"] for fields in said} == set(series)


@pytest.mark.slow
def test_goes_on_with_another_number_of_ranks(tmp_path: Path) -> None:
    state = tmp_path / "state"
    with Gang(["train.py", *TINY], tmp_path / "whole", 1) as whole:
        assert whole.wait() == [0], whole.said()
    with Gang(["train.py", *TINY, "--parallel", "fsdp2"], state, 2) as two:
        two.wait_for(4)
        for rank in two.ranks:
            rank.send_signal(signal.SIGUSR1)
        assert two.wait() == [LEFT, LEFT], two.said()
    with Gang(["train.py", *TINY], state, 1) as one:
        assert one.wait() == [0], one.said()
    said = two.steps() + one.steps()
    assert [fields["step"] for fields in said] == list(range(1, ALL_STEPS + 1))
    for fields, expected in zip(said, whole.steps(), strict=True):
        assert fields == pytest.approx(expected, rel=1e-4)
    assert one.metrics()["bits_per_byte"] == pytest.approx(whole.metrics()["bits_per_byte"], rel=1e-4)


@pytest.mark.slow
def test_refuses_another_runs_checkpoint(tmp_path: Path) -> None:
    with Gang(["train.py", *TINY], tmp_path, 1) as told:
        told.wait_for(2)
        told.ranks[0].send_signal(signal.SIGTERM)
        assert told.wait() == [LEFT], told.said()
    with Gang(["train.py", *TINY, "--seed", "2"], tmp_path, 1) as other:
        assert other.wait() == [2]
        assert len(other.said().splitlines()) == 1
        assert "other parameters" in other.said()


ASKED_BEFORE = """
from corpus import read_corpus
from gang import join_gang
from train import options_parser, read_options
from training import Training
options = read_options(options_parser(None))
corpus, gang = read_corpus(options.text, options.pattern, options.context), join_gang("cpu", 60)
asked, other = Training(options, corpus, gang), Training(options, corpus, gang)
asked.state()
print([[training.train()["bits_per_byte"] for _ in range(3)] for training in (asked, other)])
"""


def test_who_asks_for_the_state_before_the_first_step_changes_nothing(tmp_path: Path) -> None:
    """So replicas that begin together train as one that began alone: the one of them takes the other's state before any step."""
    program = tmp_path / "asked.py"
    program.write_text(ASKED_BEFORE, encoding="utf-8")
    own = {"DURE_CHECKPOINT_DIR": str(tmp_path / "checkpoint"), "DURE_OUTPUT_DIR": str(tmp_path / "output"), "PYTHONPATH": str(FOLDER)}
    done = subprocess.run([sys.executable, program, *TINY], cwd=FOLDER, env=os.environ | own, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    asked, other = json.loads(done.stdout)
    assert asked == other
    assert len(set(asked)) == 3


@pytest.mark.slow
def test_starts_by_torchrun(tmp_path: Path) -> None:
    with Gang(["train.py", *TINY], tmp_path / "ranks", 2) as ranks:
        assert ranks.wait() == [0, 0], ranks.said()
    own = {"DURE_CHECKPOINT_DIR": str(tmp_path / "checkpoint"), "DURE_OUTPUT_DIR": str(tmp_path / "output"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "train.py", *TINY]
    done = subprocess.run(command, cwd=FOLDER, env=os.environ | own, capture_output=True, text=True, timeout=300, check=True)
    (line,) = [line for line in done.stdout.splitlines() if line.startswith(METRICS)]
    assert untimed(line.removeprefix(METRICS)) == ranks.metrics()


#: So that a replica that comes finds the others still at work.
SLOWER = ["--batch", "32", "--context", "128"]


class Replica(Gang):
    """A replica of those that come and go, one process."""

    def __init__(self, state: Path, url: str, steps: int) -> None:
        super().__init__(["replicas.py", *TINY, *SLOWER, "--steps", str(steps), "--lighthouse", url], state, 1)


@pytest.mark.slow
def test_replicas_come_and_go(tmp_path: Path) -> None:
    """One is killed and comes back, the other leaves and comes back: no step is missing, and both end with equal weights."""
    pytest.importorskip("torchft")
    steps = 200
    with Gang(["train.py", *TINY, *SLOWER, "--steps", str(steps)], tmp_path / "alone", 1) as alone:
        assert alone.wait() == [0], alone.said()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://localhost:{port}"
    with Gang(["replicas.py", "--lighthouse", "serve", "--port", str(port)], tmp_path / "lighthouse", 1) as lighthouse:
        until = time.monotonic() + 60
        while "lighthouse at" not in lighthouse.said():
            assert time.monotonic() < until, lighthouse.said()
            time.sleep(0.1)
        with Replica(tmp_path / "one", url, steps) as one:
            with Replica(tmp_path / "two", url, steps) as killed:
                killed.wait_for(8)
                killed.ranks[0].kill()
            one.wait_for(max(fields["step"] for fields in one.steps()) + 3)
            with Replica(tmp_path / "two", url, steps) as two:
                two.wait_for(1)
                joined = two.steps()[0]["step"]
                assert joined > 8, "it has the others' state, not the first one"
                one.ranks[0].send_signal(signal.SIGTERM)
                assert one.wait(60) == [LEFT], one.said()
                with Replica(tmp_path / "one", url, steps) as again:
                    assert two.wait() == [0], two.said()
                    assert again.wait() == [0], again.said()
        lighthouse.ranks[0].send_signal(signal.SIGTERM)
        assert lighthouse.wait(30) == [LEFT]
    assert two.metrics()["weights"] == again.metrics()["weights"]
    series = {fields["step"]: fields for fields in alone.steps()}
    for replica in (killed, one, two, again):
        numbers = [fields["step"] for fields in replica.steps()]
        assert numbers == list(range(numbers[0], numbers[-1] + 1))
    whole = [fields for replica in (killed, one, two, again) for fields in replica.steps()]
    assert {fields["step"] for fields in whole} == set(range(1, steps + 1))
    assert {fields["replicas"] for fields in whole} == {1, 2}
    # Whoever was there, the batch was the whole one: what one process computes, otherwise rounded.
    for fields in whole:
        assert fields["bits_per_byte"] == pytest.approx(series[fields["step"]]["bits_per_byte"], rel=2e-3)
    assert two.metrics()["bits_per_byte"] == pytest.approx(alone.metrics()["bits_per_byte"], rel=2e-3)
