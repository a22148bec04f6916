"""The network that plans: mirrored as the robot is, tried on other courses than it saw, gone on with exactly, served as it was tried."""

import json
import signal
from pathlib import Path

import numpy as np
import pytest
from tests.blueprints.modules import Load, ModulesOf

from dure.client.blueprints import catalogue_folder, read_entry
from dure.client.resuming import assert_resumes_exactly
from dure.model.job_file import load_job
from dure.ran.control_network import NUM_FEATURES, ControlNetwork
from dure.ran.control_task import FORCE_MAX_N, HORIZON, KNOTS, Robot

for library in ("matplotlib", "mujoco", "onnxruntime", "onnxscript", "torch"):
    pytest.importorskip(library)

FOLDER = catalogue_folder() / "robot-control"
FEW = ["train.py", "--steps", "4", "--batches", "6", "--batch", "64", "--courses", "3", "--seconds", "1", "--hidden", "16", "--most-change", "9", "--save-every-s", "0"]


@pytest.fixture
def load(modules_of: ModulesOf) -> Load:
    return modules_of(FOLDER)


def test_a_mirrored_request_has_the_mirrored_plan(load: Load) -> None:
    import torch

    torch.manual_seed(1)
    policy = load("network").ControlPolicy(16)
    seen = torch.randn(5, NUM_FEATURES) * policy.scale
    with torch.inference_mode():
        planned = policy(seen)
        assert planned.shape == (5, KNOTS)
        assert torch.allclose(policy(-seen), -planned, atol=1e-4)
        assert float(planned.abs().min()) > 0


def test_courses_of_training_and_trial_do_not_meet(load: Load) -> None:
    trial = load("trial")
    first, again = (trial.course_of(3, 1, trial.TRIAL, 6.0)[0] for _ in range(2))
    assert np.array_equal(first.place_m, again.place_m)
    drawn = [trial.course_of(3, number, purpose, 6.0)[0] for number in range(20) for purpose in (trial.TRAINING, trial.TRIAL)]
    assert len({course.push_n.tobytes() for course in drawn}) == len(drawn)


def test_who_falls_is_counted_and_costs_are_held_against_the_planner_s(load: Load) -> None:
    trial, robot = load("trial"), Robot()
    course, _ = trial.course_of(0, 0, trial.TRIAL, 2.0)
    found = {
        "planner": trial.driven(robot, course, robot.plan), "full": trial.driven(robot, course, lambda *_: np.full(KNOTS, FORCE_MAX_N)),
        "regulator": trial.driven(robot, course, None),
    }  # fmt: skip
    assert [name for name, run in found.items() if run.is_fallen] == ["full"]
    assert len(found["planner"].position_m) == 100
    assert len(found["full"].position_m) < 100
    assert found["full"].cost > found["regulator"].cost > found["planner"].cost
    runs = [{"planner": trial.Driven(cost, np.zeros(1), False), "network": trial.Driven(cost * by, np.zeros(1), False)} for cost, by in ((1.0, 1.1), (3.0, 1.3))]
    change = trial.change(runs, "network")
    assert change.mean == pytest.approx(0.2)
    assert change.low < 0.1
    assert change.high > 0.3


def test_the_service_s_file_serves_what_training_leaves() -> None:
    service = load_job((FOLDER / "service.yaml").read_text(encoding="utf-8"), "service.yaml")
    parameters = read_entry(FOLDER).about.parameters
    assert service.command[-2:] == ("--network", parameters["publish"].default)
    assert service.resources.reach is not None


@pytest.mark.slow
def test_goes_on_exactly_and_serves_what_it_tried(tmp_path: Path) -> None:
    story = assert_resumes_exactly("robot-control", [*FEW, "--publish", str(tmp_path / "left" / "controller.onnx")], tmp_path, [2, 3], number=signal.SIGUSR1)
    assert [set(fields) - {"step"} for _, fields in story.said] == [{"cost", "pairs", "loss"}] * 4 + [{"network_cost", "planner_cost", "regulator_cost"}] * 3
    output = tmp_path / "parts" / "output"
    assert {path.name for path in output.iterdir()} == {"controller.onnx", "result.json", "result.png"}
    result = json.loads((output / "result.json").read_text())
    changes = [network / planner - 1 for network, planner in zip(result["costs"]["network"], result["costs"]["planner"], strict=True)]
    assert result["cost_change"] == pytest.approx(np.mean(changes))
    # Left for the service only by a run that was kept, as it was tried.
    assert (tmp_path / "left" / "controller.onnx").is_file() == result["kept"]
    network = ControlNetwork(output / "controller.onnx")
    state, place_m = np.array([0.2, 0.05, 0.1, -0.1]), np.linspace(0.2, 1.0, HORIZON + 1)
    found = network.plan(state, 3.0, place_m, np.zeros(KNOTS))
    assert network.plan(-state, -3.0, -place_m, np.zeros(KNOTS)) == pytest.approx(-found, abs=1e-3)
    far = network.plan(state * 100, 3.0, place_m * 100, np.zeros(KNOTS))
    assert np.abs(far).max() == pytest.approx(FORCE_MAX_N), "plans are clipped"


@pytest.mark.slow
def test_what_is_not_kept_is_not_left_for_the_service(tmp_path: Path) -> None:
    from dure.client.resuming import play

    strict = [*FEW, "--most-change", "-1", "--publish", str(tmp_path / "controller.onnx")]
    story = play(FOLDER, strict, tmp_path / "state")
    assert story.metrics is not None
    assert story.metrics["kept"] is False
    assert not (tmp_path / "controller.onnx").exists()
    assert (tmp_path / "state" / "output" / "controller.onnx").exists()
