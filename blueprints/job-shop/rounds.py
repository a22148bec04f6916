"""Solves a shop in rounds: each begins with the best schedule so far and may be broken off without a trace.

The first rounds of a plain shop are tabu search, which finds short schedules soon; CP-SAT shortens or proves them. Deterministic: tabu search is
bounded by its moves, CP-SAT by its deterministic time, and its portfolio of workers is interleaved on one thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import tabu
from ortools.sat.python import cp_model
from shop import Placed, Shop, bound_of, makespan_of

#: Workers of the portfolio that take turns.
NUM_WORKERS = 8
_LOOK_S = 0.05


@dataclass
class Solving:
    """How far a shop is.

    Attributes
    ----------
    bound, makespan : int
        No schedule is shorter than the first; the second is that of ``schedule``, 0 where there is none yet.
    effort : float
        Deterministic time that CP-SAT has spent.
    """

    round: int = 0
    effort: float = 0.0
    bound: int = 0
    makespan: int = 0
    schedule: list[list[Placed]] = field(default_factory=list)

    @property
    def is_proven(self) -> bool:
        """Whether there is no shorter schedule."""
        return bool(self.makespan) and self.bound >= self.makespan


def play_tabu_round(shop: Shop, now: Solving, moves: int, seed: int, should_stop: Callable[[], bool]) -> Solving | None:
    """A round of tabu search on a plain shop; None: it was broken off. `should_stop` is looked at some times a second."""
    stop = np.zeros(1, np.uint8)
    found: list[list[list[Placed]]] = []
    work = threading.Thread(target=lambda: found.append(tabu.search(shop, now.schedule, moves, seed + now.round, stop)))
    work.start()
    while work.is_alive():
        work.join(_LOOK_S)
        if should_stop():
            stop[0] = 1
            work.join()
            return None
    after = replace(now, round=now.round + 1, bound=max(now.bound, bound_of(shop)))
    makespan = makespan_of(shop, found[0])
    if not now.makespan or makespan < now.makespan:
        after.makespan, after.schedule = makespan, found[0]
    return after


def play_round(shop: Shop, now: Solving, effort: float, seed: int, should_stop: Callable[[], bool]) -> Solving | None:
    """A round of CP-SAT; None: it was broken off.

    Parameters
    ----------
    effort : float
        Deterministic time.
    should_stop : callable
        Looked at some times a second.
    """
    model, starts, chosen = _model(shop, now)
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = NUM_WORKERS
    solver.parameters.interleave_search = True
    solver.parameters.random_seed = seed + now.round
    solver.parameters.max_deterministic_time = effort
    status: list[cp_model.CpSolverStatus] = []
    search = threading.Thread(target=lambda: status.append(solver.solve(model)))
    search.start()
    while search.is_alive():
        search.join(_LOOK_S)
        if should_stop():
            solver.stop_search()
            search.join()
            return None
    after = replace(now, round=now.round + 1, effort=now.effort + effort)
    if status[0] == cp_model.INFEASIBLE:  # nothing shorter than what there is
        after.bound = now.makespan
    elif status[0] in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        after.schedule = [
            [_placed(solver, starts[j, i], chosen[j, i]) for i in range(len(job))] for j, job in enumerate(shop.jobs)
        ]
        after.makespan = makespan_of(shop, after.schedule)
    if status[0] != cp_model.INFEASIBLE:
        after.bound = max(now.bound, round(solver.best_objective_bound))
    return after


def _model(shop: Shop, now: Solving) -> tuple[cp_model.CpModel, dict, dict]:
    """Operations as intervals, no two at one time on a machine; shorter than what there is, no shorter than is possible."""
    model = cp_model.CpModel()
    horizon = now.makespan or shop.horizon
    machines: list[list[cp_model.IntervalVar]] = [[] for _ in range(shop.num_machines)]
    makespan = model.new_int_var(now.bound, horizon, "makespan")
    starts, chosen = {}, {}
    for j, job in enumerate(shop.jobs):
        ready: cp_model.LinearExprT = 0
        for i, operation in enumerate(job):
            start = model.new_int_var(0, horizon, "")
            taken = []
            for machine, duration in operation:
                is_here = model.new_bool_var("") if len(operation) > 1 else model.new_constant(1)
                machines[machine].append(model.new_optional_fixed_size_interval_var(start, duration, is_here, ""))
                taken.append((machine, duration, is_here))
            if len(operation) > 1:
                model.add_exactly_one(is_here for _, _, is_here in taken)
            model.add(start >= ready)
            ready = start + sum(duration * is_here for _, duration, is_here in taken)
            starts[j, i], chosen[j, i] = start, taken
            if now.schedule:
                machine, begin, _ = now.schedule[j][i]
                model.add_hint(start, begin)
                for other, _, is_here in taken if len(operation) > 1 else ():
                    model.add_hint(is_here, other == machine)
        model.add(makespan >= ready)
    for intervals in machines:
        model.add_no_overlap(intervals)
    model.minimize(makespan)
    return model, starts, chosen


def _placed(solver: cp_model.CpSolver, start: cp_model.IntVar, taken: list) -> Placed:
    machine, duration = next((machine, duration) for machine, duration, is_here in taken if solver.value(is_here))
    begin = solver.value(start)
    return machine, begin, begin + duration
