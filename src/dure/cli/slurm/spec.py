"""From Slurm's options and a batch script to a job's specification."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.resources import files
from pathlib import PurePosixPath
from typing import Any

from dure.cli.slurm.getopt import Given, Values
from dure.cli.slurm.times import parse_limit_s, parse_moment
from dure.model.errors import InputError
from dure.model.job_file import ARRAY_MAX, JOB_GPUS_MAX, JobSpec

#: Characters of the script in one word of the command: a word of the kernel's is at most 128 KiB.
CHUNK_CHARS = 32_000

_COUNT = re.compile(r"\d{1,7}", re.ASCII)
_MEM = re.compile(r"(\d{1,12})([KMGT]?)B?", re.ASCII | re.IGNORECASE)
_MIB = {"K": 1 / 1024, "": 1, "M": 1, "G": 1024, "T": 1024 * 1024}
_GRES = re.compile(r"(?:gres[:/])?gpu(?:[:=]([A-Za-z][^:,\s]*))?(?:[:=](\d{1,7}))?", re.ASCII)
_GPUS = re.compile(r"(?:([A-Za-z][^:,\s]*):)?(\d{1,7})", re.ASCII)
_RANGE = re.compile(r"(\d{1,9})(?:-(\d{1,9})(?::(\d{1,9}))?)?", re.ASCII)
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_SIGNAL = re.compile(r"(?:([RB]{1,2}):)?([A-Za-z0-9]+)(?:@(\d{1,5}))?", re.ASCII)
_SIGNALS = {"TERM": "TERM", "SIGTERM": "TERM", "15": "TERM", "USR1": "USR1", "SIGUSR1": "USR1", "10": "USR1"}
_QOS = {"high": "high", "normal": "normal", "low": "best-effort", "best-effort": "best-effort"}
#: What a file name's %-letters become where the job runs; %x, %u and %% are known before.
_LATER = {
    "j": "${SLURM_JOB_ID}", "J": "${SLURM_JOB_ID}", "A": "${SLURM_ARRAY_JOB_ID}", "a": "${SLURM_ARRAY_TASK_ID:-0}",
    "N": "${SLURMD_NODENAME}", "n": "0", "t": "0",
}  # fmt: skip


@dataclass(frozen=True)
class Caller:
    """What a submission takes over from where it is made."""

    folder: str
    environ: Mapping[str, str]
    now: datetime
    user: str = ""


@dataclass(frozen=True)
class _Size:
    """Counts that follow from several options; ``nodes`` 0: as placement likes."""

    nodes: int
    ntasks: int
    gpus: int
    gpus_per_node: int
    gpu_types: tuple[str, ...]
    cpus: int


def batch_spec(values: Values, script: str, args: Sequence[str], name: str, caller: Caller) -> JobSpec:
    """The job that a script and its options (those of the command line have won over the script's) ask for.

    Raises
    ------
    InputError
        With the option that is wrong, and its file and line if it stands in a script.
    """
    size = _size(values)
    job_name = values["job-name"].value if "job-name" in values else name
    resources: dict[str, Any] = {
        "gpus": size.gpus, "gpus_per_node": size.gpus_per_node, "gpu_types": size.gpu_types, "cpus": float(size.cpus),
        "mem_gib": _mem_gib(values, size), "sites": _names(values, "partition"),
    }  # fmt: skip
    if "switches" in values:
        resources["topology"] = _switches(values["switches"])
    spec: dict[str, Any] = {
        "name": job_name, "command": _command(script, args), "resources": resources,
        "workdir": str(PurePosixPath(caller.folder) / (values["chdir"].value if "chdir" in values else "")),
        "priority": _priority(values), "env": _env(values, size, job_name, caller),
        "depends_on": _depends_on(values.get("dependency")), "array": _array(values.get("array")),
    }  # fmt: skip
    if "account" in values:
        spec["project"] = values["account"].value
    if "time" in values:
        limit_s = _said(values["time"], parse_limit_s)
        spec["time_limit"] = f"{limit_s}s" if limit_s else None
    if "begin" in values:
        spec["begin"] = _said(values["begin"], lambda text: parse_moment(text, caller.now)).isoformat()
    if "signal" in values:
        _, spec["checkpoint"] = _signal(values["signal"])
    if "kill-on-invalid-dep" in values and values["kill-on-invalid-dep"].value.lower() not in ("yes", "y"):
        raise values["kill-on-invalid-dep"].wrong("must be yes: a job whose dependency has failed is ended")
    return _validated(spec, values)


#: Which option gives which key of a job.
_OPTION_OF = {
    "name": "job-name", "project": "account", "workdir": "chdir", "env": "export", "depends_on": "dependency",
    "array": "array", "time_limit": "time", "begin": "begin", "checkpoint": "signal", "sites": "partition",
    "gpu_types": "constraint", "gpus": "gpus", "gpus_per_node": "gpus-per-node", "cpus": "cpus-per-task", "mem_gib": "mem",
}  # fmt: skip


def _validated(spec: dict[str, Any], values: Values) -> JobSpec:
    from pydantic import ValidationError

    try:
        return JobSpec.model_validate(spec)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
    key = next((str(part) for part in first["loc"] if part != "resources"), "")
    message = first["msg"].removeprefix("Value error, ").replace("Input should", "must")
    given = values.get(_OPTION_OF.get(key, ""))
    if given is not None:
        raise given.wrong(message)
    raise InputError(message, field=f"--{_OPTION_OF[key]}" if key in _OPTION_OF else key)


def _said(given: Given, read: Callable[[str], Any]) -> Any:
    try:
        return read(given.value)
    except (ValueError, OverflowError) as error:
        raise given.wrong(str(error)) from None


def _count(values: Values, name: str, least: int = 1) -> int:
    """A whole number; 0 where the option is absent."""
    if name not in values:
        return 0
    text = values[name].value
    if not _COUNT.fullmatch(text) or int(text) < least:
        raise values[name].wrong(f"must be a whole number from {least} on, not {text[:40]!r}")
    return int(text)


def _nodes(values: Values) -> int:
    if "nodes" not in values:
        return 0
    text = values["nodes"].value
    low, dash, high = text.partition("-")
    if not _COUNT.fullmatch(low) or int(low) < 1 or (dash and not _COUNT.fullmatch(high)):
        raise values["nodes"].wrong(f"must be a whole number from 1 on, not {text[:40]!r}")
    if dash and int(low) != int(high):
        raise values["nodes"].wrong("must be one number: a range of nodes is not honoured")
    return int(low)


def _gpus_of(values: Values, name: str) -> tuple[int, str]:
    """Count and type (may be empty) of a --gpus… or --gres."""
    if name not in values:
        return 0, ""
    text = values[name].value
    if name == "gres":
        if text.lower() in ("none", ""):
            return 0, ""
        found = _GRES.fullmatch(text)
        if not found:
            raise values[name].wrong(f"must be gpu[:TYPE][:COUNT], the only resource that there is, not {text[:60]!r}")
        return int(found[2] or 1), found[1] or ""
    found = _GPUS.fullmatch(text)
    if not found:
        raise values[name].wrong(f"must be [TYPE:]COUNT, not {text[:60]!r}")
    return int(found[2]), found[1] or ""


def _size(values: Values) -> _Size:
    nodes, ntasks, per_node = _nodes(values), _count(values, "ntasks"), _count(values, "ntasks-per-node")
    if per_node and ntasks and not nodes:
        nodes = -(-ntasks // per_node)
    total, total_type = _gpus_of(values, "gpus")
    each, each_type = _gpus_of(values, "gpus-per-node")
    gres, gres_type = _gpus_of(values, "gres")
    per_task, task_type = _gpus_of(values, "gpus-per-task")
    if each and gres and each != gres:
        raise values["gres"].wrong(f"says {gres} GPUs a node, --gpus-per-node {each}")
    each = each or gres
    if not ntasks and per_node:
        ntasks = per_node * (nodes or 1)
    if not ntasks and "ntasks-per-gpu" in values:
        ntasks = _count(values, "ntasks-per-gpu") * (total or each * (nodes or 1))
        if not ntasks:
            raise values["ntasks-per-gpu"].wrong("needs --gpus, --gpus-per-node or --gres beside it")
    counts = {total, each * (nodes or (total // each if total else 1)) if each else 0, per_task * (ntasks or nodes or 1)} - {0}
    if len(counts) > 1:
        raise _first(values, "gpus", "gpus-per-node", "gres", "gpus-per-task").wrong(
            f"the options for GPUs do not agree: {' or '.join(map(str, sorted(counts)))} in all"
        )
    gpus = counts.pop() if counts else 0
    if gpus > JOB_GPUS_MAX:
        raise _first(values, "gpus", "gpus-per-node", "gres", "gpus-per-task").wrong(f"{gpus} GPUs are more than a job can have")
    if nodes > 1 and not gpus:
        raise _first(values, "nodes", "ntasks").wrong(f"{nodes} nodes need GPUs on each: give --gpus-per-node or --gres")
    if nodes and gpus % nodes:
        raise _first(values, "nodes", "ntasks").wrong(f"{gpus} GPUs cannot stand in equal parts on {nodes} nodes")
    gpus_per_node = each or (gpus // nodes if nodes else 0)
    cpus = _cpus(values, ntasks or nodes or 1, gpus)
    types = _gpu_types(values, {total_type, each_type, gres_type, task_type} - {""})
    return _Size(nodes, ntasks, gpus, gpus_per_node, types, cpus)


def _first(values: Values, *names: str) -> Given:
    return next(values[name] for name in names if name in values)


def _cpus(values: Values, ntasks: int, gpus: int) -> int:
    per_task, per_gpu = _count(values, "cpus-per-task"), _count(values, "cpus-per-gpu")
    if per_task and per_gpu:
        raise values["cpus-per-gpu"].wrong("cannot stand beside --cpus-per-task")
    if per_gpu:
        return per_gpu * gpus
    is_asked = any(name in values for name in ("cpus-per-task", "ntasks", "ntasks-per-node", "ntasks-per-gpu"))
    return (per_task or 1) * ntasks if is_asked else 0


def _gpu_types(values: Values, named: set[str]) -> tuple[str, ...]:
    wanted: tuple[str, ...] = ()
    if "constraint" in values:
        text = values["constraint"].value.strip("[]()")
        wanted = tuple(part.strip() for part in text.split("|"))
        if not all(wanted) or any(mark in text for mark in "&,*[]()"):
            raise values["constraint"].wrong(f"must be GPU types with | between them, not {text[:60]!r}")
    if len(named) > 1 or (named and wanted and not named <= set(wanted)):
        raise _first(values, "gres", "gpus", "gpus-per-node", "gpus-per-task").wrong(
            f"the options do not agree on a GPU type: {', '.join(sorted(named | set(wanted)))}"
        )
    return tuple(named) or tuple(dict.fromkeys(wanted))


def _mem_gib(values: Values, size: _Size) -> float:
    given = [name for name in ("mem", "mem-per-cpu", "mem-per-gpu") if name in values]
    if not given:
        return 0.0
    if len(given) > 1:
        raise values[given[1]].wrong(f"cannot stand beside --{given[0]}")
    name, text = given[0], values[given[0]].value
    found = _MEM.fullmatch(text)
    if not found:
        raise values[name].wrong(f"must be a number with K, M, G or T, not {text[:40]!r}")
    if not int(found[1]):
        raise values[name].wrong("0 (all of a node's memory) is not honoured: say how much")
    times = {"mem": size.nodes or 1, "mem-per-cpu": size.cpus or 1, "mem-per-gpu": size.gpus}[name]
    if not times:
        raise values[name].wrong("needs GPUs")
    if name == "mem" and not size.nodes and size.gpus > max(size.gpus_per_node, 1) and not size.gpus_per_node:
        raise values[name].wrong("is meant for each node: give --nodes too, or --mem-per-gpu")
    return int(found[1]) * _MIB[found[2].upper()] * times / 1024


def _names(values: Values, name: str) -> tuple[str, ...]:
    if name not in values:
        return ()
    names = tuple(part.strip() for part in values[name].value.split(","))
    if not all(names):
        raise values[name].wrong("must be names with commas between them")
    return names


def _switches(given: Given) -> str:
    if given.value != "1":
        raise given.wrong("must be 1 (all under one leaf switch), without a time")
    return "block"


def _priority(values: Values) -> str:
    if "qos" in values:
        name = values["qos"].value.lower()
        if name not in _QOS:
            raise values["qos"].wrong(f"must be {', '.join(_QOS)}, not {name[:40]!r}")
        return _QOS[name]
    if "nice" in values:
        text = values["nice"].value or "100"
        if not _COUNT.fullmatch(text):
            raise values["nice"].wrong("must be a whole number from 0 on: nobody moves themselves forward")
        return "best-effort" if int(text) else "normal"
    return "normal"


def _depends_on(given: Given | None) -> tuple[dict[str, str], ...]:
    if given is None:
        return ()
    found = []
    for part in given.value.split(","):
        kind, *jobs = part.strip().split(":")
        if not jobs and kind.isascii() and not kind.isalpha():
            kind, jobs = "afterany", [kind]
        if kind not in ("afterok", "afterany", "afternotok") or not jobs or "?" in part:
            raise given.wrong("must be afterok:JOB[:JOB…], afterany:… or afternotok:…, with commas between them")
        if not all(jobs) or any("+" in job for job in jobs):
            raise given.wrong(f"names no job: {part[:60]!r}")
        found += [{"job": job, "when": kind} for job in jobs]
    return tuple(found)


def _array(given: Given | None) -> dict[str, Any] | None:
    if given is None:
        return None
    text, percent, limit = given.value.partition("%")
    if percent and (not _COUNT.fullmatch(limit) or not 1 <= int(limit) <= ARRAY_MAX):
        raise given.wrong(f"after % must stand how many may run at one time, not {limit[:40]!r}")
    indices: dict[int, None] = {}
    for part in text.split(","):
        found = _RANGE.fullmatch(part.strip())
        if not found:
            raise given.wrong(f"must be such as 0-15, 1,3,5 or 0-15:4%2, not {given.value[:60]!r}")
        low, high, step = int(found[1]), int(found[2] or found[1]), int(found[3] or 1)
        if high < low or not step or (high - low) // step >= ARRAY_MAX:
            raise given.wrong(f"{part.strip()[:40]!r} is no range of at most {ARRAY_MAX:,} indices")
        indices |= dict.fromkeys(range(low, high + 1, step))
    if len(indices) > ARRAY_MAX:
        raise given.wrong(f"has more than {ARRAY_MAX:,} indices")
    return {"indices": tuple(sorted(indices)), "limit": int(limit) if percent else 0}


def _signal(given: Given) -> tuple[str, dict[str, str]]:
    """Whom it reaches (B: the script), and the job's checkpoint."""
    found = _SIGNAL.fullmatch(given.value)
    number = _SIGNALS.get(found[2].upper()) if found else None
    if not found or number is None:
        raise given.wrong(f"must be [B:]TERM or [B:]USR1, with @SECONDS or without, not {given.value[:40]!r}")
    if "R" in (found[1] or ""):
        raise given.wrong("R: (overlap with a reservation) is not honoured")
    return found[1] or "", {"signal": number, "grace": f"{int(found[3] or 60)}s"}


def _env(values: Values, size: _Size, name: str, caller: Caller) -> dict[str, str]:
    """The user's variables and those of Slurm's that are known at submission."""
    known = {
        "SLURM_JOB_NAME": name,
        "SLURM_SUBMIT_DIR": caller.folder,
        "SLURM_NTASKS": size.ntasks,
        "SLURM_NPROCS": size.ntasks,
        "SLURM_NTASKS_PER_NODE": _count(values, "ntasks-per-node"),
        "SLURM_CPUS_PER_TASK": _count(values, "cpus-per-task"),
        "SLURM_CPUS_PER_GPU": _count(values, "cpus-per-gpu"),
        "SLURM_GPUS": size.gpus,
        "SLURM_GPUS_PER_NODE": size.gpus_per_node,
        "SLURM_GPUS_PER_TASK": _gpus_of(values, "gpus-per-task")[0],
        "SLURM_JOB_PARTITION": values["partition"].value if "partition" in values else "",
        "SLURM_JOB_QOS": values["qos"].value if "qos" in values else "",
        "SLURM_JOB_DEPENDENCY": values["dependency"].value if "dependency" in values else "",
        "SLURM_JOB_COMMENT": values["comment"].value if "comment" in values else "",
        "DURE_SBATCH_OUTPUT": _pattern(values.get("output"), name, caller.user),
        "DURE_SBATCH_ERROR": _pattern(values.get("error"), name, caller.user),
        "DURE_SBATCH_APPEND": "1" if _is_appending(values) else "",
        "DURE_SBATCH_SIGNAL": ("B" if "B" in _signal(values["signal"])[0] else "steps") if "signal" in values else "",
    }
    array = _array(values.get("array"))
    if array:
        indices = array["indices"]
        step = indices[1] - indices[0] if len(indices) > 1 else 1
        known |= {
            "SLURM_ARRAY_TASK_COUNT": len(indices), "SLURM_ARRAY_TASK_MIN": str(indices[0]),
            "SLURM_ARRAY_TASK_MAX": str(indices[-1]), "SLURM_ARRAY_TASK_STEP": step,
        }  # fmt: skip
    return _exported(values.get("export"), caller) | {key: str(value) for key, value in known.items() if value}


def _exported(given: Given | None, caller: Caller) -> dict[str, str]:
    found: dict[str, str] = {}
    if given is None or given.value.upper() in ("NONE", "NIL"):
        return found
    for word in given.value.split(","):
        if word.upper() == "ALL":
            found |= {
                key: value
                for key, value in caller.environ.items()
                if _ENV_NAME.fullmatch(key) and not key.startswith(("DURE_", "SLURM_"))
            }
            continue
        name, has_value, value = word.partition("=")
        if not _ENV_NAME.fullmatch(name):
            raise given.wrong(f"must be names, NAME=value, ALL or NONE with commas between them, not {word[:60]!r}")
        if has_value:
            found[name] = value
        elif name in caller.environ:
            found[name] = caller.environ[name]
    return found


def _is_appending(values: Values) -> bool:
    if "open-mode" not in values:
        return False
    mode = values["open-mode"].value
    if mode not in ("append", "truncate", "a", "t"):
        raise values["open-mode"].wrong(f"must be append or truncate, not {mode[:40]!r}")
    return mode.startswith("a")


def _pattern(given: Given | None, name: str, user: str) -> str:
    """A file name's pattern as a word for sh: what is known now quoted, the rest as variables."""
    if given is None:
        return ""
    if not given.value or "\n" in given.value:
        raise given.wrong("must name a file")
    known = {"x": name, "u": user, "%": "%"}
    parts: list[str] = []
    text, at = given.value, 0
    while (percent := text.find("%", at)) >= 0:
        letter = text[percent + 1 : percent + 2]
        if letter not in known and letter not in _LATER:
            raise given.wrong(f"%{letter} is not honoured in a file name")
        parts += [shlex.quote(text[at:percent]) if percent > at else ""]
        parts += [shlex.quote(known[letter]) if letter in known else f'"{_LATER[letter]}"']
        at = percent + 2
    return "".join([*parts, shlex.quote(text[at:]) if at < len(text) else ""])


def node_script(name: str) -> str:
    """A shell script that is sent along with a job: ``prelude`` or ``srun``."""
    return files("dure.cli.slurm").joinpath(f"{name}.sh").read_text(encoding="utf-8")


def _command(script: str, args: Sequence[str]) -> tuple[str, ...]:
    chunks = [script[at : at + CHUNK_CHARS] for at in range(0, len(script), CHUNK_CHARS)]
    return ("/bin/sh", "-c", node_script("prelude"), "sbatch", node_script("srun"), str(len(chunks)), *chunks, *args)
