"""Job shops: files, schedules that keep the rules, and rounds that resume exactly."""

import itertools
import os
import random
import subprocess
import sys

import pytest

from dure.client.blueprints import catalogue_folder
from dure.client.resuming import assert_resumes_exactly
from dure.model.errors import InputError

pytest.importorskip("ortools")
FOLDER = catalogue_folder() / "job-shop"
FT06 = FOLDER / "instances" / "ft06.txt"


@pytest.fixture
def modules(modules_of):
    load = modules_of(FOLDER)
    return load("shop"), load("rounds")


def test_ft06_is_solved_and_proven(modules):
    shop, rounds = modules
    ft06 = shop.read_shop(FT06)
    found = rounds.play_round(ft06, rounds.Solving(), 4, 1, lambda: False)
    assert (found.makespan, found.bound, found.is_proven) == (55, 55, True)
    assert shop.makespan_of(ft06, found.schedule) == 55


def test_a_round_that_is_broken_off_leaves_no_trace(modules):
    shop, rounds = modules
    hard = shop.invent_shop(12, 8, 3, 1)
    assert rounds.play_round(hard, rounds.Solving(), 1000, 1, lambda: True) is None


def plain(shop, chance, num_jobs, num_machines, shortest):
    """A shop of jobs that visit some machines, some of them twice."""
    jobs = tuple(
        tuple(((chance.randrange(num_machines), chance.randint(shortest, 9)),) for _ in range(chance.randint(1, num_machines + 1)))
        for _ in range(num_jobs)
    )
    return shop.Shop("plain", num_machines, jobs)


@pytest.mark.parametrize("shortest", [0, 1])
def test_tabu_search_keeps_the_rules_and_finds_what_cp_sat_proves(modules, shortest):
    shop, rounds = modules
    chance, at_optimum = random.Random(5 + shortest), 0
    for _ in range(30):
        small = plain(shop, chance, chance.randint(1, 5), chance.randint(1, 4), shortest)
        found = rounds.play_tabu_round(small, rounds.Solving(), 3000, 1, lambda: False)
        again = rounds.play_tabu_round(small, rounds.Solving(), 3000, 1, lambda: False)
        assert (found.makespan, found.schedule) == (again.makespan, again.schedule)
        assert shop.makespan_of(small, found.schedule) == found.makespan
        proven = rounds.play_round(small, rounds.Solving(), 4, 1, lambda: False)
        assert proven.is_proven
        assert found.bound <= proven.makespan <= found.makespan
        at_optimum += found.makespan == proven.makespan
    assert at_optimum >= 28


def test_a_round_begins_with_the_schedule_so_far(modules):
    shop, rounds = modules
    ft06 = shop.read_shop(FT06)
    best = rounds.play_round(ft06, rounds.Solving(), 4, 1, lambda: False)
    after = rounds.play_tabu_round(ft06, best, 1, 1, lambda: False)
    assert (after.makespan, after.round, after.effort) == (55, best.round + 1, best.effort)


def test_tabu_search_is_broken_off_without_a_trace(modules):
    shop, rounds = modules
    hard = plain(shop, random.Random(1), 30, 15, 1)
    assert rounds.play_tabu_round(hard, rounds.Solving(), 1 << 40, 1, lambda: True) is None


def test_a_flexible_shop_survives_its_file(modules, tmp_path):
    shop, _ = modules
    made = shop.invent_shop(4, 5, 3, 7)
    shop.write_shop(made, tmp_path / "x.fjs")
    assert made.is_flexible
    assert shop.read_shop(tmp_path / "x.fjs").jobs == made.jobs


def test_schedules_that_break_a_rule_are_found_out(modules):
    shop, rounds = modules
    ft06 = shop.read_shop(FT06)
    good = rounds.play_round(ft06, rounds.Solving(), 4, 1, lambda: False).schedule
    chance = random.Random(3)
    for _ in range(50):
        job, i = chance.randrange(6), chance.randrange(6)
        machine, start, end = good[job][i]
        bad = [list(placed) for placed in good]
        shift = -start - 1 if i == 0 else good[job][i - 1][2] - 1 - start
        bad[job][i] = (machine, start + shift, end + shift)
        if i:
            with pytest.raises(ValueError, match=r"before the one before it|two operations"):
                shop.makespan_of(ft06, bad)
        bad[job][i] = (machine, start, end + 1)
        with pytest.raises(ValueError, match="lasts"):
            shop.makespan_of(ft06, bad)
    with pytest.raises(ValueError, match="missing"):
        shop.makespan_of(ft06, good[:-1])
    by_machine = sorted((m, s, e, j, i) for j, job in enumerate(good) for i, (m, s, e) in enumerate(job))
    one, other = next((a, b) for a, b in itertools.pairwise(by_machine) if a[0] == b[0] and a[4] == 0 and a[1] > 0)
    assert one[2] <= other[1]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds no shop"),
        ("2 2\n0 1 1 2\n", "has 1 jobs, not 2"),
        ("1 2\n0 1 5 2\n", ":2: a machine that is not there"),
        ("1 2\n0 1 1\n", ":2: a job ends too early"),
        ("1 2\n0 x 1 2\n", ":2: a line of a shop has numbers only"),
    ],
)
def test_files_that_are_no_shop(modules, tmp_path, text, words):
    shop, _ = modules
    path = tmp_path / "shop.txt"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        shop.read_shop(path)
    assert words in str(caught.value)


def test_an_unknown_instance_is_one_line(tmp_path):
    pytest.importorskip("matplotlib")
    found = subprocess.run([sys.executable, "solve.py", "--instances", "zz99"], cwd=FOLDER, capture_output=True, text=True, check=False,
                           env={**os.environ, "DURE_CHECKPOINT_DIR": str(tmp_path)})  # fmt: skip
    assert found.returncode == 2
    assert found.stderr.startswith("solve: --instances: no instance zz99")


@pytest.mark.slow
def test_it_resumes_exactly(tmp_path):
    command = ["solve.py", "--instances", "ft06,flexible-6x4-1", "--effort", "0.2", "--first-effort", "0.03"]
    story = assert_resumes_exactly("job-shop", command, tmp_path, (2, 2))
    assert story.metrics["gap_max"] == 0
