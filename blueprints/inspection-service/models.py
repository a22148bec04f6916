"""The model that is served: one that was handed on, or a small one made here so that the service runs without."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from dure.model.errors import InputError

#: Side of the small model's images.
SMALL_SIZE_PX = 64

#: Of a model that does not say its own.
DEFAULT_LIMIT = 0.5


def make_small_model(path: Path) -> None:
    """Edges of an image, smoothed; their highest is its score. It has no weights to learn and inspects nothing well."""
    laplacian = np.array([[0, 1, 0], [1, -4, 1], [0, 1, 0]], dtype=np.float32)[None, None]
    smooth = np.full((1, 1, 5, 5), 1 / 25, dtype=np.float32)
    nodes = [
        helper.make_node("Conv", ["images", "laplacian"], ["edges"], pads=[1, 1, 1, 1]),
        helper.make_node("Abs", ["edges"], ["sizes"]),
        helper.make_node("Conv", ["sizes", "smooth"], ["smoothed"], pads=[2, 2, 2, 2]),
        helper.make_node("Clip", ["smoothed", "zero", "one"], ["marks"]),
        helper.make_node("ReduceMax", ["marks", "axes"], ["score"], keepdims=0),
    ]
    form = ["num_images", 1, SMALL_SIZE_PX, SMALL_SIZE_PX]
    constants = {
        "laplacian": laplacian, "smooth": smooth, "zero": np.float32(0), "one": np.float32(1), "axes": np.array([1, 2, 3]),
    }  # fmt: skip
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, form)],
        [
            helper.make_tensor_value_info("marks", TensorProto.FLOAT, form),
            helper.make_tensor_value_info("score", TensorProto.FLOAT, ["num_images"]),
        ],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    onnx.save(model, path)


class Model:
    """An ONNX model with images (batch, 1, side, side; 0 to 1) in and a score of each out.

    Attributes
    ----------
    limit : float
        A score beyond it is a defect: `limit` of the file's metadata.

    Raises
    ------
    InputError
        The file is no such model.
    """

    def __init__(self, path: Path, threads: int, provider: str) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        # Threads that wait by spinning take the cores of others on a shared node.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if provider not in onnxruntime.get_available_providers():
            raise InputError(
                f"is not there; there are {', '.join(onnxruntime.get_available_providers())}", field="provider"
            )
        try:
            self.session = onnxruntime.InferenceSession(path, options, providers=[provider])
        except Exception as error:
            raise InputError(
                f"is no model that ONNX Runtime can load: {str(error).splitlines()[0]}", path=str(path)
            ) from None
        taken = self.session.get_inputs()[0]
        if taken.name != "images" or "score" not in [given.name for given in self.session.get_outputs()]:
            raise InputError("needs the input `images` and the output `score`", path=str(path))
        self.size_px = int(taken.shape[-1])
        self.limit = float(self.session.get_modelmeta().custom_metadata_map.get("limit", DEFAULT_LIMIT))
        # What the first answer would wait for.
        self.score([np.zeros((self.size_px, self.size_px), dtype=np.float32)])

    def score(self, images: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        """Of each image."""
        return self.session.run(["score"], {"images": np.stack(images)[:, None]})[0]
