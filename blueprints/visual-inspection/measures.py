"""How well anomalies are told from what is good."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from skimage.measure import label
from sklearn.metrics import roc_auc_score


def auroc(scores: NDArray[np.floating], is_anomalous: NDArray[np.generic]) -> float:
    """Chance that an anomalous one scores higher than a good one."""
    return float(roc_auc_score(is_anomalous.astype(bool), scores))


def region_overlap(
    marks: NDArray[np.floating], truth: NDArray[np.floating], limit: float = 0.3, num_limits: int = 200
) -> float:
    """AUPRO: the share of each connected defect that is marked, averaged over defects, then over false positive rates.

    P. Bergmann et al., International Journal of Computer Vision 129, 2021: false positive rates from 0 to ``limit``, scaled to 1.
    """
    is_good = truth == 0
    regions = [where for image, mask in zip(marks, truth, strict=True) for where in _regions(image, mask)]
    # Limits at even false positive rates, the highest mark first.
    rates = np.linspace(0, limit, num_limits)
    limits = np.quantile(marks[is_good], 1 - rates)
    overlaps = np.mean([(values[None, :] > limits[:, None]).mean(axis=1) for values in regions], axis=0)
    return float(np.trapezoid(overlaps, rates) / limit)


def _regions(image: NDArray[np.floating], mask: NDArray[np.floating]) -> list[NDArray[np.floating]]:
    numbered = label(mask > 0)
    return [image[numbered == number] for number in range(1, numbered.max() + 1)]
