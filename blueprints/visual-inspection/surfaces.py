"""Surfaces without fault, and with: photographs and made ones, anomalies to learn from and defects to be found.

What is learnt from and what is tested are made by different means on purpose: patches of foreign or displaced texture (the ideas of
DRAEM: V. Zavrtanik et al., ICCV 2021, and of CutPaste: C.-L. Li et al., CVPR 2021) against drawn scratches, cracks, stains, holes and
places where the texture is missing.
"""

from __future__ import annotations

import numpy as np
import skimage.data
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from skimage.transform import downscale_local_mean

Image = NDArray[np.float32]
Rng = np.random.Generator

#: Of scikit-image's own package (CC0); the other textures are made here.
PHOTOGRAPHS = ("brick",)
TEXTURES = (*PHOTOGRAPHS, "weave", "brushed", "cast")

#: The upper share of each sheet is learnt from, the rest is for the test.
TRAIN_SHARE = 0.65

#: Root mean square by which a patch must differ from what was there, to be an anomaly.
SEEN = 0.025

#: Side of those made here.
SHEET_PX = 512

#: So many pixels of a photograph are seen as one: the camera stands further away.
PHOTOGRAPHED = 2


def sheet(texture: str) -> Image:
    """The whole surface, values 0 to 1."""
    if texture in PHOTOGRAPHS:
        photograph = getattr(skimage.data, texture)() / 255
        return downscale_local_mean(photograph, (PHOTOGRAPHED, PHOTOGRAPHED)).astype(np.float32)
    rng = np.random.default_rng(TEXTURES.index(texture))
    y, x = np.mgrid[:SHEET_PX, :SHEET_PX].astype(np.float32)
    if texture == "weave":
        # Threads run over and under each other, a little unevenly.
        x, y = (axis + 1.5 * gaussian_filter(rng.standard_normal(axis.shape), 12) * 12 for axis in (x, y))
        warp, weft = np.sin(2 * np.pi * x / 8), np.sin(2 * np.pi * y / 8)
        over = np.sign(np.sin(np.pi * x / 8) * np.sin(np.pi * y / 8))
        made = 0.5 + 0.18 * np.where(over > 0, np.abs(warp), np.abs(weft)) + 0.03 * rng.standard_normal(x.shape)
    elif texture == "brushed":
        streaks = gaussian_filter(rng.standard_normal(x.shape), (0.7, 25))
        made = 0.55 + 0.07 * streaks / streaks.std() + 0.02 * rng.standard_normal(x.shape)
    else:
        # Bumps of a few pixels, as of orange peel.
        bumps = gaussian_filter(rng.standard_normal(x.shape), 1.2) - gaussian_filter(rng.standard_normal(x.shape), 2.5)
        made = 0.5 + 0.05 * bumps / bumps.std() + 0.02 * rng.standard_normal(x.shape)
    return made.clip(0, 1).astype(np.float32)


def halves(texture: str) -> tuple[Image, Image]:
    """The part to learn from and the part for the test; no pixel is in both."""
    whole = sheet(texture)
    cut = int(len(whole) * TRAIN_SHARE)
    return whole[:cut], whole[cut:]


def good(part: Image, size_px: int, rng: Rng) -> Image:
    """A square of a surface as a camera would see it: lit unevenly, in its own exposure, mirrored or not."""
    top, left = (rng.integers(length - size_px + 1) for length in part.shape)
    square = part[top : top + size_px, left : left + size_px]
    square = square[:: rng.choice([-1, 1]), :: rng.choice([-1, 1])]
    ramp = np.linspace(-0.5, 0.5, size_px, dtype=np.float32)
    light = 1 + rng.uniform(-0.1, 0.1) + rng.uniform(-0.12, 0.12) * ramp[:, None] + rng.uniform(-0.12, 0.12) * ramp
    noise = 0.01 * rng.standard_normal(square.shape)
    return (square * light + noise).clip(0, 1).astype(np.float32)


def _coloured_noise(size_px: int, rng: Rng, slope: float, stretch: float = 1.0) -> NDArray[np.float64]:
    """Noise whose amplitude falls with frequency to the power ``slope``, stretched and turned, of unit variance."""
    u, v = np.meshgrid(np.fft.fftfreq(size_px), np.fft.fftfreq(size_px))
    angle = rng.uniform(0, np.pi)
    along, across = u * np.cos(angle) + v * np.sin(angle), v * np.cos(angle) - u * np.sin(angle)
    amplitude = (along**2 * stretch + across**2 / stretch + size_px**-2.0) ** (-slope / 2)
    amplitude[0, 0] = 0
    noise = np.fft.ifft2(np.fft.fft2(rng.standard_normal((size_px, size_px))) * amplitude).real
    return noise / noise.std()


def anomalous(image: Image, part: Image, rng: Rng) -> tuple[Image, Image]:
    """The image with patches or threads of something else, and where they are (0 to 1)."""
    size_px = len(image)
    noise = _coloured_noise(size_px, rng, slope=rng.uniform(1.5, 2.5), stretch=float(np.exp(rng.uniform(0, 3))))
    if rng.random() < 0.5:
        mask, fill = _threads(noise, rng), _foreign(size_px, rng)
    else:
        mask = noise > np.quantile(noise, 1 - rng.uniform(0.02, 0.4))
        fill = _foreign(size_px, rng) if rng.random() < 0.3 else _changed(good(part, size_px, rng), rng)
    mask = _in_window(mask, rng)
    alpha = gaussian_filter(mask.astype(float), rng.uniform(0, 0.8)) * rng.uniform(0.6, 1)
    mixed = (1 - alpha) * image + alpha * fill.clip(0, 1)
    # What can hardly be seen is no anomaly to be learnt.
    difference = np.sqrt(gaussian_filter((mixed - image) ** 2, 1.5))
    seen = (alpha > 0.3) & (difference > SEEN)
    return mixed.astype(np.float32), seen.astype(np.float32)


def _threads(noise: NDArray[np.float64], rng: Rng) -> NDArray[np.bool_]:
    """Where the noise is near to some value: lines one to three pixels wide."""
    smooth = gaussian_filter(noise, 1)
    steepness = np.hypot(*np.gradient(smooth)) + 1e-6
    return np.abs(smooth - np.quantile(smooth, rng.uniform(0.1, 0.9))) / steepness < rng.uniform(0.6, 1.6)


def _in_window(mask: NDArray[np.bool_], rng: Rng) -> NDArray[np.bool_]:
    """What lies in a window of random size, as anomalies are few; all of it where that is nothing."""
    size_px = len(mask)
    window_px = rng.integers(size_px // 6, size_px + 1)
    top, left = rng.integers(size_px - window_px + 1, size=2)
    inside = np.zeros_like(mask)
    inside[top : top + window_px, left : left + window_px] = True
    return mask & inside if (mask & inside).any() else mask


def _foreign(size_px: int, rng: Rng) -> NDArray[np.float64]:
    """A texture that the surface does not have; often plain."""
    return rng.uniform(0, 1) + rng.choice([0.02, 0.1]) * _coloured_noise(size_px, rng, slope=rng.uniform(0, 2))


def _changed(image: Image, rng: Rng) -> NDArray[np.float64]:
    """The surface's own texture from elsewhere, either blurred or lighter or darker."""
    if rng.random() < 0.5:
        return gaussian_filter(image.astype(float), rng.uniform(2, 8))
    return image + rng.choice([-1, 1]) * rng.uniform(0.1, 0.35)


def _curve(size_px: int, rng: Rng, length_px: float, bend: float) -> NDArray[np.float64]:
    """Distance of each pixel from a curve that begins and stays inside."""
    step_px, heading = 0.5, rng.uniform(0, 2 * np.pi)
    at = rng.uniform(0.2, 0.8, size=2) * size_px
    points = []
    for _ in range(int(length_px / step_px)):
        heading += rng.normal(0, bend)
        at = at + step_px * np.array([np.sin(heading), np.cos(heading)])
        if not (at.min() >= 1 and at.max() < size_px - 1):
            break
        points.append(at)
    y, x = np.mgrid[:size_px, :size_px]
    near = np.array(points) if points else at[None].clip(1, size_px - 2)
    return np.sqrt(np.min((y[..., None] - near[:, 0]) ** 2 + (x[..., None] - near[:, 1]) ** 2, axis=-1))


def _blob(size_px: int, rng: Rng, radius_px: float) -> NDArray[np.float64]:
    """1 inside an uneven round patch, 0 outside, soft between."""
    y, x = np.mgrid[:size_px, :size_px]
    row, column = rng.uniform(radius_px, size_px - radius_px, size=2)
    distance = np.hypot(y - row, x - column) + 0.25 * radius_px * _coloured_noise(size_px, rng, slope=2.0)
    return 1 / (1 + np.exp((distance - radius_px) / 0.7))


def scratch(image: Image, rng: Rng) -> tuple[Image, Image]:
    """A straight bright or dark line, one to two pixels wide."""
    alpha = np.clip(rng.uniform(1, 1.7) - _curve(len(image), rng, rng.uniform(0.3, 0.8) * len(image), 0.01), 0, 1)
    return _mixed(image, alpha * rng.uniform(0.6, 1), rng.choice([0.05, 0.95])), _where(alpha)


def crack(image: Image, rng: Rng) -> tuple[Image, Image]:
    """A dark line that winds."""
    alpha = np.clip(rng.uniform(0.9, 1.6) - _curve(len(image), rng, rng.uniform(0.4, 1) * len(image), 0.35), 0, 1)
    return _mixed(image, alpha * rng.uniform(0.7, 1), 0.08), _where(alpha)


def stain(image: Image, rng: Rng) -> tuple[Image, Image]:
    """A patch that is darker or brighter, its texture still there."""
    alpha = _blob(len(image), rng, rng.uniform(5, 11))
    change = rng.choice([-1, 1]) * rng.uniform(0.3, 0.5)
    return (image * (1 + change * alpha)).clip(0, 1).astype(np.float32), _where(alpha)


def hole(image: Image, rng: Rng) -> tuple[Image, Image]:
    """A dark disc with a bright rim on one side."""
    size_px, radius_px = len(image), rng.uniform(2.5, 6)
    y, x = np.mgrid[:size_px, :size_px]
    row, column = rng.uniform(radius_px + 2, size_px - radius_px - 2, size=2)
    distance = np.hypot(y - row, x - column)
    rim = np.exp(-((distance - radius_px - 0.8) ** 2)) * (y < row)
    alpha = np.clip(radius_px + 0.5 - distance, 0, 1)
    return _mixed(_mixed(image, 0.5 * rim, 0.9), alpha * rng.uniform(0.7, 1), 0.05), _where(
        np.maximum(alpha, rim * 0.8)
    )


def missing(image: Image, rng: Rng) -> tuple[Image, Image]:
    """A patch without texture, as bright as its surroundings."""
    alpha = _blob(len(image), rng, rng.uniform(6, 11))
    return _mixed(image, alpha, gaussian_filter(image, 8)), _where(alpha)


def dent(image: Image, rng: Rng) -> tuple[Image, Image]:
    """A hollow: light from one side makes one flank brighter and the other darker."""
    size_px, radius_px = len(image), rng.uniform(5, 9)
    y, x = np.mgrid[:size_px, :size_px]
    row, column = rng.uniform(radius_px, size_px - radius_px, size=2)
    angle = rng.uniform(0, 2 * np.pi)
    along = ((y - row) * np.sin(angle) + (x - column) * np.cos(angle)) / radius_px
    bell = np.exp(-2 * np.hypot(y - row, x - column) ** 2 / radius_px**2)
    # The slope of the bell, at most 1.
    slope = 2 * np.exp(0.5) * along * bell
    shaded = image * (1 + rng.uniform(0.35, 0.6) * slope)
    return shaded.clip(0, 1).astype(np.float32), (np.hypot(y - row, x - column) < radius_px).astype(np.float32)


#: Those that the model is tested on.
DEFECTS = (scratch, crack, stain, hole, missing, dent)


def _mixed(image: Image, alpha: NDArray[np.float64], value: NDArray[np.float64] | Image | float) -> Image:
    return ((1 - alpha) * image + alpha * value).clip(0, 1).astype(np.float32)


def _where(alpha: NDArray[np.float64]) -> Image:
    return (alpha > 0.5).astype(np.float32)
