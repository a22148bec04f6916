"""The power goes at any instant, the database refuses, the clock is set back: nothing lost, nothing doubled, all proved."""

from __future__ import annotations

import pytest
from tests.service.world import World, on_disk

MOMENTS = ("before", "within", "after", "refused", "unheard")


def live_through(world: World, num_turns: int) -> None:
    """Turns of work, in a third of which something goes wrong."""
    world.agent.refusing = 0.1
    for _ in range(num_turns):
        chance = world.chance
        world.store.moment = chance.choice(MOMENTS) if chance.random() < 0.35 else ""
        turn = chance.choices(
            ("sync", "submit", "finish", "cancel", "time", "back", "watch", "token", "restart", "nodes", "full", "snapshot"),
            (8, 4, 4, 1, 3, 0.5, 1, 0.5, 0.5, 0.3, 0.5, 0.5),
        )[0]
        match turn:
            case "sync":
                world.sync()
            case "submit":
                world.submit(chance.choice((1, 1, 3, 8)))
            case "finish":
                world.agent.finish(chance.choice((1, 4, 16)))
            case "cancel":
                world.cancel()
            case "time":
                world.wall.advance(chance.choice((1, 1000, 90_000, 200_000)))
            case "back":
                world.wall.wall -= chance.choice((1, 5_000, 7_200_000))
            case "watch":
                world.watch()
            case "token":
                world.token()
            case "restart":
                world.agent.restart()
            case "nodes":
                world.agent.offered = {"hall-0"} if len(world.agent.offered) == 2 else {"hall-0", "hall-1"}
            case "snapshot":
                world.writer.keep_snapshot()
            case "full":
                world.store.moment = "refused"
                world.submit(2)
                world.store.moment = "full"
                world.submit(2)


# A part of them always, the rest where there is time.
@pytest.mark.parametrize("block", [0, *(pytest.param(block, marks=pytest.mark.slow) for block in range(1, 20))])
def test_any_instant(tmp_path, block):
    cuts = 0
    for seed in range(10 * block, 10 * block + 10):
        folder = tmp_path / str(seed)
        folder.mkdir()
        world = World(on_disk(folder), seed)
        live_through(world, 120)
        world.check()
        world.settle()
        world.check()
        cuts += world.cuts
        world.close()
    assert cuts >= 75
