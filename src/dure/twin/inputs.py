"""What a replay is given, from what a person names: a fleet from a file or numbers, an alliance cut to size."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np

from dure.model.errors import InputError
from dure.model.fleet import Fleet, uniform_fleet
from dure.model.jobs import Trace
from dure.model.terms import AgreementTerms, Terms


def fleet_from(
    path: str | None, num_gpus: int | None, gpus_per_node: int, at: date | None = None
) -> tuple[Fleet, Terms | None]:
    """A fleet, with terms where the file is an alliance.

    Raises
    ------
    InputError
        Neither or both of file and number, or a bad file.
    """
    if (path is None) == (num_gpus is None):
        raise InputError("give either a fleet file or a number of GPUs", field="--fleet, --gpus")
    if path is None:
        assert num_gpus is not None
        if num_gpus < 1 or not 1 <= gpus_per_node <= 16:
            raise InputError("a fleet has at least 1 GPU, a node 1 to 16", field="--gpus, --gpus-per-node")
        return uniform_fleet(num_gpus, gpus_per_node), None
    if Path(path).suffix in (".yaml", ".yml"):
        from dure.model.alliance_build import build_fleet
        from dure.twin.files import read_alliance

        alliance = read_alliance(path)
        return build_fleet(alliance, at or alliance.start)
    from dure.twin.traces import load_nodes

    return load_nodes(path), None


def with_members_of(trace: Trace, terms: Terms) -> Trace:
    """The load of strangers as the members' own, to see an alliance under a recorded load.

    The trace's members in order of the GPU time that they ask for are dealt to the alliance's members in order of
    their guarantees, from the start again when those are used up; at one value the earlier in the list goes first.
    """
    jobs = trace.jobs.copy()
    work = jobs["duration_ms"].clip(min=0) * (jobs["num_gpus"] * (jobs["gpu_milli"] / 1000))
    asked = np.bincount(jobs["member"], work, len(trace.members))
    largest = np.argsort(-terms.guarantee_gpus.sum(axis=1), kind="stable")
    to = np.zeros(len(trace.members), np.int32)
    for place, stranger in enumerate(np.argsort(-asked, kind="stable")):
        to[stranger] = largest[place % len(largest)]
    jobs["member"] = to[jobs["member"]]
    return replace(trace, jobs=jobs, members=[member.name for member in terms.members])


def reference_alliance(num_gpus: int) -> tuple[Fleet, Terms]:
    """The reference alliance on its first day, cut to about `num_gpus` GPUs by keeping racks of every pool.

    Guarantees and limits shrink in proportion, rounded down; pools never vanish.
    """
    from dure.examples import example_path

    fleet, terms = fleet_from(str(example_path("alliance")), None, 8)
    assert terms is not None
    if num_gpus >= fleet.num_gpus:
        return fleet, terms
    part = num_gpus / fleet.num_gpus
    nodes = fleet.nodes
    keep = np.zeros(len(nodes), bool)
    for p in range(len(terms.pools)):
        racks = np.unique(nodes["rack"][nodes["pool"] == p])
        keep |= np.isin(nodes["rack"], racks[: max(1, round(len(racks) * part))])
    cut = nodes[keep].copy()
    for level in ("rack", "block"):
        cut[level] = np.unique(cut[level], return_inverse=True)[1]
    before = np.bincount(nodes["pool"], weights=nodes["num_gpus"], minlength=len(terms.pools))
    after = np.bincount(cut["pool"], weights=cut["num_gpus"], minlength=len(terms.pools))
    guarantee = (terms.guarantee_gpus * after // before).astype(np.int64)
    agreements = [
        AgreementTerms(a.name, a.lender, max(int(a.limit_gpus * part), 1), a.notice_ms, a.start_ms, a.end_ms)
        for a in terms.agreements
    ]
    small = Fleet(cut, fleet.gpu_types, fleet.sites, fleet.clusters, [])
    return small, Terms(
        terms.members, terms.pools, guarantee, agreements, terms.agreement, terms.own_notice_ms
    )
