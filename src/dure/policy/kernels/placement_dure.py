"""Dure's placement rule: least usable capacity lost, by the load that is expected.

A node's *loss* is the part of its free GPU that will probably stay unused, in milli-GPU:

    loss = 0.1 F + W + S

F
    fragmentation of FGD (ATC'23): what a single next pod could not use (`fragmentation`).
W
    the rest that stays on each GPU when the pods to come are sorted onto it well: of the next 100 pods of the load the
    one that leaves the least rest takes a GPU with f free. With the sizes m_1, m_2 … that fit, in the order of
    w(f - m_i), and P_i the chance that none of the 100 has one of the first i of them,

        w(f) = sum (P_(i-1) - P_i) w(f - m_i) + P_last f.

    It sees two and more pods ahead where F sees one, so that 470 + 470 is told from 470 + 320.
S
    stranded GPU: the free GPU beyond what the node's free CPU can feed at the load's mean CPU for each milli-GPU; the
    mean over 0.2, 1 and 1.8 of that need, as a node's next pods are not the mean. F asks whether one pod fits and does
    not see that eight GPUs share the cores of two; S does, and sends pods that need many cores (or no GPU) to nodes
    that have cores to spare.

A pod goes where loss grows least. Differences below `STEP_MILLI` are noise of the estimate and count as equal; the
first node of the list wins a tie, which fills nodes one after another and keeps whole nodes free. How the weights,
the step and the 100 were chosen: docs/parts/openb.md.
"""

from __future__ import annotations

import math

import numpy as np

from dure.policy.kernels.compile import kernel
from dure.policy.kernels.placement import FULL_MILLI, fragmentation

STEP_MILLI = 2.0
SPREAD = 0.8
FRAGMENT_WEIGHT = 0.1
FILL_AT = 1


@kernel
def power_100(x):
    """Raise x to 100 by multiplying: the same bits on every machine, which a library's power does not promise."""
    x4 = x * x * x * x
    x16 = x4 * x4 * x4 * x4
    x32 = x16 * x16
    return x32 * x32 * x32 * x4


@kernel
def outlook_of(target):
    """What `loss` needs of the expected load, worked out once for a target.

    Parameters
    ----------
    target : float64[T, 5]
        Rows of (CPU, number of GPUs, milli-GPU, type mask, probability).

    Returns
    -------
    float64[1002]
        CPU for each milli-GPU, then w(0) … w(1000).
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
    share = np.zeros(FULL_MILLI + 1)
    for t in range(target.shape[0]):
        if target[t, 1] == 1.0:
            share[int(target[t, 2])] += target[t, 4]
    is_taken = np.zeros(FULL_MILLI + 1, np.bool_)
    for free in range(FULL_MILLI + 1):
        is_taken[:] = share == 0.0
        rest = 0.0
        missed = 1.0
        seen = 0.0
        while True:
            best = -1
            for m in range(1, free + 1):
                if not is_taken[m] and (best < 0 or outlook[FILL_AT + free - m] < outlook[FILL_AT + free - best]):
                    best = m
            if best < 0:
                break
            is_taken[best] = True
            seen += share[best]
            still = power_100(max(0.0, 1.0 - seen))
            rest += (missed - still) * outlook[FILL_AT + free - best]
            missed = still
        outlook[FILL_AT + free] = rest + missed * free
    return outlook


@kernel
def stranded(total, free, need):
    """Milli-GPU of `total` that `free` CPU cannot feed at about `need` for each."""
    if need <= 0.0:
        return 0.0
    return (
        max(0.0, total - free / (need * (1.0 - SPREAD)))
        + max(0.0, total - free / need)
        + max(0.0, total - free / (need * (1.0 + SPREAD)))
    ) / 3.0


@kernel
def loss(cpu_free, gpu_free, num_gpus, gpu_type, target, outlook):
    """Free GPU of a node that will probably stay unused, milli-GPU (see the module).

    Parameters
    ----------
    cpu_free : int
        1/1000 core.
    gpu_free : int32[G]
        Milli-GPU free.
    num_gpus, gpu_type : int
        GPUs of the node and their type.
    target : float64[T, 5]
        As in `fragmentation`.
    outlook : float64[1002]
        From `outlook_of`.
    """
    total = 0.0
    rest = 0.0
    for g in range(num_gpus):
        total += gpu_free[g]
        rest += outlook[FILL_AT + gpu_free[g]]
    fragments = fragmentation(cpu_free, gpu_free, num_gpus, gpu_type, target)
    return FRAGMENT_WEIGHT * fragments + rest + stranded(total, cpu_free, outlook[0])


@kernel
def dure_step(before, after):
    """Dure's score for a change of loss: whole steps of `STEP_MILLI`, higher is better."""
    return math.floor((before - after) / STEP_MILLI)
