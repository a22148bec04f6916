"""The inspection service: batches, a model of its own, how many replicas, and that none of its requests is lost when it leaves."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from tests.blueprints.alliance import Alliance
from tests.blueprints.modules import Load, ModulesOf
from tests.service.processes import until

from dure.client.blueprints import catalogue_folder
from dure.client.job import LEFT, METRICS, PROGRESS
from dure.client.resuming import play

pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")

FOLDER = catalogue_folder() / "inspection-service"
DATA = Path(os.environ.get("DURE_DATA") or FOLDER.parents[2] / "shared" / "data") / "llm_inference"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="DURE_DATA does not hold llm_inference")


@pytest.fixture
def module(modules_of: ModulesOf) -> Load:
    return modules_of(FOLDER)


def images(num: int) -> list[np.ndarray]:
    return [np.full((2, 2), value, dtype=np.float32) for value in range(num)]


def test_waiting_images_are_scored_together_each_with_its_own_answer(module) -> None:
    batching: ModuleType = module("batching")
    sizes = []

    def score(batch):
        sizes.append(len(batch))
        return [float(image.sum()) for image in batch]

    async def story() -> list[float]:
        batcher = batching.Batcher(score, max_batch=4, max_wait_s=0.05, max_waiting=100)
        asked = [asyncio.create_task(batcher.ask(image)) for image in images(10)]
        await asyncio.sleep(0)
        work = asyncio.create_task(batcher.work())
        answers = await asyncio.gather(*asked)
        work.cancel()
        assert batcher.in_flight == 0
        return answers

    assert asyncio.run(story()) == [4.0 * value for value in range(10)]
    assert sizes == [4, 4, 2]


def test_one_bad_batch_is_told_and_the_next_is_answered(module) -> None:
    batching: ModuleType = module("batching")

    def score(batch):
        if batch[0][0, 0] == 0:
            raise ValueError("torn")
        return [1.0] * len(batch)

    async def story() -> float:
        batcher = batching.Batcher(score, max_batch=1, max_wait_s=0, max_waiting=100)
        work = asyncio.create_task(batcher.work())
        with pytest.raises(ValueError, match="torn"):
            await batcher.ask(images(1)[0])
        answer = await batcher.ask(images(2)[1])
        work.cancel()
        return answer

    assert asyncio.run(story()) == 1.0


def test_more_than_can_be_answered_in_time_are_refused(module) -> None:
    batching: ModuleType = module("batching")

    async def story() -> None:
        batcher = batching.Batcher(lambda batch: [0.0] * len(batch), max_batch=1, max_wait_s=0, max_waiting=2)
        asked = [asyncio.create_task(batcher.ask(image)) for image in images(2)]
        await asyncio.sleep(0)
        with pytest.raises(batching.FullError):
            await batcher.ask(images(1)[0])
        work = asyncio.create_task(batcher.work())
        assert await asyncio.gather(*asked) == [0.0, 0.0]
        work.cancel()

    asyncio.run(story())


def test_the_small_model_scores_an_edge_above_a_plain_image(module, tmp_path: Path) -> None:
    models: ModuleType = module("models")
    models.make_small_model(tmp_path / "small.onnx")
    model = models.Model(tmp_path / "small.onnx", 1, "CPUExecutionProvider")
    plain = np.full((model.size_px, model.size_px), 0.5, dtype=np.float32)
    edge = plain.copy()
    edge[:, 30:] = 0.9
    assert model.limit == models.DEFAULT_LIMIT
    scores = model.score([edge, np.zeros_like(edge), edge])
    assert scores.shape == (3,)
    assert scores[0] == scores[2] > scores[1]


def test_arrivals_go_round_and_on(module) -> None:
    arrivals: ModuleType = module("arrivals")
    trace_s = np.array([0.0, 1.0, 4.0])
    assert arrivals.due_s(trace_s, 2, 0, 10).tolist() == [0, 0.5, 2, 2, 2.5, 4, 4, 4.5, 6, 6, 6.5, 8, 8, 8.5]
    whole = arrivals.due_s(trace_s, 2, 0, 7)
    parts = np.concatenate([arrivals.due_s(trace_s, 2, 0, 3), arrivals.due_s(trace_s, 2, 3, 4) + 3])
    assert parts.tolist() == whole.tolist()


def test_replicas_follow_the_load_up_at_once_and_down_after_a_calm(module) -> None:
    scaler = module("scaling").Scaler(1, 5, target_in_flight=4, objective_s=0.1, calm_s=30)
    assert scaler.wanted(0, 1, 1, 11, 0.05) == 3
    assert scaler.wanted(10, 3, 3, 2, 0.05) == 3
    assert scaler.wanted(39, 3, 3, 2, 0.05) == 3
    assert scaler.wanted(41, 3, 3, 2, 0.05) == 2
    assert scaler.wanted(42, 2, 2, 2, 0.05) == 2
    assert scaler.wanted(72, 2, 2, 2, 0.05) == 1
    assert scaler.wanted(200, 1, 1, 0, None) == 1


def test_replicas_do_not_swing_where_one_fewer_would_be_full(module) -> None:
    scaler = module("scaling").Scaler(1, 5, target_in_flight=4, objective_s=0.1, calm_s=10)
    assert [scaler.wanted(now, 2, 2, 3.5, 0.05) for now in range(0, 100, 5)] == [2] * 20


def test_late_answers_ask_for_one_more_until_it_serves(module) -> None:
    scaler = module("scaling").Scaler(1, 5, target_in_flight=4, objective_s=0.1, calm_s=10)
    assert scaler.wanted(0, 1, 1, 1, 0.2) == 2
    assert scaler.wanted(2, 2, 1, 1, 0.2) == 2
    assert scaler.wanted(4, 2, 2, 1, 0.2) == 3
    assert scaler.wanted(6, 5, 5, 1, 0.2) == 5


def environment(tmp_path: Path) -> dict[str, str]:
    own = {f"DURE_{kind}_DIR": str(tmp_path / kind.lower()) for kind in ("CHECKPOINT", "OUTPUT", "INPUT")}
    return {**os.environ, **own, "OMP_NUM_THREADS": "1"}


class Replica:
    """A service in a process of its own."""

    def __init__(self, tmp_path: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "serve.py"], cwd=FOLDER, env=environment(tmp_path), stdout=subprocess.PIPE, text=True
        )
        self.progress: list[dict] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(PROGRESS):
                self.progress.append(json.loads(line.removeprefix(PROGRESS)))

    def url(self) -> str:
        until(lambda: self.progress or self.process.poll() is not None, 60)
        return self.progress[0]["url"]

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join()
        self.process.stdout.close()


@pytest.mark.slow
@needs_data
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_no_request_is_lost_when_a_replica_is_told_to_leave_under_load(tmp_path: Path, number: int) -> None:
    leaving, staying = (Replica(tmp_path / name) for name in ("leaving", "staying"))
    try:
        urls = [leaving.url(), staying.url()]
        load = subprocess.Popen(
            [sys.executable, "load.py", "--url", urls[0], "--url", urls[1], "--scale", "8", "--start-s", "30", "--for-s", "6"],
            cwd=FOLDER, env=environment(tmp_path / "load"), stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        until(lambda: any(said["answered"] > 20 for said in leaving.progress), 60)
        leaving.process.send_signal(number)
        assert leaving.process.wait(20) == LEFT
        said, _ = load.communicate(timeout=60)
        assert load.returncode == 0
        metrics = json.loads(next(line for line in said.splitlines() if line.startswith(METRICS)).removeprefix(METRICS))
        assert (metrics["lost"], metrics["broken"]) == (0, 0)
        assert metrics["sent"] > 100
    finally:
        leaving.stop()
        staying.stop()


#: What does not hang on how quick the machine is.
EXACT = ("sent", "lost", "broken", "defects_found", "false_alarms")


@pytest.mark.slow
@needs_data
def test_a_measurement_goes_on_where_it_was(tmp_path: Path) -> None:
    images = np.random.default_rng(1).integers(0, 256, (20, 64, 64), dtype=np.uint8)
    # Noise has edges everywhere, so the small model calls all of it defective; plain images not.
    images[::2] = 0
    for way in ("whole", "parts"):
        (tmp_path / way / "input" / "train").mkdir(parents=True)
        np.savez(tmp_path / way / "input" / "train" / "test_images.npz", images=images, is_defective=np.arange(20) % 4 > 0)
    command = ["serve.py", "--for-s", "5", "--load-scale", "6", "--objective-ms", "2000", "--limit", "0.1"]
    whole = play("inspection-service", command, tmp_path / "whole")
    parts = play("inspection-service", command, tmp_path / "parts", (2, 1))
    assert (whole.attempts, parts.attempts) == (1, 3)
    steps = [step for step, _ in parts.said]
    assert steps == list(range(1, len(steps) + 1)), "seconds were lost or told twice"
    assert {name: parts.metrics[name] for name in EXACT} == {name: whole.metrics[name] for name in EXACT}
    assert whole.metrics["sent"] > 50
    assert (whole.metrics["lost"], whole.metrics["broken"]) == (0, 0)
    assert (whole.metrics["defects_found"], whole.metrics["false_alarms"]) == (pytest.approx(2 / 3, abs=0.1), 0)
    assert parts.metrics["within_objective"] > 0.5


@pytest.mark.slow
@needs_data
def test_replicas_are_jobs_that_follow_the_load_and_come_back_after_a_reclaim(tmp_path: Path) -> None:
    addresses = tmp_path / "addresses.json"
    with Alliance(tmp_path) as alliance:
        env = {**environment(tmp_path / "own"), **alliance.guest_environment()}

        def ready() -> int:
            return len(json.loads(addresses.read_text())) if addresses.exists() else 0

        scaler = subprocess.Popen(
            [sys.executable, "replicas.py", "--max", "3", "--target-in-flight", "0.05", "--calm-s", "4", "--every-s", "1", "--addresses", str(addresses), "--objective-ms", "5000"],
            cwd=FOLDER, env=env, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            until(lambda: ready() == 1, 60)
            load = subprocess.Popen(
                [sys.executable, "load.py", "--urls-from", str(addresses), "--scale", "5", "--for-s", "14", "--patience-s", "60"],
                cwd=FOLDER, env=environment(tmp_path / "load"), stdout=subprocess.PIPE, text=True,
            )  # fmt: skip
            until(lambda: ready() >= 2, 60)
            alliance.reclaim()
            said, _ = load.communicate(timeout=90)
            metrics = json.loads(next(line for line in said.splitlines() if line.startswith(METRICS)).removeprefix(METRICS))
            assert metrics["lost"] == 0
            until(lambda: ready() == 1, 60)
            scaler.terminate()
            assert scaler.wait(20) == LEFT
            attempts = [alliance.guest.job(view.job_id).attempt for view in alliance.guest.all_jobs(name="inspection-replica")]
            assert max(attempts) >= 2, "none was taken back"
        finally:
            scaler.kill()
            scaler.wait()


@pytest.mark.slow
def test_bad_input_ends_with_2(tmp_path: Path) -> None:
    (tmp_path / "no.onnx").write_bytes(b"no model")
    for words in (["--model", str(tmp_path / "no.onnx")], ["--max-batch", "0"], ["--provider", "Nowhere"]):
        done = subprocess.run(
            [sys.executable, "serve.py", *words],
            cwd=FOLDER,
            env=environment(tmp_path),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 2, done.stderr
        assert "Traceback" not in done.stderr
