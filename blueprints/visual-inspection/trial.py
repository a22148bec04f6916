"""The test: defects of kinds that were not learnt from, on parts of the surfaces that were not learnt from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from inspector import TOP_PIXELS, FilterBank
from measures import auroc, region_overlap
from numpy.typing import NDArray
from surfaces import DEFECTS, TEXTURES, Image, good, halves

#: Good images that the filter bank and the limit of the score are fitted to, of each texture.
NUM_FITTED = 60

KINDS = ("good", *(defect.__name__ for defect in DEFECTS))


@dataclass(frozen=True)
class Case:
    """An image of the test: where it is defective (1) and what the two ways make of it."""

    texture: str
    kind: str
    image: Image
    mask: Image


@dataclass(frozen=True)
class Answers:
    """Of one way of inspection to all cases: marks of each pixel, a score of each image."""

    marks: NDArray[np.floating]
    scores: NDArray[np.floating]


def cases(num_each: int, size_px: int, seed: int) -> list[Case]:
    """Of each texture so many good images, and as many with defects, all kinds alike (rounded up)."""
    rng = np.random.default_rng([seed, 1])
    found = []
    for texture in TEXTURES:
        _, tested = halves(texture)
        for _ in range(num_each):
            image = good(tested, size_px, rng)
            found.append(Case(texture, "good", image, np.zeros_like(image)))
        for defect in DEFECTS:
            for _ in range(-(-num_each // len(DEFECTS))):
                found.append(Case(texture, defect.__name__, *defect(good(tested, size_px, rng), rng)))
    return found


def fitted_images(size_px: int, seed: int) -> dict[str, list[Image]]:
    """Good images of what may be learnt from, by texture."""
    rng = np.random.default_rng([seed, 2])
    parts = {texture: halves(texture)[0] for texture in TEXTURES}
    return {texture: [good(part, size_px, rng) for _ in range(NUM_FITTED)] for texture, part in parts.items()}


def filter_bank_answers(tested: Sequence[Case], fitted: dict[str, list[Image]]) -> Answers:
    """The baseline's; it has a model of each texture, as the network has not."""
    banks = {texture: FilterBank(images) for texture, images in fitted.items()}
    marks = np.stack([banks[case.texture].marks(case.image) for case in tested])
    highest = np.sort(marks.reshape(len(marks), -1), axis=1)[:, -TOP_PIXELS:]
    return Answers(marks, highest.mean(axis=1))


def measures(tested: Sequence[Case], answers: Answers) -> dict[str, Any]:
    """Of all cases, of each texture and each kind of defect.

    An image is compared with good ones of its own texture only, as on a line that makes one product.
    """
    truth = np.stack([case.mask for case in tested])
    textures, kinds = (np.array([getattr(case, name) for case in tested]) for name in ("texture", "kind"))
    by_both = {
        (texture, kind): auroc(answers.scores[where], kinds[where] == kind)
        for texture in TEXTURES
        for kind in KINDS[1:]
        for where in [(textures == texture) & np.isin(kinds, ("good", kind))]
    }
    by_texture = {
        texture: auroc(answers.scores[textures == texture], kinds[textures == texture] != "good") for texture in TEXTURES
    }
    return {
        "image_auroc": float(np.mean(list(by_texture.values()))),
        "pixel_auroc": auroc(answers.marks.ravel(), truth.ravel()),
        "region_overlap": region_overlap(answers.marks, truth),
        "by_texture": by_texture,
        "by_defect": {kind: float(np.mean([by_both[texture, kind] for texture in TEXTURES])) for kind in KINDS[1:]},
        "by_texture_and_defect": {
            texture: {kind: by_both[texture, kind] for kind in KINDS[1:]} for texture in TEXTURES
        },
    }


def at_limit(tested: Sequence[Case], answers: Answers, limit: float) -> dict[str, float]:
    """Shares of the defective images that are found and of the good ones that are not let pass."""
    is_good = np.array([case.kind == "good" for case in tested])
    is_said = answers.scores > limit
    return {"defects_found": float(is_said[~is_good].mean()), "false_alarms": float(is_said[is_good].mean())}


def write_images(path: Path, tested: Sequence[Case], num_each: int) -> None:
    """Some cases for whoever serves the model, good ones and defective ones by turns."""
    chosen = [
        case
        for texture in TEXTURES
        for kind in KINDS
        for case in [case for case in tested if (case.texture, case.kind) == (texture, kind)][
            : num_each * (len(DEFECTS) if kind == "good" else 1)
        ]
    ]
    order = np.random.default_rng(0).permutation(len(chosen))
    pixels = (255 * np.stack([chosen[place].image for place in order])).round().astype(np.uint8)
    with path.open("wb") as file:
        np.savez_compressed(file, images=pixels, is_defective=[chosen[place].kind != "good" for place in order])
