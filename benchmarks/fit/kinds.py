"""Measures the kinds of work that invented load is made of: ``python benchmarks/fit/kinds.py``.

Reads the data sets under DURE_DATA and the catalogue of blueprints; writes src/dure/twin/generate/kinds.json and the table of
docs/load.md. Deterministic: the same data give the same files.
"""

from __future__ import annotations

import json
import math
import sys
from datetime import datetime
from pathlib import Path

import numpy as np

from dure.client.blueprints import catalogue
from dure.twin.data import data_dir
from fit import ROOT, read, write_table

#: MLPerf Training, minutes from the start to the target quality (result logs; v5.0 for Llama-3.1-405B, v4.1 for GPT-3).
MLPERF = {
    "Llama-3.1-405B on H100": {512: 230.7, 2048: 63.4, 2560: 50.3, 8192: 19.65},
    "Llama-3.1-405B on GB200": {512: 105.1, 1024: 53.2, 2496: 27.0},
    "GPT-3 175B on H100": {256: 97.8, 512: 51.0, 11616: 3.44},
}
#: Standing of training for an asynchronous checkpoint of 7B parameters: PyTorch and IBM, 148.8 s before.
LLM_SAVE_S = 6.3
#: Restart of a large gang: assumed. Llama 3's 10% of 54 days over 466 interruptions bound all that one costs by 1,001 s.
LLM_RESTART_S = 600.0
#: RSC: a job of 1,024 GPUs failed every 7.9 h, its 128 nodes alone every 28.8 h (arXiv 2410.21680); Llama 3: 63 of 419
#: unexpected interruptions in 54 days were of software.
RSC_OWN_PER_DAY = 24 / 7.9 - 24 / 28.8
LLAMA_OWN_PER_DAY = 63 / 54
#: Training of small models: assumed.
SMALL_SAVE_S, SMALL_RESTART_S = 1.0, 60.0

#: Application of Sia's profiles: name, batch size of the run whose gradients are known, what it is, and GPU-hours for which Pollux takes it.
APPLICATIONS = {
    "cifar10": ("resnet18", "128", "ResNet-18 on CIFAR-10", 0, 1),
    "deepspeech2": ("deepspeech2", "20", "DeepSpeech2", 1, 10),
    "bert": ("bert", "12", "BERT fine-tuned on SQuAD", 1, 10),
    "yolov3": ("yolov3", "8", "YOLOv3", 10, 100),
    "imagenet": ("resnet50", "200", "ResNet-50 on ImageNet", 100, math.inf),
}
REPLICAS_MAX = 16
#: Blueprints whose like are swept over many settings, and those that simulate.
SWEPT = ("language-model", "locomotion", "predictive-maintenance", "process-monitoring", "visual-inspection")
SIMULATED = ("driving-safety", "factory", "fleet-rebalancing", "manipulation")
SERVICES = {"chat-service": "AzureLLMInferenceTrace_conv.csv.gz", "code-service": "AzureLLMInferenceTrace_code.csv.gz"}
WINDOW_S = 60.0


def power_law(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Exponent by least squares of the logarithms, and the median relative error."""
    slope, level = np.polyfit(np.log(x), np.log(y), 1)
    return float(slope), float(np.median(np.abs(np.exp(level + slope * np.log(x)) / y - 1)))


def mlperf() -> tuple[float, float]:
    """Exponent of the speed to a quality over GPUs, each system with a level of its own; and the median relative error."""
    x, y = [], []
    for minutes in MLPERF.values():
        gpus, speed = np.log(list(minutes)), -np.log(list(minutes.values()))
        x.append(gpus - gpus.mean())
        y.append(speed - speed.mean())
    x, y = np.concatenate(x), np.concatenate(y)
    slope = float((x * y).sum() / (x * x).sum())
    return slope, float(np.median(np.abs(np.exp(slope * x - y) - 1)))


def goodput(data: Path, application: str, batch: str) -> tuple[np.ndarray, np.ndarray]:
    """Replicas of each measured placement on DGX A100, and the best goodput there over batch sizes (Pollux, OSDI'21).

    Examples a second times statistical efficiency, by the gradients' noise in the run with the smallest batch.
    """
    noise = [float(row["grad_var"]) / float(row["grad_sqr"])
             for row in read(data / "pollux_osdi21" / "traces" / application / f"validation-{batch}.csv")
             if float(row["grad_sqr"]) > 0]  # fmt: skip
    phi, base = float(np.median(noise)), float(batch)
    best: dict[tuple[int, int], float] = {}
    for part in ("placements", "scalability"):
        for row in read(data / "sia_workloads" / "profiles" / application / f"{part}-dgx.csv.gz"):
            if part == "placements":
                place = len(row["placement"]), sum(map(int, row["placement"]))
            else:
                place = int(row["num_nodes"]), int(row["num_replicas"])
            total = place[1] * float(row["local_bsz"])
            scale = max(total / base, 1.0)
            efficiency = (phi + 1) / (phi / scale + 1) / scale
            best[place] = max(best.get(place, 0.0), total / float(row["step_time"]) * efficiency)
    known = {place: value for place, value in best.items() if place[1] <= REPLICAS_MAX}
    return np.array([place[1] for place in known], float), np.array(list(known.values()))


def tokens(data: Path, name: str) -> np.ndarray:
    """Tokens read and written in each minute of a request trace."""
    rows = read(data / "llm_inference" / name)
    # Nanoseconds are more than datetime reads.
    at_s = np.array([datetime.fromisoformat(row["TIMESTAMP"][:26]).timestamp() for row in rows])
    num = np.array([int(row["ContextTokens"]) + int(row["GeneratedTokens"]) for row in rows])
    minute = ((at_s - at_s.min()) // WINDOW_S).astype(int)
    return np.bincount(minute, num)[: minute.max()]


def kinds(data: Path) -> list[dict[str, object]]:
    scaling, error = mlperf()
    made: list[dict[str, object]] = []
    for name, low, high, own in (("llm-8b", 1, 255, RSC_OWN_PER_DAY), ("llm-70b", 256, 1023, RSC_OWN_PER_DAY),
                                 ("llm-405b", 1024, 0, LLAMA_OWN_PER_DAY)):  # fmt: skip
        made.append({
            "name": name, "classes": ["pretraining", "campaign"], "gpus": [low, high], "scaling": round(scaling, 3),
            "save_s": LLM_SAVE_S, "restart_s": LLM_RESTART_S, "failures_per_day": round(own, 2),
            "of": f"MLPerf, {sum(map(len, MLPERF.values()))} results ({100 * error:.0f}%)",
        })  # fmt: skip
    for application, (name, batch, of, low, high) in APPLICATIONS.items():
        replicas, best = goodput(data, application, batch)
        scaling, error = power_law(replicas, best)
        made.append({
            "name": name, "classes": ["fine_tuning"], "gpu_h": [low, None if math.isinf(high) else high],
            "scaling": round(scaling, 3), "save_s": SMALL_SAVE_S, "restart_s": SMALL_RESTART_S,
            "of": f"{of}, {len(best)} placements ({100 * error:.0f}%)",
        })  # fmt: skip
    abouts = {entry.about.name: entry.about for entry in catalogue()}
    for names, job_class in ((SWEPT, "sweep"), (SIMULATED, "simulation")):
        for name in names:
            about = abouts[name]
            made.append({
                "name": name, "classes": [job_class], "restart_s": about.restart_s, "grace_s": math.ceil(about.leaves_in_s),
                "of": f"blueprint, {about.field}",
            })  # fmt: skip
    load = {name: tokens(data, trace) for name, trace in SERVICES.items()}
    for name, minutes in load.items():
        made.append({
            "name": name, "classes": ["service"], "part": round(float(minutes.max()) / sum(float(m.max()) for m in load.values()), 3),
            "restart_s": abouts["inspection-service"].restart_s, "busy": round(float(minutes.mean() / minutes.max()), 3),
            "of": f"Azure, {len(minutes)} minutes of requests",
        })  # fmt: skip
    return made


def table(made: list[dict[str, object]]) -> str:
    head = "| kind | class | for | scaling | stall | restart | own failures | leaves in | busy | from (median error of the power law) |"
    lines = [head, "|---|---|---|---:|---:|---:|---:|---:|---:|---|"]
    for kind in made:
        span = ""
        if "gpus" in kind:
            low, high = kind["gpus"]
            span = f"{low:,}–{high:,} GPUs" if high else f"{low:,} GPUs and more"
        elif "gpu_h" in kind:
            low, high = kind["gpu_h"]
            span = f"{low}–{high} GPU-h" if high else f"{low} GPU-h and more"
        elif "part" in kind:
            span = f"{100 * kind['part']:.0f}%"
        cells = [f"{kind[key]:g} s" if key in kind else "" for key in ("save_s", "restart_s")]
        own = f"{kind['failures_per_day']:g} a day" if "failures_per_day" in kind else ""
        grace = f"{kind['grace_s']} s" if "grace_s" in kind else ""
        busy = f"{100 * kind['busy']:.0f}%" if "busy" in kind else ""
        where = ", ".join(kind["classes"]).replace("_", "-")
        lines.append(f"| {kind['name']} | {where} | {span} | {kind.get('scaling', '')} | {' | '.join(cells)} | {own} | {grace} | {busy} | {kind['of']} |")
    return "\n".join(lines)


def main() -> None:
    data = data_dir()
    if data is None:
        sys.exit("no recorded data: set DURE_DATA")
    made = kinds(data)
    (ROOT / "src/dure/twin/generate/kinds.json").write_text(json.dumps(made, indent=1) + "\n")
    write_table("kinds", table(made))


if __name__ == "__main__":
    main()
