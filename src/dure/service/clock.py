"""The service's time: the wall's, but never backwards and never standing still."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class ForwardClock:
    """Epoch ms that follow the wall clock forward, and go on by elapsed time where that steps back.

    Parameters
    ----------
    wall_ms, elapsed_ms : callable
        Epoch ms, and ms of a clock that nobody sets.
    """

    def __init__(self, wall_ms: Callable[[], int] | None = None, elapsed_ms: Callable[[], int] | None = None) -> None:
        self._wall_ms = wall_ms or (lambda: time.time_ns() // 1_000_000)
        self.elapsed_ms = elapsed_ms or (lambda: time.monotonic_ns() // 1_000_000)
        self._lock = threading.Lock()
        self._at, self._since = 0, 0

    def now_ms(self) -> int:
        """Epoch ms."""
        with self._lock:
            elapsed = self.elapsed_ms()
            now = max(self._wall_ms(), self._at + elapsed - self._since)
            self._at, self._since = now, elapsed
            return now

    def pass_by(self, at_ms: int) -> None:
        """Be at that moment at least."""
        with self._lock:
            elapsed = self.elapsed_ms()
            self._at, self._since = max(at_ms, self._at + elapsed - self._since), elapsed
