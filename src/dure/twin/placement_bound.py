"""How much of the pool any placement could allocate: a bound proved by linear programming.

Nodes of equal size and type form a class. Pods of one shape may be placed in parts, on any class that fits one of
them, in any order and with any of them dropped; a class has the CPU, memory and GPU of its nodes together. What no
real placement can do is kept out by one more kind of row: a function u that is *dual feasible* for bin packing
(u(x_1) + … + u(x_k) <= 1 whenever x_1 + … + x_k <= 1) limits the sum of u over the parts of GPUs placed to the number
of GPUs. Every real placement meets all rows, so that the optimum bounds them all, those with hindsight included.

Source of the functions: Fekete and Schepers, "New classes of fast lower bounds for bin packing problems",
Mathematical Programming 91 (2001), doi:10.1007/s101070100243.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dure.model.errors import InputError
from dure.twin.openb import Pool, Workload, arrivals_of

NUM_FUNCTIONS = 10


def dual_feasible(milli: NDArray[np.int64], k: int) -> NDArray[np.float64]:
    """Fekete and Schepers' u(k) of parts of a GPU.

    Parameters
    ----------
    milli : int64[S]
        0 to 1000.
    k : int
        At least 1.

    Returns
    -------
    float64[S]
        0 to 1: x itself where (k + 1) x is whole, else floor((k + 1) x) / k, with x = milli / 1000.
    """
    scaled = (k + 1) * milli
    rounded: NDArray[np.float64] = np.where(scaled % 1000 == 0, milli / 1000.0, (scaled // 1000) / k)
    return rounded


def allocation_bound(pool: Pool, workload: Workload, seed: int) -> float:
    """Upper bound on the allocated part of the pool, percent, for the arrivals of a seed up to 130% demand.

    Raises
    ------
    InputError
        OR-Tools is not installed, or its solver proves nothing.
    """
    try:
        from ortools.linear_solver import pywraplp
    except ImportError:
        raise InputError("the bound needs OR-Tools: pip install ortools") from None
    arrivals, _ = arrivals_of(workload, pool.total_milli, seed)
    counts = np.bincount(arrivals, minlength=len(workload.shapes))
    nodes = np.stack([pool.gpu_type, pool.num_gpus, pool.cpu_milli, pool.mem_mib], axis=1)
    classes, sizes = np.unique(nodes, axis=0, return_counts=True)
    shapes = workload.shapes
    solver = pywraplp.Solver.CreateSolver("GLOP")
    objective = solver.Objective()
    objective.SetMaximization()
    functions = [dual_feasible(shapes[:, 3], k) * shapes[:, 2] for k in range(1, NUM_FUNCTIONS + 1)]
    arrived = [solver.Constraint(0.0, float(count)) for count in counts]
    for (gpu_type, num_gpus, cpu, mem), size in zip(classes.tolist(), sizes.tolist(), strict=True):
        total = float(num_gpus * size)
        has_cpu = solver.Constraint(0.0, cpu * size / 1000.0)
        has_mem = solver.Constraint(0.0, mem * size / 1024.0)
        has_gpu = solver.Constraint(0.0, total)
        packs = [solver.Constraint(0.0, total) for _ in functions]
        for s, (pod_cpu, pod_mem, pod_gpus, milli, mask) in enumerate(shapes.tolist()):
            if counts[s] == 0 or pod_cpu > cpu or pod_mem > mem or pod_gpus > num_gpus:
                continue
            if pod_gpus == 0 or not (mask >> gpu_type) & 1:
                continue  # dropping a pod without GPUs never lowers the optimum
            placed = solver.NumVar(0.0, float(counts[s]), "")
            arrived[s].SetCoefficient(placed, 1.0)
            has_cpu.SetCoefficient(placed, pod_cpu / 1000.0)
            has_mem.SetCoefficient(placed, pod_mem / 1024.0)
            has_gpu.SetCoefficient(placed, pod_gpus * milli / 1000.0)
            for row, function in zip(packs, functions, strict=True):
                row.SetCoefficient(placed, float(function[s]))
            objective.SetCoefficient(placed, pod_gpus * milli / 1000.0)
    if solver.Solve() != pywraplp.Solver.OPTIMAL:
        raise InputError("the linear program was not solved", field=workload.name)
    return 100.0 * 1000.0 * float(objective.Value()) / pool.total_milli
