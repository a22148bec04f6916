from __future__ import annotations

from dure.policy.kernels.compile import kernel
from dure.policy.kernels.placement import FULL_MILLI, fragmentation, tightest_gpus


@kernel
def score_dure(cpu_free, gpu_free, num_gpus, gpu_type, cpu, pod_gpus, gpu_milli, target, prices, scratch):
    """Score of a node for a pod under Dure's rule, higher is better."""
    before = fragmentation(cpu_free, gpu_free, num_gpus, gpu_type, target)
    for g in range(num_gpus):
        scratch[g] = gpu_free[g]
    if pod_gpus == 1 and gpu_milli < FULL_MILLI:
        best = -1e300
        mask = 0
        for g in range(num_gpus):
            if gpu_free[g] < gpu_milli:
                continue
            scratch[g] -= gpu_milli
            score = before - fragmentation(cpu_free - cpu, scratch, num_gpus, gpu_type, target)
            scratch[g] += gpu_milli
            if score > best:
                best = score
                mask = 1 << g
    else:
        mask = tightest_gpus(gpu_free, num_gpus, pod_gpus, gpu_milli)
        for g in range(num_gpus):
            if (mask >> g) & 1:
                scratch[g] -= gpu_milli
        best = before - fragmentation(cpu_free - cpu, scratch, num_gpus, gpu_type, target)
    return best, mask
