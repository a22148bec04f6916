"""The two clocks of a machine, in one object so that tests can bend them."""

from __future__ import annotations

import time


class Clock:
    """Decisions go by `boot_ms` only; `wall_ms` is for reports that people read."""

    def boot_ms(self) -> int:
        """Milliseconds since the machine started, sleep included: never steps, the same for each of its processes."""
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000

    def wall_ms(self) -> int:
        """Epoch milliseconds; may step either way."""
        return time.time_ns() // 1_000_000
