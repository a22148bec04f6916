"""`dure bench`: what the project claims, measured on this machine."""

from __future__ import annotations

import json
from pathlib import Path

import click

from dure.cli.main import emit, progress
from dure.model.errors import InputError


def parse_seeds(text: str) -> list[int]:
    """``42-51`` or ``1,2,7-9`` as a list.

    Raises
    ------
    InputError
        Not such a list.
    """
    seeds: list[int] = []
    try:
        for part in text.split(","):
            first, _, last = part.partition("-")
            seeds += range(int(first), int(last or first) + 1)
    except ValueError:
        raise InputError(f"not a list of seeds: {text!r}; write 42-51 or 1,2,3", field="--seeds") from None
    return seeds


@click.group()
def bench() -> None:
    """Measure placement and scale."""


@bench.command()
@click.option(
    "--data", type=click.Path(), required=True, help="Folder of the openb trace, or the one above it."
)
@click.option("--workload", default="default", show_default=True, help="A workload's name, or all.")
@click.option("--policies", default="fgd,dure", show_default=True)
@click.option("--seeds", default="42-51", show_default=True)
@click.option("--json", "is_json", is_flag=True)
def placement(data: str, workload: str, policies: str, seeds: str, is_json: bool) -> None:
    """GPU allocation of placement policies on the openb trace at 130% arrived demand (FGD, ATC'23)."""
    from dataclasses import asdict

    from dure.twin.openb import WORKLOADS, run_placement

    names = list(WORKLOADS) if workload == "all" else [workload]
    rows = []
    for name in names:
        rows += [
            asdict(row) for row in run_placement(Path(data), name, policies.split(","), parse_seeds(seeds))
        ]
    if is_json:
        click.echo(json.dumps({"rows": rows}))
        return
    for row in rows:
        click.echo(
            f"{row['workload']:<14} {row['policy']:<14} {row['seed']:>4}  {row['allocated_pct']:6.2f}%"
            f"  fragmented {row['fragmented_pct']:6.2f}%"
        )


@bench.command()
@click.option("--gpus", default=260_000, type=click.IntRange(1), show_default=True)
@click.option("--jobs", "num_jobs", default=1_000_000, type=click.IntRange(1), show_default=True)
@click.option("--policy", default="dure", show_default=True)
@click.option("--seed", default=0, type=click.IntRange(0), show_default=True)
@click.option("--json", "is_json", is_flag=True)
def scale(gpus: int, num_jobs: int, policy: str, seed: int, is_json: bool) -> None:
    """A load in which queues form, members borrow and owners reclaim, on the reference alliance."""
    from dure.policy.config import named_policy
    from dure.twin.generate import scale_load
    from dure.twin.inputs import reference_alliance
    from dure.twin.metrics import summary
    from dure.twin.replay import replay

    chosen = named_policy(policy)
    fleet, terms = reference_alliance(gpus)
    trace = scale_load(num_jobs, fleet, terms, seed)
    with progress("scale") as move:
        result = replay(trace, fleet, chosen, terms, seed=seed, is_rejecting=True, progress=move)
    found = summary(result)
    emit(
        {
            "jobs": num_jobs, "gpus": fleet.num_gpus, "nodes": len(fleet.nodes), "policy": policy,
            "wall_s": result.wall_s, "cpu_s": result.cpu_s, "jobs_per_s": num_jobs / max(result.wall_s, 1e-9),
            "events_per_s": result.counters.num_events / max(result.wall_s, 1e-9),
            "peak_rss_mb": result.peak_rss_mb, "utilisation": found["utilisation"],
            "preemptions": result.counters.num_preemptions,
            "lent_gpu_hours": float(result.lent_gpu_ms.sum()) / 3.6e6, "digest": result.digest,
        },
        is_json,
    )  # fmt: skip
