"""Lists of nodes: openb, the spot cluster, Tiresias' cluster specs, machines beside an SWF log."""

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


#: Tiresias: switches × nodes × GPUs on one line. SWF machines: id, name, nodes, processors a node, speed, KiB.
_SPEC = ("num_switch", "num_node_p_switch", "num_gpu_p_node", "num_cpu_p_node", "mem_p_node")
_NUM_MACHINE_FIELDS = 6
_NODES_MAX = 1_000_000


def _from_spec(path: Path, lines: list[str]) -> Fleet:
    """A rack for each switch; memory is in GiB."""
    table = read_table(path, lines, _SPEC)
    if len(table) != 1:
        raise InputError(f"{len(table)} rows, a cluster spec has 1", str(path), min(len(lines), 3))
    switches, per_switch, gpus, cores, mem_gib = (
        int(table.counts(name, low, high)[0])
        for name, low, high in zip(_SPEC, (1, 1, 0, 0, 0), (1e5, 1e5, GPUS_PER_NODE_MAX, 1e6, 1e6), strict=True)
    )
    if switches * per_switch > _NODES_MAX:
        raise table.error(0, _SPEC[1], f"more than {_NODES_MAX:,} nodes")
    nodes = np.zeros(switches * per_switch, NODE_DTYPE)
    nodes["num_gpus"] = gpus
    nodes["gpu_type"] = 0 if gpus else -1
    nodes["cpu_milli"] = cores * 1000
    nodes["mem_mib"] = mem_gib * 1024
    nodes["rack"] = np.arange(len(nodes)) // per_switch
    return Fleet(nodes, [GpuType("gpu")], [Site("site")], ["cluster"], [])


def _from_machines(path: Path, lines: list[str]) -> Fleet:
    """Machines of an SWF log, a processor counting as a GPU.

    A machine with more processors than a node may have GPUs is a rack of several nodes, its memory shared out.
    """
    nodes: list[tuple[int, int, int, int]] = []  # processors, MiB, cluster, rack
    names: list[str] = []
    clusters: list[str] = []
    rack = 0
    for i, line in enumerate(lines, start=1):
        cells = line.split()
        if not cells or cells[0].startswith(";"):
            continue
        if len(cells) != _NUM_MACHINE_FIELDS:
            raise InputError(f"{len(cells)} fields, a line has {_NUM_MACHINE_FIELDS}", str(path), i)
        for k, (field, low, high) in {
            2: ("nodes", 1, _NODES_MAX), 3: ("processors", 1, 4096), 5: ("memory_kib", 0, 10**13),
        }.items():  # fmt: skip
            if not (cells[k].isdecimal() and len(cells[k]) <= 14 and low <= int(cells[k]) <= high):
                raise InputError(f"must be a whole number of {low} to {high}: {cells[k][:40]!r}", str(path), i, field)
        if cells[1] in clusters:
            raise InputError(f"duplicate: {cells[1][:40]!r}", str(path), i, "name")
        procs, mem_mib = int(cells[3]), int(cells[5]) // 1024
        num_parts = -(-procs // GPUS_PER_NODE_MAX)
        if len(nodes) + int(cells[2]) * num_parts > _NODES_MAX:
            raise InputError(f"more than {_NODES_MAX:,} nodes", str(path), i, "nodes")
        for machine in range(int(cells[2])):
            for part in range(num_parts):
                share = procs // num_parts + (part < procs % num_parts)
                nodes.append((share, mem_mib // num_parts, len(clusters), rack))
                names.append(f"{cells[1]}{machine}" + (f".{part}" if num_parts > 1 else ""))
            rack += 1
        clusters.append(cells[1])
    if not nodes:
        raise InputError("no machines: only comments", str(path))
    columns = np.array(nodes, np.int64)
    out = np.zeros(len(nodes), NODE_DTYPE)
    for k, column in enumerate(("num_gpus", "mem_mib", "cluster", "rack")):
        out[column] = columns[:, k]
    out["block"] = out["cluster"]
    out["cpu_milli"] = out["num_gpus"].astype(np.int64) * 1000
    return Fleet(out, [GpuType("processor")], [Site("site")], clusters, names)


def load_nodes(path: str | Path) -> Fleet:
    """A fleet from a list of nodes, a pool for each GPU type.

    Raises
    ------
    InputError
        Unknown columns or a bad value, with line and field.
    """
    path = Path(path)
    lines = read_lines(path)
    if set(_SPEC) <= {name.strip() for name in lines[0].split(",")}:
        return _from_spec(path, lines)
    if len(lines[0].split()) == _NUM_MACHINE_FIELDS and "," not in lines[0]:
        return _from_machines(path, lines)
    header = {name.strip() for name in lines[0].split(",")}
    found = next((x for x in _LISTS.values() if header.issuperset(filter(None, (*x[:4], x[5])))), None)
    if found is None:
        raise InputError("not a list of nodes that is known (openb, spot, Tiresias, SWF machines)", str(path), 1)
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
    # Nodes of one GPU type are a pool (and a block); those without GPUs come last.
    order = np.lexsort((np.arange(len(nodes)), nodes["gpu_type"] % (len(kinds) + 1)))
    nodes = nodes[order]
    nodes["pool"] = nodes["block"] = np.unique(nodes["gpu_type"] % (len(kinds) + 1), return_inverse=True)[1]
    nodes["rack"] = np.arange(len(nodes))
    types = [GpuType(kind or "gpu") for kind in kinds] or [GpuType("gpu")]
    names = [table.columns[name][i] for i in order]
    return Fleet(nodes, types, [Site("site")], ["cluster"], names)
