"""Job shops: their files, an invented flexible one, and whether a schedule keeps the rules."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass
from pathlib import Path

from dure.model.errors import InputError


@dataclass(frozen=True)
class Shop:
    """Jobs with operations in order, each on one of some machines.

    Attributes
    ----------
    jobs : tuple of tuple of tuple of (int, int)
        Job → operation → its alternatives (machine, duration); in a plain job shop one alternative each.
    """

    name: str
    num_machines: int
    jobs: tuple[tuple[tuple[tuple[int, int], ...], ...], ...]

    @property
    def num_operations(self) -> int:
        """Of all jobs."""
        return sum(map(len, self.jobs))

    @property
    def is_flexible(self) -> bool:
        """Whether an operation may go to more than one machine."""
        return any(len(operation) > 1 for job in self.jobs for operation in job)

    @property
    def horizon(self) -> int:
        """A makespan that is long enough for any order."""
        return sum(max(duration for _, duration in operation) for job in self.jobs for operation in job)


def bound_of(shop: Shop) -> int:
    """No schedule of a plain shop is shorter: the longest job, and for each machine its work with what comes before and after it at the least."""
    ways: dict[int, list[tuple[int, int, int]]] = {}
    for job in shop.jobs:
        durations = [operation[0][1] for operation in job]
        for i, operation in enumerate(job):
            ways.setdefault(operation[0][0], []).append((sum(durations[:i]), durations[i], sum(durations[i + 1 :])))
    machines = (min(head for head, _, _ in way) + sum(work for _, work, _ in way) + min(tail for _, _, tail in way) for way in ways.values())
    return max(*machines, *(sum(operation[0][1] for operation in job) for job in shop.jobs))


#: An operation's machine, start and end.
Placed = tuple[int, int, int]


def read_shop(path: Path) -> Shop:
    """A shop in the standard form: ``jobs machines``, then a line a job.

    The line of a plain job has pairs of machine (from 0) and duration; that of a flexible one (the form of Brandimarte's
    instances, suffix ``.fjs``) the number of its operations, then for each the number of alternatives and pairs of
    machine (from 1) and duration. Lines that begin with ``#`` are comments.

    Raises
    ------
    InputError
        With path and line of what is wrong.
    """
    try:
        text = path.read_text()
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", str(path)) from None
    lines = [(i, line.split()) for i, line in enumerate(text.splitlines(), 1) if line.strip() and not line.startswith("#")]
    if not lines:
        raise InputError("holds no shop", str(path))
    rows = [(i, _numbers(words, path, i)) for i, words in lines]
    (first, head), *rest = rows
    if len(head) < 2 or min(head[:2]) < 1:
        raise InputError("begins with the numbers of jobs and machines", str(path), first)
    num_jobs, num_machines = head[:2]
    if len(rest) < num_jobs:
        raise InputError(f"has {len(rest)} jobs, not {num_jobs}", str(path), rows[-1][0])
    is_flexible = path.suffix == ".fjs"
    jobs = tuple(_job(numbers, is_flexible, num_machines, path, i) for i, numbers in rest[:num_jobs])
    return Shop(path.stem, num_machines, jobs)


def _numbers(words: list[str], path: Path, line: int) -> list[int]:
    try:
        return [int(float(word)) for word in words]
    except ValueError:
        raise InputError("a line of a shop has numbers only", str(path), line) from None


def _job(
    numbers: list[int], is_flexible: bool, num_machines: int, path: Path, line: int
) -> tuple[tuple[tuple[int, int], ...], ...]:
    operations = []
    words = iter(numbers)
    try:
        if is_flexible:
            for _ in range(next(words)):
                operations.append(tuple((next(words) - 1, next(words)) for _ in range(next(words))))
        else:
            operations = [((machine, next(words)),) for machine in words]
    except (StopIteration, RuntimeError):
        raise InputError("a job ends too early", str(path), line) from None
    for operation in operations:
        if not operation or any(not 0 <= machine < num_machines or duration < 0 for machine, duration in operation):
            raise InputError("a machine that is not there, or a negative duration", str(path), line)
    return tuple(operations)


def invent_shop(num_jobs: int, num_machines: int, flexibility: int, seed: int) -> Shop:
    """A flexible shop: each job visits all machines' kinds in an order of its own, each operation may go to ``flexibility`` of them."""
    chance = random.Random(seed)
    jobs = []
    for _ in range(num_jobs):
        order = chance.sample(range(num_machines), num_machines)
        operations = []
        for machine in order:
            others = chance.sample([m for m in range(num_machines) if m != machine], flexibility - 1)
            base = chance.randint(5, 50)
            operations.append(tuple(sorted((m, max(base + (m != machine) * chance.randint(0, 10), 1)) for m in (machine, *others))))
        jobs.append(tuple(operations))
    return Shop(f"flexible-{num_jobs}x{num_machines}-{seed}", num_machines, tuple(jobs))


def write_shop(shop: Shop, path: Path) -> None:
    """The shop as a ``.fjs`` file."""
    lines = [f"{len(shop.jobs)} {shop.num_machines}"]
    for job in shop.jobs:
        words = [len(job)]
        for operation in job:
            words += [len(operation), *(n for machine, duration in operation for n in (machine + 1, duration))]
        lines.append(" ".join(map(str, words)))
    path.write_text("\n".join(lines) + "\n")


def makespan_of(shop: Shop, schedule: list[list[Placed]]) -> int:
    """The end of the last operation, once the schedule has been found to keep every rule.

    Raises
    ------
    ValueError
        An operation is missing, is on no machine of its own, lasts another time, begins before the one before it has
        ended, or shares its machine.
    """
    if [len(job) for job in schedule] != [len(job) for job in shop.jobs]:
        raise ValueError("an operation is missing")
    by_machine: dict[int, list[tuple[int, int]]] = {}
    for job, placed in zip(shop.jobs, schedule, strict=True):
        ready = 0
        for operation, (machine, start, end) in zip(job, placed, strict=True):
            if (machine, end - start) not in operation:
                raise ValueError(f"no operation of machine {machine} lasts {end - start}")
            if start < ready:
                raise ValueError("an operation begins before the one before it has ended")
            ready = end
            by_machine.setdefault(machine, []).append((start, end))
    for spans in by_machine.values():
        spans.sort()
        if any(other[0] < one[1] for one, other in itertools.pairwise(spans)):
            raise ValueError("two operations at one time on a machine")
    return max(end for placed in schedule for _, _, end in placed)
