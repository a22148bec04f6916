"""`dure ran drive`: a device's control loop in real time, with plans from a service that it finds through the API.

The robot is simulated, the rest is not: requests go over HTTP to a running job, against the clock. What is not here is the radio: the
round trip that the site's file states for the area is added to what was measured. The period may be slowed for machines that share their cores.
"""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from dure.model.intervals import mean_interval
from dure.ran.bounds import rate_upper95
from dure.ran.control_task import PERIOD_S, Course, Robot, draw_course, drive, run_episode

#: Seconds between two questions to the API where a service is.
FIND_EVERY_S = 1.0
#: So long a drive waits for the first word of the API before it begins.
FIRST_WORD_S = 5.0


@dataclass(frozen=True)
class Place:
    """Where a service is, and the network's round trip to it in ms."""

    url: str
    trip_ms: float


class Finder:
    """Knows where the service is, and asks again in the background when it is gone: a control loop does not wait for an API."""

    def __init__(self, ask: Callable[[], Sequence[Place]]) -> None:
        self._ask = ask
        self._lock = threading.Lock()
        self._place: Place | None = None
        self._asking: threading.Thread | None = None
        self._asked_at = -FIND_EVERY_S
        self.num_found = 0

    def place(self) -> Place | None:
        """The nearest, or None: nothing is known now."""
        with self._lock:
            if self._place is None and self._asking is None and time.monotonic() - self._asked_at >= FIND_EVERY_S:
                self._asked_at = time.monotonic()
                self._asking = threading.Thread(target=self._look, daemon=True)
                self._asking.start()
            return self._place

    def wait(self, most_s: float) -> None:
        """Until the API has answered for the first time, but no longer."""
        self.place()
        asking = self._asking
        if asking is not None:
            asking.join(most_s)

    def is_gone(self, place: Place) -> None:
        """It does not answer there any more."""
        with self._lock:
            if self._place == place:
                self._place = None

    def _look(self) -> None:
        try:
            found = list(self._ask())
        except Exception:  # whatever is wrong with the API, the loop goes on without it
            found = []
        with self._lock:
            self._asking = None
            if found:
                self._place = found[0]
                self.num_found += 1


@dataclass
class Asked:
    """What became of a run's requests: latencies in ms of a period of 20 ms, the network's trip included; late ones are missing from them."""

    latency_ms: list[float] = field(default_factory=list)
    late: int = 0
    nowhere: int = 0


class RemotePlanner:
    """Asks a service for plans, one period at a time.

    Parameters
    ----------
    deadline_ms : float
        After a period's beginning; an answer that comes later is dropped.
    slowed_by : float
        So many times as long as 20 ms a period takes; deadline and trip with it.
    """

    def __init__(self, finder: Finder, deadline_ms: float, slowed_by: float) -> None:
        self.finder, self.deadline_ms, self.slowed_by = finder, deadline_ms, slowed_by
        self.asked = Asked()
        self._connection: http.client.HTTPConnection | None = None
        self._at: Place | None = None
        self._due = 0.0

    def begin(self) -> None:
        """An episode's first period begins now."""
        self._due = time.monotonic()

    def __call__(
        self, period: int, state: NDArray[np.float64], force_n: float, place_m: NDArray[np.float64], knots: NDArray[np.float64]
    ) -> NDArray[np.float64] | None:
        """As `control_task.Ask`; comes back when the period is over."""
        begun = time.monotonic()
        found = self._ask({"state": state.tolist(), "force_n": force_n, "place_m": place_m.tolist(), "knots_n": knots.tolist()}, begun)
        self._due = max(self._due, begun - PERIOD_S * self.slowed_by) + PERIOD_S * self.slowed_by
        time.sleep(max(self._due - time.monotonic(), 0.0))
        return found

    def _ask(self, body: dict[str, Any], begun: float) -> NDArray[np.float64] | None:
        place = self.finder.place()
        if place is None:
            self.asked.nowhere += 1
            return None
        left_s = (self.deadline_ms - place.trip_ms) / 1000 * self.slowed_by
        try:
            answer = self._exchange(place, json.dumps(body), left_s)
        except TimeoutError:
            self.close()
            self.asked.late += 1
            return None
        except (OSError, http.client.HTTPException, ValueError):
            self.close()
            self.finder.is_gone(place)
            self.asked.nowhere += 1
            return None
        took_ms = (time.monotonic() - begun) * 1000 / self.slowed_by + place.trip_ms
        if took_ms > self.deadline_ms:
            self.asked.late += 1
            return None
        self.asked.latency_ms.append(took_ms)
        return np.array(answer, np.float64)

    def _exchange(self, place: Place, text: str, left_s: float) -> Any:
        if left_s <= 0:
            raise TimeoutError
        if self._connection is None or self._at != place:
            self.close()
            parts = urlsplit(place.url)
            self._connection, self._at = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=left_s), place
        elif self._connection.sock is not None:
            self._connection.sock.settimeout(left_s)
        self._connection.request("POST", "/plan", text, {"Content-Type": "application/json"})
        response = self._connection.getresponse()
        said = response.read()
        if response.status != 200:
            raise ValueError(f"status {response.status}")
        if response.getheader("Connection", "").lower() == "close":
            # It is leaving: this answer still counts, the next is asked for elsewhere.
            self.close()
            self.finder.is_gone(place)
        return json.loads(said)

    def close(self) -> None:
        """Hang up."""
        if self._connection is not None:
            self._connection.close()
        self._connection = self._at = None


def run_drive(
    ask: Callable[[], Sequence[Place]], *, episodes: int, seconds: float, deadline_ms: float, slowed_by: float, seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Episodes with a service's plans, beside the same courses planned on the device and with the regulator alone.

    Returns
    -------
    dict
        The keys of ``dure ran drive --json``.
    """
    robot, finder = Robot(), Finder(ask)
    planner = RemotePlanner(finder, deadline_ms, slowed_by)
    num_periods = round(seconds / PERIOD_S)
    courses = [draw_course(num_periods, np.random.default_rng([seed, episode])) for episode in range(episodes)]
    costs: dict[str, list[float]] = {"service": [], "device": [], "fallback": []}
    finder.wait(FIRST_WORD_S)
    for done, course in enumerate(courses):
        planner.begin()
        costs["service"].append(drive(robot, course, planner))
        planner.close()
        for name, is_planned in (("device", True), ("fallback", False)):
            costs[name].append(run_episode(robot, course, np.full(num_periods, is_planned)))
        if progress:
            progress(done + 1, episodes)
    return _told(planner, costs, courses, deadline_ms, slowed_by)


def _told(planner: RemotePlanner, costs: dict[str, list[float]], courses: Sequence[Course], deadline_ms: float, slowed_by: float) -> dict[str, Any]:
    asked = planner.asked
    num_asked = len(asked.latency_ms) + asked.late
    changes = [found / own - 1 for found, own in zip(costs["service"], costs["device"], strict=True)]
    interval = mean_interval(changes, 0.95)
    quantiles = dict(zip(("p50", "p90", "p99"), np.quantile(asked.latency_ms, (0.5, 0.9, 0.99)), strict=True)) if asked.latency_ms else {}
    return {
        "episodes": len(courses), "periods": sum(len(course.push_n) for course in courses), "period_ms": PERIOD_S * 1000,
        "slowed_by": slowed_by, "deadline_ms": deadline_ms, "asked": num_asked, "late": asked.late, "nowhere": asked.nowhere,
        "late_upper95": rate_upper95(asked.late, num_asked) if num_asked else None, "latency_ms": {key: float(value) for key, value in quantiles.items()},
        "found": planner.finder.num_found, "control_cost": {name: float(np.mean(values)) for name, values in costs.items()},
        "control_cost_change": {"mean": interval.mean, "low": interval.low, "high": interval.high},
    }  # fmt: skip
