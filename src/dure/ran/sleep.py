"""`dure ran sleep`: base stations, GPUs and devices that sleep, calibrated on earlier days and tested on later ones."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dure.model.errors import InputError
from dure.ran import bs_sleep, gpu_sleep, ue_drx
from dure.ran.energy_tables import UeTable, bs_table
from dure.ran.loads import WINDOW_S
from dure.ran.sleep_load import Bursts, Windows, invented_windows, read_windows, sampled

#: Days that are invented where there are no files.
INVENTED_DAYS = 6
CALIBRATE_SHARE = 0.6
#: Windows drawn for each part, and seconds simulated of each in slots; a device lives through whole windows.
CALIBRATE_WINDOWS, TEST_WINDOWS, DEVICE_WINDOWS = 48, 96, 360
#: GPUs of a site whose cells share them.
NUM_GPUS = 4
_SSB_PERIODS_MS = (5, 10, 20, 40, 80, 160)


@dataclass(frozen=True)
class SleepOptions:
    """What is asked: powers, periods and timers in ms, delay budgets in ms, carriers, how load comes within two minutes."""

    bs: str = "cat1-set1"
    ssb_ms: int = 20
    capacity_carriers: int = 1
    bs_budget_ms: float = 20.0
    ue_budget_ms: float = 50.0
    drx: ue_drx.Drx = field(default_factory=ue_drx.Drx)
    ue_on_ms: int = 2
    bandwidth_mhz: float = 100.0
    num_rx: int = 4
    seconds: int = 10
    is_planned: bool = True
    bursts: Bursts = field(default_factory=Bursts)
    seed: int = 0


def check_options(options: SleepOptions) -> None:
    """Refuse what makes no site.

    Raises
    ------
    InputError
        Names the option.
    """
    bs_table(options.bs)
    if options.ssb_ms not in _SSB_PERIODS_MS:
        raise InputError(f"{options.ssb_ms} is none of {', '.join(map(str, _SSB_PERIODS_MS))} (TS 38.213 clause 4.1)", field="--ssb-ms")
    if options.drx.on_ms >= options.drx.cycle_ms:
        raise InputError(f"{options.drx.on_ms} is not less than the cycle of {options.drx.cycle_ms}", field="--drx")


def run_sleep(
    paths: Sequence[str], options: SleepOptions, progress: Callable[[int, int], None] | None = None
) -> dict[str, Any]:
    """The tables of the command; keys as documented there.

    Raises
    ------
    InputError
        A file or an option is wrong.
    """
    check_options(options)
    if paths:
        early, late = read_windows(paths, CALIBRATE_SHARE, is_planned=options.is_planned)
    else:
        windows = invented_windows(INVENTED_DAYS, options.seed)
        cut = int(len(windows.down) * CALIBRATE_SHARE)
        early, late = windows.part(np.arange(cut)), windows.part(np.arange(cut, len(windows.down)))
    site = _site(early, late, options, 1 + options.capacity_carriers, progress)
    out: dict[str, Any] = {
        "bs_table": options.bs, "ssb_ms": options.ssb_ms, "capacity_carriers": options.capacity_carriers, "seed": options.seed,
        "load": "files" if paths else "invented", "mean_load": float(late.down.mean()), "synthetic_below_s": WINDOW_S,
        **{f"bs_{key}": value for key, value in site.items()},
    }  # fmt: skip
    if options.capacity_carriers:
        alone = _site(early, late, options, 1, None)
        out["bs_one_carrier"] = alone
    devices = {name: _device(early, late, options, traffic) for name, traffic in ue_drx.TRAFFICS.items()}
    out |= {f"ue_{key}": value for key, value in devices["ftp3"].items()}
    out["ue_sessions"] = devices["sessions"]
    gpus = gpu_sleep.compare(early, late, NUM_GPUS)
    out["gpu"] = {name: {"mean_w": run.mean_w, "short_share": run.short_share} for name, run in gpus.items()}
    out["digest"] = hashlib.sha256(json.dumps(out, sort_keys=True).encode()).hexdigest()
    return out


def _site(
    early: Windows, late: Windows, options: SleepOptions, num_carriers: int, progress: Callable[[int, int], None] | None
) -> dict[str, Any]:
    """A base station's table: energies as shares of the reference's, savings, delays."""
    setting = bs_sleep.Setting(bs_table(options.bs), options.ssb_ms, num_carriers)
    sites = [
        bs_sleep.Site(setting, bs_sleep.make_samples(
            sampled(windows, num, options.seed, stream), options.bursts, setting, options.seconds, options.seed, stream,
        ), setting.ssb_slots)
        for stream, (windows, num) in enumerate(((early, CALIBRATE_WINDOWS), (late, TEST_WINDOWS)))
    ]  # fmt: skip
    actions = bs_sleep.learn(sites[0], options.bs_budget_ms, progress)
    reference = sites[1].reference()
    bound = 1.0 - sites[1].bound() / reference.energy
    out: dict[str, Any] = {"clairvoyant_saving": bound}
    for name, chosen in (("fixed_timer", bs_sleep.fixed_timers()), ("dure", actions)):
        run = sites[1].run(chosen)
        prefix = "" if name == "dure" else f"{name}_"
        saving = 1.0 - run.energy / reference.energy
        out |= {
            f"{prefix}saving": saving, f"{prefix}share_of_clairvoyant": saving / bound,
            f"{prefix}added_p95_ms": run.added_p95_ms, f"{prefix}missed_ssb": run.missed_ssb, f"{prefix}unserved": run.unserved,
        }  # fmt: skip
        out[f"{prefix}energy_by_state"] = {state: energy / reference.energy for state, energy in run.by_state.items()}
        if name == "dure":
            out["carriers_off_share"] = run.off_share
    return out


def _device(early: Windows, late: Windows, options: SleepOptions, traffic: ue_drx.Traffic) -> dict[str, Any]:
    """A device's table: savings against the fixed timers, delays."""
    table = UeTable().scaled(options.bandwidth_mhz, options.num_rx)
    calibrate, test = (
        ue_drx.make_device(sampled(windows, DEVICE_WINDOWS, options.seed, 2 + stream), traffic, options.seed, stream)
        for stream, windows in enumerate((early, late))
    )
    budget = options.ue_budget_ms
    fixed = ue_drx.run_fixed(test, options.drx, table, budget)
    bound = 1.0 - ue_drx.clairvoyant_bound(test, table) / fixed.energy
    run = ue_drx.run_table(test, ue_drx.learn(calibrate, options.ue_on_ms, table, budget), options.ue_on_ms, table, budget)
    saving = 1.0 - run.energy / fixed.energy
    return {
        "bursts": len(test.arrive), "clairvoyant_saving": bound, "saving": saving, "share_of_clairvoyant": saving / bound,
        "added_p95_ms": run.added_p95_ms, "added_mean_ms": run.added_mean_ms, "late_share": run.late_share,
        "fixed_added_p95_ms": fixed.added_p95_ms, "fixed_added_mean_ms": fixed.added_mean_ms,
    }  # fmt: skip
