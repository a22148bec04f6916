"""How many replicas a service needs."""

from __future__ import annotations

import math
from dataclasses import dataclass

#: One replica fewer must still have so much of its load to spare, or the number would swing.
SPARE = 0.7


@dataclass
class Scaler:
    """Follows the load upward at once and downward after a calm, one replica at a time.

    Attributes
    ----------
    target_in_flight : float
        Requests under way that one replica is to have on average.
    calm_s : float
        For so long fewer must have been enough before one is given up.
    """

    min_replicas: int
    max_replicas: int
    target_in_flight: float
    objective_s: float
    calm_s: float
    calm_since_s: float | None = None

    def wanted(self, now_s: float, num_replicas: int, num_ready: int, in_flight: float, p99_s: float | None) -> int:
        """The number of replicas that there should be.

        Parameters
        ----------
        num_replicas, num_ready : int
            Handed in, and of these already serving.
        in_flight : float
            Requests under way, all replicas together.
        p99_s : float or None
            The worst replica's; None: nothing was asked.
        """
        is_late = p99_s is not None and p99_s > self.objective_s
        wanted = math.ceil(in_flight / self.target_in_flight)
        # Late answers ask for one more, but not again before that one serves: what it changes is not seen yet.
        if is_late and num_ready >= num_replicas:
            wanted = max(wanted, num_replicas + 1)
        enough_with_fewer = not is_late and in_flight <= SPARE * self.target_in_flight * (num_replicas - 1)
        if wanted > num_replicas or not enough_with_fewer:
            self.calm_since_s = None
            wanted = max(wanted, num_replicas)
        else:
            if self.calm_since_s is None:
                self.calm_since_s = now_s
            wanted = num_replicas
            if now_s - self.calm_since_s >= self.calm_s:
                self.calm_since_s = now_s
                wanted -= 1
        return min(self.max_replicas, max(self.min_replicas, wanted))
