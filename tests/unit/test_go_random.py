"""Go's random numbers: first values of seed 1 as Go prints them, and what each draw must be."""

from __future__ import annotations

import pytest

from dure.twin.go_random import GoRandom


def test_first_numbers_of_seed_1_are_gos() -> None:
    random = GoRandom(1)
    assert [random.int63() for _ in range(3)] == [5577006791947779410, 8674665223082153551, 6129484611666145821]


def test_first_numbers_below_100_of_seed_1_are_gos() -> None:
    random = GoRandom(1)
    assert [random.below(100) for _ in range(10)] == [81, 87, 47, 59, 81, 18, 25, 40, 56, 0]


@pytest.mark.parametrize("seed", [0, 1, 42, 2**31 - 1, 2**40, -7])
def test_draws_are_in_range_and_repeat(seed: int) -> None:
    random, same = GoRandom(seed), GoRandom(seed)
    for n in (1, 2, 7, 64, 1000, 2**30, 2**31 - 1):
        assert 0 <= random.below(n) < n
        same.below(n)
    items = list(range(50))
    random.shuffle(items)
    assert sorted(items) == list(range(50))
    assert sorted(random.permutation(50)) == list(range(50))
    same.shuffle(list(range(50)))
    same.permutation(50)
    assert random.int63() == same.int63()
