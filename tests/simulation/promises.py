"""A scene driven to its end with every promise of docs/policy.md checked at every moment of rest."""

from __future__ import annotations

from decisions import check_decisions
from guarantee import GuaranteeWatch
from idle import idle
from recount import Ground
from world import World, check

from dure.core.step import Core


def keep(fleet, terms, trace, faults, policy) -> World:
    """The world at its end: books in order, nothing idle, shares in time, nobody stopped twice for one claim."""
    core = Core(fleet, terms, trace, policy)
    ground = Ground(core, fleet, terms, trace)
    world, watch = World(core, fleet, trace, faults), GuaranteeWatch(ground, policy)
    while world.advance():
        books = check(ground)
        check_decisions(ground, policy, books, world.decided)
        assert idle(books) == []
        watch.look(books, world.decided, world.failed)
        assert max(world.stops.values(), default=0) <= 1
    watch.finish()
    # The core's own count of guarantees met late, which knows only of the claims that it has made.
    assert core.state.g[0]["breaches"] == 0
    return world
