"""Dure's placement rule: least usable capacity lost, by the load that is expected.

A node's *loss* is the part of its free GPU that will probably stay unused, in milli-GPU:

    loss = 0.7 F + 0.3 W + S

F
    fragmentation of FGD (ATC'23): what a single next pod could not use (`fragmentation`).
W
    the rest that stays on each GPU when pods keep coming to it until none fits: for a GPU with f free,
    w(f) = sum p_i w(f - m_i) / sum p_i over the pods with m_i <= f, and w(f) = f where none fits. It sees two and more
    pods ahead where F sees one, so that 470 + 470 is told from 470 + 320.
S
    stranded GPU: the free GPU beyond what the node's free CPU and memory can feed at the load's mean CPU and memory
    for each milli-GPU; the mean over 0.2, 1 and 1.8 of that need, as a node's next pods are not the mean. F asks
    whether one pod fits and does not see that eight GPUs share the cores of two; S does, and sends pods that need
    many cores (or no GPU) to nodes that have cores to spare.

A pod goes where loss grows least. Differences below `STEP_MILLI` are noise of the estimate and count as equal; the
first node of the list wins a tie, which fills nodes one after another and keeps whole nodes free. The weights and
the step were chosen on five of the seventeen workloads (seeds 42 to 44).
"""

from __future__ import annotations

import math

import numpy as np

from dure.policy.kernels.compile import kernel
from dure.policy.kernels.placement import (
    FULL_MILLI,
    can_host,
    fragmentation,
    score_best_fit,
    tightest_gpus,
    total_free,
)

STEP_MILLI = 5.0
SPREAD = 0.8
FRAGMENT_WEIGHT = 0.7
FILL_AT = 2
UNFIT = -1.0e300


@kernel
def outlook_of(target, mem_per_milli):
    """What `loss` needs of the expected load, worked out once for a target.

    Parameters
    ----------
    target : float64[T, 5]
        Rows of (CPU, number of GPUs, milli-GPU, type mask, probability).
    mem_per_milli : float
        Memory that the load asks for each milli-GPU, MiB; 0 leaves memory out.

    Returns
    -------
    float64[1003]
        CPU and memory for each milli-GPU, then w(0) … w(1000).
    """
    outlook = np.zeros(FILL_AT + FULL_MILLI + 1)
    cpu = 0.0
    gpu = 0.0
    for t in range(target.shape[0]):
        if target[t, 1] > 0.0:
            cpu += target[t, 4] * target[t, 0]
            gpu += target[t, 4] * target[t, 1] * target[t, 2]
    if gpu > 0.0:
        outlook[0] = cpu / gpu
        outlook[1] = mem_per_milli
    for free in range(FULL_MILLI + 1):
        rest = 0.0
        weight = 0.0
        for t in range(target.shape[0]):
            if target[t, 1] == 1.0 and target[t, 2] <= free:
                rest += target[t, 4] * outlook[FILL_AT + free - int(target[t, 2])]
                weight += target[t, 4]
        outlook[FILL_AT + free] = rest / weight if weight > 0.0 else free
    return outlook


@kernel
def stranded(total, free, need):
    """Milli-GPU of `total` that `free` of another resource cannot feed at about `need` for each."""
    if need <= 0.0:
        return 0.0
    return (
        max(0.0, total - free / (need * (1.0 - SPREAD)))
        + max(0.0, total - free / need)
        + max(0.0, total - free / (need * (1.0 + SPREAD)))
    ) / 3.0


@kernel
def loss(cpu_free, mem_free, gpu_free, num_gpus, gpu_type, target, outlook):
    """Free GPU of a node that will probably stay unused, milli-GPU (see the module).

    Parameters
    ----------
    cpu_free, mem_free : int
        1/1000 core, MiB.
    gpu_free : int32[G]
        Milli-GPU free.
    num_gpus, gpu_type : int
        GPUs of the node and their type.
    target : float64[T, 5]
        As in `fragmentation`.
    outlook : float64[1003]
        From `outlook_of`.
    """
    total = 0.0
    rest = 0.0
    for g in range(num_gpus):
        total += gpu_free[g]
        rest += outlook[FILL_AT + gpu_free[g]]
    fragments = fragmentation(cpu_free, gpu_free, num_gpus, gpu_type, target)
    lacking = max(stranded(total, cpu_free, outlook[0]), stranded(total, mem_free, outlook[1]))
    return FRAGMENT_WEIGHT * fragments + (1.0 - FRAGMENT_WEIGHT) * rest + lacking


@kernel
def score_dure(cpu_free, mem_free, gpu_free, num_gpus, gpu_type, cpu, mem, pod_gpus, gpu_milli, target, outlook,
               scratch):  # fmt: skip
    """Score of a node that can host the pod (higher is better, in steps) and bitmask of the GPUs to take."""
    before = loss(cpu_free, mem_free, gpu_free, num_gpus, gpu_type, target, outlook)
    cpu_left = cpu_free - cpu
    mem_left = mem_free - mem
    for g in range(num_gpus):
        scratch[g] = gpu_free[g]
    if pod_gpus == 1 and gpu_milli < FULL_MILLI:
        best = UNFIT
        mask = 0
        for g in range(num_gpus):
            if gpu_free[g] < gpu_milli:
                continue
            scratch[g] -= gpu_milli
            after = loss(cpu_left, mem_left, scratch, num_gpus, gpu_type, target, outlook)
            scratch[g] += gpu_milli
            score = math.floor((before - after) / STEP_MILLI)
            if score > best:
                best = score
                mask = 1 << g
        return best, mask
    mask = tightest_gpus(gpu_free, num_gpus, pod_gpus, gpu_milli)
    for g in range(num_gpus):
        if (mask >> g) & 1:
            scratch[g] -= gpu_milli
    after = loss(cpu_left, mem_left, scratch, num_gpus, gpu_type, target, outlook)
    return float(math.floor((before - after) / STEP_MILLI)), mask


@kernel
def place_dure(cpu_free, mem_free, gpu_free, gpu_type, cpu, mem, pod_gpus, gpu_milli, type_mask, target, outlook):
    """The node and GPUs for one pod by Dure's rule, without a cache (`place_pods` keeps one).

    Parameters
    ----------
    cpu_free, mem_free : int64[N]
        1/1000 core, MiB.
    gpu_free : int32[N, G]
        Milli-GPU free, 0 where a node has fewer GPUs.
    gpu_type : int64[N]
        0 to 61.
    cpu, mem, pod_gpus, gpu_milli, type_mask : int
        The pod, as in `can_host`.
    target, outlook : float64[T, 5], float64[1003]
        The load that is expected.

    Returns
    -------
    (int, int)
        Node, -1 where it fits nowhere, and bitmask of its GPUs.
    """
    scratch = np.empty(gpu_free.shape[1], np.int32)
    best = -1
    best_score = UNFIT
    best_mask = 0
    width = gpu_free.shape[1]
    for n in range(cpu_free.shape[0]):
        free = gpu_free[n]
        if not can_host(cpu_free[n], mem_free[n], free, width, gpu_type[n], cpu, mem, pod_gpus, gpu_milli, type_mask):
            continue
        score, mask = score_dure(
            cpu_free[n], mem_free[n], free, width, gpu_type[n], cpu, mem, pod_gpus, gpu_milli, target, outlook, scratch
        )
        if score > best_score:
            best, best_score, best_mask = n, score, mask
    return best, best_mask


@kernel
def place_best_fit(cpu_free, mem_free, gpu_free, gpu_type, cpu, mem, pod_gpus, gpu_milli, type_mask):
    """The node and GPUs for one pod by best fit; parameters and result as in `place_dure`."""
    best = -1
    best_score = -1
    width = gpu_free.shape[1]
    for n in range(cpu_free.shape[0]):
        free = gpu_free[n]
        if not can_host(cpu_free[n], mem_free[n], free, width, gpu_type[n], cpu, mem, pod_gpus, gpu_milli, type_mask):
            continue
        score = score_best_fit(cpu_free[n], total_free(free, width), cpu, pod_gpus * gpu_milli)
        if best < 0 or score > best_score:
            best, best_score = n, score
    if best < 0:
        return -1, 0
    return best, tightest_gpus(gpu_free[best], width, pod_gpus, gpu_milli)
