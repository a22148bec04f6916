"""Routes of the catalogue: what there is to be run, and the job or pipeline that a blueprint hands in."""

from __future__ import annotations

from dataclasses import asdict
from functools import cache
from typing import Annotated

from fastapi import APIRouter, Path

from dure.client.blueprints import Entry, catalogue
from dure.model.blueprint_file import Blueprint
from dure.model.errors import InputError
from dure.model.job_file import Pipeline
from dure.service.access import Caller, KnownQuery
from dure.service.app import described
from dure.service.errors import not_found
from dure.service.schemas import BlueprintDetail, BlueprintOnFleet, BlueprintRow

router = APIRouter(prefix="/api/v1/blueprints", tags=["blueprints"], dependencies=[KnownQuery])


@cache
def _entries() -> tuple[Entry, ...]:
    """Read once: they belong to the installation, which may have none."""
    try:
        return tuple(catalogue())
    except InputError:
        return ()


def _row(entry: Entry) -> BlueprintRow:
    about: Blueprint = entry.about
    found = entry.on_fleet
    return BlueprintRow(
        name=about.name, field=about.field, stages=list(entry.stages), metric=about.metric.name,
        expected_cpu_s=about.expected_cpu_s, extra=about.extra,
        on_fleet=None if found is None else BlueprintOnFleet(**asdict(found)),
    )  # fmt: skip


@router.get("", responses=described(401))
def list_blueprints(who: Caller) -> list[BlueprintRow]:
    """The catalogue, by name."""
    return [_row(entry) for entry in _entries()]


@router.get("/{name}", responses=described(401, 404, 422))
def get_blueprint(who: Caller, name: Annotated[str, Path(min_length=1, max_length=64)]) -> BlueprintDetail:
    """A blueprint: its parameters, its metric, and what it hands in (a job, or a pipeline)."""
    entry = next((entry for entry in _entries() if entry.about.name == name), None)
    if entry is None:
        raise not_found("blueprint", name)
    work = entry.written
    return BlueprintDetail(
        **_row(entry).model_dump(), about=entry.about, job=None if isinstance(work, Pipeline) else work,
        pipeline=work if isinstance(work, Pipeline) else None,
    )  # fmt: skip
