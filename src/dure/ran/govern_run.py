"""`dure ran govern`: the load, the guard's calibration and the tenants for a site on this machine, and its runs policy by policy."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dure.executors.tenants import Tenants
from dure.model.errors import InputError
from dure.ran.beat import IS_HANDED_BACK, Beat, beat_path
from dure.ran.calibrate import Move, calibrate_guard
from dure.ran.govern import govern
from dure.ran.guard_run import CALIBRATION_SEED
from dure.ran.loads import WINDOW_S, CellLoads, deal_cells, read_known, read_load
from dure.ran.machine import as_governor, choose_slot_ms, decide_ms, interference, stop_ms, wake_late_ms
from dure.ran.own_tenants import OwnTenants
from dure.ran.planned import Site
from dure.ran.site import SiteModel
from dure.ran.site_plan import draw_stretches, invented_loads, site_model

#: v: slots within which a tenant is to be gone, 2 ms of a real site's clock.
_VACATE_SLOTS = 4
#: Plan of a run without an end; it comes round.
_ENDLESS_SLOTS = 12_000
_ALONE_S = 2.0
_START_S = 60.0


@dataclass(frozen=True)
class Asked:
    """Options of `dure ran govern`, by their names there."""

    policies: tuple[str, ...]
    num_slots: int
    slot_ms: float | None
    priority: str
    num_tenants: int
    num_cells: int
    calibrate: Sequence[str]
    load: Sequence[str]
    calibrate_slots: int
    seed: int


def run_govern(asked: Asked, state_dir: Path | None, move: Move) -> dict[str, Any]:
    """Run each policy.

    Parameters
    ----------
    state_dir : Path or None
        Of the executor whose leases are governed; None: tenants are started and ended.

    Returns
    -------
    dict
        See docs/ran.md.

    Raises
    ------
    InputError
        A file cannot be used, or another process governs these leases.
    """
    cores = sorted(os.sched_getaffinity(0))
    known, loads = _loads(asked)
    with _told_to_end() as told, _tenants(asked, len(cores), state_dir) as (of, own), _claimed(of) as beat:
        alone = None if own is None else _rate(own)
        present = Tenants(of).look()
        wake_ms, decided_ms = as_governor(wake_late_ms), as_governor(decide_ms, Tenants(of), cores)
        stopped_ms = as_governor(stop_ms, present)
        slower = max(SiteModel().interference, interference(present, cores))
        model = site_model(len(cores), slower)
        calibration = calibrate_guard(
            model, known, _VACATE_SLOTS, asked.calibrate_slots, asked.seed ^ CALIBRATION_SEED, lambda done, of: None
        )
        stretches = draw_stretches(model, loads, asked.num_slots or _ENDLESS_SLOTS, asked.seed)
        slot_ms = asked.slot_ms or choose_slot_ms(wake_ms, decided_ms, stopped_ms)
        site = Site(model, calibration, stretches, cores, int(slot_ms * 1e6), asked.priority)
        runs = []
        for number, policy in enumerate(asked.policies):
            if told:
                break
            run = govern(policy, site, of, beat, asked.num_slots and site.num_slots, told, float if own is None else own.rounds)
            runs.append({**run, "tenant_work": None if alone is None else run["tenant_work"] / alone})
            move(number + 1, len(asked.policies))
    return {
        "cores": len(cores), "cells": asked.num_cells, "tenants": len(present), "wake_late_p99_ms": wake_ms, "decide_p99_ms": decided_ms,
        "stop_alone_p99_ms": stopped_ms, "interference": slower, "synthetic_below_s": WINDOW_S, "runs": runs,
    }  # fmt: skip


def _loads(asked: Asked) -> tuple[CellLoads, CellLoads]:
    """Of the calibration, and to run."""
    if not asked.load:
        invented = invented_loads(asked.num_cells)
        return invented, invented
    plan, known = read_known(asked.calibrate, asked.num_cells)
    return known, deal_cells([read_load(path) for path in asked.load], plan, asked.num_cells)


@contextmanager
def _told_to_end() -> Iterator[list[int]]:
    """Fills once SIGTERM or SIGINT has come: the node is to be handed back in order."""
    told: list[int] = []
    before = {number: signal.signal(number, lambda said, _: told.append(said)) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield told
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _tenants(asked: Asked, num_cores: int, state_dir: Path | None) -> Iterator[tuple[Path, OwnTenants | None]]:
    if state_dir is not None:
        yield state_dir, None
        return
    with tempfile.TemporaryDirectory(prefix="dure-tenants-") as name:
        own = OwnTenants(Path(name), asked.num_tenants, num_cores)
        try:
            own.start()
            until = time.monotonic() + _START_S
            while not own.are_at_work():
                if time.monotonic() > until:
                    raise InputError(f"tenants did not begin within {_START_S:g} s", field="--tenants")
                time.sleep(0.05)
            yield own.state_dir, own
        finally:
            hand_back_node(own.state_dir)
            own.end()
            beat_path(own.state_dir).unlink(missing_ok=True)


@contextmanager
def _claimed(state_dir: Path) -> Iterator[Beat]:
    beat = Beat(beat_path(state_dir))
    try:
        if not beat.claim_governing():
            raise InputError("another process governs it", str(state_dir))
        yield beat
    finally:
        beat.close()


def _rate(own: OwnTenants) -> float:
    """What tenants get done in a second with nobody beside them."""
    began, before = time.monotonic(), own.rounds()
    time.sleep(_ALONE_S)
    return (own.rounds() - before) / (time.monotonic() - began)


def hand_back_node(state_dir: Path) -> int:
    """Let all leases go on and end the governor and its watchdog, if there are any; how many leases there are."""
    path = beat_path(state_dir)
    if path.exists():
        beat = Beat(path)
        beat[IS_HANDED_BACK] = 1
        beat.close()
    tenants = Tenants(state_dir).look()
    for tenant in tenants:
        tenant.pin(range(os.cpu_count() or 1))
        tenant.resume()
    return len(tenants)
