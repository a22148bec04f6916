"""Dure's metering beside an engine's own accounts of the same attempt."""

from __future__ import annotations

#: Engines count whole seconds, and begin and end a moment before or after Dure does: so much is no difference.
TOLERANCE_PERCENT, TOLERANCE_MS = 1, 5_000


def is_unlike(metered_gpu_ms: int, engine_gpu_ms: int, gpu_milli: int) -> bool:
    """Whether two accounts of an attempt differ by more than 1 % and 5 s of its GPUs.

    Parameters
    ----------
    metered_gpu_ms, engine_gpu_ms : int
        GPU-milliseconds.
    gpu_milli : int
        Thousandths of a GPU that it has.
    """
    apart = abs(metered_gpu_ms - engine_gpu_ms)
    return apart * 100 > TOLERANCE_PERCENT * metered_gpu_ms and apart * 1000 > TOLERANCE_MS * gpu_milli
