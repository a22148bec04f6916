"""Broken openb files are named by file, line and column; demand is inflated as published."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from dure.model.errors import InputError
from dure.twin.openb import NODE_FILE, arrivals_of, read_pool, read_workload, run_placement, target_of
from dure.twin.placement_bound import allocation_bound, dual_feasible

NODES = "sn,cpu_milli,memory_mib,gpu,model\nn0,32000,65536,2,T4\nn1,64000,65536,4,V100\n"
PODS = (
    "name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec\n"
    "p0,4000,4096,1,500,\np1,8000,8192,2,1000,V100\np2,8000,8192,0,0,\np3,4000,4096,1,500,T4|V100\n"
)


def write(folder: Path, nodes: str = NODES, pods: str = PODS) -> Path:
    """A trace of two nodes and four pods."""
    (folder / "pods").mkdir(exist_ok=True)
    (folder / NODE_FILE).write_text(nodes)
    (folder / "pods" / "openb_pod_list_default.csv.gz").write_bytes(gzip.compress(pods.encode()))
    return folder


@pytest.mark.parametrize(
    ("nodes", "pods", "field", "line"),
    [
        (NODES.replace("gpu,", "gpus,"), PODS, "gpu", 1),
        (NODES.replace("32000", "many"), PODS, "cpu_milli", 2),
        (NODES.replace("65536,4", "65536,9"), PODS, "gpu", 3),
        (NODES, PODS.replace("num_gpu", "n"), "num_gpu", 1),
        (NODES, PODS.replace("p1,8000", "p1,-1"), "cpu_milli", 3),
        (NODES, PODS.replace("2,1000", "2,500"), "gpu_milli", 3),
        (NODES, PODS.replace("1,500,T4", "1,0,T4"), "gpu_milli", 5),
        (NODES, PODS + "p4,1\n", "memory_mib", 6),
    ],
)
def test_bad_values_are_named(tmp_path: Path, nodes: str, pods: str, field: str, line: int) -> None:
    with pytest.raises(InputError) as caught:
        run_placement(write(tmp_path, nodes, pods), "default", ["dure"], [1])
    assert (caught.value.field, caught.value.line) == (field, line)


def test_truncated_file(tmp_path: Path) -> None:
    path = write(tmp_path) / "pods" / "openb_pod_list_default.csv.gz"
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(InputError, match="cannot be read"):
        run_placement(tmp_path, "default", ["fgd"], [1])


def test_wrong_names(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="openb_node_list"):
        run_placement(tmp_path, "default", ["fgd"], [1])
    write(tmp_path)
    with pytest.raises(InputError, match="no policy 'best'"):
        run_placement(tmp_path, "default", ["best"], [1])
    with pytest.raises(InputError, match="there are default"):
        run_placement(tmp_path, "cpu1", ["fgd"], [1])
    with pytest.raises(InputError, match="negative"):
        run_placement(tmp_path, "default", ["fgd"], [-1])


def test_arrivals_reach_130_percent_and_begin_with_every_pod(tmp_path: Path) -> None:
    pool = read_pool(write(tmp_path))
    pods = read_workload(tmp_path, "default", pool)
    demand = pods.shapes[:, 2] * pods.shapes[:, 3]
    for seed in range(20):
        arrivals, _ = arrivals_of(pods, pool.total_milli, seed)
        assert 1.3 * pool.total_milli - 2000 < demand[arrivals].sum() <= 1.3 * pool.total_milli + 1000
        assert sorted(arrivals[:4]) == sorted(pods.shape_of)
    down, _ = arrivals_of(pods, pool.total_milli, 1, ratio=0.2)
    assert demand[down].sum() <= 0.2 * pool.total_milli


def test_target_sums_to_one_leaves_memory_out_and_keeps_wordings_apart(tmp_path: Path) -> None:
    pool = read_pool(write(tmp_path, pods=PODS + "p4,4000,1,1,500,\n"))
    target = target_of(read_workload(tmp_path, "default", pool))
    assert target[:, 4].sum() == pytest.approx(1.0)
    np.testing.assert_allclose(target[0], [4000, 1, 500, 3, 0.4])  # p0 and p4; p3 names both models
    np.testing.assert_allclose(target[-1], [4000, 1, 500, 3, 0.2])


def test_results_repeat(tmp_path: Path) -> None:
    write(tmp_path)
    policies = ["random", "dotprod", "gpuclustering", "gpupacking", "bestfit", "fgd", "dure"]
    first = run_placement(tmp_path, "default", policies, [1, 2])
    assert first == run_placement(tmp_path, "default", policies, [1, 2])
    assert all(0 < row.allocated_pct <= 100 and 0 <= row.fragmented_pct <= 100 for row in first)


@pytest.mark.parametrize("k", range(1, 11))
def test_dual_feasible_functions(k: int) -> None:
    rng = np.random.default_rng(k)
    for _ in range(300):
        parts = []
        while sum(parts) < 1000:
            parts.append(int(rng.integers(1, 700)))
        parts[-1] -= sum(parts) - 1000
        assert dual_feasible(np.array(parts), k).sum() <= 1.0 + 1e-9


def test_bound_holds_and_can_be_reached(tmp_path: Path) -> None:
    pytest.importorskip("ortools")
    pods = "name,cpu_milli,memory_mib,num_gpu,gpu_milli\n" + "p,1000,1,1,600\n" * 40
    pool = read_pool(write(tmp_path, pods=pods))
    workload = read_workload(tmp_path, "default", pool)
    bound = allocation_bound(pool, workload, 1)
    assert bound == pytest.approx(60.0)
    for row in run_placement(tmp_path, "default", ["random", "dure"], [1]):
        assert row.allocated_pct == pytest.approx(bound)
