"""The network that plans, and its ONNX file."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import nn

from dure.model.errors import InputError
from dure.ran.control_network import INPUT, NUM_FEATURES, OUTPUT
from dure.ran.control_task import FORCE_MAX_N, KNOTS

#: The exported network's plans may differ by so much from PyTorch's, N.
ONNX_TOLERANCE_N = 1e-3
#: What features are divided by: usual tilt (rad), speed (m/s), the tilt's rate (rad/s) and force (N); places stay in m.
USUAL = (0.2, 1.0, 1.0, FORCE_MAX_N / 2)


class ControlPolicy(nn.Module):
    """Features of requests (`dure.ran.control_network.features`) to plans, in N and not yet clipped.

    A mirrored request has the mirrored plan: the linear part has no bias, and of the layers counts half of how the two differ.
    """

    def __init__(self, hidden: int) -> None:
        super().__init__()
        scale = torch.ones(NUM_FEATURES)
        scale[: len(USUAL)] = torch.tensor(USUAL)
        self.register_buffer("scale", scale)
        self.linear = nn.Linear(NUM_FEATURES, KNOTS, bias=False)
        self.layers = nn.Sequential(
            nn.Linear(NUM_FEATURES, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(),
            nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, KNOTS),
        )  # fmt: skip

    def forward(self, seen: torch.Tensor) -> torch.Tensor:
        """Rows of features to rows of knots."""
        usual = seen / self.scale
        return FORCE_MAX_N * (self.linear(usual) + (self.layers(usual) - self.layers(-usual)) / 2)


def export(policy: ControlPolicy, path: Path) -> None:
    """One file for any number of requests, weights inside, plans clipped.

    Raises
    ------
    InputError
        ONNX Runtime's plans differ from PyTorch's by more than `ONNX_TOLERANCE_N`.
    """
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    clipped = nn.Sequential(policy.cpu(), nn.Hardtanh(-FORCE_MAX_N, FORCE_MAX_N)).eval()
    seen = torch.randn(64, NUM_FEATURES, generator=torch.Generator().manual_seed(0)) * policy.scale
    with warnings.catch_warnings():
        # PyTorch's exporter warns of what PyTorch itself does.
        warnings.simplefilter("ignore", FutureWarning)
        program = torch.onnx.export(
            clipped, (seen[:2],), dynamo=True, input_names=[INPUT], output_names=[OUTPUT],
            dynamic_shapes=({0: torch.export.Dim("num_requests", min=1)},), verbose=False,
        )  # fmt: skip
    program.save(path, external_data=False)
    with torch.inference_mode():
        ours = clipped(seen).numpy()
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    difference_n = float(np.abs(session.run([OUTPUT], {INPUT: seen.numpy()})[0] - ours).max())
    if difference_n > ONNX_TOLERANCE_N:
        raise InputError(f"gives plans that differ by {difference_n:.2e} N from PyTorch's", path=str(path))
