"""`dure ran`: cell sites, what their GPUs can lend, and the energy of base stations and devices."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dure.cli.main import check_output, echo_json, emit, progress
from dure.cli.table import table
from dure.model.errors import InputError

if TYPE_CHECKING:
    from dure.ran.fence_words import Word
    from dure.ran.site import SiteModel
    from dure.ran.ue_drx import Drx


@click.group()
def ran() -> None:
    """Cell sites: the radio first, the rest of the GPU lent; energy of base stations and devices."""


class _Files(click.Command):
    """Lets ``--calibrate`` and ``--load`` take several files each: ``--load a b`` is ``--load a --load b``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        spread: list[str] = []
        option: str | None = None
        for arg in args:
            if arg.startswith("-"):
                option = arg if arg in ("--calibrate", "--load") else None
                is_first = True
            elif option is not None:
                if not is_first:
                    spread.append(option)
                is_first = False
            spread.append(arg)
        return super().parse_args(ctx, spread)


@ran.command(cls=_Files)
@click.option("--calibrate", type=click.Path(), multiple=True, required=True, metavar="FILE...",
              help="Loads of earlier days, in the format of the Barcelona measurements (.csv, .csv.gz).")  # fmt: skip
@click.option("--load", type=click.Path(), multiple=True, required=True, metavar="FILE...",
              help="Loads to replay.")  # fmt: skip
@click.option("--cells", "num_cells", type=click.IntRange(1, 400), default=20, show_default=True)
@click.option("--sites", "num_sites", type=click.IntRange(1, 1000), default=1, show_default=True,
              help="Sites of so many cells each; the slots are dealt to them.")  # fmt: skip
@click.option("--slots", "num_slots", type=click.IntRange(1000), default=5_000_000, show_default=True,
              help="Slots to replay, spread evenly over the load's two-minute windows.")  # fmt: skip
@click.option("--calibrate-slots", type=click.IntRange(1000), default=10_000_000, show_default=True,
              help="Slots to calibrate on; the guard keeps more where they are few.")  # fmt: skip
@click.option("--vacate-ms", type=click.FloatRange(0, 50), default=2.0, show_default=True,
              help="How long a tenant takes to leave; a multiple of 0.5.")  # fmt: skip
@click.option("--policy", type=click.Choice(["dure", "static", "mig", "per-slot", "fence"]), default="dure", show_default=True)
@click.option("--fault", type=click.Choice(["surge", "predictor", "tenant", "heartbeat", "clock", "gpu"]),
              help="In every stretch that is replayed, after a third of it.")  # fmt: skip
@click.option("--gpu-left", type=click.FloatRange(0, 1), help="With --fault gpu: the part of the GPU that is left.")
@click.option("--standby-cells", type=click.IntRange(0), default=0, show_default=True,
              help="Cells for which a standby site has room, of each site.")  # fmt: skip
@click.option("--interruption-ms", type=click.FloatRange(0, 60_000), default=110.0, show_default=True,
              help="How long a cell is interrupted that fails over as the GPU is gone.")  # fmt: skip
@click.option("--coefficients", type=click.Path(), help="What slots cost, of `dure ran calibrate`; default: made from NVIDIA's stated budgets.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--html", type=click.Path(), help="Write a report with plots there.")
@click.option("--json", "is_json", is_flag=True)
def guard(
    calibrate: tuple[str, ...], load: tuple[str, ...], num_cells: int, num_sites: int, num_slots: int, calibrate_slots: int,
    vacate_ms: float, policy: str, fault: str | None, gpu_left: float | None, standby_cells: int, interruption_ms: float,
    coefficients: str | None, seed: int, html: str | None, is_json: bool,
) -> None:  # fmt: skip
    """How much of a site's idle GPU is lent, and how many slots are late. Synthetic below two minutes."""
    check_output(html, "--html")
    from dure.ran.guard_run import run_guard

    model = _site_model(coefficients)
    if coefficients is not None:
        from dure.ran.measure import slowed_by

        model = replace(model, slowed_by=slowed_by(model, num_cells))
    with progress("slots") as move:
        run = run_guard(
            calibrate, load, policy=policy, num_cells=num_cells, num_slots=num_slots, vacate_ms=vacate_ms, seed=seed,
            fault=fault, gpu_left=gpu_left, standby_cells=standby_cells, interruption_ms=interruption_ms,
            calibrate_slots=calibrate_slots, num_sites=num_sites, model=model, move=move,
        )  # fmt: skip
    if html is not None:
        from dure.ran.report import write_guard_report

        write_guard_report(run, html)
    measured = {} if coefficients is None else {"slowed_by": model.slowed_by}
    emit({**run.summary(), **measured} if is_json else {**run.summary(), **run.causes(), **measured}, is_json)


def _site_model(coefficients: str | None) -> SiteModel:
    """A site of the coefficients in a file; None: of those made from NVIDIA's stated budgets."""
    if coefficients is None:
        from dure.ran.site import SiteModel

        return SiteModel()
    from dure.ran.measure import read_coefficients

    return read_coefficients(coefficients)


@ran.command(cls=_Files)
@click.option("--site", help="The cell site whose forecast it is.")
@click.option("--out", type=click.Path(), help="In place of `--site`: all that would have been said over the loads, for `words` of a scenario.")
@click.option("--calibrate", type=click.Path(), multiple=True, required=True, metavar="FILE...", help="As of `dure ran guard`.")
@click.option("--load", type=click.Path(), multiple=True, required=True, metavar="FILE...",
              help="What is measured: a file a cell, best, that grows by a row every two minutes.")  # fmt: skip
@click.option("--cells", "num_cells", type=click.IntRange(1, 400), default=20, show_default=True, help="On each GPU of the site.")
@click.option("--calibrate-slots", type=click.IntRange(1000), default=2_000_000, show_default=True)
@click.option("--coefficients", type=click.Path(), help="As of `dure ran guard`.")
@click.option("--rounds", "num_rounds", type=click.IntRange(0), default=0, show_default=True, help="Of ten minutes; 0: until it is ended.")
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True)
@click.option("--json", "is_json", is_flag=True, help="An object a round, on a line of its own.")
def fence(
    site: str | None, out: str | None, calibrate: tuple[str, ...], load: tuple[str, ...], num_cells: int, calibrate_slots: int, coefficients: str | None, num_rounds: int,
    seed: int, is_json: bool,
) -> None:  # fmt: skip
    """Tell the alliance every ten minutes what part of a cell site its radio can do without in the next ten.

    Until its first word, and where it is silent, the site's hours count.
    """
    from dure.cli.ran_fence import Measured, released_now, tell
    from dure.client import Client
    from dure.ran.fence_words import FenceTeller, words_over, write_words
    from dure.ran.forecast import FenceForecast, calibrate_fence
    from dure.ran.guard_run import CALIBRATION_SEED

    if (site is None) == (out is None):
        raise click.UsageError("give one of --site, --out")
    check_output(out, "--out")
    model = _site_model(coefficients)
    measured = Measured(calibrate, load, num_cells)

    def learn() -> FenceForecast:
        with progress("calibration") as move:
            return calibrate_fence(model, measured.known, calibrate_slots, seed ^ CALIBRATION_SEED, move)

    if out is not None:
        words = words_over(learn(), *measured.read(), model)
        if not words:
            raise InputError("the loads are over before a fence has been forecast: six windows of two minutes are needed", field="--load")
        write_words(out, words)
        _show_words(out, words, is_json)
        return
    assert site is not None
    with Client() as dure:
        released = released_now(dure, site)
        learnt = learn()
        tell(dure, site, measured, FenceTeller(learnt, model, released), num_rounds, lambda told: _show_round(told, is_json))


def _show_words(out: str, words: list[Word], is_json: bool) -> None:
    ends_s = [*(word.after_s for word in words[1:]), words[-1].after_s + words[-1].for_s]
    said_s = ends_s[-1] - words[0].after_s
    part = sum(word.part * (end_s - word.after_s) for word, end_s in zip(words, ends_s, strict=True)) / said_s
    if is_json:
        echo_json({"out": out, "words": len(words), "hours": said_s / 3600, "part": part})
    else:
        click.echo(f"{out}: {len(words)} words for {said_s / 3600:.1f} hours; released in the mean: {part:.1%}")


def _show_round(told: dict[str, Any], is_json: bool) -> None:
    if is_json:
        echo_json(told)
        return
    said = "released" if told["is_told"] else "would be released, but was not told"
    why = f"{told['expected_load']:.2f} cells' load expected" if told["new_windows"] > 0 else "no load has come since the last round"
    click.echo(f"{told['part']:.1%} of {told['site']} {said}: {why}, {told['sms_kept']:.0f} SMs kept")


@ran.command("bs-energy")
@click.option("--train", required=True, type=click.Path(), help="Folder with cell_load, bs_energy and bs_info (.parquet).")
@click.option("--test", required=True, type=click.Path(), help="Such a folder; the same one is split by base stations.")
@click.option("--test-share", default=0.2, show_default=True, type=click.FloatRange(0, 1, min_open=True, max_open=True),
              help="Share of the base stations tested where both folders are the same.")  # fmt: skip
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0, 2**31 - 1))
@click.option("--json", "is_json", is_flag=True)
def bs_energy(train: str, test: str, test_share: float, seed: int, is_json: bool) -> None:
    """A base station's energy from load and settings, on stations not seen in training."""
    from pathlib import Path

    from dure.ran.bs_energy import score_energy
    from dure.ran.itu import read_folder, split_stations

    known = read_folder(train)
    if Path(train).resolve() == Path(test).resolve():
        known, unseen = split_stations(known, test_share, seed)
    else:
        unseen = read_folder(test)
    score = score_energy(known, unseen, seed)
    emit(
        {
            "wmape": score.wmape, "wmape_naive": score.wmape_naive, "wmape_gbm": score.wmape_gbm,
            "base_stations": score.base_stations, "rows": score.rows,
        },
        is_json,
    )  # fmt: skip
    if not is_json:
        click.echo(f"{'model':<13}  {score.chosen}")


@ran.command()
@click.argument("paths", nargs=-1, type=click.Path())
@click.option("--bs", default="cat1-set1", show_default=True, help="Category and set of TR 38.864 Table 5.1-3.")
@click.option("--ssb-ms", default=20, show_default=True, type=int, help="Period of synchronisation signals: 5, 10, 20, 40, 80 or 160.")
@click.option("--capacity-carriers", default=1, show_default=True, type=click.IntRange(0, 7), help="Carriers beside that of coverage.")
@click.option("--bs-budget-ms", default=20.0, show_default=True, type=click.FloatRange(0.5, 1000))
@click.option("--ue-budget-ms", default=50.0, show_default=True, type=click.FloatRange(1, 1000))
@click.option("--drx", default="160/8/100", show_default=True, help="Fixed timers in ms: cycle/on-duration/inactivity.")
@click.option("--ue-on-ms", default=2, show_default=True, type=click.IntRange(1, 100), help="On-duration of adapted DRX.")
@click.option("--bandwidth-mhz", default=100.0, show_default=True, type=click.FloatRange(20, 100), help="Of the device.")
@click.option("--rx", "num_rx", default="4", show_default=True, type=click.Choice(["2", "4"]), help="Receive antennas of the device.")
@click.option("--seconds", default=10, show_default=True, type=click.IntRange(1, 120), help="Simulated of each two-minute window.")
@click.option("--burst-slots", default=2.0, show_default=True, type=click.FloatRange(0.1, 1000),
              help="Mean burst, in 0.5 ms slots of the whole band.")  # fmt: skip
@click.option("--pace", default=0.25, show_default=True, type=click.FloatRange(0.01, 1), help="Share of the band at which a burst arrives.")
@click.option("--measured-load", is_flag=True, help="Shares as measured, not of a cell planned for its busiest hours.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0, 2**31 - 1))
@click.option("--html", type=click.Path(), help="Write a page with plots there.")
@click.option("--json", "is_json", is_flag=True)
def sleep(
    paths: tuple[str, ...], bs: str, ssb_ms: int, capacity_carriers: int, bs_budget_ms: float, ue_budget_ms: float, drx: str,
    ue_on_ms: int, bandwidth_mhz: float, num_rx: str, seconds: int, burst_slots: float, pace: float, measured_load: bool,
    seed: int, html: str | None, is_json: bool,
) -> None:  # fmt: skip
    """Base stations, GPUs and devices that sleep, beside fixed timers and the clairvoyant bound.

    PATHS are load files of sites (two-minute rows); earlier days calibrate, later ones test. Without any a load is invented.
    """
    from dure.ran.sleep import SleepOptions, run_sleep
    from dure.ran.sleep_load import Bursts

    check_output(html, "--html")
    options = SleepOptions(
        bs, ssb_ms, capacity_carriers, bs_budget_ms, ue_budget_ms, _drx(drx), ue_on_ms, bandwidth_mhz, int(num_rx), seconds,
        not measured_load, Bursts(burst_slots, pace), seed,
    )  # fmt: skip
    with progress("sleep") as move:
        found = run_sleep(paths, options, move)
    if html is not None:
        from dure.ran.sleep_page import write_sleep_page

        write_sleep_page(found, html)
    emit(found, is_json)


def _drx(text: str) -> Drx:
    """``160/8/100`` as timers."""
    from dure.ran.ue_drx import Drx

    parts = text.split("/")
    if len(parts) != 3 or not all(part.isdecimal() and 0 < int(part) <= 100_000 for part in parts):
        raise InputError(f"{text!r} is not cycle/on-duration/inactivity in ms; write 160/8/100", field="--drx")
    return Drx(*map(int, parts))


@ran.command()
@click.option("--task", type=click.Choice(("balance", "none")), default="balance", show_default=True,
              help="balance: a robot in MuJoCo (dure[ran]); none: link and energy only.")  # fmt: skip
@click.option("--fading", multiple=True, metavar="SNR:SPEED",
              help="Mean SNR in dB and speed in km/h (0: no fading); again for more. Default: four of them.")  # fmt: skip
@click.option("--load", multiple=True, type=float, help="The site's load, 0 to below 1; again for more. Default: 0.2, 0.5, 0.8.")
@click.option("--episodes", type=click.IntRange(1, 1000), default=20, show_default=True, help="Seeds a cell of the table.")
@click.option("--seconds", type=click.FloatRange(1, 600), default=6.0, show_default=True, help="An episode's length.")
@click.option("--epsilon", type=float, default=0.01, show_default=True, help="Share of answers asked for that may be late.")
@click.option("--deadline-ms", type=float, default=20.0, show_default=True)
@click.option("--compute-w", type=click.FloatRange(0, 1000, min_open=True), default=6.0, show_default=True,
              help="The device's computer at work, above idle.")  # fmt: skip
@click.option("--unit-mw", type=click.FloatRange(0, 1000, min_open=True), default=5.0, show_default=True,
              help="Assumed power of one relative unit of TR 38.840's tables.")  # fmt: skip
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True)
@click.option("--html", type=click.Path(), help="Write a page with plots there.")
@click.option("--json", "is_json", is_flag=True)
def offload(
    task: str, fading: tuple[str, ...], load: tuple[float, ...], episodes: int, seconds: float, epsilon: float,
    deadline_ms: float, compute_w: float, unit_mw: float, seed: int, html: str | None, is_json: bool,
) -> None:  # fmt: skip
    """A control loop on the device, at the cell site, or where Dure chooses: energy and control over fading and load."""
    import os

    from dure.ran.offload_run import FADINGS, LOADS, DevicePower, Options, run_offload

    check_output(html, "--html")
    options = Options(
        fadings=tuple(_fading(text) for text in fading) or FADINGS, loads=load or LOADS, episodes=episodes,
        seconds=seconds, epsilon=epsilon, deadline_ms=deadline_ms, task=task, seed=seed,
        power=DevicePower(unit_mw=unit_mw, compute_w=compute_w),
    )  # fmt: skip
    with progress("episodes") as move:
        found = run_offload(options, move, os.cpu_count() or 1)
    if html is not None:
        from dure.ran.offload_page import write_page

        write_page(found, html)
    if is_json:
        echo_json(found)
        return
    for line in _offload_lines(found):
        click.echo(line)


@ran.command("drive")
@click.option("--service", required=True, help="Name of the service whose jobs plan (`python -m dure.cli.plan_service`).")
@click.option("--area", default="", help="Where the device is: only sites that reach it, the nearest first.")
@click.option("--episodes", type=click.IntRange(1, 1000), default=5, show_default=True)
@click.option("--seconds", type=click.FloatRange(0.1, 600), default=6.0, show_default=True, help="An episode's length, of the robot's time.")
@click.option("--deadline-ms", type=click.FloatRange(0, 20, min_open=True), default=20.0, show_default=True, help="After a period's beginning.")
@click.option("--slowed-by", type=click.FloatRange(1, 1000), default=1.0, show_default=True, help="A period takes so many times 20 ms.")
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True)
@click.option("--json", "is_json", is_flag=True)
def drive_command(
    service: str, area: str, episodes: int, seconds: float, deadline_ms: float, slowed_by: float, seed: int, is_json: bool
) -> None:
    """Drive a simulated robot in real time, with plans from a service that is found through the API."""
    from dure.client import Client
    from dure.ran.drive import Place, run_drive

    with Client(retry_s=0) as dure, progress("episodes") as move:
        dure.whoami()

        def ask() -> list[Place]:
            return [Place(end.url, end.trip_ms or 0.0) for end in dure.find_service(service, area=area, within_ms=deadline_ms if area else None)]

        found = run_drive(
            ask, episodes=episodes, seconds=seconds, deadline_ms=deadline_ms, slowed_by=slowed_by, seed=seed, progress=move
        )
    emit({"service": service, "area": area, **found}, is_json)


def _fading(text: str) -> Any:
    from dure.ran.offload_run import Fading

    snr, colon, speed = text.partition(":")
    try:
        return Fading(float(snr), float(speed if colon else "x"))
    except ValueError:
        raise InputError(f"is SNR:SPEED, such as 18:30, not {text!r}", field="--fading") from None


def _offload_lines(found: dict[str, Any]) -> list[str]:
    """A line a cell: how much could be answered, then energy saved, late answers and control of site always and of Dure's choice."""
    rows = []
    for cell in found["cells"]:
        line = [f"{cell['snr_db']:g} dB", f"{cell['speed_kmh']:g} km/h", f"{cell['load']:g}", f"{cell['servable']:.3f}"]
        for policy in ("site", "dure"):
            of = cell["policies"][policy]
            change = of.get("control_cost_change")
            line += [f"{of['energy_saving']['mean']:.1%}", f"{of['late_of_asked']:.4f}"]
            line += [f"{change['mean']:+.1%}" if change else "-"]
        rows.append(tuple(line))
    return table(
        ("SNR", "SPEED", "LOAD", "SERVABLE", "SITE SAVES", "LATE", "COST", "DURE SAVES", "LATE", "COST"), rows
    )


@ran.command("calibrate")
@click.option("--device", type=click.Choice(("cpu", "cuda")), default="cpu", show_default=True)
@click.option("--out", type=click.Path(), required=True, help="The coefficient file (.json), for `dure ran guard --coefficients`.")
@click.option("--prb", "prbs", type=click.IntRange(1, 273), multiple=True, help="Resource blocks, again for more. Default: 24, 106, 273.")
@click.option("--layers", type=click.IntRange(1, 4), multiple=True, help="Again for more. Default: 1, 2, 4.")
@click.option("--repeats", type=click.IntRange(5, 100_000), default=50, show_default=True, help="Of each slot's work.")
@click.option("--rounds", type=click.IntRange(5, 100_000), default=100, show_default=True, help="So often a tenant is told to go.")
@click.option("--cells", "num_cells", type=click.IntRange(1, 400), default=20, show_default=True, help="Peak cells that are to be in time.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--json", "is_json", is_flag=True)
def calibrate_(
    device: str, out: str, prbs: tuple[int, ...], layers: tuple[int, ...], repeats: int, rounds: int, num_cells: int, seed: int, is_json: bool
) -> None:
    """Measure what slots cost on this machine, alone and beside a tenant, and how soon a tenant is gone. Needs PyTorch."""
    check_output(out, "--out")
    from dure.ran.measure import find_device, measure, slowed_by, write_coefficients
    from dure.ran.site import SiteModel

    with progress("measurements") as move:
        found = measure(find_device(device), prbs or (24, 106, 273), layers or (1, 2, 4), repeats, rounds, seed, move)
    write_coefficients(found, out)
    slowed = slowed_by(SiteModel(**found["coefficients"]), num_cells)
    emit({"file": out, **{key: found[key] for key in ("device", "fit", "vacate_ms", "coefficients")}, "cells": num_cells, "slowed_by": slowed}, is_json)


@ran.command(cls=_Files)
@click.option("--agent", "agent_dir", type=click.Path(file_okay=False, exists=True, path_type=Path), metavar="DIR",
              help="Govern the leases of the agent with this --data-dir. Default: tenants of its own.")  # fmt: skip
@click.option("--hand-back", is_flag=True, help="With --agent, and nothing else: all its leases go on, and nobody governs them any more.")
@click.option("--policy", "policies", type=click.Choice(["none", "guard", "stopped"]), multiple=True,
              help="Again for more. Default: all three, one after the other; with --agent: guard.")  # fmt: skip
@click.option("--slots", "num_slots", type=click.IntRange(0), default=3000, show_default=True,
              help="Under each policy; 0: until it is told to end (SIGTERM, Ctrl-C).")  # fmt: skip
@click.option("--slot-ms", type=click.FloatRange(0.5, 10_000), help="Length of a slot. Default: what this machine needs to stop tenants.")
@click.option("--priority", type=click.Choice(["plain", "nice", "fifo"]), default="plain", show_default=True,
              help="Of the radio, as far as allowed. plain: as on a GPU, where it takes nothing from a running kernel.")  # fmt: skip
@click.option("--tenants", "num_tenants", type=click.IntRange(1, 64), default=2, show_default=True, help="Of its own, each with a process on every core.")
@click.option("--cells", "num_cells", type=click.IntRange(1, 400), default=20, show_default=True)
@click.option("--calibrate", type=click.Path(), multiple=True, metavar="FILE...", help="As of `dure ran guard`. Default: the load is invented.")
@click.option("--load", type=click.Path(), multiple=True, metavar="FILE...", help="As of `dure ran guard`; goes with --calibrate.")
@click.option("--calibrate-slots", type=click.IntRange(1000), default=2_000_000, show_default=True)
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True)
@click.option("--json", "is_json", is_flag=True)
def govern(
    agent_dir: Path | None, hand_back: bool, policies: tuple[str, ...], num_slots: int, slot_ms: float | None, priority: str, num_tenants: int,
    num_cells: int, calibrate: tuple[str, ...], load: tuple[str, ...], calibrate_slots: int, seed: int, is_json: bool,
) -> None:  # fmt: skip
    """Run the guard over real tenants on this machine, in real time by a clock that may be slowed."""
    import logging

    from dure.cli.logs import configure_logging
    from dure.ran.govern_run import Asked, hand_back_node, run_govern

    state_dir = None
    if agent_dir is not None:
        from dure.agent.folders import Folders

        state_dir = Folders(agent_dir.resolve()).state
    if hand_back:
        if state_dir is None:
            raise InputError("goes with --agent", field="--hand-back")
        emit({"leases": hand_back_node(state_dir)}, is_json)
        return
    if bool(calibrate) != bool(load):
        raise InputError("go together", field="--calibrate, --load")
    # The executor of its own tenants does not say what it does without: they have no limits to be enforced.
    configure_logging(logging.ERROR)
    asked = Asked(
        policies or (("guard",) if state_dir is not None else ("none", "guard", "stopped")), num_slots, slot_ms, priority, num_tenants, num_cells,
        calibrate, load, calibrate_slots, seed,
    )  # fmt: skip
    with progress("runs") as move:
        found = run_govern(asked, state_dir, move)
    if is_json:
        echo_json(found)
        return
    for line in _govern_lines(found):
        click.echo(line)


def _govern_lines(found: dict[str, Any]) -> list[str]:
    """What holds for all runs, then a column for each policy."""
    runs = found["runs"]
    about = [f"{key:<18}  {value}" for key, value in found.items() if key != "runs"]
    if not runs:
        return about
    rows = [(key, *(f"{run[key]:.6g}" if isinstance(run[key], float) else str(run[key]) for run in runs)) for key in runs[0] if key != "policy"]
    return [*about, *table(("", *(run["policy"] for run in runs)), rows)]
