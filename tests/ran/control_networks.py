"""ONNX files of networks that can be worked out by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def write_linear(path: Path, weights: NDArray[np.float32], names: tuple[str, str] = ("features", "knots_n"), rows: str | int = "N") -> Path:
    """Rows of inputs times the weights; needs the package `onnx`."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [rows, width]) for name, width in zip(names, weights.shape, strict=True)]
    graph = helper.make_graph([helper.make_node("MatMul", [names[0], "weights"], [names[1]])], "linear", ends[:1], ends[1:], [numpy_helper.from_array(weights, "weights")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path
