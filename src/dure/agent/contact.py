"""How long the service has not been heard of, and how long to wait before asking again."""

from __future__ import annotations

import random

#: Until the service has said otherwise.
TTL_MS = 7_200_000
_FIRST_S, _LONGEST_S = 0.2, 10.0


class Contact:
    """Time since the last answer, by a clock that never steps.

    An answer counts from when its question was sent: the service counts from no earlier moment.
    """

    def __init__(self, last_boot_ms: int, ttl_ms: int = TTL_MS) -> None:
        self.last_boot_ms = last_boot_ms
        self.ttl_ms = ttl_ms

    def answered(self, sent_boot_ms: int, ttl_ms: int) -> None:
        """An answer has come to a question sent at that moment."""
        self.last_boot_ms, self.ttl_ms = max(sent_boot_ms, self.last_boot_ms), ttl_ms

    def left_ms(self, now_boot_ms: int) -> int:
        """How long what runs may go on without another answer; 0: no longer."""
        return max(self.last_boot_ms + self.ttl_ms - now_boot_ms, 0)


class Backoff:
    """Twice as long after each failure, up to 10 s, and never at the same moment as the neighbours."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._next_s = _FIRST_S

    def pause_s(self) -> float:
        """After a failure."""
        pause_s = self._next_s * self._chance.uniform(0.5, 1.0)
        self._next_s = min(self._next_s * 2, _LONGEST_S)
        return pause_s

    def reset(self) -> None:
        """After a success."""
        self._next_s = _FIRST_S
