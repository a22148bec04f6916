"""The robot in MuJoCo: what missed plans cost, and that everything on time is the device's control exactly."""

import numpy as np
import pytest

pytest.importorskip("mujoco", reason="MuJoCo is not installed (dure[ran])")

from dure.ran import control_task
from dure.ran.offload_run import Fading, Options, run_offload

NUM = 200


@pytest.fixture(scope="module")
def robot() -> control_task.Robot:
    return control_task.Robot()


def _mean_cost(robot: control_task.Robot, miss: float) -> float:
    costs = []
    for seed in range(4):
        is_planned = np.random.default_rng(seed).random(NUM) >= miss
        costs.append(control_task.run_episode(robot, control_task.draw_course(NUM, np.random.default_rng(seed)), is_planned))
    return float(np.mean(costs))


def test_plans_control_better_than_the_regulator(robot: control_task.Robot) -> None:
    planned, regulated = _mean_cost(robot, 0.0), _mean_cost(robot, 1.1)
    assert planned < 0.6 * regulated
    assert regulated < control_task.COST_MAX / 5  # the fallback does not fall


def test_seldom_late_is_seldom_felt(robot: control_task.Robot) -> None:
    planned = _mean_cost(robot, 0.0)
    assert abs(_mean_cost(robot, 0.01) / planned - 1) < 0.05
    assert _mean_cost(robot, 0.9) > 1.1 * planned


def test_an_episode_repeats(robot: control_task.Robot) -> None:
    course, is_planned = control_task.draw_course(NUM, np.random.default_rng(3)), np.ones(NUM, bool)
    first = control_task.run_episode(robot, course, is_planned)
    assert control_task.run_episode(robot, course, is_planned) == first


def test_the_regulator_holds_the_robot_upright(robot: control_task.Robot) -> None:
    course = control_task.Course(np.zeros(NUM + control_task.HORIZON + 1), np.zeros(NUM))
    assert control_task.run_episode(robot, course, np.zeros(NUM, bool)) == pytest.approx(0.0, abs=1e-9)


def test_a_fallen_robot_costs_the_most_to_the_end(robot: control_task.Robot) -> None:
    push = np.zeros(NUM)
    push[0:20] = 400.0
    course = control_task.Course(np.zeros(NUM + control_task.HORIZON + 1), push)
    assert control_task.run_episode(robot, course, np.ones(NUM, bool)) > 0.8 * control_task.COST_MAX


def test_control_is_the_devices_where_dure_stays_there() -> None:
    options = Options(fadings=(Fading(-5.0, 30.0),), loads=(0.8,), episodes=4, seconds=4.0, calibration_links=64)
    found = run_offload(options, lambda done, total: None, 1)
    dure, site = (found["cells"][0]["policies"][p] for p in ("dure", "site"))
    assert dure["places"]["device"] == 1.0
    assert dure["control_cost_change"]["mean"] == 0.0
    assert dure["energy_saving"]["mean"] > -0.06
    assert site["late_of_asked"] > 0.9
    assert site["control_cost"]["mean"] > dure["control_cost"]["mean"]
