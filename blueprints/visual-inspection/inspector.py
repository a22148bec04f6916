"""A U-Net that marks what does not belong, and a plain baseline: how usual the answers of a filter bank are."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, gaussian_gradient_magnitude, gaussian_laplace
from surfaces import Image
from torch import nn

#: An image's score is the mean of its so many highest pixels: one alone may be noise, a scratch has few.
TOP_PIXELS = 25


def _double(num_in: int, num_out: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs in (num_in, num_out):
        layers += [nn.Conv2d(inputs, num_out, 3, padding=1, bias=False), nn.BatchNorm2d(num_out), nn.ReLU()]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """Gives logits of each pixel: O. Ronneberger, P. Fischer, T. Brox, MICCAI 2015.

    Two by two pixels are channels of one place (W. Shi et al., CVPR 2016), and what comes up is added to what lies across rather
    than set beside it (LinkNet: A. Chaurasia, E. Culurciello, VCIP 2017): a fifth of the work on a CPU.
    """

    #: Side of a place, px.
    BLOCK_PX = 2
    #: Halvings after that.
    LEVELS = 2

    def __init__(self, channels: int) -> None:
        super().__init__()
        widths = [channels * 2**level for level in range(self.LEVELS)]
        widths.append(widths[-1])
        self.down = nn.ModuleList(_double(*pair) for pair in pairwise([self.BLOCK_PX**2, *widths]))
        self.narrow = nn.ModuleList(nn.Conv2d(wide, thin, 1) for thin, wide in pairwise(widths))
        self.up = nn.ModuleList(_double(width, width) for width in widths[:-1])
        self.out = nn.Conv2d(channels, self.BLOCK_PX**2, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """``images``: batch, 1, height, width; both divisible by `SIDE_PX`."""
        across = []
        now = self.down[0](nn.functional.pixel_unshuffle(images, self.BLOCK_PX))
        for down in list(self.down)[1:]:
            across.append(now)
            now = down(nn.functional.max_pool2d(now, 2))
        for narrow, up in reversed(list(zip(self.narrow, self.up, strict=True))):
            now = up(across.pop() + nn.functional.interpolate(narrow(now), scale_factor=2.0))
        return nn.functional.pixel_shuffle(self.out(now), self.BLOCK_PX)


#: Images' sides must be divisible by this.
SIDE_PX = UNet.BLOCK_PX * 2**UNet.LEVELS


class Inspector(nn.Module):
    """What is shipped: images in, a map (0 to 1, each pixel) and a score of each image out."""

    def __init__(self, network: UNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """``images``: batch, 1, height, width with values 0 to 1."""
        marks = torch.sigmoid(
            nn.functional.avg_pool2d(self.network(images), 3, stride=1, padding=1, count_include_pad=False)
        )
        return marks, marks.flatten(1).topk(TOP_PIXELS, dim=1).values.mean(dim=1)


class FilterBank:
    """Mahalanobis distance of filters' answers from those of good images, as PaDiM takes it of a network's features.

    T. Defard, A. Setkov, A. Loesch, R. Audigier, ICPR workshops 2020; here one Gaussian for all places, as a texture is the same
    everywhere.
    """

    def __init__(self, good_images: Sequence[Image]) -> None:
        answers = np.concatenate([self._answers(image).reshape(-1, 10) for image in good_images])
        self.mean = answers.mean(axis=0)
        self.precision = np.linalg.inv(np.cov(answers.T) + 1e-8 * np.eye(10))

    @staticmethod
    def _answers(image: Image) -> NDArray[np.float64]:
        image = image.astype(float)
        answers = [image]
        for scale_px in (1, 2, 4):
            answers += [
                gaussian_filter(image, scale_px), gaussian_gradient_magnitude(image, scale_px), gaussian_laplace(image, scale_px),
            ]  # fmt: skip
        return np.stack(answers, axis=-1)

    def marks(self, image: Image) -> NDArray[np.float64]:
        """How unusual each pixel is."""
        away = self._answers(image) - self.mean
        return gaussian_filter(np.einsum("hwi,ij,hwj->hw", away, self.precision, away), 1)
