"""The job file and the pipeline file: work, as a person asks for it, in a file or through the API."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Field, model_validator

from dure.model.alliance import Country, Name
from dure.model.errors import InputError
from dure.model.events import AFTER_ANY, AFTER_NOT_OK, AFTER_OK
from dure.model.fleet import GPUS_PER_NODE_MAX
from dure.model.jobs import GRACE_MS
from dure.model.yaml_file import (
    DurationMs,
    FileModel,
    Loc,
    check_names,
    load_model,
    model_from,
    parse_yaml,
    with_value,
)

#: GPUs of one job, tasks of one array, jobs of one pipeline.
JOB_GPUS_MAX, ARRAY_MAX, PIPELINE_MAX = 131_072, 10_000, 1_000

EnvName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=200)]
EnvValue = Annotated[str, Field(max_length=32_000)]
Word = Annotated[str, Field(max_length=32_000)]
ProjectName = Annotated[str, Field(max_length=129, pattern=r"^[^\s,#]*$")]


class Resources(FileModel):
    """What a job needs. CPU, memory and network are the whole job's."""

    gpus: int = Field(default=1, ge=0, le=JOB_GPUS_MAX, description="GPUs, all or none; 0: a job without GPUs.")
    gpu_milli: int = Field(
        default=1000, ge=1, le=1000, description="Of each GPU, in 1/1000; below 1000 only with one GPU."
    )
    gpu_types: tuple[Name, ...] = Field(default=(), max_length=64, description="Allowed GPU types; none: any.")
    gpus_per_node: int = Field(
        default=0, ge=0, le=GPUS_PER_NODE_MAX, description="Wanted on each node; 0: as placement likes."
    )
    min_gpus: int = Field(default=0, ge=0, le=JOB_GPUS_MAX, description="Elastic: the fewest it can run with; 0: `gpus`.")
    max_gpus: int = Field(default=0, ge=0, le=JOB_GPUS_MAX, description="Elastic: the most it can use; 0: `gpus`.")
    cpus: float = Field(default=0, ge=0, le=1_000_000, description="CPU cores.")
    mem_gib: float = Field(default=0, ge=0, le=10_000_000, description="Memory.")
    net_gbps: float = Field(default=0, ge=0, le=10_000_000, description="Bandwidth into the fabric.")
    topology: Literal["any", "node", "rack", "block", "cluster"] = Field(
        default="any", description="Largest domain that its GPUs may be spread over."
    )
    sites: tuple[Name, ...] = Field(default=(), max_length=64, description="Allowed sites; none: any.")
    countries: tuple[Country, ...] = Field(
        default=(), max_length=64, description="Where its data may lie: only sites of these countries, ISO 3166; none: any."
    )
    reach: Reach | None = Field(default=None, description="Only sites that reach the devices of an area in time; none: any.")


class Reach(FileModel):
    """From where a job's answers have to come in time."""

    area: Name = Field(description="Where its devices are; sites say which areas they reach.")
    within: DurationMs = Field(gt=0, description="The network's round trip between the area's radio and the site, at most.")


class Checkpoint(FileModel):
    """How a job saves its work and leaves."""

    every: DurationMs = Field(default=0, description="Interval between checkpoints; 0: it writes none.")
    signal: Literal["TERM", "USR1"] = Field(default="TERM", description="The signal that tells it to save and leave.")
    grace: DurationMs = Field(default=GRACE_MS, description="Time from the signal to SIGKILL.")


class Dependency(FileModel):
    """A job to wait for."""

    job: str = Field(min_length=1, max_length=200, description="Its id; in a pipeline, the name of a job of it.")
    when: Literal["afterok", "afterany", "afternotok"] = Field(
        default="afterok", description="After which outcome this job may start."
    )


class Array(FileModel):
    """Many jobs of one file; each finds its index in `DURE_ARRAY_INDEX`."""

    indices: tuple[Annotated[int, Field(ge=0, lt=10**9)], ...] = Field(min_length=1, max_length=ARRAY_MAX, description="Their indices, each once.")
    limit: int = Field(default=0, ge=0, le=ARRAY_MAX, description="So many may run at one time; 0: all.")


class TaskRole(FileModel):
    """Processes of a job that run another command than its own; all start and end together."""

    name: Name = Field(description="Found in `DURE_ROLE`, with `DURE_ROLE_RANK` and `DURE_ROLE_SIZE`.")
    tasks: int = Field(ge=1, le=JOB_GPUS_MAX, description="How many: the job's last ranks, role after role.")
    command: tuple[Word, ...] = Field(min_length=1, max_length=1000, description="Program and arguments.")
    env: dict[EnvName, EnvValue] = Field(default={}, max_length=1000, description="Environment variables besides the job's.")


class JobSpec(FileModel):
    """One job (or, with `array`, many of one kind)."""

    name: str = Field(default="job", min_length=1, max_length=200, description="For people; need not be unique.")
    project: ProjectName = Field(default="", description="Who pays: `member/project`; default: the caller's.")
    command: tuple[Word, ...] = Field(min_length=1, max_length=1000, description="Program and arguments.")
    setup: str = Field(default="", max_length=100_000, description="Shell script that runs before it on each node.")
    env: dict[EnvName, EnvValue] = Field(default={}, max_length=1000, description="Environment variables.")
    workdir: str = Field(default="", max_length=4_000, description="Working directory, a relative one from the file's folder; default: one of its own.")
    resources: Resources = Field(default=Resources(), description="What it needs.")
    tasks_per_node: int = Field(
        default=1, ge=0, le=GPUS_PER_NODE_MAX,
        description="Processes on each node, with rank and rendezvous variables; 0: one a GPU.",
    )
    roles: tuple[TaskRole, ...] = Field(
        default=(), max_length=100, description="Unlike processes, such as simulators beside a learner: the last ranks; those before them run `command`."
    )
    time_limit: DurationMs | None = Field(default=None, description="An attempt that runs longer is ended.")
    service: str = Field(
        default="", max_length=64, pattern=r"^[A-Za-z0-9._-]*$",
        description="Name under which clients find its address, which it reports as `url` of its progress; none: it is no service.",
    )
    priority: Literal["best-effort", "normal", "high"] = Field(default="normal", description="Class inside the member.")
    checkpoint: Checkpoint = Field(default=Checkpoint(), description="How it saves its work and leaves.")
    retries: int = Field(default=0, ge=0, le=100, description="How often a failed attempt is tried again.")
    depends_on: tuple[Dependency, ...] = Field(default=(), max_length=1000, description="Jobs to wait for.")
    array: Array | None = Field(default=None, description="Many jobs of this file.")
    begin: str = Field(default="", max_length=40, description="ISO 8601 moment with offset before which it does not start.")
    reserve: bool = Field(default=False, description="With `begin`: its nodes are reserved from then on.")
    inputs: tuple[str, ...] = Field(default=(), max_length=1000, description="In a pipeline: `job/path` of files that it reads.")
    outputs: tuple[str, ...] = Field(default=(), max_length=1000, description="Paths under `DURE_OUTPUT_DIR` that are kept for others.")
    cache: tuple[str, ...] = Field(
        default=(), max_length=1000,
        description="Patterns of the files in `workdir` that its outputs hang on, beside command, environment and inputs: where an earlier job of the "
        "project at this site had all of them equal, its outputs are taken. None: it always runs.",
    )

    @model_validator(mode="after")
    def _is_whole(self) -> JobSpec:
        r = self.resources
        if r.gpu_milli < 1000 and r.gpus != 1:
            raise ValueError("`gpu_milli` below 1000 goes with one GPU only")
        if r.min_gpus > r.gpus or (r.max_gpus and r.max_gpus < r.gpus):
            raise ValueError("`min_gpus` ≤ `gpus` ≤ `max_gpus` must hold")
        if r.gpus_per_node > r.gpus:
            raise ValueError("`gpus_per_node` is more than `gpus`")
        num_tasks = sum(role.tasks for role in self.roles)
        if self.roles and self.tasks_per_node == 0 and num_tasks >= r.gpus:
            raise ValueError(f"`roles` of {num_tasks} tasks leave none of {r.gpus} for `command`")
        if self.cache and not self.outputs:
            raise ValueError("`cache` needs `outputs`")
        if self.cache and not self.workdir:
            raise ValueError("`cache` needs `workdir`")
        if any(pattern.startswith("/") or ".." in pattern.split("/") for pattern in self.cache):
            raise ValueError("`cache` stays in `workdir`")
        if self.reserve and not self.begin:
            raise ValueError("`reserve` needs `begin`")
        if self.array and len(set(self.array.indices)) != len(self.array.indices):
            raise ValueError("an index of `array` stands twice")
        return self


class PipelineJob(JobSpec):
    """A job of a pipeline; `needs` names others that must end well first."""

    needs: tuple[Name, ...] = Field(default=(), max_length=PIPELINE_MAX, description="Jobs of this pipeline that come before it.")


class Pipeline(FileModel):
    """Jobs that follow one another, with files handed on."""

    name: str = Field(default="pipeline", min_length=1, max_length=200, description="For people.")
    project: ProjectName = Field(default="", description="Project of all jobs that name none.")
    jobs: dict[Name, PipelineJob] = Field(min_length=1, max_length=PIPELINE_MAX, description="The jobs by name.")


WHEN = {"afterok": AFTER_OK, "afterany": AFTER_ANY, "afternotok": AFTER_NOT_OK}
PRIORITY = {"best-effort": 0, "normal": 1, "high": 2}


def check_pipeline(pipeline: Pipeline) -> Iterator[tuple[Loc, str]]:
    """What a schema cannot say: every `needs` and input is a job of the file, and none waits for itself."""
    for name, job in pipeline.jobs.items():
        for i, before in enumerate(job.needs):
            if before not in pipeline.jobs:
                yield ("jobs", name, "needs", i), f"no job {before!r} in this pipeline"
        for i, path in enumerate(job.inputs):
            if path.partition("/")[0] not in job.needs:
                yield ("jobs", name, "inputs", i), f"{path!r} must start with the name of a job in `needs`"
        yield from check_names(((("jobs", name, "needs", i), before) for i, before in enumerate(job.needs)), "job")
    order = pipeline_order(pipeline)
    for name in pipeline.jobs:
        if name not in order:
            yield ("jobs", name, "needs"), "the jobs wait for each other in a circle"


def pipeline_order(pipeline: Pipeline) -> list[str]:
    """Names of the jobs, each after those it needs; those in a circle are left out."""
    order: list[str] = []
    left = dict(pipeline.jobs)
    while True:
        ready = [name for name, job in left.items() if all(before in order for before in job.needs)]
        if not ready:
            return order
        for name in ready:
            order.append(name)
            del left[name]


def placed_in(work: JobSpec | Pipeline, folder: str) -> JobSpec | Pipeline:
    """The same work, its relative working directories taken from a folder (absolute)."""
    if isinstance(work, Pipeline):
        return work.model_copy(update={"jobs": {name: _job_in(job, folder) for name, job in work.jobs.items()}})
    return _job_in(work, folder)


def _job_in(job: JobSpec, folder: str) -> JobSpec:
    return job.model_copy(update={"workdir": posixpath.normpath(posixpath.join(folder, job.workdir)) if job.workdir else ""})


def load_job(text: str, path: str = "") -> JobSpec:
    """The job in a file's text; raises InputError with path, line and field."""
    return load_model(JobSpec, text, path)


def load_pipeline(text: str, path: str = "") -> Pipeline:
    """The pipeline in a file's text; raises InputError with path, line and field."""
    return load_model(Pipeline, text, path, check_pipeline)


def load_work(text: str, path: str = "", settings: Sequence[str] = ()) -> JobSpec | Pipeline:
    """The job or the pipeline (it has the key `jobs`) in a file's text.

    Parameters
    ----------
    settings : sequence of str
        ``dotted.key=value`` (the value in YAML) that take the place of what the file says.

    Raises
    ------
    InputError
        With path, line and field of what is wrong; a setting has its key and no line.
    """
    root = parse_yaml(text, path)
    for setting in settings:
        key, found, value = setting.partition("=")
        if not found or not all(key.split(".")):
            raise InputError(f"must be KEY=VALUE such as resources.gpus=2, not {setting!r}", field="--set")
        try:
            root = with_value(root, key.split("."), replace(parse_yaml(value), line=0))
        except InputError as error:
            raise InputError(error.message, path, error.line, f"--set {key}") from None
    if isinstance(root.value, dict) and "jobs" in root.value:
        return model_from(Pipeline, root, path, check_pipeline)
    return model_from(JobSpec, root, path)
