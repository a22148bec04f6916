"""Several traces as one load, and the settings that a scenario may give for each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from dure.model.errors import InputError
from dure.model.jobs import Trace
from dure.model.yaml_file import nearest
from dure.twin.traces.shape import head, rescale_arrivals, select_members, with_checkpoints


def _member(trace: Trace, value: object) -> Trace:
    return select_members(trace, [str(value)])


def _arrivals(trace: Trace, value: object) -> Trace:
    return rescale_arrivals(trace, _number("arrivals", value))


def _num_jobs(trace: Trace, value: object) -> Trace:
    return head(trace, int(_number("num_jobs", value)))


def _checkpoint_s(trace: Trace, value: object) -> Trace:
    return with_checkpoints(trace, int(_number("checkpoint_s", value) * 1000))


def _number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e9:
        raise InputError(f"must be a number above 0, not {value!r}", field=name)
    return float(value)


#: Settings of a trace in a scenario, in the order in which they are applied.
OPTIONS: dict[str, Callable[[Trace, object], Trace]] = {
    "member": _member,
    "arrivals": _arrivals,
    "num_jobs": _num_jobs,
    "checkpoint_s": _checkpoint_s,
}


def shaped(trace: Trace, options: Mapping[str, object]) -> Trace:
    """A trace with settings applied: one member's jobs, arrivals stretched by a factor, the first jobs only,
    checkpoints where none are recorded.

    Raises
    ------
    InputError
        No such setting, or a value out of range.
    """
    for name in options:
        if name not in OPTIONS:
            raise InputError(f"unknown option{nearest(name, OPTIONS)}", trace.source, field=name)
    for name, change in OPTIONS.items():
        if name in options:
            trace = change(trace, options[name])
    return trace


def merged(traces: Sequence[Trace]) -> Trace:
    """All jobs of several traces by time of submission, at one time in the order of the traces.

    Members, projects, users and GPU types of one name are the same. Ids that occur in more than one trace get the
    trace's place (from 1) before them: ``2/17``. Columns that not all of the traces have are left out.

    Raises
    ------
    InputError
        More than 64 GPU types together.
    """
    if len(traces) == 1:
        return traces[0]
    jobs = np.concatenate([trace.jobs for trace in traces])
    names: dict[str, list[str]] = {}
    for column, attribute in (("member", "members"), ("project", "projects"), ("user", "users")):
        names[attribute], maps = _common([getattr(trace, attribute) for trace in traces])
        parts = [of[trace.jobs[column]] for of, trace in zip(maps, traces, strict=True)]
        jobs[column] = np.concatenate(parts)
    gpu_types, maps = _common([trace.gpu_types for trace in traces])
    if len(gpu_types) > 64:
        raise InputError(f"{len(gpu_types)} GPU types; 64 are the most", traces[0].source, field="type_mask")
    masks = []
    for of, trace in zip(maps, traces, strict=True):
        mask = np.zeros(len(trace.jobs), np.uint64)
        for bit, new_bit in enumerate(of):
            has = (trace.jobs["type_mask"] >> np.uint64(bit)) & np.uint64(1)
            mask |= has << np.uint64(new_bit)
        masks.append(mask)
    jobs["type_mask"] = np.concatenate(masks)
    profiles = tuple(profile for trace in traces for profile in trace.profiles)
    first, ids_of = 0, []
    for trace in traces:
        own = trace.jobs["profile"]
        ids_of.append(np.where(own >= 0, own + first, own))
        first += len(trace.profiles)
    jobs["profile"] = np.concatenate(ids_of)
    seen: dict[str, int] = {}
    for trace in traces:
        for job_id in trace.job_ids:
            seen[job_id] = seen.get(job_id, 0) + 1
    ids = [
        job_id if seen[job_id] == 1 else f"{place}/{job_id}"
        for place, trace in enumerate(traces, 1)
        for job_id in trace.job_ids
    ]
    extra = {
        name: np.concatenate([trace.extra[name] for trace in traces])
        for name in traces[0].extra
        if all(name in trace.extra for trace in traces)
    }
    order = np.argsort(jobs["submit_ms"], kind="stable")
    return Trace(
        jobs[order], [ids[i] for i in order], names["members"], names["projects"], names["users"], gpu_types,
        " + ".join(trace.source for trace in traces), {name: values[order] for name, values in extra.items()},
        profiles,
    )  # fmt: skip


def _common(lists: Sequence[list[str]]) -> tuple[list[str], list[np.ndarray[tuple[int], np.dtype[np.int32]]]]:
    """All names in order of first appearance, and for each list the new place of each of its names."""
    place: dict[str, int] = {}
    for names in lists:
        for name in names:
            place.setdefault(name, len(place))
    return list(place), [np.array([place[name] for name in names], np.int32) for names in lists]
