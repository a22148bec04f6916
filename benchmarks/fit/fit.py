"""Fit the load generator's parameters to the real traces: ``python benchmarks/fit/fit.py``.

Reads the data sets under DURE_DATA and writes src/dure/twin/generate/fitted.json, docs/img/fit_*.svg and the
table of docs/load.md. Deterministic: the same data give the same files.
"""

from __future__ import annotations

import csv
import gzip
import json
import math
import sys
from datetime import datetime
from pathlib import Path

import numpy as np
from svg import cdf_svg, lines_svg

from dure.twin.data import data_dir

ROOT = Path(__file__).resolve().parents[2]
NUM_COMPONENTS_MAX = 5
DEBUG_MAX_S = 1800


def read(path: Path) -> list[dict[str, str]]:
    text = gzip.decompress(path.read_bytes()).decode() if path.suffix == ".gz" else path.read_text()
    return list(csv.DictReader(text.splitlines()))


def mixture_cdf(fit: dict[str, list[float]], log_s: np.ndarray) -> np.ndarray:
    erf = np.vectorize(math.erf)
    each = [
        weight * 0.5 * (1 + erf((log_s - mu) / (sigma * math.sqrt(2))))
        for weight, mu, sigma in zip(fit["weights"], fit["mu"], fit["sigma"], strict=True)
    ]
    return np.sum(each, axis=0)


def expectation_maximisation(log_s: np.ndarray, num: int) -> tuple[dict[str, list[float]], float]:
    """Normal mixture of the logarithms from equal parts as a start; also its log-likelihood."""
    parts = np.array_split(np.sort(log_s), num)
    mu = np.array([part.mean() for part in parts])
    sigma = np.array([max(part.std(), 0.2) for part in parts])
    weights = np.full(num, 1 / num)
    last = -math.inf
    for _ in range(2000):
        z = (log_s[:, None] - mu) / sigma
        log_p = np.log(weights) - 0.5 * z * z - np.log(sigma) - 0.5 * math.log(2 * math.pi)
        top = log_p.max(axis=1, keepdims=True)
        total = top + np.log(np.exp(log_p - top).sum(axis=1, keepdims=True))
        part = np.exp(log_p - total)
        mass = part.sum(axis=0)
        weights = mass / len(log_s)
        mu = (part * log_s[:, None]).sum(axis=0) / mass
        # A floor on the spread: recorded times are rounded, and a spike would draw a component to nothing.
        sigma = np.sqrt(np.maximum((part * (log_s[:, None] - mu) ** 2).sum(axis=0) / mass, 0.05**2))
        likelihood = float(total.sum())
        if likelihood - last < 1e-6 * len(log_s):
            break
        last = likelihood
    fit = {"weights": weights.tolist(), "mu": mu.tolist(), "sigma": sigma.tolist()}
    return fit, likelihood


def ks(log_s: np.ndarray, fit: dict[str, list[float]]) -> float:
    """Kolmogorov-Smirnov distance; ties (times in whole seconds) count at both ends of their step."""
    at, counts = np.unique(log_s, return_counts=True)
    upper = np.cumsum(counts) / len(log_s)
    model = mixture_cdf(fit, at)
    return float(max(np.abs(upper - model).max(), np.abs(upper - counts / len(log_s) - model).max()))


def fit_durations(seconds: np.ndarray) -> dict[str, object]:
    """Mixture with the number of components that the Bayesian information criterion likes best."""
    log_s = np.log(np.maximum(seconds, 1.0))
    fits = [expectation_maximisation(log_s, num) for num in range(1, NUM_COMPONENTS_MAX + 1)]
    score = [(3 * num - 1) * math.log(len(log_s)) - 2 * fit[1] for num, fit in enumerate(fits, 1)]
    best = fits[int(np.argmin(score))][0]
    bounds = {"min_s": float(max(seconds.min(), 1.0)), "max_s": float(seconds.max())}
    return {
        "duration": {key: [round(x, 5) for x in values] for key, values in best.items()} | bounds,
        "num_rows": len(seconds), "ks": round(ks(log_s, best), 4), "ks_one": round(ks(log_s, fits[0][0]), 4),
    }


def sizes(num_gpus: np.ndarray, gpu_milli: np.ndarray) -> dict[str, list[float]]:
    """Empirical sizes; parts of a GPU in eighths, other counts rounded up to a power of two."""
    whole = np.where(num_gpus > 1, 2 ** np.ceil(np.log2(np.maximum(num_gpus, 1))), 1).astype(int)
    part = np.where(whole > 1, 1000, -(-gpu_milli // 125) * 125)
    pairs, counts = np.unique(np.stack([whole, part]), axis=1, return_counts=True)
    return {
        "num_gpus": pairs[0].tolist(), "gpu_milli": pairs[1].tolist(),
        "weights": [round(float(x), 6) for x in counts / counts.sum()],
    }


def gang_sizes(num_gpus: np.ndarray) -> dict[str, list[float]]:
    """512 to 16,384 GPUs, by the most likely factor for a doubling in Kalos between 32 and 128 GPUs."""
    doubling = np.log2(num_gpus / 32).astype(int)
    ratios = np.linspace(0.05, 3, 2951)
    likelihood = doubling.sum() * np.log(ratios) - len(doubling) * np.log(1 + ratios + ratios**2)
    ratio = float(ratios[np.argmax(likelihood)])
    weights = ratio ** np.arange(6)
    return {
        "num_gpus": [512 << k for k in range(6)], "gpu_milli": [1000] * 6,
        "weights": [round(float(x), 6) for x in weights / weights.sum()], "ratio": round(ratio, 3),
    }


def week(hours: np.ndarray, counts: np.ndarray) -> list[float]:
    """Arrivals in each hour of the week (Monday 0:00 first) relative to the mean hour.

    Medians over the weeks, smoothed over three hours: one user's thousand jobs in an hour are no rhythm.
    ``hours`` counts from a Monday 0:00; only whole weeks go in.
    """
    num_weeks = (int(hours.max()) + 1) // 168
    each = np.bincount(hours, counts, (num_weeks + 1) * 168)[: num_weeks * 168].reshape(num_weeks, 168)
    middle = np.median(each[each.sum(axis=1) > 0], axis=0)
    smooth = (np.roll(middle, 1) + 2 * middle + np.roll(middle, -1)) / 4
    return [round(float(x), 4) for x in smooth / smooth.mean()]


Sizes = dict[str, list[float]]


def recorded_classes(data: Path) -> dict[str, tuple[str, np.ndarray, Sizes]]:
    """Of each class: where it comes from, run times in seconds, sizes."""
    philly = read(data / "philly_2017/philly.csv.gz")
    gpus = np.array([int(row["num_gpus"]) for row in philly])
    seconds = np.array([float(row["duration"]) for row in philly])
    whole = np.full(len(gpus), 1000)
    kalos = read(data / "acme_2023/kalos_converted_319jobs.csv")
    kalos_gpus = np.array([int(row["gpu_workers"]) for row in kalos])
    # That file counts iterations of half a second: iterations x 0.5 s is the recorded run time.
    kalos_s = np.array([int(row["num_iteration"]) * float(row["iteration_computing_time"]) for row in kalos])
    pods = [row for row in read(data / "alibaba_openb_2023/pods/openb_pod_list_default.csv.gz")
            if int(row["num_gpu"]) > 0]
    pod_s = np.array([float(row["deletion_time"]) - float(row["creation_time"]) for row in pods])
    pod_gpus = np.array([int(row["num_gpu"]) for row in pods])
    pod_milli = np.array([int(row["gpu_milli"]) for row in pods])
    is_batch = np.array([row["qos"] == "BE" for row in pods])

    short = (seconds < DEBUG_MAX_S) & (gpus <= 8)
    long = seconds >= DEBUG_MAX_S
    one, many, gang = long & (gpus == 1), long & (gpus > 1), kalos_gpus >= 32
    def pod_sizes(mask: np.ndarray) -> dict[str, list[float]]:
        return sizes(pod_gpus[mask], pod_milli[mask])

    return {
        "debug": ("Philly, at most 8 GPUs, under 30 min", seconds[short], sizes(gpus[short], whole[short])),
        "sweep": ("Philly, 1 GPU, 30 min or more", seconds[one], sizes(gpus[one], whole[one])),
        "fine_tuning": ("Philly, 2+ GPUs, 30 min or more", seconds[many], sizes(gpus[many], whole[many])),
        "pretraining": ("Acme Kalos, 32 GPUs or more", kalos_s[gang], gang_sizes(kalos_gpus[gang])),
        "simulation": ("openb, best-effort pods", pod_s[is_batch], pod_sizes(is_batch)),
        "service": ("openb, all other pods", pod_s[~is_batch], pod_sizes(~is_batch)),
    }


def recorded_arrivals(data: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Hours since a Monday 0:00, and what was submitted in them."""
    helios = read(data / "helios_2020/venus_cluster_throughput.csv.gz")
    times = [datetime.fromisoformat(row["time"]) for row in helios]
    hour = np.array([int((time - datetime(2020, 4, 6)).total_seconds()) // 3600 for time in times])
    arrived = np.array([float(row["submit_gpu_job"]) for row in helios])
    stamps = [datetime.fromisoformat(row["timestamp"]) for row in read(data / "philly_2017/philly.csv.gz")]
    # Before October 2017 hardly anything was recorded.
    philly = np.array([int((at - datetime(2017, 10, 2)).total_seconds()) // 3600 for at in stamps])
    philly = philly[philly >= 0]
    return {"helios": (hour[hour >= 0], arrived[hour >= 0]), "philly": (philly, np.ones(len(philly)))}


def write_table(mark: str, table: str) -> None:
    """Put a table between ``<!-- mark -->`` and ``<!-- /mark -->`` of docs/load.md."""
    page = ROOT / "docs/load.md"
    before, rest = page.read_text().split(f"<!-- {mark} -->\n", 1)
    _, after = rest.split(f"<!-- /{mark} -->", 1)
    page.write_text(f"{before}<!-- {mark} -->\n{table}\n<!-- /{mark} -->{after}")


def main() -> None:
    data = data_dir()
    if data is None:
        sys.exit("no data: set DURE_DATA to the folder with the data sets")
    chosen = recorded_classes(data)
    classes = {
        name: {"source": source} | fit_durations(rows) | {"sizes": size}
        for name, (source, rows, size) in chosen.items()
    }
    rhythm = {name: week(*rows) for name, rows in recorded_arrivals(data).items()}
    fitted = {"rhythm": rhythm, "classes": classes}
    (ROOT / "src/dure/twin/generate/fitted.json").write_text(json.dumps(fitted, indent=1) + "\n")
    for name, (_, rows, _) in chosen.items():
        at = np.linspace(0, math.log(rows.max() * 1.2), 240)
        real = np.searchsorted(np.sort(np.log(np.maximum(rows, 1.0))), at, side="right") / len(rows)
        mixture = classes[name]["duration"]
        single = expectation_maximisation(np.log(np.maximum(rows, 1.0)), 1)[0]
        curves = {
            "recorded": real, "fitted mixture": mixture_cdf(mixture, at),
            "one lognormal": mixture_cdf(single, at),
        }
        cdf_svg(ROOT / f"docs/img/fit_{name}.svg", name.replace("_", " "), at, curves)
    lines_svg(ROOT / "docs/img/fit_rhythm.svg", "arrivals by hour of the week", rhythm)
    rows_md = "\n".join(
        f"| {name.replace('_', '-')} | {c['source']} | {c['num_rows']:,} | {len(c['duration']['mu'])} "
        f"| {c['ks']:.3f} | {c['ks_one']:.3f} |"
        for name, c in classes.items()
    )
    head = "| class | fitted to | jobs | components | KS | KS of one lognormal |\n"
    head += "|---|---|---:|---:|---:|---:|\n"
    write_table("fit", head + rows_md)


if __name__ == "__main__":
    main()
