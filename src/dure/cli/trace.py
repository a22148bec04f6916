"""`dure trace`: what a file of recorded load holds."""

from __future__ import annotations

import click

from dure.cli.main import emit


@click.group()
def trace() -> None:
    """Look into recorded load."""


@trace.command()
@click.argument("path", type=click.Path())
@click.option("--format", "trace_format", help="Its format; default: recognised by what stands in it.")
@click.option("--json", "is_json", is_flag=True)
def info(path: str, trace_format: str | None, is_json: bool) -> None:
    """Say how many jobs of whom a trace holds, over which time, and what its loader left out."""
    from dure.twin.traces import load_trace_with_notes

    found, notes = load_trace_with_notes(path, format=trace_format)
    jobs = found.jobs
    known = jobs["duration_ms"][jobs["duration_ms"] >= 0]
    timed = jobs["duration_ms"].clip(min=0) * (jobs["num_gpus"] * (jobs["gpu_milli"] / 1000))
    emit(
        {
            "source": found.source,
            "jobs": len(jobs),
            "timed_jobs": len(known),
            "members": len(found.members),
            "users": len(found.users),
            "gpu_types": found.gpu_types,
            "span_s": int(jobs["submit_ms"].max(initial=0) - jobs["submit_ms"].min(initial=0)) / 1000,
            "gpus_max": int(jobs["num_gpus"].max(initial=0)),
            "duration_mean_s": float(known.mean()) / 1000 if len(known) else None,
            "gpu_hours": float(timed.sum()) / 3.6e6,
            "extra_columns": sorted(found.extra),
            "notes": notes,
            "digest": found.digest(),
        },
        is_json,
    )
