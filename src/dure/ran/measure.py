"""Measures what a cell's slots cost on this machine, alone and beside a tenant, and how soon a tenant is gone: the coefficients of `SiteModel`.

Times are of `dure.ran.receive`, a stand-in for a base station's kernels (its docstring says how near); a vendor's own kernels would be timed the same way.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dure.executors.gpus import mps_share
from dure.model.errors import InputError
from dure.ran.site import UPLINK_SLOTS, SiteModel
from dure.whole_file import whole_file

#: Coded bits a resource element at the highest MCS (256QAM at rate 0.926, TS 38.214 Table 5.1.3.1-2), and iterations of decoding in the mean.
HIGHEST_EFFICIENCY, MEAN_ITERATIONS = 7.4, 8
#: A time's least, and what is above it that a reservation allows for.
_LEAST, _ALLOWED = 0.05, 0.999
KERNELS_MS = (0.5, 2.0, 10.0)
#: Shares of a GPU that are measured where MPS can give them.
_GPU_SHARES = (0.25, 0.5, 0.75, 1.0)

Move = Callable[[int, int], None]


@dataclass(frozen=True)
class Device:
    """Where it is measured. ``units``: SMs of a GPU, threads of a CPU; ``shares`` of them that a process can be given."""

    kind: str
    name: str
    units: int
    shares: tuple[float, ...]

    def threads(self, share: float) -> int:
        """Threads of a CPU for a share."""
        return max(1, round(share * self.units)) if self.kind == "cpu" else 1

    def environment(self, share: float) -> dict[str, str]:
        """Of a process that has the share."""
        own = {} if self.kind == "cpu" else mps_share(round(1000 * share))
        return {**os.environ, **own}


def find_device(kind: str) -> Device:
    """The device of a kind.

    Raises
    ------
    InputError
        PyTorch is not installed, or has no such device.
    """
    try:
        import torch
    except ImportError:
        raise InputError("PyTorch is not installed (pip install 'dure[ran-measure]')") from None
    if kind == "cuda":
        if not torch.cuda.is_available():
            raise InputError("there is none here", field="--device cuda")
        about = torch.cuda.get_device_properties(0)
        has_mps = subprocess.run(["pgrep", "-f", "nvidia-cuda-mps-control"], check=False, capture_output=True).returncode == 0
        return Device(kind, about.name, about.multi_processor_count, _GPU_SHARES if has_mps else (1.0,))
    units = len(os.sched_getaffinity(0))
    return Device(kind, _cpu_name(), units, tuple((i + 1) / units for i in range(units))[-4:])


def _cpu_name() -> str:
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return platform.processor() or platform.machine()


def slots_of(prbs: Sequence[int], layers: Sequence[int]) -> list[dict[str, float]]:
    """Slots to be timed: each size; half and all of the highest MCS; half, mean and double iterations."""
    return [
        {"prb": prb, "layers": num, "efficiency": HIGHEST_EFFICIENCY * part, "iterations": iterations}
        for prb in prbs for num in layers for part, iterations in ((1.0, MEAN_ITERATIONS), (0.5, MEAN_ITERATIONS), (1.0, MEAN_ITERATIONS // 2))
    ]  # fmt: skip


def measure(device: Device, prbs: Sequence[int], layers: Sequence[int], repeats: int, rounds: int, seed: int, move: Move) -> dict[str, Any]:
    """The content of a coefficient file.

    Parameters
    ----------
    repeats : int
        Of each slot.
    rounds : int
        A tenant of each length of kernel is told to go so many times.
    """
    slots, half = slots_of(prbs, layers), device.shares[(len(device.shares) - 1) // 2]
    total = len(device.shares) + 1 + len(KERNELS_MS)
    points = []
    for number, share in enumerate(device.shares):
        points += [{"share": share, **row} for row in _timed(device, share, slots, repeats)]
        move(number + 1, total)
    with _tenant(device, half, KERNELS_MS[1]):
        beside = _timed(device, half, slots, repeats)
    alone = [point for point in points if point["share"] == half]
    move(len(device.shares) + 1, total)
    vacate = {}
    for number, kernel_ms in enumerate(KERNELS_MS):
        gone_ms = _vacated(device, half, kernel_ms, rounds, seed)
        vacate[f"{kernel_ms:g}"] = {f"p{part}_ms": float(np.percentile(gone_ms, part)) for part in (50, 99, 100)}
        move(len(device.shares) + 2 + number, total)
    fitted, quality = fit(points, device.units)
    model = replace(fitted, interference=interference(alone, beside))
    return {
        "machine": platform.node(), "device": device.name, "kind": device.kind, "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(), "share_beside_tenant": half, "shares": list(device.shares), "repeats": repeats, "fit": quality,
        "vacate_ms": vacate, "coefficients": asdict(model), "points": [_short(point) for point in points],
    }  # fmt: skip


def _short(point: dict[str, Any]) -> dict[str, Any]:
    means = {name: {"least_us": _least(point[name]), "median_us": float(np.median(point[name]))} for name in ("dl_us", "ul_us")}
    return {**point, **means}


def _least(samples: Sequence[float]) -> float:
    return float(np.quantile(samples, _LEAST))


def fit(points: Sequence[dict[str, Any]], units: int) -> tuple[SiteModel, dict[str, float]]:
    """Coefficients by least squares that are not negative, each time weighed by its inverse; and how well they fit.

    ``T = t0 + (d0 + d1·x) / share`` and ``T = t0 + (u0 + u1·x + u2·x·efficiency·iterations) / share``, x being PRB times layers, on what times are at
    the least. Where only the whole device was measured t0 holds d0 and u0 too.
    """
    # Not above: whoever only reads a file has no need of it.
    from scipy.optimize import nnls

    rows, times = [], []
    for point in points:
        x, share = point["prb"] * point["layers"], point["share"]
        part = point["efficiency"] / HIGHEST_EFFICIENCY * point["iterations"] / MEAN_ITERATIONS
        rows += [[1, 1 / share, x / share, 0, 0, 0], [1, 0, 0, 1 / share, x / share, x * part / share]]
        times += [_least(point["dl_us"]), _least(point["ul_us"])]
    design, measured = np.array(rows, float), np.array(times)
    if len({point["share"] for point in points}) == 1:
        design[:, [1, 3]] = 0.0
    found, _ = nnls(design / measured[:, None], np.ones(len(measured)))
    t0, d0, d1, u0, u1, u2 = map(float, found)
    above = np.concatenate([np.asarray(point[name]) - _least(point[name]) for point in points for name in ("dl_us", "ul_us")])
    model = SiteModel(
        num_sms=units, grain_sms=1 if units < 16 else 2, t0_us=t0, d0_us=d0, d1_us=d1, u0_us=u0, u1_us=u1, u2_us=u2,
        noise_mean_us=float(above.clip(0).mean()), noise_allowance_us=float(np.quantile(above, _ALLOWED)), interference=0.0,
    )  # fmt: skip
    return model, _quality(design @ found, measured)


def _quality(told: NDArray[np.float64], measured: NDArray[np.float64]) -> dict[str, float]:
    off = told / measured - 1
    return {"median_error": float(np.median(np.abs(off))), "worst_error": float(np.abs(off).max())}


def interference(alone: Sequence[dict[str, Any]], beside: Sequence[dict[str, Any]]) -> float:
    """By how much of itself work takes longer beside the tenant: the most over all slots, of medians; at least 0."""
    parts = [np.median(with_it[name]) / np.median(without[name]) - 1 for without, with_it in zip(alone, beside, strict=True) for name in ("dl_us", "ul_us")]
    return max(0.0, float(max(parts)))


def slowed_by(model: SiteModel, num_cells: int) -> float:
    """By how much the slot clock has to be slowed so that so many peak cells are just in time on the whole device; 1: not at all."""
    down, up = model.dl_work_us(model.prb, model.dl_layers), model.ul_work_us(model.prb, model.ul_layers, 1.0, 1.0)
    beside = 1 + model.interference
    once = model.t0_us + model.noise_allowance_us
    # A frame's busiest slots: downlink alone, and an uplink over its slots beside downlink.
    together = num_cells * beside * (down + up / UPLINK_SLOTS)
    return max(1.0, (once + together) / model.dl_budget_us, (once + num_cells * beside * up) / model.ul_budget_us)


def write_coefficients(found: dict[str, Any], path: str) -> None:
    """The file appears whole or not at all."""
    with whole_file(path) as draft:
        draft.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def read_coefficients(path: str) -> SiteModel:
    """The model of a coefficient file.

    Raises
    ------
    InputError
        It cannot be read, or is none.
    """
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", path) from None
    except ValueError as error:
        raise InputError(f"no JSON: {error}", path) from None
    said = found.get("coefficients") if isinstance(found, dict) else None
    if not isinstance(said, dict):
        raise InputError("has no coefficients", path, field="coefficients")
    known = asdict(SiteModel())
    for name, value in said.items():
        if name not in known:
            raise InputError("no such coefficient", path, field=f"coefficients.{name}")
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < 1e9 or isinstance(known[name], int) != isinstance(value, int):
            raise InputError(f"not a number from 0, of the same kind as {known[name]!r}: {value!r}", path, field=f"coefficients.{name}")
    model = SiteModel(**said)
    if min(model.num_sms, model.grain_sms, model.dl_budget_us, model.ul_budget_us) <= 0:
        raise InputError("num_sms, grain_sms and budgets are above 0", path, field="coefficients")
    return model


def _command() -> list[str]:
    return [sys.executable, "-P", "-m", "dure.ran.measure_worker"]


def _timed(device: Device, share: float, slots: Sequence[dict[str, float]], repeats: int) -> list[dict[str, Any]]:
    said = {"device": device.kind, "threads": device.threads(share), "slots": list(slots), "repeats": repeats}
    done = subprocess.run(_command(), input=json.dumps(said) + "\n", env=device.environment(share), capture_output=True, text=True, check=False)
    if done.returncode:
        raise InputError(f"a measurement failed: {done.stderr.strip().splitlines()[-1:]}", field="--device")
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


@contextlib.contextmanager
def _tenant(device: Device, share: float, kernel_ms: float, rounds: int = 1) -> Iterator[subprocess.Popen[str]]:
    said = {"device": device.kind, "threads": device.threads(share), "kernel_ms": kernel_ms, "rounds": rounds}
    with subprocess.Popen(_command(), env=device.environment(share), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(said) + "\n")
            process.stdin.flush()
            if process.stdout.readline() != "up\n":
                raise InputError("a tenant did not begin", field="--device")
            yield process
        finally:
            process.kill()


def _vacated(device: Device, share: float, kernel_ms: float, rounds: int, seed: int) -> list[float]:
    """Milliseconds from telling a tenant to the end of its last kernel."""
    chance = random.Random(seed)
    found = []
    with _tenant(device, share, kernel_ms, rounds) as process:
        assert process.stdout is not None
        for number in range(rounds):
            if number and process.stdout.readline() != "up\n":
                raise InputError("a tenant did not go on", field="--device")
            time.sleep(0.02 + chance.uniform(0, 3 * kernel_ms / 1000))
            told_s = time.monotonic()
            process.send_signal(signal.SIGUSR1)
            found.append((json.loads(process.stdout.readline())["gone_s"] - told_s) * 1000)
    return found
