"""Faults of a bearing from its vibration: a 1-D convolutional network, tested on later time and under added noise.

A step is an epoch. The classes differ in loudness because each is one recording; every window is brought to the same
loudness, so that the network has to hear the fault.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import time
from math import gcd
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.signal import resample_poly
from torch import nn

from dure.client import job
from dure.model.errors import InputError
from dure.whole_file import whole_file

#: Recordings of the Case Western Reserve University bearing data centre, drive end, load 0; their sampling rates in Hz.
#: The file of the healthy bearing is usually taken as sampled at 48 kHz, those of faults at 12 kHz.
RATES_HZ = {"normal": 48_000, "inner_race_007": 12_000, "ball_007": 12_000, "outer_race_007": 12_000}
RATE_HZ = 12_000

WINDOW_SAMPLES = 1024

#: Of each recording the first share is learnt from, the rest is for the test; one window between them is left out.
TRAIN_SHARE = 0.6

#: Signal-to-noise ratios of the test, dB; None: nothing added.
TEST_SNRS_DB = (None, 0, -4, -8)

Samples = NDArray[np.float32]


def main() -> None:
    """Train, going on where an earlier attempt left, and test."""
    options = _options()
    job.watch_signals()
    kept = job.checkpoint_dir("state/checkpoint") / "bearings.pt"
    recordings = read_recordings(_data() / "physical_ai" / "cwru" / "cwru_drive_end_load0.npz")
    halves = [split_by_time(recording) for recording in recordings.values()]
    device = torch.device(options.device)
    torch.manual_seed(options.seed)
    network = make_network(len(halves), options.channels).to(device)
    optimiser = torch.optim.AdamW(network.parameters(), lr=options.rate, weight_decay=1e-2)
    rng = np.random.default_rng(options.seed)
    digest = hashlib.sha256(
        json.dumps({key: value for key, value in vars(options).items() if key != "device"}, sort_keys=True).encode()
    ).hexdigest()
    first_epoch = 0
    if kept.exists():
        saved = torch.load(kept, map_location=device, weights_only=True)
        if saved["digest"] != digest:
            raise InputError("is of other parameters: take another folder or remove it", path=str(kept))
        network.load_state_dict(saved["network"])
        optimiser.load_state_dict(saved["optimiser"])
        rng.bit_generator.state = json.loads(saved["rng"])
        torch.set_rng_state(saved["torch_rng"].cpu())
        first_epoch = saved["epoch"] + 1
    began = time.monotonic()
    for epoch in range(first_epoch, options.epochs):
        loss = _train_epoch(network, optimiser, [train for train, _ in halves], rng, options, device)
        state = {
            "digest": digest, "epoch": epoch, "network": network.state_dict(), "optimiser": optimiser.state_dict(),
            "rng": json.dumps(rng.bit_generator.state), "torch_rng": torch.get_rng_state(),
        }  # fmt: skip
        with whole_file(kept) as draft:
            torch.save(state, draft)
        job.report_progress(step=epoch, loss=loss, elapsed_s=time.monotonic() - began)
        if job.should_stop():
            job.leave()
    _test(network, list(recordings), [test for _, test in halves], options, device)


def read_recordings(path: Path) -> dict[str, Samples]:
    """All recordings at `RATE_HZ`.

    Raises
    ------
    InputError
        The file or a recording is missing.
    """
    if not path.is_file():
        raise InputError("is not there: set DURE_DATA to the folder that holds physical_ai/cwru", path=str(path))
    with np.load(path) as stored:
        if missing := set(RATES_HZ) - set(stored):
            raise InputError(f"lacks {', '.join(sorted(missing))}", path=str(path))
        return {name: to_common_rate(stored[name], rate_hz) for name, rate_hz in RATES_HZ.items()}


def to_common_rate(samples: Samples, rate_hz: int) -> Samples:
    """The same signal at `RATE_HZ`, low-passed so that nothing is folded back."""
    common = gcd(RATE_HZ, rate_hz)
    return resample_poly(samples, RATE_HZ // common, rate_hz // common).astype(np.float32)


def split_by_time(samples: Samples) -> tuple[Samples, Samples]:
    """An earlier and a later block, a window apart: windows drawn at random would leave near copies in the test."""
    cut = int(len(samples) * TRAIN_SHARE)
    return samples[:cut], samples[cut + WINDOW_SAMPLES :]


def with_noise(windows: Samples, snr_db: float, rng: np.random.Generator) -> Samples:
    """White noise added at this ratio of powers, window by window."""
    power = np.mean(windows**2, axis=-1, keepdims=True)
    return windows + rng.standard_normal(windows.shape, dtype=np.float32) * np.sqrt(
        power * 10 ** (-snr_db / 10), dtype=np.float32
    )


def at_equal_loudness(windows: Samples) -> Samples:
    """Without an offset and of unit power."""
    centred = windows - windows.mean(axis=-1, keepdims=True)
    return centred / (centred.std(axis=-1, keepdims=True) + 1e-12)


def make_network(num_classes: int, channels: int) -> nn.Sequential:
    """A wide first kernel, then small ones, as in W. Zhang et al., Sensors 17(2):425, 2017 (WDCNN), with fewer layers."""
    layers: list[nn.Module] = [
        nn.Conv1d(1, channels, 64, stride=8, padding=28),
        nn.BatchNorm1d(channels),
        nn.ReLU(),
        nn.MaxPool1d(2),
    ]
    for _ in range(2):
        layers += [
            nn.Conv1d(channels, 2 * channels, 3, padding=1),
            nn.BatchNorm1d(2 * channels),
            nn.ReLU(),
            nn.MaxPool1d(2),
        ]
        channels *= 2
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool1d(4), nn.Flatten(), nn.Dropout(0.3), nn.Linear(4 * channels, num_classes)
    )


def _train_epoch(
    network: nn.Module, optimiser: torch.optim.Optimizer, blocks: list[Samples], rng: np.random.Generator, options: argparse.Namespace, device: torch.device,
) -> float:  # fmt: skip
    network.train()
    losses = []
    for _ in range(options.batches):
        classes = rng.integers(len(blocks), size=options.batch)
        starts = [rng.integers(len(blocks[which]) - WINDOW_SAMPLES) for which in classes]
        windows = np.stack(
            [blocks[which][start : start + WINDOW_SAMPLES] for which, start in zip(classes, starts, strict=True)]
        )
        windows = np.concatenate([with_noise(window[None], rng.uniform(-6, 20), rng) for window in windows])
        output = network(torch.from_numpy(at_equal_loudness(windows))[:, None].to(device))
        loss = nn.functional.cross_entropy(output, torch.from_numpy(classes).to(device))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    return float(np.mean(losses))


@torch.inference_mode()
def _test(
    network: nn.Module, names: list[str], blocks: list[Samples], options: argparse.Namespace, device: torch.device
) -> None:
    network.eval()
    rng = np.random.default_rng(options.seed)
    reached: dict[str, float] = {}
    confusions = {}
    for snr_db in TEST_SNRS_DB:
        confusion = np.zeros((len(names), len(names)), dtype=int)
        for true, block in enumerate(blocks):
            windows = block[: len(block) // WINDOW_SAMPLES * WINDOW_SAMPLES].reshape(-1, WINDOW_SAMPLES)
            if snr_db is not None:
                windows = with_noise(windows, snr_db, rng)
            guesses = network(torch.from_numpy(at_equal_loudness(windows))[:, None].to(device)).argmax(1).cpu().numpy()
            confusion[true] += np.bincount(guesses, minlength=len(names))
        at = "" if snr_db is None else f"_at_{snr_db}_db".replace("-", "minus_")
        by_class = np.diag(confusion) / confusion.sum(axis=1)
        reached[f"accuracy{at}"] = float(by_class.mean())
        reached |= {f"accuracy_{name}{at}": float(share) for name, share in zip(names, by_class, strict=True)}
        confusions["clean" if snr_db is None else f"{snr_db} dB"] = confusion.tolist()
    with whole_file(job.output_dir("state/output") / "bearings.json") as draft:
        draft.write_text(
            json.dumps({"classes": names, "confusion": confusions, **reached}, indent=2) + "\n", encoding="utf-8"
        )
    job.report_metrics(**reached)


def _data() -> Path:
    return Path(os.environ.get("DURE_DATA") or Path(__file__).parents[3] / "shared" / "data")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=8, help="Epochs, each of so many batches.")
    parser.add_argument("--batches", type=int, default=50, help="Batches of an epoch.")
    parser.add_argument("--batch", type=int, default=64, help="Windows of a batch.")
    parser.add_argument("--channels", type=int, default=8, help="Channels of the first layer.")
    parser.add_argument("--rate", type=float, default=2e-3, help="Learning rate.")
    parser.add_argument("--device", default="cpu", help="Such as cuda.")
    parser.add_argument("--seed", type=int, default=0, help="Of weights, windows and noise.")
    options = parser.parse_args()
    if min(options.epochs, options.batches, options.batch, options.channels) < 1 or options.rate <= 0:
        parser.error("epochs, batches, batch and channels from 1, rate above 0")
    return options


if __name__ == "__main__":
    job.run_program(main)
