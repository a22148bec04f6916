"""Node scoring on plain arrays: what placing one pod on one node costs, by six published rules.

A *node* is (CPU free, memory free, milli-GPU free of each GPU, type of its GPUs), a *pod* is (CPU, memory, number of
GPUs, milli-GPU on each, mask of the GPU types it accepts). A pod asks a part of one GPU or the whole of one or more.

Sources: FGD (Weng et al., USENIX ATC'23) and the repository hkust-adsl/kubernetes-scheduler-simulator for the exact
scales and roundings: scores are whole numbers from 0 to 100, as in the Kubernetes scheduler, and the ties this makes
are part of the published results.
"""

from __future__ import annotations

import math

from dure.policy.kernels.compile import kernel

FULL_MILLI = 1000
MAX_CPU_MILLI = 128_000.0
MAX_GPU_MILLI = 8_000.0
MAX_SCORE = 100


@kernel
def gpus_that_fit(gpu_free, num_gpus, gpu_milli):
    """How many of a node's GPUs have `gpu_milli` free.

    Parameters
    ----------
    gpu_free : int32[G]
        Milli-GPU free of each GPU, 0 where there is none.
    num_gpus : int
        GPUs that the node has, at most G.
    gpu_milli : int
        1 to 1000.
    """
    count = 0
    for g in range(num_gpus):
        if gpu_free[g] >= gpu_milli:
            count += 1
    return count


@kernel
def can_host(cpu_free, mem_free, gpu_free, num_gpus, gpu_type, cpu, mem, pod_gpus, gpu_milli, type_mask):
    """Whether a node can take a pod now: CPU, memory, GPU type and GPUs.

    Parameters
    ----------
    cpu_free, mem_free : int
        Free CPU in 1/1000 core and memory in MiB of the node.
    gpu_free : int32[G]
        Milli-GPU free.
    num_gpus, gpu_type : int
        GPUs of the node and their type (0 to 61).
    cpu, mem, pod_gpus, gpu_milli : int
        What the pod asks for; `pod_gpus` 0 for a pod without GPUs.
    type_mask : int
        Bit t is set where the pod accepts type t.
    """
    if cpu_free < cpu or mem_free < mem:
        return False
    if pod_gpus == 0:
        return True
    if (type_mask >> gpu_type) & 1 == 0:
        return False
    return gpus_that_fit(gpu_free, num_gpus, gpu_milli) >= pod_gpus


@kernel
def total_free(gpu_free, num_gpus):
    """Milli-GPU free on a node."""
    total = 0
    for g in range(num_gpus):
        total += gpu_free[g]
    return total


@kernel
def tightest_gpus(gpu_free, num_gpus, pod_gpus, gpu_milli):
    """Bitmask of the GPUs with the least room that still fit; the lowest index among equals; 0 for no GPUs."""
    mask = 0
    for _ in range(pod_gpus):
        best = -1
        for g in range(num_gpus):
            if (mask >> g) & 1 == 0 and gpu_free[g] >= gpu_milli:
                if best < 0 or gpu_free[g] < gpu_free[best]:
                    best = g
        mask |= 1 << best
    return mask


@kernel
def random_gpu(gpu_free, num_gpus, pod_gpus, gpu_milli, draw):
    """Bitmask of one fitting GPU at random for a part of a GPU, else the first free ones; `draw` in [0, 1)."""
    if pod_gpus != 1 or gpu_milli == FULL_MILLI:
        return tightest_gpus(gpu_free, num_gpus, pod_gpus, gpu_milli)
    left = int(draw * gpus_that_fit(gpu_free, num_gpus, gpu_milli))
    for g in range(num_gpus):
        if gpu_free[g] >= gpu_milli:
            if left == 0:
                return 1 << g
            left -= 1
    return 0


@kernel
def score_random(is_drawn):
    """Random: 100 for the node that was drawn, 0 for the others."""
    return MAX_SCORE if is_drawn else 0


@kernel
def score_dot_product(cpu_free, gpu_total_free, cpu, gpu_total):
    """DotProd: the less a pod's demand points along what a node has free, the better (Tetris' alignment, reversed)."""
    product = cpu_free / MAX_CPU_MILLI * (cpu / MAX_CPU_MILLI) + gpu_total_free / MAX_GPU_MILLI * (
        gpu_total / MAX_GPU_MILLI
    )
    return int(MAX_SCORE * (1.0 - product / 2.0))


@kernel
def score_clustering(gpu_total_free, kinds_on_node, kind):
    """GpuClustering: keep pods of one kind (part of a GPU, 1, 2, 4… GPUs) together (Gandiva).

    Parameters
    ----------
    gpu_total_free : int
        Milli-GPU free on the node.
    kinds_on_node : int
        Bit k is set where a pod of kind k runs on the node.
    kind : int
        The pod's kind; -1 for a pod without GPUs, which scores 0 everywhere.
    """
    if kind < 0:
        return 0
    used = (MAX_SCORE // 4) * (int(MAX_GPU_MILLI) - gpu_total_free) // int(MAX_GPU_MILLI)
    if (kinds_on_node >> kind) & 1:
        return used + (75 if kinds_on_node == 1 << kind else 50)
    return used + (25 if kinds_on_node == 0 else 0)


@kernel
def score_packing(gpu_free, num_gpus, pod_gpus, gpu_milli):
    """GpuPacking: GPUs in use first, then idle GPUs of nodes in use, then idle nodes (MLaaS, NSDI'22)."""
    if pod_gpus == 0:
        return 0
    num_idle = gpus_that_fit(gpu_free, num_gpus, FULL_MILLI)
    if num_idle == num_gpus:
        return max(MAX_SCORE // 3 - num_idle, num_idle)
    chosen = tightest_gpus(gpu_free, num_gpus, pod_gpus, gpu_milli)
    num_idle_taken = 0
    free_percent = 0
    for g in range(num_gpus):
        if (chosen >> g) & 1:
            free_percent += gpu_free[g] * 100 // FULL_MILLI
            if gpu_free[g] == FULL_MILLI:
                num_idle_taken += 1
    if num_idle_taken > 0:
        return max(MAX_SCORE // 2 - num_idle_taken, MAX_SCORE // 3)
    return max(MAX_SCORE - free_percent // 10, MAX_SCORE // 2)


@kernel
def score_best_fit(cpu_free, gpu_total_free, cpu, gpu_total):
    """BestFit: the least CPU and GPU left over, each as a part of the largest node; 0 to 100."""
    left = (cpu_free - cpu) / MAX_CPU_MILLI * 0.5 + (gpu_total_free - gpu_total) / MAX_GPU_MILLI * 0.5
    return int((1.0 - left) * MAX_SCORE)


@kernel
def fragmentation(cpu_free, gpu_free, num_gpus, gpu_type, target):
    """FGD's fragmentation of a node: the free milli-GPU that a pod drawn from the target cannot use, expected.

    Parameters
    ----------
    cpu_free : int
        Free CPU, 1/1000 core.
    gpu_free : int32[G]
        Milli-GPU free.
    num_gpus, gpu_type : int
        GPUs of the node and their type.
    target : float64[T, 5]
        Rows of (CPU, number of GPUs, milli-GPU, type mask, probability): the load that is expected.

    Returns
    -------
    float
        Milli-GPU, at least 0. All free GPU counts as lost to a pod that cannot run here at all, or that asks none.
        Summed by cause, as in the reference: scores are cut to whole numbers, and the last bits decide ties.
    """
    total = float(total_free(gpu_free, num_gpus))
    lacks_both = 0.0
    lacks_gpu = 0.0
    lacks_cpu = 0.0
    no_gpu_pod = 0.0
    no_gpu_pod_lacks_cpu = 0.0
    wrong_type = 0.0
    for t in range(target.shape[0]):
        gpu_milli = target[t, 2]
        weight = target[t, 4]
        has_cpu = cpu_free >= target[t, 0]
        if target[t, 1] == 0.0:
            if has_cpu:
                no_gpu_pod += weight * total
            else:
                no_gpu_pod_lacks_cpu += weight * total
            continue
        if (int(target[t, 3]) >> gpu_type) & 1 == 0:
            wrong_type += weight * total
            continue
        count = 0
        small = 0
        for g in range(num_gpus):
            if gpu_free[g] >= gpu_milli:
                count += 1
            else:
                small += gpu_free[g]
        if count >= target[t, 1]:
            if has_cpu:
                lacks_gpu += weight * small
            else:
                lacks_cpu += weight * total
        elif has_cpu:
            lacks_gpu += weight * total
        else:
            lacks_both += weight * total
    return lacks_both + lacks_gpu + lacks_cpu + no_gpu_pod + no_gpu_pod_lacks_cpu + wrong_type


@kernel
def fgd_step(before, after):
    """FGD's score for a change of fragmentation: a sigmoid, 0 to 100."""
    return int(1.0 / (1.0 + math.exp(-(before - after) / FULL_MILLI)) * MAX_SCORE)
