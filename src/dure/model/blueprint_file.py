"""`blueprint.yaml`: what the catalogue says of a blueprint, and how its parameters become a job or a pipeline."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

from pydantic import Field

from dure.model.alliance import Name
from dure.model.errors import InputError
from dure.model.job_file import JobSpec, Pipeline, load_work
from dure.model.yaml_file import FileModel, Loc, load_model, nearest

ParameterValue = str | int | float | bool

FIELDS = Literal[
    "foundation models", "robotics", "autonomous driving", "smart manufacturing", "mobility", "inference", "AI-RAN",
]  # fmt: skip


class Title(FileModel):
    """One line of what it is."""

    en: str = Field(min_length=1, max_length=200, description="In English.")
    ko: str = Field(min_length=1, max_length=200, description="In Korean.")


class Metric(FileModel):
    """What its field measures it by."""

    name: Name = Field(description="Its key among the metrics that the job reports at its end.")
    better: Literal["lower", "higher"] = Field(description="Which is better.")
    reached: float = Field(description="Measured at the reference size.")
    goal: float = Field(description="What a run at the reference size has to reach.")
    small_goal: float = Field(description="What a run at the small size has to reach.")
    known: float | None = Field(default=None, description="A published value, or the best that is known.")
    known_from: str = Field(default="", max_length=1000, description="Whose, of what, where published.")

    def is_reached(self, value: float, is_small: bool) -> bool:
        """Whether a run has reached its goal."""
        goal = self.small_goal if is_small else self.goal
        return value <= goal if self.better == "lower" else value >= goal


class Parameter(FileModel):
    """An option of a blueprint's program; in a pipeline it is named ``job.option``."""

    default: ParameterValue = Field(description="At the reference size, as the job file has it.")
    small: ParameterValue | None = Field(default=None, description="At the small size; default: the same.")
    help: str = Field(min_length=1, max_length=300, description="For people.")


class Blueprint(FileModel):
    """A folder with a job or a pipeline that is there to be taken and changed."""

    name: Name = Field(description="As its folder is called.")
    title: Title = Field(description="What it is.")
    field: FIELDS = Field(description="Of work.")
    extra: Name = Field(description="The extra of the package that has its libraries.")
    metric: Metric = Field(description="How good its result is.")
    expected_cpu_s: float = Field(gt=0, description="CPU-seconds at the reference size, measured.")
    small_cpu_s: float = Field(gt=0, description="CPU-seconds at the small size, measured.")
    stage_cpu_s: dict[Name, float] = Field(
        default={}, max_length=100, description="Of a pipeline: CPU-seconds of each job at the reference size, measured."
    )
    checkpoint_mib: float = Field(ge=0, description="Size of its checkpoint at the reference size, measured.")
    leaves_in_s: float = Field(
        default=0, ge=0, description="From being told to leave to its GPUs being free, 99th percentile at the small size, measured."
    )
    restart_s: float = Field(
        default=0, ge=0, description="From the start of a further attempt to its first new step, at the small size, measured."
    )
    gpu_scaling: str = Field(default="", max_length=1000, description="How the same code runs on many GPUs.")
    parameters: dict[str, Parameter] = Field(default={}, max_length=100, description="What may be set.")


def check_blueprint(blueprint: Blueprint) -> Iterator[tuple[Loc, str]]:
    """What a schema cannot say: the goals are on the side that is reached."""
    if not blueprint.metric.is_reached(blueprint.metric.reached, is_small=False):
        yield ("metric", "reached"), f"{blueprint.metric.reached} does not reach `goal` {blueprint.metric.goal}"


def load_blueprint(text: str, path: str = "") -> Blueprint:
    """The blueprint in a file's text; raises InputError with path, line and field."""
    return load_model(Blueprint, text, path, check_blueprint)


def stages_of(work: JobSpec | Pipeline) -> tuple[str, ...]:
    """Names of its jobs; of a job alone its own."""
    return tuple(work.jobs) if isinstance(work, Pipeline) else (work.name,)


def work_of(blueprint: Blueprint, text: str, path: str, is_small: bool, settings: Sequence[str]) -> JobSpec | Pipeline:
    """The work that a blueprint asks for.

    Parameters
    ----------
    text, path : str
        Of its job or pipeline file.
    settings : sequence of str
        ``key=value``: a parameter of the blueprint, or a dotted key of the job file.

    Raises
    ------
    InputError
        Neither a parameter nor a key of the file, or what the file says is wrong.
    """
    options: dict[str, str] = {}
    if is_small:
        options = {name: _word(given.small) for name, given in blueprint.parameters.items() if given.small is not None}
    of_file: list[str] = []
    for setting in settings:
        key, _, value = setting.partition("=")
        if key in blueprint.parameters and "=" in setting:
            options[key] = value
        elif key.split(".")[0] in _FILE_KEYS:
            of_file.append(setting)
        else:
            known = [*blueprint.parameters, *sorted(_FILE_KEYS)]
            raise InputError(f"{blueprint.name} has no parameter{nearest(key, known)}", field="--set")
    return with_options(load_work(text, path, of_file), options)


#: What a setting begins with that is meant for the file.
_FILE_KEYS = frozenset(JobSpec.model_fields) | frozenset(Pipeline.model_fields)


def _word(value: ParameterValue) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def with_options(work: JobSpec | Pipeline, options: Mapping[str, str]) -> JobSpec | Pipeline:
    """The same work, with ``--option value`` added to the commands; of a pipeline's job by ``job.option``.

    Raises
    ------
    InputError
        The pipeline has no such job.
    """
    if isinstance(work, JobSpec):
        words = [word for option, value in options.items() for word in (f"--{option}", value)]
        return work.model_copy(update={"command": (*work.command, *words)})
    jobs = dict(work.jobs)
    for name, value in options.items():
        stage, _, option = name.partition(".")
        if stage not in jobs or not option:
            raise InputError(f"{name!r} names no job of the pipeline", field="--set")
        jobs[stage] = jobs[stage].model_copy(update={"command": (*jobs[stage].command, f"--{option}", value)})
    return work.model_copy(update={"jobs": jobs})
