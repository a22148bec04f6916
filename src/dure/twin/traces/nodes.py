"""Lists of nodes: openb, the spot cluster, SWF's machines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from dure.model.errors import InputError
from dure.model.fleet import GPUS_PER_NODE_MAX, NODE_DTYPE, Fleet, GpuType, Site
from dure.twin.traces.text import read_lines, read_table

#: Format → columns of (name, GPUs, model, cores in 1/1000 or cores, memory).
_LISTS: dict[str, tuple[str, str, str, str, float, str]] = {
    "openb": ("sn", "gpu", "model", "cpu_milli", 1, "memory_mib"),
    "spot": ("node_name", "gpu_capacity_num", "gpu_model", "cpu_num", 1000, ""),
}


def load_nodes(path: str | Path) -> Fleet:
    """A fleet of one pool from a list of nodes.

    Raises
    ------
    InputError
        Unknown columns or a bad value, with line and field.
    """
    path = Path(path)
    lines = read_lines(path)
    header = {name.strip() for name in lines[0].split(",")}
    found = next((x for x in _LISTS.values() if header.issuperset(filter(None, (*x[:4], x[5])))), None)
    if found is None:
        raise InputError("not a list of nodes that is known (openb, spot)", str(path), 1)
    name, gpus, model, cpu, cpu_unit, mem = found
    table = read_table(path, lines, tuple(filter(None, (name, gpus, model, cpu, mem))))
    table.ids(name)
    nodes: Any = np.zeros(len(table), NODE_DTYPE)
    nodes["num_gpus"] = table.counts(gpus, 0, GPUS_PER_NODE_MAX)
    nodes["cpu_milli"] = table.numbers(cpu, 0, 1e12) * cpu_unit
    nodes["mem_mib"] = table.counts(mem, 0, 1e12) if mem else 1 << 40
    kinds: list[str] = []
    for row, text in enumerate(table.columns[model]):
        if nodes["num_gpus"][row] == 0:
            nodes["gpu_type"][row] = -1
            continue
        if text not in kinds:
            kinds.append(text)
        nodes["gpu_type"][row] = kinds.index(text)
    nodes["rack"] = np.arange(len(nodes))
    types = [GpuType(kind or "gpu") for kind in kinds] or [GpuType("gpu")]
    return Fleet(nodes, types, [Site("site")], ["cluster"], table.columns[name])
