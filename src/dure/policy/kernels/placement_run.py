"""Pods placed one after another on a pool by a named rule, with a cache of scores for each (pod shape, node)."""

from __future__ import annotations

import numpy as np

from dure.policy.kernels.compile import kernel
from dure.policy.kernels.placement import (
    FULL_MILLI,
    can_host,
    fgd_step,
    fragmentation,
    random_gpu,
    score_best_fit,
    score_clustering,
    score_dot_product,
    score_packing,
    score_random,
    tightest_gpus,
    total_free,
)
from dure.policy.kernels.placement_dure import dure_step, loss

#: Rules that `place_pods` places by; DURE is the scale of the core's own placement (`expected.score_on`).
RANDOM, DOT_PRODUCT, CLUSTERING, PACKING, BEST_FIT, FGD, DURE = range(7)
UNFIT = -1.0e300


@kernel
def lost_on(rule, cpu_free, gpu_free, num_gpus, gpu_type, target, outlook):
    """What FGD or Dure counts as lost on a node, milli-GPU."""
    if rule == FGD:
        return fragmentation(cpu_free, gpu_free, num_gpus, gpu_type, target)
    return loss(cpu_free, gpu_free, num_gpus, gpu_type, target, outlook)


@kernel
def descent_step(rule, before, after):
    """Score of a change of what is lost by FGD's or Dure's scale; higher is better."""
    if rule == FGD:
        return float(fgd_step(before, after))
    return float(dure_step(before, after))


@kernel
def score_descent(rule, cpu_free, gpu_free, num_gpus, gpu_type, cpu, pod_gpus, gpu_milli, target, outlook, scratch):
    """FGD and Dure: the steepest descent of what is lost on a node that can host the pod; also which GPU.

    Parameters
    ----------
    scratch : int32[G]
        Room to work in.

    Returns
    -------
    (float, int)
        Score and bitmask of the GPUs.
    """
    before = lost_on(rule, cpu_free, gpu_free, num_gpus, gpu_type, target, outlook)
    cpu_left = cpu_free - cpu
    for g in range(num_gpus):
        scratch[g] = gpu_free[g]
    if pod_gpus == 1 and gpu_milli < FULL_MILLI:
        best = UNFIT
        mask = 0
        for g in range(num_gpus):
            if gpu_free[g] < gpu_milli:
                continue
            scratch[g] -= gpu_milli
            after = lost_on(rule, cpu_left, scratch, num_gpus, gpu_type, target, outlook)
            scratch[g] += gpu_milli
            score = descent_step(rule, before, after)
            if score > best:
                best = score
                mask = 1 << g
        return best, mask
    mask = tightest_gpus(gpu_free, num_gpus, pod_gpus, gpu_milli)
    for g in range(num_gpus):
        if (mask >> g) & 1:
            scratch[g] -= gpu_milli
    after = lost_on(rule, cpu_left, scratch, num_gpus, gpu_type, target, outlook)
    return descent_step(rule, before, after), mask


@kernel
def score_node(rule, n, shape, shapes, kind, cpu_free, mem_free, gpu_free, num_gpus, gpu_type, kinds, target, outlook,
               scratch):  # fmt: skip
    """Score of one node for one shape under a rule, and the GPUs it would take; `UNFIT` where it cannot host it."""
    cpu, mem, pod_gpus = shapes[shape, 0], shapes[shape, 1], shapes[shape, 2]
    gpu_milli, type_mask = shapes[shape, 3], shapes[shape, 4]
    free = gpu_free[n]
    if not can_host(cpu_free[n], mem_free[n], free, num_gpus[n], gpu_type[n], cpu, mem, pod_gpus, gpu_milli, type_mask):
        return UNFIT, 0
    if rule == FGD:
        return score_descent(
            rule, cpu_free[n], free, num_gpus[n], gpu_type[n], cpu, pod_gpus, gpu_milli, target, outlook, scratch
        )
    if rule == DOT_PRODUCT:
        score = score_dot_product(cpu_free[n], total_free(free, num_gpus[n]), cpu, pod_gpus * gpu_milli)
    elif rule == CLUSTERING:
        score = score_clustering(total_free(free, num_gpus[n]), kinds[n], kind)
    elif rule == PACKING:
        score = score_packing(free, num_gpus[n], pod_gpus, gpu_milli)
    elif rule == BEST_FIT:
        score = score_best_fit(cpu_free[n], total_free(free, num_gpus[n]), cpu, pod_gpus * gpu_milli)
    else:
        score = score_random(False)
    return float(score), tightest_gpus(free, num_gpus[n], pod_gpus, gpu_milli)


@kernel
def place_pods(rule, arrivals, shapes, kinds_of, cpu_free, mem_free, gpu_free, num_gpus, gpu_type, target,
               order, draws, chosen, chosen_gpus):  # fmt: skip
    """Place pods in their order of arrival; a pod that fits nowhere is turned away.

    Parameters
    ----------
    rule : int
        `RANDOM` … `FGD`.
    arrivals : int32[P]
        Shape of each pod, an index into `shapes`.
    shapes : int64[S, 5]
        CPU (1/1000 core), memory (MiB), GPUs, milli-GPU on each, type mask.
    kinds_of : int64[S]
        Kind of each shape for GpuClustering, -1 without GPUs.
    cpu_free, mem_free : int64[N]
        Free CPU and memory; changed in place.
    gpu_free : int32[N, G]
        Milli-GPU free; changed in place.
    num_gpus, gpu_type : int64[N]
        GPUs of each node and their type.
    target : float64[T, 5]
        The load that is expected (see `fragmentation`).
    order : int64[N]
        Ties go to the node with the least rank.
    draws : float64[P, 2]
        Uniform numbers in [0, 1), read by Random alone.
    chosen, chosen_gpus : int64[P]
        Filled: node (-1 turned away) and bitmask of GPUs.
    """
    num_nodes = cpu_free.shape[0]
    num_shapes = shapes.shape[0]
    cache = np.full((num_shapes, num_nodes), UNFIT)
    cache_gpus = np.zeros((num_shapes, num_nodes), np.int16)
    seen = np.full(num_shapes, -1, np.int64)
    changed = np.empty(arrivals.shape[0], np.int64)
    latest = np.empty(num_nodes, np.int64)
    num_changed = 0
    kinds = np.zeros(num_nodes, np.int64)
    scratch = np.empty(gpu_free.shape[1], np.int32)
    outlook = np.zeros(0)
    for p in range(arrivals.shape[0]):
        s = arrivals[p]
        row = cache[s]
        is_new = seen[s] < 0
        for c in range(0 if is_new else seen[s], num_nodes if is_new else num_changed):
            n = c if is_new else changed[c]
            if not is_new and latest[n] != c:
                continue  # scored when its last change comes up
            row[n], cache_gpus[s, n] = score_node(
                rule, n, s, shapes, kinds_of[s], cpu_free, mem_free, gpu_free, num_gpus, gpu_type, kinds, target, outlook,
                scratch
            )  # fmt: skip
        seen[s] = num_changed
        best = -1
        if rule == RANDOM:
            num_fit = 0
            for n in range(num_nodes):
                if row[n] != UNFIT:
                    num_fit += 1
            skip = int(draws[p, 0] * num_fit)
            for n in range(num_nodes):
                if row[n] != UNFIT:
                    if skip == 0:
                        best = n
                        break
                    skip -= 1
        else:
            for n in range(num_nodes):
                if row[n] != UNFIT and (
                    best < 0 or row[n] > row[best] or (row[n] == row[best] and order[n] < order[best])
                ):
                    best = n
        chosen[p] = best
        chosen_gpus[p] = 0
        if best < 0:
            continue
        mask = int(cache_gpus[s, best])
        if rule == RANDOM:
            mask = random_gpu(gpu_free[best], num_gpus[best], shapes[s, 2], shapes[s, 3], draws[p, 1])
        cpu_free[best] -= shapes[s, 0]
        mem_free[best] -= shapes[s, 1]
        for g in range(num_gpus[best]):
            if (mask >> g) & 1:
                gpu_free[best, g] -= shapes[s, 3]
        if kinds_of[s] >= 0:
            kinds[best] |= 1 << kinds_of[s]
        chosen_gpus[p] = mask
        changed[num_changed] = best
        latest[best] = num_changed
        num_changed += 1


@kernel
def pool_fragmentation(cpu_free, gpu_free, num_gpus, gpu_type, target):
    """Sum of the nodes' fragmentation, milli-GPU."""
    lost = 0.0
    for n in range(cpu_free.shape[0]):
        lost += fragmentation(cpu_free[n], gpu_free[n], num_gpus[n], gpu_type[n], target)
    return lost
