"""Defects of surfaces, found by a network that has seen good parts and self-made anomalies only.

A step is one batch. At its end the network is tested on defects of kinds that it was not trained on, and exported to ONNX.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import sys
import time
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import onnxruntime
import torch
from inspector import TOP_PIXELS, FilterBank, Inspector, UNet
from measures import auroc, region_overlap
from numpy.typing import NDArray
from surfaces import DEFECTS, TEXTURES, Image, anomalous, good, halves
from torch import nn

from dure.client import job
from dure.model.errors import InputError
from dure.whole_file import whole_file

mpl.use("Agg")
from matplotlib import pyplot as plt

#: The exported model's scores may differ by so much from PyTorch's.
ONNX_TOLERANCE = 1e-4


def main() -> None:
    """Train, going on where an earlier attempt left, test, export."""
    options = _options()
    job.watch_signals()
    kept = job.checkpoint_dir("state/checkpoint") / "inspector.pt"
    sheets = {texture: halves(texture) for texture in TEXTURES}
    device = torch.device(options.device)
    torch.manual_seed(options.seed)
    network = UNet(options.channels).to(device, memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(network.parameters(), weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, options.rate, total_steps=options.steps)
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

    parts = [learnt_from for learnt_from, _ in sheets.values()]
    saved_at = began = time.monotonic()
    for step in range(first_step, options.steps):
        images, masks = _batch(parts, options, rng)
        loss = _learn(network, optimiser, images.to(device), masks.to(device))
        schedule.step()
        job.report_progress(step=step, loss=loss, elapsed_s=time.monotonic() - began)
        if job.should_stop():
            save(step)
            job.leave()
        if time.monotonic() - saved_at > options.save_every_s or step == options.steps - 1:
            save(step)
            saved_at = time.monotonic()
    _finish(Inspector(network.cpu()).eval(), sheets, options)


def _batch(
    parts: list[Image], options: argparse.Namespace, rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    images, masks = [], []
    for place in range(options.batch):
        part = parts[rng.integers(len(parts))]
        image = good(part, options.size_px, rng)
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
    """One step on the focal loss (T.-Y. Lin et al., ICCV 2017), since most pixels are good and soon easy."""
    network.train()
    cross_entropy = nn.functional.binary_cross_entropy_with_logits(network(images), masks, reduction="none")
    loss = ((1 - torch.exp(-cross_entropy)) ** 2 * cross_entropy * (1 + 3 * masks)).mean()
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    return float(loss.detach())


def _finish(inspector: Inspector, sheets: dict[str, tuple[Image, Image]], options: argparse.Namespace) -> None:
    output = job.output_dir("state/output")
    with whole_file(output / "model.onnx") as draft:
        _export(inspector, options.size_px, draft)
    session = onnxruntime.InferenceSession(output / "model.onnx", providers=["CPUExecutionProvider"])
    rng = np.random.default_rng([options.seed, 1])
    by_texture: dict[str, dict[str, float]] = {}
    found: list[dict[str, Any]] = []
    worst_difference = 0.0
    for texture, (learnt_from, tested) in sheets.items():
        bank = FilterBank([good(learnt_from, options.size_px, rng) for _ in range(60)])
        mine = [
            _case("good", image, np.zeros_like(image))
            for image in (good(tested, options.size_px, rng) for _ in range(options.tests))
        ]
        for defect in DEFECTS:
            share = -(-options.tests // len(DEFECTS))
            mine += [_case(defect.__name__, *defect(good(tested, options.size_px, rng), rng)) for _ in range(share)]
        images = np.stack([case["image"] for case in mine])[:, None]
        with torch.inference_mode():
            marks, scores = (tensor.numpy() for tensor in inspector(torch.from_numpy(images)))
        again = session.run(["score"], {"images": images})[0]
        worst_difference = max(worst_difference, float(np.abs(again - scores).max()))
        for case, mark, score in zip(mine, marks[:, 0], scores, strict=True):
            usual = bank.marks(case["image"])
            highest = np.sort(usual.ravel())[-TOP_PIXELS:].mean()
            case |= {
                "texture": texture,
                "marks": mark,
                "score": float(score),
                "bank_marks": usual,
                "bank_score": float(highest),
            }
        by_texture[texture] = {
            "image_auroc": _image_auroc(mine),
            "filter_bank_image_auroc": _image_auroc(mine, "bank_score"),
        }
        found += mine
    if worst_difference > ONNX_TOLERANCE:
        raise InputError(
            f"gives scores that differ by {worst_difference:.2e} from PyTorch's", path=str(output / "model.onnx")
        )
    truth = np.stack([case["mask"] for case in found])
    marks, bank_marks = (np.stack([case[name] for case in found]) for name in ("marks", "bank_marks"))
    # An image is compared with good ones of its own texture only, as on a line that makes one product.
    reached = {
        "image_auroc": float(np.mean([row["image_auroc"] for row in by_texture.values()])),
        "pixel_auroc": auroc(marks.ravel(), truth.ravel()),
        "region_overlap": region_overlap(marks, truth),
        "filter_bank_image_auroc": float(np.mean([row["filter_bank_image_auroc"] for row in by_texture.values()])),
        "filter_bank_pixel_auroc": auroc(bank_marks.ravel(), truth.ravel()),
        "onnx_worst_difference": worst_difference,
    }
    by_defect = {}
    for defect in DEFECTS:
        name = defect.__name__
        parts = [
            [case for case in found if case["texture"] == texture and case["kind"] in ("good", name)]
            for texture in TEXTURES
        ]
        by_defect[name] = {
            "image_auroc": float(np.mean([_image_auroc(part) for part in parts])),
            "filter_bank_image_auroc": float(np.mean([_image_auroc(part, "bank_score") for part in parts])),
        }
    with whole_file(output / "result.json") as draft:
        result = {**reached, "by_texture": by_texture, "by_defect": by_defect, "images": len(found)}
        draft.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    with whole_file(output / "good_scores.json") as draft:
        scores = {
            texture: sorted(case["score"] for case in found if case["texture"] == texture and case["kind"] == "good")
            for texture in TEXTURES
        }
        draft.write_text(json.dumps(scores) + "\n", encoding="utf-8")
    _draw(output / "result.png", found)
    job.report_metrics(**{name: value for name, value in reached.items() if name != "onnx_worst_difference"}, **{
        f"image_auroc_{name}": row["image_auroc"] for name, row in by_defect.items()
    })  # fmt: skip


def _case(kind: str, image: Image, mask: Image) -> dict[str, Any]:
    return {"kind": kind, "image": image, "mask": mask}


def _image_auroc(cases: list[dict[str, Any]], score: str = "score") -> float:
    return auroc(np.array([case[score] for case in cases]), np.array([case["kind"] != "good" for case in cases]))


def _export(inspector: Inspector, size_px: int, path: Path) -> None:
    """One file for any number of images; weights inside."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    example = torch.zeros(2, 1, size_px, size_px)
    program = torch.onnx.export(
        inspector, (example,), dynamo=True, input_names=["images"], output_names=["marks", "score"],
        dynamic_shapes=({0: torch.export.Dim("num_images", min=1)},), verbose=False,
    )  # fmt: skip
    program.save(path, external_data=False)


def _draw(path: Path, found: list[dict[str, Any]]) -> None:
    """Of each texture (rows) and kind (columns) the first image, and beneath it where the network sees something."""
    kinds = ["good", *(defect.__name__ for defect in DEFECTS)]
    tile: list[list[NDArray[np.float32]]] = []
    for texture in TEXTURES:
        firsts = [next(case for case in found if case["texture"] == texture and case["kind"] == kind) for kind in kinds]
        grey = [np.repeat(case["image"][..., None], 3, axis=2) for case in firsts]
        red = [_reddened(case["image"], case["marks"]) for case in firsts]
        tile += [[np.pad(image, ((1, 1), (1, 1), (0, 0)), constant_values=1) for image in row] for row in (grey, red)]
    picture = np.concatenate([np.concatenate(row, axis=1) for row in tile])
    height, width = picture.shape[:2]
    figure, axes = plt.subplots(figsize=(7, 7 * height / width), layout="constrained")
    axes.imshow(picture, interpolation="nearest")
    axes.set_xticks([(place + 0.5) * width / len(kinds) for place in range(len(kinds))], kinds)
    axes.set_yticks([(place + 0.5) * height / len(TEXTURES) for place in range(len(TEXTURES))], TEXTURES)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    with whole_file(path) as draft:
        figure.savefig(draft, format="png", dpi=80)
    plt.close(figure)


def _reddened(image: Image, marks: Image) -> NDArray[np.float32]:
    grey = np.repeat(image[..., None], 3, axis=2)
    return ((1 - marks[..., None]) * grey + marks[..., None] * np.array([0.9, 0.05, 0.05], dtype=np.float32)).astype(
        np.float32
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=500, help="Steps of training.")
    parser.add_argument("--batch", type=int, default=32, help="Images of a step; half of them good.")
    parser.add_argument("--size-px", type=int, default=64, help="Side of an image; divisible by 4.")
    parser.add_argument("--channels", type=int, default=16, help="Channels of the finest level.")
    parser.add_argument("--rate", type=float, default=5e-3, help="Highest learning rate.")
    parser.add_argument(
        "--tests", type=int, default=120, help="Good images of each texture in the test, and as many with defects."
    )
    parser.add_argument("--device", default="cpu", help="Where the network learns; cpu or cuda.")
    parser.add_argument("--seed", type=int, default=0, help="Of weights, images and test.")
    parser.add_argument("--save-every-s", type=float, default=10, help="Between checkpoints.")
    options = parser.parse_args()
    if min(options.steps, options.channels, options.tests) < 1 or options.batch < 2 or options.rate <= 0:
        parser.error("steps, channels and tests from 1, batch from 2, rate above 0")
    if options.size_px % 4 or not 32 <= options.size_px <= 176:
        parser.error("size from 32 to 176 and divisible by 4")
    return options


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
