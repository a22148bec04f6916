"""Node failures: spells of downtime drawn from published rates, and what the rates mean for a large job.

Sources: *RSC* Kokolis et al., "Revisiting Reliability in Large-Scale Machine Learning Research Clusters",
HPCA 2025, arXiv 2410.21680; *Llama 3* Grattafiori et al., "The Llama 3 Herd of Models", arXiv 2407.21783,
§3.3.4 and Table 5; *Young* doi 10.1145/361147.361115; *Daly* doi 10.1016/j.future.2004.11.016.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dure.model.errors import InputError
from dure.model.fleet import Fleet
from dure.model.yaml_file import nearest

_HOUR_MS, _DAY_MS = 3_600_000, 86_400_000

#: kind 0: the node goes down, 1: it is back; cause: index into CAUSES, the same in both rows of a spell.
FAULT_DTYPE = np.dtype(
    [("at_ms", np.int64), ("node", np.int32), ("kind", np.int8), ("cause", np.int8)], align=True
)
DOWN, UP = 0, 1

#: Causes, and how many of Llama 3's 419 unexpected interruptions each had (Table 5, rows of a kind added up):
#: GPU 148 + SRAM 19 + system processor 17 + thermal 6; HBM3; switch or cable 35 + NIC 7; unplanned host
#: maintenance 32 + SSD 3 + power supply 3 + chassis, I/O board, CPU, memory 2 each; software 54 + NCCL
#: timeouts 7 + dependency 2; silent data corruption.
CAUSE_COUNTS = {"gpu": 190, "gpu memory": 72, "network": 42, "host": 46, "software": 63, "corruption": 6}
CAUSES = tuple(CAUSE_COUNTS)
NETWORK = CAUSES.index("network")


@dataclass(frozen=True)
class FaultConstants:
    """Constants of the model; a failing node's repair time is lognormal.

    Attributes
    ----------
    failures_per_1000_node_days : float
        Mean over all nodes, while in service.
    lemon_fraction : float
        Part of the nodes that fail more often than the rest, 0..1.
    lemon_factor : float
        How many times more often, at least 1; the mean over all nodes stays as it is.
    rack_fraction : float
        Part of a node's failures in which its whole rack goes (switch, power shelf), 0..1; its cause is
        ``network``. Again the mean over all nodes stays as it is.
    repair_median_h, repair_sigma : float
        Median downtime, and the standard deviation of its logarithm.
    """

    failures_per_1000_node_days: float
    lemon_fraction: float = 0.012
    lemon_factor: float = 10.0
    rack_fraction: float = 0.05
    repair_median_h: float = 4.0
    repair_sigma: float = 1.0


#: Rates as published; lemon factor, rack fraction and repair times are assumed (docs/load.md). Llama 3 counts
#: interruptions of one job, whoever fails: no lemons, no racks.
FAULT_PRESETS = {
    "off": FaultConstants(0.0),
    "rsc1": FaultConstants(6.50, lemon_fraction=0.012),
    "rsc2": FaultConstants(2.34, lemon_fraction=0.017),
    "llama3": FaultConstants(419 / 54 / 2048 * 1000, lemon_fraction=0.0, rack_fraction=0.0),
}
FAULT_CONSTANT_NAMES = tuple(field.name for field in fields(FaultConstants))


def fault_constants(preset: str, changes: dict[str, float] | None = None) -> FaultConstants:
    """A preset's constants, some of them changed.

    Raises
    ------
    InputError
        Unknown preset or constant, or a value out of its range.
    """
    if preset not in FAULT_PRESETS:
        raise InputError(f"unknown preset{nearest(preset, FAULT_PRESETS)}", field="faults.preset")
    for name, value in (changes or {}).items():
        if name not in FAULT_CONSTANT_NAMES:
            known = nearest(name, FAULT_CONSTANT_NAMES)
            raise InputError(f"unknown constant{known}", field="faults.constants")
        low = 1.0 if name == "lemon_factor" else 0.0
        high = 1.0 if name in ("lemon_fraction", "rack_fraction") else 1e6
        if not low <= value <= high:
            raise InputError(f"must be {low:g} to {high:g}, not {value:g}", field=f"faults.constants.{name}")
    constants = replace(FAULT_PRESETS[preset], **(changes or {}))
    if constants.repair_median_h == 0:
        raise InputError("must be above 0", field="faults.constants.repair_median_h")
    return constants


def generate_faults(
    fleet: Fleet, preset: str, horizon_ms: int, seed: int, constants: dict[str, float] | None = None
) -> NDArray[Any]:
    """Every node's failures and repairs.

    Parameters
    ----------
    fleet : Fleet
        A node can fail from its ``online_ms`` on; racks fail as ``rack`` says.
    preset : str
        ``off``, ``rsc1``, ``rsc2`` or ``llama3``.
    horizon_ms : int
        Last event lies before it; a node may be down at the end.
    seed : int
        0 … 2**64 - 1.
    constants : dict of str to float, optional
        FaultConstants that differ from the preset's.

    Returns
    -------
    ndarray of FAULT_DTYPE
        Sorted by (at_ms, node). Spells of a node do not touch: down, up, down…, each at a later millisecond.
        Where a rack fails while a node is down already, both spells are one, with the first one's cause.

    Raises
    ------
    InputError
        Unknown preset or constant, a value or the seed out of range, a negative horizon.
    """
    chosen = fault_constants(preset, constants)
    if horizon_ms < 0 or not 0 <= seed < 1 << 64:
        raise InputError("horizon and seed must not be negative, the seed below 2**64", field="faults")
    rng = np.random.Generator(np.random.Philox(key=np.array([seed, 0xFA017], np.uint64)))
    num_nodes = len(fleet.nodes)
    is_lemon = np.zeros(num_nodes, np.bool_)
    is_lemon[rng.permutation(num_nodes)[: round(chosen.lemon_fraction * num_nodes)]] = True
    relative = np.where(is_lemon, chosen.lemon_factor, 1.0)
    relative /= relative.mean() if num_nodes else 1.0
    mean_per_ms = chosen.failures_per_1000_node_days / 1000 / _DAY_MS
    online_ms = fleet.nodes["online_ms"].astype(np.int64)
    own_per_ms = mean_per_ms * (1 - chosen.rack_fraction) * relative
    node, down_ms, up_ms = _renewals(own_per_ms, online_ms, chosen, horizon_ms, rng)
    cause = np.searchsorted(np.cumsum(_own_causes(chosen))[:-1], rng.random(len(node)), side="right")

    racks, of_rack, rack_size = np.unique(fleet.nodes["rack"], return_inverse=True, return_counts=True)
    rack_per_ms = np.full(len(racks), mean_per_ms * chosen.rack_fraction)
    from_start_ms = np.zeros(len(racks), np.int64)
    rack, rack_down_ms, rack_up_ms = _renewals(rack_per_ms, from_start_ms, chosen, horizon_ms, rng)
    # Nodes of each failed rack: rows of the nodes in order of rack, from the rack's first on.
    length = rack_size[rack]
    place = np.arange(int(length.sum())) - np.repeat(np.cumsum(length) - length, length)
    first = np.cumsum(rack_size) - rack_size
    hit = np.argsort(of_rack, kind="stable")[np.repeat(first[rack], length) + place]
    at_ms, until_ms = np.repeat(rack_down_ms, length), np.repeat(rack_up_ms, length)
    there = at_ms > online_ms[hit]
    return _events(
        np.concatenate([node, hit[there]]), np.concatenate([down_ms, at_ms[there]]),
        np.concatenate([up_ms, until_ms[there]]), np.concatenate([cause, np.full(int(there.sum()), NETWORK)]),
        horizon_ms,
    )  # fmt: skip


def _own_causes(chosen: FaultConstants) -> NDArray[np.float64]:
    """Probability of each cause of a node's own failure: with the racks' the mix is the published one."""
    part = np.array(list(CAUSE_COUNTS.values())) / sum(CAUSE_COUNTS.values())
    part[NETWORK] = max(part[NETWORK] - chosen.rack_fraction, 0.0)
    own: NDArray[np.float64] = part / part.sum()
    return own


def _renewals(
    rate_per_ms: NDArray[np.float64], since_ms: NDArray[np.int64], chosen: FaultConstants, horizon_ms: int,
    rng: np.random.Generator,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:  # fmt: skip
    """Who fails, from when, until when: exponential times in service, lognormal repairs."""
    who = np.flatnonzero(rate_per_ms > 0)
    since_ms = since_ms[who]
    parts = [(who[:0], since_ms[:0], since_ms[:0])]
    while len(who):  # each round is one spell of everyone that still has time left
        # A gap longer than the horizon ends the story; the bounds keep times inside int64.
        with np.errstate(over="ignore"):  # a rate next to nothing: no failure before the cap
            gap_ms = np.minimum(rng.standard_exponential(len(who)) / rate_per_ms[who], 2.0**60)
        down_ms = since_ms + 1 + gap_ms.astype(np.int64)
        repair_h = chosen.repair_median_h * np.exp(chosen.repair_sigma * rng.standard_normal(len(who)))
        up_ms = down_ms + 1 + np.minimum(repair_h * _HOUR_MS, 2.0**60).astype(np.int64)
        seen = down_ms < horizon_ms
        parts.append((who[seen], down_ms[seen], up_ms[seen]))
        who, since_ms = who[up_ms < horizon_ms], up_ms[up_ms < horizon_ms]
    who, down_ms, up_ms = (np.concatenate(column) for column in zip(*parts, strict=True))
    return who, down_ms, up_ms


def _events(
    node: NDArray[np.int64], down_ms: NDArray[np.int64], up_ms: NDArray[np.int64], cause: NDArray[np.int64],
    horizon_ms: int,
) -> NDArray[Any]:  # fmt: skip
    """Events of the spells, those of a node that overlap or touch made one."""
    order = np.lexsort((cause, up_ms, down_ms, node))
    node, down_ms, up_ms, cause = node[order], down_ms[order], up_ms[order], cause[order]
    num = len(node)
    # Latest end so far within each node: of (node, rank of the end) the running maximum never looks back past
    # the node's first row.
    by_end = np.argsort(up_ms, kind="stable")
    rank = np.empty(num, np.int64)
    rank[by_end] = np.arange(num)
    latest_ms = up_ms[by_end[np.maximum.accumulate(node * num + rank) - node * num]]
    starts = np.ones(num, np.bool_)
    starts[1:] = (node[1:] != node[:-1]) | (down_ms[1:] > latest_ms[:-1])
    begin = np.flatnonzero(starts)
    end_ms = latest_ms[np.append(begin[1:], num) - 1] if num else up_ms
    back = end_ms < horizon_ms
    events = np.zeros(len(begin) + int(back.sum()), FAULT_DTYPE)  # zeros: padding too, equal bytes
    at_ms = np.concatenate([down_ms[begin], end_ms[back]])
    who = np.concatenate([node[begin], node[begin][back]])
    kind = np.repeat([DOWN, UP], [len(begin), int(back.sum())])
    why = np.concatenate([cause[begin], cause[begin][back]])
    order = np.lexsort((who, at_ms))
    for name, column in (("at_ms", at_ms), ("node", who), ("kind", kind), ("cause", why)):
        events[name] = column[order]
    return events


def job_mttf_h(num_nodes: float, failures_per_1000_node_days: float) -> float:
    """Mean time between failures of a job on so many nodes, hours: nodes fail independently (RSC, §III)."""
    return 24_000.0 / (num_nodes * failures_per_1000_node_days)


def young_interval_s(write_s: float, mttf_s: float) -> float:
    """Work between two checkpoints that loses least, to first order: √(2 w M) (Young)."""
    return math.sqrt(2 * write_s * mttf_s)


def daly_interval_s(write_s: float, mttf_s: float) -> float:
    """The same to higher order (Daly, eq. 37); M itself where a checkpoint takes 2 M or longer."""
    if write_s >= 2 * mttf_s:
        return mttf_s
    ratio = write_s / (2 * mttf_s)
    return young_interval_s(write_s, mttf_s) * (1 + math.sqrt(ratio) / 3 + ratio / 9) - write_s


def expected_ettr(
    num_nodes: float, failures_per_1000_node_days: float, interval_s: float, restart_s: float, write_s: float
) -> float:
    """Expected part of a long job's time that is useful work, 0..1, queueing left out (RSC, §III).

    (1 - N r (u₀ + Δt/2)) / (1 + w/Δt) with N nodes, failure rate r, restart u₀, interval Δt, writing w.
    """
    lost_s = restart_s + interval_s / 2
    share_lost = lost_s / (3600 * job_mttf_h(num_nodes, failures_per_1000_node_days))
    return max(0.0, (1 - share_lost) / (1 + write_s / interval_s))
