"""A network in the planner's place: what it is given, which files are none, and the service that answers with it."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed (dure[ran])")

import httpx
from tests.ran.control_networks import write_linear

from dure.cli.plan_service import PlanService
from dure.model.errors import InputError
from dure.ran.control_network import NUM_FEATURES, ControlNetwork, features
from dure.ran.control_task import HORIZON, KNOTS

STATE = np.array([0.5, 0.1, -0.2, 0.3])
PLACE_M = np.linspace(0.5, 1.5, HORIZON + 1)
#: A force at each knot that grows with the way to the last place: 10 N for 1 m at the first, 80 N at the last.
TO_THE_END = np.zeros((NUM_FEATURES, KNOTS), np.float32)
TO_THE_END[-1] = 10 * np.arange(1, KNOTS + 1)


def test_features_are_what_is_seen_from_the_robot():
    found = features(STATE, 7.0, PLACE_M)
    assert (found.shape, found.dtype) == ((NUM_FEATURES,), np.float32)
    assert found[:4] == pytest.approx([0.1, -0.2, 0.3, 7.0])
    assert found[4:] == pytest.approx(PLACE_M - 0.5)
    # The same elsewhere, and mirrored where all is mirrored.
    assert features(STATE + np.array([2.0, 0, 0, 0]), 7.0, PLACE_M + 2.0) == pytest.approx(found, abs=1e-6)
    assert features(-STATE, -7.0, -PLACE_M) == pytest.approx(-found)


def test_a_network_plans_by_its_features(tmp_path):
    pytest.importorskip("onnx")
    network = ControlNetwork(write_linear(tmp_path / "linear.onnx", TO_THE_END))
    found = network.plan(STATE, 7.0, PLACE_M, np.zeros(KNOTS))
    assert found.dtype == np.float64
    assert found == pytest.approx(10.0 * np.arange(1, KNOTS + 1))


@pytest.mark.parametrize(
    ("shape", "names", "rows"),
    [
        ((NUM_FEATURES - 1, KNOTS), ("features", "knots_n"), "N"),
        ((NUM_FEATURES, KNOTS + 1), ("features", "knots_n"), "N"),
        ((NUM_FEATURES, KNOTS), ("images", "knots_n"), "N"),
        ((NUM_FEATURES, KNOTS), ("features", "score"), "N"),
        ((NUM_FEATURES, KNOTS), ("features", "knots_n"), 2),
    ],
)
def test_a_network_of_something_else_is_refused(tmp_path, shape, names, rows):
    pytest.importorskip("onnx")
    path = write_linear(tmp_path / "other.onnx", np.zeros(shape, np.float32), names, rows)
    with pytest.raises(InputError, match="is no network for the robot: it has ") as caught:
        ControlNetwork(path)
    assert caught.value.path == str(path)


def test_the_service_says_in_one_line_what_is_wrong_with_its_file(tmp_path):
    (tmp_path / "no.onnx").write_bytes(b"no network")
    for name, words in (("none.onnx", "is not there"), ("no.onnx", "is no network that ONNX Runtime can load")):
        command = [sys.executable, "-m", "dure.cli.plan_service", "--network", str(tmp_path / name)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert done.stderr.startswith(f"{tmp_path / name}: {words}")
        assert len(done.stderr.splitlines()) == 1, done.stderr


def test_the_service_answers_with_the_network_s_plan(tmp_path):
    pytest.importorskip("onnx")
    service = PlanService(ControlNetwork(write_linear(tmp_path / "linear.onnx", TO_THE_END)).plan)
    asked = {"state": STATE.tolist(), "force_n": 7.0, "place_m": PLACE_M.tolist(), "knots_n": [0.0] * KNOTS}

    async def ask(**changed):
        async with httpx.AsyncClient(transport=httpx.ASGITransport(service.app), base_url="http://robot") as client:
            return await client.post("/plan", json=asked | changed)

    assert asyncio.run(ask()).json() == pytest.approx(10.0 * np.arange(1, KNOTS + 1))
    assert asyncio.run(ask(knots_n=[0.0])).status_code == 422
    assert service.num_plans == 1
