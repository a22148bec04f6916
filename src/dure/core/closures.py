"""What keeps nodes from new work though they may be up: an operator has closed them, radio work has them, or they refuse."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dure.core import cells
from dure.model.fleet import Fleet

#: How nodes and sites are closed.
CORDONED, DRAINING = "cordoned", "draining"
#: A node that has refused so many jobs, one after another, takes no new work for so long, ms: doubled each time that
#: it goes on refusing, up to the last. What runs there goes on.
NODE_REFUSALS_MAX, NODE_OUT_FIRST_MS, NODE_OUT_LAST_MS = 3, 60_000, 3_600_000


@dataclass
class Refusing:
    """A node that refuses: which jobs since it last ran one, until when it is left alone, and how often it was."""

    jobs: set[str] = field(default_factory=set)
    until_ms: int = -1
    times: int = 0


class Closures:
    """Of one fleet: nodes and sites by their places in it, times in ms of the alliance's own count."""

    def __init__(self, fleet: Fleet) -> None:
        self._nodes: dict[int, str] = {}
        self._sites: dict[int, str] = {}
        self._refusing: dict[int, Refusing] = {}
        #: Site → what part its radio releases, in 1/1000, and until when that counts in place of its hours.
        self._released: dict[int, tuple[int, int]] = {}
        self._fleet = fleet
        self.withheld: frozenset[int] = cells.withheld(fleet, 0)

    def take_fleet(self, fleet: Fleet) -> None:
        """The fleet has grown; `turn` is to be called."""
        self._fleet = fleet

    def kept(self) -> dict[str, Any]:
        """All of it, for JSON."""
        return {
            "nodes": list(self._nodes.items()), "sites": list(self._sites.items()), "withheld": sorted(self.withheld),
            "refusing": [[node, sorted(r.jobs), r.until_ms, r.times] for node, r in self._refusing.items()],
            "released": [[site, *word] for site, word in self._released.items()],
        }  # fmt: skip

    def put_back(self, kept: dict[str, Any]) -> None:
        """The inverse of `kept`."""
        self._nodes, self._sites = dict(kept["nodes"]), dict(kept["sites"])
        self._refusing = {node: Refusing(set(jobs), until, times) for node, jobs, until, times in kept["refusing"]}
        self._released = {site: (milli, until) for site, milli, until in kept["released"]}
        self.withheld = frozenset(kept["withheld"])

    # --- operators

    def nodes_of(self, site: int) -> list[int]:
        """The nodes of a site."""
        return np.flatnonzero(self._fleet.nodes["site"] == site).tolist()

    def close_node(self, node: int, how: str) -> None:
        """Close a node. One that drains is not merely cordoned by another word."""
        self._nodes[node] = how if self._nodes.get(node) != DRAINING else DRAINING

    def close_site(self, site: int, how: str) -> None:
        """As `close_node`, for all of a site's, now and later."""
        self._sites[site] = how if self._sites.get(site) != DRAINING else DRAINING

    def open_node(self, node: int) -> None:
        """Open a node again; it stays closed with its site."""
        self._nodes.pop(node, None)

    def open_site(self, site: int) -> None:
        """Open a site again; nodes that were closed by themselves stay closed."""
        self._sites.pop(site, None)

    def of_node(self, node: int) -> str:
        """How a node is closed, by itself or with its site; empty: it is open."""
        found = {self._nodes.get(node, ""), self.of_site(int(self._fleet.nodes["site"][node]))}
        return DRAINING if DRAINING in found else CORDONED if CORDONED in found else ""

    def of_site(self, site: int) -> str:
        """How a whole site is closed; empty: it is open."""
        return self._sites.get(site, "")

    def closed_nodes(self) -> frozenset[int]:
        """The nodes that are closed, by themselves or with their sites."""
        return frozenset(self._nodes).union(*(self.nodes_of(site) for site in self._sites))

    # --- radio work (rule 10)

    def release(self, site: int, lent_milli: int, until_ms: int) -> None:
        """Take a cell site's word for what it releases; `turn` is to be called."""
        self._released[site] = lent_milli, until_ms

    def words(self) -> dict[int, tuple[int, int]]:
        """Of each site that has spoken its last word, and until when it counts; of the others the hours do."""
        return dict(self._released)

    def turn(self, now_ms: int) -> list[int]:
        """The nodes that radio work takes now. Those that it leaves take work when they are offered next."""
        self._released = {site: word for site, word in self._released.items() if word[1] > now_ms}
        said = {site: milli for site, (milli, _) in self._released.items()}
        before, self.withheld = self.withheld, cells.withheld(self._fleet, now_ms, said)
        return sorted(self.withheld - before)

    def next_turn_ms(self, now_ms: int) -> int | None:
        """When an hour of a cell site ends, or its word; None: there is no such site."""
        ends = [until for _, until in self._released.values()]
        hour = cells.next_hour_ms(self._fleet, now_ms)
        return min(ends if hour is None else [hour, *ends], default=None)

    # --- refusals

    def blame(self, node: int, job_id: str, now_ms: int) -> int | None:
        """A node has refused a job; until when it is left alone from now on, None: it is not, or was already."""
        found = self._refusing.setdefault(node, Refusing())
        found.jobs.add(job_id)
        if now_ms < found.until_ms or len(found.jobs) < (NODE_REFUSALS_MAX if not found.times else 1):
            return None
        pause = min(NODE_OUT_FIRST_MS << min(found.times, 20), NODE_OUT_LAST_MS)
        found.until_ms, found.times = now_ms + pause, found.times + 1
        return found.until_ms

    def trust(self, node: int, now_ms: int) -> None:
        """What was started on a node has run: earlier refusals count no more, once it is not left alone."""
        found = self._refusing.get(node)
        if found is not None and now_ms >= found.until_ms:
            del self._refusing[node]

    def is_left_alone(self, node: int, at_ms: int) -> bool:
        """Whether a node gets no new work at a moment because it refused what was to start there."""
        found = self._refusing.get(node)
        return found is not None and at_ms < found.until_ms
