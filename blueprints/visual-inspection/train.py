"""Defects of surfaces, found by a network that has seen good parts and self-made anomalies only.

A step is ten batches. In the end the network is tested on defects of kinds that it was not trained on, and exported to ONNX.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import time
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from inspector import SIDE_PX, Inspector, UNet
from numpy.typing import NDArray
from picture import draw
from surfaces import TEXTURES, Image, anomalous, good, halves
from torch import nn
from trial import Answers, at_limit, cases, filter_bank_answers, fitted_images, measures, write_images

from dure.client import job
from dure.model.errors import InputError
from dure.whole_file import whole_file

BATCHES_A_STEP = 10

#: The exported model's scores may differ by so much from PyTorch's.
ONNX_TOLERANCE = 1e-4


def main() -> None:
    """Train, going on where an earlier attempt left, test, export."""
    options = _options()
    job.watch_signals()
    kept = job.checkpoint_dir("state/checkpoint") / "inspector.pt"
    device = torch.device(options.device)
    torch.manual_seed(options.seed)
    network = UNet(options.channels).to(device, memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(network.parameters(), weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, options.rate, total_steps=options.steps * BATCHES_A_STEP)
    rng = np.random.default_rng(options.seed)
    matter = {key: value for key, value in vars(options).items() if key not in ("device", "save_every_s")}
    digest = hashlib.sha256(json.dumps(matter, sort_keys=True).encode()).hexdigest()
    first_step = 0
    if kept.exists():
        saved = torch.load(kept, map_location=device, weights_only=True)
        if saved["digest"] != digest:
            raise InputError("is of other parameters: take another folder or remove it", path=str(kept))
        network.load_state_dict(saved["network"])
        optimiser.load_state_dict(saved["optimiser"])
        schedule.load_state_dict(saved["schedule"])
        rng.bit_generator.state = json.loads(saved["rng"])
        first_step = saved["step"] + 1

    def save(step: int) -> None:
        state = {
            "digest": digest, "step": step, "network": network.state_dict(), "optimiser": optimiser.state_dict(),
            "schedule": schedule.state_dict(), "rng": json.dumps(rng.bit_generator.state),
        }  # fmt: skip
        with whole_file(kept) as draft:
            torch.save(state, draft)

    parts = [halves(texture)[0] for texture in TEXTURES]
    saved_at = began = time.monotonic()
    for step in range(first_step, options.steps):
        loss = 0.0
        for _ in range(BATCHES_A_STEP):
            images, masks = _batch(parts, options, rng)
            loss += _learn(network, optimiser, images.to(device), masks.to(device)) / BATCHES_A_STEP
            schedule.step()
        job.report_progress(step=step, loss=loss, elapsed_s=time.monotonic() - began)
        if job.should_stop():
            save(step)
            job.leave()
        if time.monotonic() - saved_at > options.save_every_s or step == options.steps - 1:
            save(step)
            saved_at = time.monotonic()
    _finish(Inspector(network.cpu()).eval(), options)


def _batch(
    parts: list[Image], options: argparse.Namespace, rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    images, masks = [], []
    for place in range(options.batch):
        part = parts[rng.integers(len(parts))]
        image = good(part, options.crop_px, rng)
        mask = np.zeros_like(image)
        if place % 2:
            image, mask = anomalous(image, part, rng)
        images.append(image)
        masks.append(mask)
    return _tensor(images), _tensor(masks)


def _tensor(pictures: list[Image]) -> torch.Tensor:
    """Batch, 1, height, width; CPUs convolve a third faster when channels come last in memory."""
    return torch.from_numpy(np.stack(pictures))[:, None].to(memory_format=torch.channels_last)


def _learn(network: UNet, optimiser: torch.optim.Optimizer, images: torch.Tensor, masks: torch.Tensor) -> float:
    network.train()
    loss = nn.functional.binary_cross_entropy_with_logits(network(images), masks)
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    return float(loss.detach())


def _finish(inspector: Inspector, options: argparse.Namespace) -> None:
    output = job.output_dir("state/output")
    fitted = fitted_images(options.size_px, options.seed)
    good_scores = answers_of(inspector, [image for images in fitted.values() for image in images]).scores
    limit = float(np.quantile(good_scores, 1 - options.false_alarms))
    with whole_file(output / "model.onnx") as draft:
        export(inspector, options.size_px, limit, draft)
    tested = cases(options.tests, options.size_px, options.seed)
    answers = answers_of(inspector, [case.image for case in tested])
    bank = measures(tested, filter_bank_answers(tested, fitted))
    found = measures(tested, answers) | at_limit(tested, answers, limit)
    served = _serve(output / "model.onnx", np.stack([case.image for case in tested])[:, None], answers.scores)
    with whole_file(output / "result.json") as draft:
        result = {**found, **served, "limit": limit, "num_images": len(tested), "filter_bank": bank}
        draft.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    with whole_file(output / "test_images.npz") as draft:
        write_images(draft, tested, 4)
    with whole_file(output / "result.png") as draft:
        draw(draft, tested, answers)
    job.report_metrics(
        **{name: value for name, value in found.items() if isinstance(value, float)},
        filter_bank_image_auroc=bank["image_auroc"], filter_bank_pixel_auroc=bank["pixel_auroc"],
        filter_bank_region_overlap=bank["region_overlap"], onnx_one_image_s=served["onnx_one_image_s"],
    )  # fmt: skip


def answers_of(inspector: Inspector, images: list[Image]) -> Answers:
    """The network's, by PyTorch."""
    with torch.inference_mode():
        parts = [inspector(_tensor(images[first : first + 64])) for first in range(0, len(images), 64)]
    marks, scores = (torch.cat(of_parts) for of_parts in zip(*parts, strict=True))
    return Answers(marks[:, 0].numpy(), scores.numpy())


def export(inspector: Inspector, size_px: int, limit: float, path: Path) -> None:
    """One file for any number of images: weights inside, and in its metadata the limit beyond which a score is a defect."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    example = torch.zeros(2, 1, size_px, size_px)
    program = torch.onnx.export(
        inspector, (example,), dynamo=True, input_names=["images"], output_names=["marks", "score"],
        dynamic_shapes=({0: torch.export.Dim("num_images", min=1)},), verbose=False,
    )  # fmt: skip
    program.model.metadata_props["limit"] = str(limit)
    program.save(path, external_data=False)


def _serve(path: Path, images: NDArray[np.float32], scores: NDArray[np.floating]) -> dict[str, float]:
    """What ONNX Runtime makes of the same images, by one thread: how far from PyTorch, and in what time, s.

    Raises
    ------
    InputError
        It says something else.
    """
    one_thread = onnxruntime.SessionOptions()
    one_thread.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, one_thread, providers=["CPUExecutionProvider"])
    took_s, again = [], []
    for image in images:
        began = time.perf_counter()
        again += session.run(["score"], {"images": image[None]})
        took_s.append(time.perf_counter() - began)
    difference = float(np.abs(np.concatenate(again) - scores).max())
    if difference > ONNX_TOLERANCE:
        raise InputError(f"gives scores that differ by {difference:.2e} from PyTorch's", path=str(path))
    p50_s, p99_s = np.quantile(took_s, [0.5, 0.99]).tolist()
    return {"onnx_worst_difference": difference, "onnx_one_image_s": p50_s, "onnx_one_image_p99_s": p99_s}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=500, help="Steps of training.")
    parser.add_argument("--batch", type=int, default=16, help="Images of a batch; half of them good.")
    parser.add_argument("--size-px", type=int, default=64, help="Side of an image; divisible by 8.")
    parser.add_argument("--crop-px", type=int, default=32, help="Side of the pieces that are learnt from; divisible by 8.")
    parser.add_argument("--channels", type=int, default=16, help="Channels of the finest level.")
    parser.add_argument("--rate", type=float, default=5e-3, help="Highest learning rate.")
    parser.add_argument(
        "--tests", type=int, default=120, help="Good images of each texture in the test, and as many with defects."
    )
    parser.add_argument(
        "--false-alarms", type=float, default=0.01, help="Share of good images that the limit of the score is set for."
    )
    parser.add_argument("--device", default="cpu", help="Where the network learns; cpu or cuda.")
    parser.add_argument("--seed", type=int, default=0, help="Of weights, images and test.")
    parser.add_argument("--save-every-s", type=float, default=10, help="Between checkpoints.")
    options = parser.parse_args()
    if min(options.steps, options.channels, options.tests) < 1 or options.batch < 2 or options.rate <= 0 or not 0 < options.false_alarms < 1:
        parser.error("steps, channels and tests from 1, batch from 2, rate above 0, false alarms between 0 and 1")
    if any(side_px % SIDE_PX or not 32 <= side_px <= 88 for side_px in (options.size_px, options.crop_px)):
        parser.error(f"sides from 32 to 88 and divisible by {SIDE_PX}")
    return options


if __name__ == "__main__":
    job.run_program(main)
