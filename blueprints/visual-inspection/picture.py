"""What the network marks, beside what it saw."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray
from surfaces import TEXTURES, Image
from trial import KINDS, Answers, Case

mpl.use("Agg")
from matplotlib import pyplot as plt


def draw(path: Path, tested: Sequence[Case], answers: Answers) -> None:
    """Of each texture (rows) and kind (columns) the first image, and beneath it where the network sees something."""
    rows: list[list[NDArray[np.float32]]] = []
    for texture in TEXTURES:
        firsts = [
            next(place for place, case in enumerate(tested) if (case.texture, case.kind) == (texture, kind))
            for kind in KINDS
        ]
        rows.append([_grey(tested[place].image) for place in firsts])
        rows.append([_reddened(tested[place].image, answers.marks[place]) for place in firsts])
    framed = [[np.pad(tile, ((1, 1), (1, 1), (0, 0)), constant_values=1) for tile in row] for row in rows]
    picture = np.concatenate([np.concatenate(row, axis=1) for row in framed])
    height, width = picture.shape[:2]
    figure, axes = plt.subplots(figsize=(7, 7 * height / width), layout="constrained")
    axes.imshow(picture, interpolation="nearest")
    axes.set_xticks([(place + 0.5) * width / len(KINDS) for place in range(len(KINDS))], KINDS)
    axes.set_yticks([(place + 0.5) * height / len(TEXTURES) for place in range(len(TEXTURES))], TEXTURES)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    figure.savefig(path, format="png", dpi=90)
    plt.close(figure)


def _grey(image: Image) -> NDArray[np.float32]:
    return np.repeat(image[..., None], 3, axis=2)


def _reddened(image: Image, marks: NDArray[np.floating]) -> NDArray[np.float32]:
    red = np.array([0.9, 0.05, 0.05], dtype=np.float32)
    return ((1 - marks[..., None]) * _grey(image) + marks[..., None] * red).astype(np.float32)
