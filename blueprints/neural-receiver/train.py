"""A receiver of the 5G uplink that learns to estimate the channel, held against LS-LMMSE and perfect knowledge by block error rates.

A step is ten batches of training, then 25 slots of the trial over one channel at one SNR.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from link import Channel, Link, Slots, seed_of
from network import LearnedReceiver
from picture import draw
from receivers import Detector, LeastSquares, Perfect, Wiener
from torch import nn
from trial import Errors, Trial

from dure.client import job
from dure.client.saved import Saved
from dure.model.finite import finite
from dure.whole_file import whole_file

BATCHES_A_STEP = 10
#: Slots that a time is the shortest of: others may use the machine too.
TIMED = 30
MEBIBYTE = 2**20


def main() -> None:
    """Choose the size, train, try; going on where an earlier attempt left."""
    options = _options()
    job.watch_signals()
    matter = {key: value for key, value in vars(options).items() if key not in ("device", "save_every_s")}
    saved = Saved(job.checkpoint_dir("state/checkpoint") / "receiver.pickle", matter, options.save_every_s)
    state = saved.load()
    channel, *_ = [Channel.named(name) for name in (options.channel, *options.other_channels)]
    link = Link(options.prbs, options.mcs, channel, options.device)
    detector = Detector(link)
    width = state["width"] if state else chosen_width(link, detector, options)
    torch.manual_seed(options.seed)
    learned = LearnedReceiver(link, detector, width, options.rounds)
    optimiser = torch.optim.AdamW(learned.parameters(), weight_decay=1e-4)
    num_batches = options.steps * BATCHES_A_STEP
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, options.rate, total_steps=num_batches, pct_start=0.1)
    over = {options.channel: options.slots, **{name: options.other_slots for name in options.other_channels if name != options.channel}}
    num_snrs = 1 + math.floor((options.snr_high_db - options.snr_low_db) / options.snr_step_db + 1e-9)
    trial = Trial(over, tuple(options.snr_low_db + options.snr_step_db * place for place in range(num_snrs)), options.seed)
    next_step, wrong = 0, []
    if state:
        learned.load_state_dict(state["learned"])
        optimiser.load_state_dict(state["optimiser"])
        schedule.load_state_dict(state["schedule"])
        next_step, wrong = state["next_step"], state["wrong"]
    estimators = {"ls": LeastSquares(link), "ls_lmmse": Wiener(link), "learned": learned, "perfect": Perfect()}
    began = time.monotonic()

    def current() -> dict[str, Any]:
        return {
            "width": width, "next_step": next_step, "wrong": wrong, "learned": learned.state_dict(),
            "optimiser": optimiser.state_dict(), "schedule": schedule.state_dict(),
        }  # fmt: skip

    parts = list(trial.parts())
    while next_step < options.steps + len(parts):
        if next_step < options.steps:
            loss = 0.0
            for batch in range(next_step * BATCHES_A_STEP, (next_step + 1) * BATCHES_A_STEP):
                loss += _learn(learned, detector, optimiser, link, batch, options) / BATCHES_A_STEP
                schedule.step()
            said: dict[str, Any] = {"loss": loss}
        else:
            part = parts[next_step - options.steps]
            wrong.append(trial.run(part, link, detector, estimators))
            counts = dict(zip(estimators, wrong[-1].sum(axis=1).tolist(), strict=True))
            said = {"channel": part.channel, "snr_db": trial.snr_db[part.snr], **counts}
        job.report_progress(step=next_step, **said, elapsed_s=time.monotonic() - began)
        next_step += 1
        saved.after_step(current())
    saved.save(current())
    link.over(channel)
    slot_s = {name: _slot_s(link, lambda slots, by=by: detector(slots, by(slots))) for name, by in estimators.items() if name != "perfect"}
    _finish(trial.errors(wrong, tuple(estimators)), learned, slot_s, width, saved.path, options)


def chosen_width(link: Link, detector: Detector, options: argparse.Namespace) -> int:
    """The widest network that receives a slot within the budget; the narrowest where none does."""
    for width in sorted(options.widths, reverse=True):
        learned = LearnedReceiver(link, detector, width, options.rounds)
        if _slot_s(link, lambda slots, by=learned: detector(slots, by(slots))) * 1e3 <= options.budget_ms:
            return width
    return min(options.widths)


def _slot_s(link: Link, receive: Callable[[Slots], torch.Tensor]) -> float:
    """Time from what is received to logits, one slot at a time, s."""
    slots, took_s = link.slots(1, 0.0, 0, is_coded=False), []
    with torch.inference_mode():
        for _ in range(TIMED):
            began = time.perf_counter()
            receive(slots).cpu()
            took_s.append(time.perf_counter() - began)
    return min(took_s)


def _learn(
    learned: LearnedReceiver, detector: Detector, optimiser: torch.optim.Optimizer, link: Link, batch: int, options: argparse.Namespace
) -> float:  # fmt: skip
    seed = seed_of(options.seed, "train", batch)
    part = torch.rand(options.batch, generator=torch.Generator().manual_seed(seed))
    snr_db = options.snr_low_db + (options.snr_high_db - options.snr_low_db) * part
    slots = link.slots(options.batch, snr_db.to(link.device), seed, is_coded=False)
    # The less the cross-entropy of coded bits, the higher the rate that a code may have (F. Ait Aoudia, J. Hoydis, End-to-end Learning for OFDM, 2022).
    # Earlier rounds count less.
    losses = [nn.functional.binary_cross_entropy_with_logits(detector(slots, estimate), slots.bits) for estimate in learned.estimates(slots)]
    loss = sum(place * of_round for place, of_round in enumerate(losses, 1)) / sum(range(1, len(losses) + 1))
    optimiser.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(learned.parameters(), 1.0)
    optimiser.step()
    return float(losses[-1].detach())


def _finish(
    found: dict[str, Errors], learned: LearnedReceiver, slot_s: dict[str, float], width: int, kept: Path, options: argparse.Namespace
) -> None:  # fmt: skip
    trained = found[options.channel]
    gains = {
        f"{channel} over {baseline}": errors.gain_db("learned", baseline, options.seed) for channel, errors in found.items() for baseline in ("ls", "ls_lmmse")
    }  # fmt: skip
    gain_db, low_db, high_db = gains[f"{options.channel} over ls_lmmse"]
    is_within = slot_s["learned"] * 1e3 <= options.budget_ms
    metrics = {
        "gain_db_at_10pct": finite(gain_db), "gain_db_low": finite(low_db), "gain_db_high": finite(high_db),
        "gain_over_ls_db_at_10pct": finite(gains[f"{options.channel} over ls"][0]),
        "loss_to_perfect_db_at_10pct": finite(trained.gain_db("perfect", "learned", options.seed)[0]),
        "width": width, "kept": low_db >= options.gain_db and is_within,
    }  # fmt: skip
    output = job.output_dir("state/output")
    with whole_file(output / "result.json") as draft:
        result = {
            **metrics, "within_budget": is_within, "slot_s": slot_s, "checkpoint_mib": kept.stat().st_size / MEBIBYTE,
            "weights": sum(values.numel() for values in learned.parameters()),
            "gains_db": {name: finite(gain) for name, gain in gains.items()},
            "block_error_rates": {
                channel: {
                    name: {"snr_db": errors.snr_db, "rate": errors.rates(name).tolist(), "bounds": np.stack(errors.bounds(name)).T.tolist()}
                    for name in errors.receivers
                }
                for channel, errors in found.items()
            },
        }  # fmt: skip
        draft.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    with whole_file(output / "receiver.pt") as draft:
        torch.save({"width": width, "learned": learned.state_dict()}, draft)
    with whole_file(output / "result.png") as draft:
        draw(draft, found, gain_db)
    job.report_metrics(**metrics, **{f"{name}_slot_s": took_s for name, took_s in slot_s.items()})


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=180, help="Steps of training, ten batches each.")
    parser.add_argument("--batch", type=int, default=16, help="Slots of a batch.")
    parser.add_argument("--rate", type=float, default=5e-3, help="Highest learning rate.")
    parser.add_argument("--widths", type=lambda text: [int(word) for word in text.split(",")], default=[8, 16, 32], help="Channels that the network may have; the widest within the budget.")
    parser.add_argument("--rounds", type=int, default=3, help="Corrections of the estimate, each by a network of its own.")
    parser.add_argument("--budget-ms", type=float, default=15.0, help="Time to receive a slot, without decoding, on the device.")
    parser.add_argument("--gain-db", type=float, default=1.0, help="Gain over LS-LMMSE from which on the receiver is kept.")
    parser.add_argument("--channel", default="TDLB100-400", help="Trained and tried on.")
    parser.add_argument("--other-channels", type=lambda text: text.split(","), default=["TDLC300-100", "TDLA30-10"], help="Tried on only.")
    parser.add_argument("--prbs", type=int, default=4, help="Resource blocks of twelve subcarriers.")
    parser.add_argument("--mcs", type=int, default=10, help="Of TS 38.214 table 5.1.3.1-1.")
    parser.add_argument("--snr-low-db", type=float, default=-1.0, help="Lowest SNR at an antenna.")
    parser.add_argument("--snr-high-db", type=float, default=7.0, help="Highest.")
    parser.add_argument("--snr-step-db", type=float, default=1.0, help="Between those that are tried; training draws from all.")
    parser.add_argument("--slots", type=int, default=500, help="At each SNR over the trained channel.")
    parser.add_argument("--other-slots", type=int, default=150, help="Over each other channel.")
    parser.add_argument("--device", default="cpu", help="Where all is computed; cpu or cuda.")
    parser.add_argument("--seed", type=int, default=0, help="Of weights, slots and the trial.")
    parser.add_argument("--save-every-s", type=float, default=10.0, help="Between checkpoints.")
    options = parser.parse_args()
    if min(options.steps, options.batch, options.rounds, *options.widths, options.prbs, options.slots, options.other_slots) < 1 or options.rate <= 0 or not 0 <= options.mcs <= 28:
        parser.error("steps, batch, prbs and slots from 1, rate above 0, mcs from 0 to 28")
    if not 0 < options.snr_step_db <= options.snr_high_db - options.snr_low_db:
        parser.error("the highest SNR at least a step above the lowest")
    return options


if __name__ == "__main__":
    job.run_program(main)
