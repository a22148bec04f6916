"""Where idle vehicles should go: a min-cost flow through time and zones, planned anew every fifteen minutes.

The model is that of rolling-horizon rebalancing of mobility on demand (Pavone et al. 2012, Int. J. Robotics Research 31, 839; Zhang,
Rossi, Pavone 2016, ICRA), on expected trips.
"""

from __future__ import annotations

import numpy as np
from city import City
from ortools.graph.python.min_cost_flow import SimpleMinCostFlow
from scipy.optimize import linprog
from scipy.sparse import coo_array

#: A planned vehicle is so many units of flow: expected trips are fractions.
UNITS = 500
#: A served trip is worth 1000; sooner is a little better; an empty slot costs so much.
TRIP, LATER, EMPTY = 1000, 5, 60


def neighbours(city: City) -> np.ndarray:
    """Pairs of zones that touch, shape (pairs, 2)."""
    return np.argwhere(city.slots_between == 1)


def plan(city: City, coming: np.ndarray, expected: np.ndarray, num_slots: int) -> np.ndarray:
    """Empty moves between neighbours in the first slots.

    Parameters
    ----------
    coming : ndarray of int64, shape (horizon, num_zones)
        Vehicles that become idle in each slot; at 0 all that are now.
    expected : ndarray of float64, shape (horizon, num_zones, num_zones)
        Trips by slot, origin, destination.
    num_slots : int
        So many slots of the plan are wanted.

    Returns
    -------
    ndarray of float64, shape (num_slots, num_zones, num_zones)
        Vehicles.
    """
    horizon, num_zones = coming.shape
    sink = horizon * num_zones
    slots, zones = np.arange(horizon), np.arange(num_zones)
    total = int(coming.sum()) * UNITS

    def node(slot: np.ndarray, zone: np.ndarray) -> np.ndarray:
        return np.where(slot < horizon, slot * num_zones + zone, sink)

    slot, zone = (values.ravel() for values in np.meshgrid(slots, zones, indexing="ij"))
    stays = (node(slot, zone), node(slot + 1, zone), np.full(len(slot), total), np.zeros(len(slot), np.int64))
    pairs = neighbours(city)
    slot, pair = (values.ravel() for values in np.meshgrid(slots[:-1], np.arange(len(pairs)), indexing="ij"))
    moves = (node(slot, pairs[pair, 0]), node(slot + 1, pairs[pair, 1]), np.full(len(slot), total), np.full(len(slot), EMPTY))
    units = np.rint(expected * UNITS).astype(np.int64)
    at, origin, aim = np.nonzero(units)
    serves = (node(at, origin), node(at + city.trip_slots[origin, aim], aim), units[at, origin, aim], LATER * at - TRIP)
    tail, head, most, cost = (np.concatenate(parts) for parts in zip(stays, moves, serves, strict=True))
    flow = SimpleMinCostFlow()
    flow.add_arcs_with_capacity_and_unit_cost(tail, head, most, cost)
    flow.set_nodes_supplies(np.arange(sink + 1), np.append(coming.ravel() * UNITS, -total))
    if flow.solve() != flow.OPTIMAL:
        raise AssertionError("vehicles may always stay: the flow has a solution")
    first = len(stays[0])
    found = flow.flows(np.arange(first, first + num_slots * len(pairs))) / UNITS
    wanted = np.zeros((num_slots, num_zones, num_zones))
    wanted[:, pairs[:, 0], pairs[:, 1]] = found.reshape(num_slots, len(pairs))
    return wanted


def most_served(city: City, start: np.ndarray, requests: np.ndarray, patience: int) -> float:
    """Trips that no way of driving could exceed: the linear relaxation of the day with all requests known.

    Vehicles move between neighbours at will; a request is served from its own zone at most `patience` slots late. Each day that
    `simulation.play` can bring about is a solution of it.

    Parameters
    ----------
    start : ndarray of int64, shape (num_zones,)
        Vehicles at the beginning.
    """
    num_slots, num_zones = requests.shape[:2]
    sink = num_slots * num_zones
    pairs = neighbours(city)

    def node(slot: np.ndarray, zone: np.ndarray) -> np.ndarray:
        return np.where(slot < num_slots, slot * num_zones + zone, sink)

    slot, zone = (values.ravel() for values in np.meshgrid(np.arange(num_slots), np.arange(num_zones), indexing="ij"))
    tails, heads = [node(slot, zone)], [node(slot + 1, zone)]
    slot, pair = (values.ravel() for values in np.meshgrid(np.arange(num_slots), np.arange(len(pairs)), indexing="ij"))
    tails.append(node(slot, pairs[pair, 0]))
    heads.append(node(slot + 1, pairs[pair, 1]))
    num_free = sum(map(len, tails))
    at, origin, aim = np.nonzero(requests)
    which = []
    for late in range(patience + 1):
        fits = np.flatnonzero(at + late < num_slots)
        tails.append(node(at[fits] + late, origin[fits]))
        heads.append(node(at[fits] + late + city.trip_slots[origin[fits], aim[fits]], aim[fits]))
        which.append(fits)
    tail, head, request = np.concatenate(tails), np.concatenate(heads), np.concatenate(which)
    arcs = np.arange(len(tail))
    # Out of each node goes what came in; the sink takes what it gets.
    rows, columns = np.concatenate([tail, head]), np.concatenate([arcs, arcs])
    signs = np.concatenate([np.ones(len(arcs)), -np.ones(len(arcs))])
    inner = rows < sink
    balance = coo_array((signs[inner], (rows[inner], columns[inner])), shape=(sink, len(arcs)))
    once = coo_array((np.ones(len(request)), (request, arcs[num_free:])), shape=(len(at), len(arcs)))
    supply = np.zeros(sink)
    supply[:num_zones] = start
    solved = linprog(
        np.append(np.zeros(num_free), -np.ones(len(request))),
        A_ub=once, b_ub=requests[at, origin, aim], A_eq=balance, b_eq=supply, method="highs-ipm",
    )  # fmt: skip
    if solved.status != 0:
        raise AssertionError(f"vehicles may always stay: {solved.message}")
    return -float(solved.fun)
