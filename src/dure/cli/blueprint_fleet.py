"""What blueprints take on the reference fleet: ``python -m dure.cli.blueprint_fleet`` asks the twin and writes it beside them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import date
from typing import Any

import numpy as np

from dure.client.blueprints import ON_FLEET, Entry, catalogue, catalogue_folder
from dure.model.job_file import JobSpec, Pipeline, PipelineJob, pipeline_order
from dure.policy.config import named_policy
from dure.twin.files import read_alliance
from dure.twin.inputs import fleet_from
from dure.twin.turnaround import Stage, turnarounds
from dure.whole_file import whole_file

#: The day of the twin, and who hands the work in: a start-up with an award of the N-UP programme.
AT, LOAD, SEED, MEMBER, AGREEMENT = date(2030, 12, 1), 0.9, 1, "startup-robotics", "n-up"


def stages(entry: Entry) -> list[Stage]:
    """Its jobs at the reference size as the twin takes them, each after those that it needs."""
    work = entry.written
    if not isinstance(work, Pipeline):
        return [_stage(work.name, work, entry.about.expected_cpu_s, ())]
    run_s = entry.about.stage_cpu_s
    return [_stage(name, work.jobs[name], run_s[name], work.jobs[name].needs) for name in pipeline_order(work)]


def _stage(name: str, job: JobSpec | PipelineJob, run_s: float, needs: Sequence[Any]) -> Stage:
    asked = job.resources
    return Stage(
        name, asked.gpus, round(asked.cpus * 1000), round(asked.mem_gib * 1024), round(run_s * 1000), job.checkpoint.every, tuple(map(str, needs))
    )


def on_fleet(entries: Sequence[Entry]) -> dict[str, Any]:
    """What the catalogue's file says."""
    from dure.examples import example_path

    path = str(example_path("alliance"))
    fleet, terms = fleet_from(path, None, 8, AT)
    assert terms is not None
    alliance = read_alliance(path)
    price = next(float(agreement.price_per_gpu_hour) for agreement in alliance.agreements if agreement.name == AGREEMENT)
    works = [stages(entry) for entry in entries]
    found = turnarounds(works, MEMBER, fleet, terms, named_policy("dure"), LOAD, SEED)
    blueprints = {}
    for entry, work, took_s in zip(entries, works, found, strict=True):
        gpu_hours = sum(stage.num_gpus * stage.run_ms for stage in work) / 3_600_000
        median_s, late_s = (round(float(np.quantile(took_s, part, method="higher")), 1) for part in (0.5, 0.95))
        blueprints[entry.about.name] = {
            "time_p50_s": median_s, "time_p95_s": late_s,
            "gpu_hours": round(gpu_hours, 4), "cost": round(gpu_hours * price, 1), "currency": alliance.currency,
        }  # fmt: skip
    return {
        "fleet": f"{alliance.name}, {fleet.num_gpus:,} GPUs, {AT}, load {LOAD:g}, seed {SEED}; as {MEMBER}, at the price of {AGREEMENT}",
        "blueprints": blueprints,
    }


if __name__ == "__main__":
    with whole_file(catalogue_folder() / ON_FLEET) as draft:
        draft.write_text(json.dumps(on_fleet(catalogue()), indent=1, allow_nan=False) + "\n", encoding="utf-8")
