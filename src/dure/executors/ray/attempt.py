"""An attempt that is a placement group of actors: what is known of it (no I/O)."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from dure.executors.attempt import launch_form, launch_from
from dure.executors.far import FarAttempt, Now, order_from_json
from dure.executors.ranks import ranks_of
from dure.executors.ray.cluster import Shape
from dure.executors.ray.spec import actor_name
from dure.ports.executor import Run, RunState


@dataclass
class RayAttempt(FarAttempt):
    """A lease that was launched here.

    Attributes
    ----------
    name : str
        Of the placement group, ours alone; the actors' begin with it.
    handed_in_boot_ms : int or None
        When Ray was asked to take it and has answered, or will not any more.
    gpu_idxs : tuple or None
        The GPUs that Ray has given it on each of its nodes; None: not known yet.
    missing_boot_ms : dict of int
        Place of a node → when its actor was first seen to be gone, without a word that nothing is left there.
    broken : set of int
        Places of nodes where nothing is left of it and some rank has left no end.
    heard : set of (actor, signal)
        What has come where.
    """

    shape: Shape
    name: str
    handed_in_boot_ms: int | None = None
    gpu_idxs: tuple[tuple[int, ...], ...] | None = None
    missing_boot_ms: dict[int, int] = field(default_factory=dict)
    broken: set[int] = field(default_factory=set)
    heard: set[tuple[str, str]] = field(default_factory=set)

    @property
    def actors(self) -> list[str]:
        """Names of its actors, in the order of its nodes."""
        return [actor_name(self.name, idx) for idx in range(len(self.shape.nodes))]

    def run(self) -> Run:
        """What is reported of it."""
        idxs = None if self.gpu_idxs is None else dict(zip(self.shape.nodes, self.gpu_idxs, strict=True))
        return replace(super().run(), gpu_idxs=idxs)

    def see_gone(self, places: Collection[int], ends: Collection[int], now_ms: int) -> set[int]:
        """Nothing is left on these of its nodes, and these ranks have left an end.

        Returns those nodes, not told of before, where a rank has left none: its peers are to end too.
        """
        broken = {rank.node_rank for rank in ranks_of(self.launch) if rank.node_rank in places and rank.rank not in ends}
        new, self.broken = broken - self.broken, broken
        if broken and self.failed_boot_ms is None:
            self.failed_boot_ms = now_ms
        return new

    def see_missing(self, places: Collection[int], now_ms: int) -> None:
        """These of its nodes have no actor now; peers of one that has ended without a word are ended too."""
        self.missing_boot_ms = {place: self.missing_boot_ms.get(place, now_ms) for place in places}
        if places and self.started_boot_ms is not None and self.failed_boot_ms is None:
            self.failed_boot_ms = now_ms

    def intent(self) -> str:
        """All that a later process needs to take it up, as JSON."""
        return json.dumps({"launch": launch_form(self.launch), "shape": asdict(self.shape), "name": self.name})


def attempt_from(intent: str, stop: str | None, folder: Path, now: Now) -> RayAttempt:
    """The inverse of `RayAttempt.intent`, with the stop order that was written since."""
    data: dict[str, Any] = json.loads(intent)
    found = RayAttempt(
        launch_from(data["launch"]), folder, shape_from(data["shape"]), data["name"], handed_in_boot_ms=now.boot_ms,
        is_adopted=True,
    )  # fmt: skip
    if stop is not None:
        found.stop = order_from_json(stop, now)
        found.state = RunState.STOPPING
    return found


def shape_from(form: Mapping[str, Any]) -> Shape:
    """Of plain values."""
    return Shape(tuple(form["nodes"]), tuple(form["node_ids"]), tuple(form["bundles"]))
