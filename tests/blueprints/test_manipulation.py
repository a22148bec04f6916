"""Manipulation cloned from experts: scenes, what is learnt, the gate, and that each stage goes on exactly."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from tests.blueprints.modules import ModulesOf

from dure.client.blueprints import catalogue_folder
from dure.client.resuming import assert_resumes_exactly

torch = pytest.importorskip("torch")
pytest.importorskip("metaworld")

FOLDER = catalogue_folder() / "manipulation"
#: Its experts ask for more than the arm does, and say so at each step.
pytestmark = pytest.mark.filterwarnings("ignore:Constant.s. may be too high")


@pytest.fixture
def sawyer(modules_of: ModulesOf) -> ModuleType:
    return modules_of(FOLDER)("sawyer")


@pytest.fixture
def cloning(modules_of: ModulesOf) -> ModuleType:
    return modules_of(FOLDER)("cloning")


def run(script: str, state: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """In folders of its own beneath `state`, whose ``input`` is shared."""
    name = script.removesuffix(".py")
    env = {
        "DURE_CHECKPOINT_DIR": str(state / name / "checkpoint"),
        "DURE_OUTPUT_DIR": str(state / name),
        "DURE_INPUT_DIR": str(state / "input"),
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.run(
        [sys.executable, script, *arguments],
        cwd=FOLDER,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=False,
    )


def write_episodes(state: Path, shards: list[list[tuple[str, bool, bool]]]) -> None:
    for number, rows in enumerate(shards, 1):
        folder = state / "input" / f"evaluate-{number}"
        folder.mkdir(parents=True)
        with (folder / "episodes.csv").open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerows([("task", "changed", "done"), *rows])


@pytest.mark.slow
def test_an_episode_hangs_on_its_seed_alone(sawyer: ModuleType) -> None:
    """Scenes are used again: what was played before must leave no trace."""
    for task in sawyer.TASKS:
        scene, fresh = sawyer.Scene(task), sawyer.Scene(task)
        wild = sawyer.Dynamics(mass=1.5, friction=0.5, damping=2.0, grip=0.7, reach=1.2)
        scene.demonstrate(11, 0.5, 60, 0, wild)
        for dynamics in (sawyer.Dynamics(), wild):
            one = scene.demonstrate(12, 0.3, 80, 5, dynamics)
            other = fresh.demonstrate(12, 0.3, 80, 5, dynamics)
            assert np.array_equal(one["seen"], other["seen"]), task
            assert np.array_equal(one["actions"], other["actions"]), task


def test_experts_do_their_tasks(sawyer: ModuleType) -> None:
    for task in sawyer.TASKS:
        scene = sawyer.Scene(task)
        for seed in range(3):
            is_done, steps = scene.play(seed, scene.expert.get_action, 200)
            assert is_done, f"{task} of seed {seed}"
            assert steps < 150
        assert not scene.play(0, lambda _: np.zeros(4), 60)[0], f"{task} is done by doing nothing"


def test_goals_lie_where_meta_world_lets_them(sawyer: ModuleType) -> None:
    scene = sawyer.Scene("push")
    for seed in range(20):
        seen = scene.reset(seed)
        assert np.linalg.norm(seen[4:6] - seen[-3:-1]) >= sawyer.NEAREST_M - 0.005, f"seed {seed}"


def test_changed_dynamics_change_the_simulation(sawyer: ModuleType) -> None:
    scene = sawyer.Scene("push")
    mass = scene.world.model.body_mass.copy()
    scene.reset(1, sawyer.Dynamics(mass=1.3, friction=0.6))
    assert scene.world.model.body_mass == pytest.approx(mass * 1.3)
    scene.reset(1)
    assert np.array_equal(scene.world.model.body_mass, mass)
    changes = [{"mass": 0.5}, {"friction": 0.3}, {"grip": 0.5}, {"reach": 0.8}]
    ways = [scene.demonstrate(1, 0, 70, 0, sawyer.Dynamics(**change))["seen"].tobytes() for change in ({}, *changes)]
    assert len(set(ways)) == len(ways), "a factor changes nothing"
    drawer = sawyer.Scene("drawer-open")
    slide = [drawer.demonstrate(1, 0, 90, 0, sawyer.Dynamics(damping=factor))["seen"].tobytes() for factor in (1, 3)]
    assert slide[0] != slide[1]


def test_a_written_policy_acts_the_same(cloning: ModuleType, tmp_path: Path) -> None:
    torch.manual_seed(2)
    shown = torch.randn(50, 39)
    policy = cloning.ClonedPolicy(16, shown)
    policy.write(tmp_path / "policy.pt")
    again = cloning.read_policy(tmp_path / "policy.pt")
    seen = shown[3].double().numpy()
    acts = [policy.choice(task)(seen) for task in cloning.TASKS]
    assert not np.array_equal(acts[0], acts[1]), "the task makes no difference"
    for task, act in zip(cloning.TASKS, acts, strict=True):
        assert np.array_equal(again.choice(task)(seen), act)
        assert np.abs(act).max() <= 1


@pytest.mark.parametrize(("text", "expected"), [("1/1", (1, 1)), ("2/4", (2, 4))])
def test_shards_are_read(sawyer: ModuleType, text: str, expected: tuple[int, int]) -> None:
    assert sawyer.share(text) == expected


@pytest.mark.parametrize("text", ["0/2", "3/2", "2", "a/b", "-1/2"])
def test_bad_shards_are_refused(sawyer: ModuleType, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        sawyer.share(text)


@pytest.mark.slow
@pytest.mark.parametrize(("gate", "code"), [("0.75", 0), ("0.76", 1)])
def test_the_gate(tmp_path: Path, gate: str, code: int) -> None:
    """Only changed dynamics count, over all shards."""
    tasks = ("reach", "push", "drawer-open")
    nominal = [(task, False, False) for task in tasks]
    shards = [
        [*nominal, *((task, True, True) for task in tasks)],
        [*nominal, *((task, True, i < 1) for i, task in enumerate(tasks))],
    ]
    shards[1] += [(tasks[0], True, True), (tasks[1], True, True)]  # 6 of 8
    write_episodes(tmp_path, shards)
    done = run("report.py", tmp_path, "--gate", gate, "--film", "0")
    assert done.returncode == code, done.stderr
    results = json.loads((tmp_path / "report" / "results.json").read_text())
    reached = results["changed"]["all"]
    assert (reached["success"], reached["episodes"], results["passed"]) == (0.75, 8, code == 0)
    # Wilson's formula: (p + z²/2n ± z √(p(1−p)/n + z²/4n²)) / (1 + z²/n), z = 1.95996.
    z, n, p = 1.959964, 8, 0.75
    half = z * (p * (1 - p) / n + z**2 / (4 * n**2)) ** 0.5
    assert reached["low"] == pytest.approx((p + z**2 / (2 * n) - half) / (1 + z**2 / n), abs=1e-4)
    assert reached["high"] == pytest.approx((p + z**2 / (2 * n) + half) / (1 + z**2 / n), abs=1e-4)
    assert results["nominal"]["all"]["success"] == 0
    assert (tmp_path / "report" / "result.png").stat().st_size < 150 * 1024


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("train.py", "demonstrate.py comes first"),
        ("evaluate.py", "train.py comes first"),
        ("report.py", "evaluate.py comes first"),
    ],
)
def test_missing_inputs_are_named(tmp_path: Path, script: str, says: str) -> None:
    done = run(script, tmp_path)
    assert done.returncode == 2
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.slow
def test_each_stage_goes_on_exactly(tmp_path: Path) -> None:
    """What a stage leaves, interrupted or not, is handed on to the next one."""

    def hand_on(job: str, file: str) -> None:
        whole, parts = ((tmp_path / name / "output" / file).read_bytes() for name in ("whole", "parts"))
        assert whole == parts, file
        for name in ("whole", "parts"):
            folder = tmp_path / name / "input" / job
            folder.mkdir(parents=True)
            shutil.copy(tmp_path / "whole" / "output" / file, folder)
            shutil.rmtree(tmp_path / name / "checkpoint")

    stages = [
        (["demonstrate.py", "--episodes", "4"], [3, 4], signal.SIGTERM, "demonstrate-1", "demonstrations.npz"),
        (
            ["train.py", "--steps", "120", "--hidden", "64", "--report-every", "25"],
            [2],
            signal.SIGUSR1,
            "train",
            "policy.pt",
        ),
        (["evaluate.py", "--episodes", "1", "--steps", "120"], [2, 1], signal.SIGUSR1, "evaluate-1", "episodes.csv"),
    ]
    for command, stop_after, number, job, file in stages:
        assert_resumes_exactly("manipulation", command, tmp_path, stop_after, number=number)
        hand_on(job, file)


@pytest.mark.slow
def test_a_folder_of_other_parameters_is_refused(tmp_path: Path) -> None:
    command = ["--episodes", "1", "--steps", "40"]
    refused = None
    for noise in ("0.1", "0.2"):
        refused = run("demonstrate.py", tmp_path, *command, "--noise", noise)
    assert refused is not None
    assert refused.returncode == 2, refused.stderr
    assert "other parameters" in refused.stderr
