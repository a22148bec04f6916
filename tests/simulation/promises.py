"""A scene driven to its end with every promise of docs/policy.md checked at every moment of rest."""

from __future__ import annotations

from decisions import DecisionWatch
from guarantee import GuaranteeWatch
from idle import idle
from recount import Ground
from world import World, check


def keep(fleet, terms, trace, faults, policy) -> World:
    """The world at its end: books in order, nothing idle, shares in time, nobody stopped twice for one claim."""
    ground = Ground(fleet, terms, trace, policy)
    world, watch, decisions = World(ground, faults), GuaranteeWatch(ground), DecisionWatch()
    while world.advance():
        books = check(ground)
        decisions.look(books, world.decided, world.starts)
        assert idle(books) == []
        watch.look(books, world.decided, world.failed)
        assert max(world.stops.values(), default=0) <= 1
    watch.finish()
    # The core's own count of guarantees met late, which knows only of the claims that it has made.
    assert ground.core.state.g[0]["breaches"] == 0
    return world
