"""A network in the planner's place: what of a request it is given, and its ONNX file in ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dure.model.errors import InputError
from dure.ran.control_task import HORIZON, KNOTS

#: What the file's graph takes and gives, for any number of requests.
INPUT, OUTPUT = "features", "knots_n"
NUM_FEATURES = 4 + HORIZON + 1


def features(state: NDArray[np.float64], force_n: float, place_m: NDArray[np.float64]) -> NDArray[np.float32]:
    """What the network is given of a request: float32[NUM_FEATURES].

    Tilt (rad), speed (m/s), the tilt's rate (rad/s), the force that acts (N), and the places from now on as seen from the robot (m): where
    the robot is does not matter to it, only how far it is to go.
    """
    return np.concatenate([state[1:], [force_n], place_m - state[0]]).astype(np.float32)


class ControlNetwork:
    """A file's network, run by one thread.

    Parameters
    ----------
    path : Path
        ONNX: `INPUT`, float32[N, NUM_FEATURES], to `OUTPUT`, float32[N, KNOTS] in N.

    Raises
    ------
    InputError
        ONNX Runtime is not installed, or the file holds no such network.
    """

    def __init__(self, path: Path) -> None:
        runtime = _onnxruntime()
        if not path.is_file():
            raise InputError("is not there", path=str(path))
        options = runtime.SessionOptions()
        # It is too small to be parted, and threads that wait for work by spinning take the cores of others.
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        try:
            self._session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's errors have no class of their own in common
            raise InputError(f"is no network that ONNX Runtime can load: {str(error).splitlines()[0]}", path=str(path)) from None
        for name, width, found in ((INPUT, NUM_FEATURES, self._session.get_inputs()), (OUTPUT, KNOTS, self._session.get_outputs())):
            said = ", ".join(f"{one.name} {one.type}{one.shape}" for one in found)
            is_it = [(one.name, one.type, one.shape[1:]) for one in found] == [(name, "tensor(float)", [width])]
            if not is_it or isinstance(found[0].shape[0], int):
                raise InputError(f"is no network for the robot: it has {said}, not {name} tensor(float)[N, {width}]", path=str(path))
        # What the first request would wait for.
        self.plan(np.zeros(4), 0.0, np.zeros(HORIZON + 1), np.zeros(KNOTS))

    def plan(
        self, state: NDArray[np.float64], force_n: float, place_m: NDArray[np.float64], _knots: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """As `control_task.Robot.plan`; the plan so far is not looked at."""
        found = self._session.run([OUTPUT], {INPUT: features(state, force_n, place_m)[None]})[0][0]
        return np.asarray(found, np.float64)


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise InputError("ONNX Runtime is not installed: pip install 'dure[ran]'") from None
    return onnxruntime
