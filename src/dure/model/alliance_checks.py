"""What must hold in an alliance file beyond the form of each value."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from datetime import date

from dure.model.alliance import (
    GPUS_MAX,
    AgreementSpec,
    Alliance,
    ClusterSpec,
    GpuTypeSpec,
    ShareSpec,
    SiteSpec,
    covers,
    parties,
)
from dure.model.yaml_file import Loc, check_names, nearest

Problems = Iterator[tuple[Loc, str]]


def problems(alliance: Alliance) -> Problems:
    """Everything wrong with ``alliance``, names before sums: where, and what.

    Later checks rely on the earlier ones: a caller stops at the first problem.
    """
    yield from _twice_named(alliance)
    yield from _unknown_names(alliance)
    for idx, gpu_type in enumerate(alliance.gpu_types):
        if not gpu_type.sleep_w <= gpu_type.idle_w <= gpu_type.busy_w:
            yield ("gpu_types", idx, "busy_w"), "power must rise from sleep_w over idle_w to busy_w"
    types = {gpu_type.name: gpu_type for gpu_type in alliance.gpu_types}
    for s_idx, site in enumerate(alliance.sites):
        yield from _rising(("sites", s_idx, "power_steps"), [step.date for step in site.power_steps])
        if site.cells and site.kind != "cell":
            yield ("sites", s_idx, "cells"), "goes with `kind: cell`"
        for c_idx, cluster in enumerate(site.clusters):
            yield from _cluster(("sites", s_idx, "clusters", c_idx), cluster, types[cluster.gpu_type])
    if alliance.gpus_complete > 2 * GPUS_MAX:
        yield ("sites",), f"the alliance has more than {2 * GPUS_MAX} GPUs"
    for idx, agreement in enumerate(alliance.agreements):
        yield from _agreement(("agreements", idx), alliance, agreement)
    yield from _shares(alliance)
    for idx, programme in enumerate(alliance.programmes):
        for c_idx, call in enumerate(programme.calls):
            if call.closes < call.opens:
                yield ("programmes", idx, "calls", c_idx, "closes"), f"closes before it opens ({call.opens})"


def _twice_named(alliance: Alliance) -> Problems:
    yield from check_names(_named("gpu_types", (t.name for t in alliance.gpu_types)), "GPU type")
    yield from check_names(_named("members", (m.name for m in alliance.members)), "member")
    yield from check_names(_named("sites", (s.name for s in alliance.sites)), "site")
    clusters: list[tuple[Loc, str]] = [
        (("sites", i, "clusters", j, "name"), cluster.name)
        for i, site in enumerate(alliance.sites) for j, cluster in enumerate(site.clusters)
    ]
    yield from check_names(clusters, "cluster")
    yield from check_names(_named("agreements", (a.name for a in alliance.agreements)), "agreement")
    yield from check_names(_named("shares", (s.title for s in alliance.shares)), "share")
    yield from check_names(_named("programmes", (p.name for p in alliance.programmes)), "programme")
    for i, programme in enumerate(alliance.programmes):
        calls: list[tuple[Loc, str]] = [
            (("programmes", i, "calls", j, "name"), call.name) for j, call in enumerate(programme.calls)
        ]
        yield from check_names(calls, "call")


def _named(key: str, names: Iterable[str]) -> Iterator[tuple[Loc, str]]:
    for idx, name in enumerate(names):
        yield (key, idx, "name"), name


def _unknown_names(alliance: Alliance) -> Problems:
    members = [member.name for member in alliance.members]
    types = [gpu_type.name for gpu_type in alliance.gpu_types]
    sites = [site.name for site in alliance.sites]
    clusters = [cluster.name for _, cluster in alliance.clusters]
    shares = [share.title for share in alliance.shares]

    def one(loc: Loc, name: str, known: list[str], what: str) -> Problems:
        if name not in known:
            yield loc, f"unknown {what}{nearest(name, known)}"

    def each(loc: Loc, names: Iterable[str], known: list[str], what: str) -> Problems:
        for idx, name in enumerate(names):
            yield from one((*loc, idx), name, known, what)

    for i, site in enumerate(alliance.sites):
        if site.operator:
            yield from one(("sites", i, "operator"), site.operator, members, "member")
        for j, cluster in enumerate(site.clusters):
            yield from one(("sites", i, "clusters", j, "owner"), cluster.owner, members, "member")
            yield from one(("sites", i, "clusters", j, "gpu_type"), cluster.gpu_type, types, "GPU type")
    for i, share in enumerate(alliance.shares):
        yield from one(("shares", i, "member"), share.member, members, "member")
        yield from one(("shares", i, "cluster"), share.cluster, clusters, "cluster")
        if share.under:
            agreements = [agreement.name for agreement in alliance.agreements]
            yield from one(("shares", i, "under"), share.under, agreements, "agreement")
    for i, agreement in enumerate(alliance.agreements):
        at: Loc = ("agreements", i)
        yield from each((*at, "lenders"), agreement.lenders, members, "member")
        yield from each((*at, "borrowers"), agreement.borrowers, members, "member")
        yield from each((*at, "clusters"), agreement.clusters, clusters, "cluster")
        yield from each((*at, "gpu_types"), agreement.gpu_types, types, "GPU type")
        yield from each((*at, "sites"), agreement.sites, sites, "site")
        excepted = agreement.eligibility.except_members
        yield from each((*at, "eligibility", "except_members"), excepted, members, "member")
    for i, programme in enumerate(alliance.programmes):
        yield from one(("programmes", i, "run_by"), programme.run_by, members, "member")
        yield from each(("programmes", i, "funded_from"), programme.funded_from, shares, "share")


def _rising(loc: Loc, days: list[date]) -> Problems:
    for idx in range(1, len(days)):
        if days[idx] <= days[idx - 1]:
            yield (*loc, idx, "date"), f"must be after {days[idx - 1]}, the date before it"


def _cluster(loc: Loc, cluster: ClusterSpec, gpu_type: GpuTypeSpec) -> Problems:
    unit, what = cluster.gpus_per_node, f"nodes of {cluster.gpus_per_node} GPUs"
    if gpu_type.scale == "rack":
        unit, what = cluster.rack_gpus, f"racks of {cluster.rack_gpus} GPUs ({gpu_type.name} is rack scale)"
    numbers: list[tuple[Loc, int]] = [((*loc, "gpus"), cluster.gpus)]
    numbers += [((*loc, "deliveries", i, "gpus"), d.gpus) for i, d in enumerate(cluster.deliveries)]
    for at, gpus in numbers:
        if gpus % unit:
            below = gpus // unit * unit
            yield at, f"{gpus} GPUs are no whole number of {what}; {below} or {below + unit} would be"
    if cluster.gpus_complete == 0:
        yield (*loc, "gpus"), "the cluster never has a GPU; give gpus or deliveries"
    if cluster.gpus_complete > GPUS_MAX:
        yield (*loc, "deliveries"), f"the cluster has more than {GPUS_MAX} GPUs when complete"
    yield from _rising((*loc, "deliveries"), [delivery.date for delivery in cluster.deliveries])


def _agreement(loc: Loc, alliance: Alliance, agreement: AgreementSpec) -> Problems:
    if agreement.end is not None and agreement.end <= agreement.start:
        yield (*loc, "end"), f"must be after start ({agreement.start})"
    lenders, borrowers = parties(alliance, agreement)
    if not borrowers:
        yield (*loc, "borrowers"), "nobody may borrow: give borrowers or borrower_kinds (and see eligibility)"
    names = [alliance.members[idx].name for idx in lenders]
    covered = {c.name: c.owner for site, c in _placed(alliance) if covers(agreement, site, c)}
    set_apart = {s.member for s in alliance.shares if s.topology != "count" and s.cluster in covered}
    if (set(covered.values()) | set_apart).isdisjoint(names):
        yield (*loc, "lenders"), f"{', '.join(names)} has no GPUs in what this agreement covers"


def _placed(alliance: Alliance) -> Iterator[tuple[SiteSpec, ClusterSpec]]:
    for site_idx, cluster in alliance.clusters:
        yield alliance.sites[site_idx], cluster


def _shares(alliance: Alliance) -> Problems:
    clusters = {cluster.name: cluster for _, cluster in alliance.clusters}
    in_cluster: dict[str, int] = defaultdict(int)
    under: dict[str, int] = defaultdict(int)
    for idx, share in enumerate(alliance.shares):
        loc: Loc = ("shares", idx)
        cluster = clusters[share.cluster]
        yield from _share_topology(loc, share, cluster)
        if share.member != cluster.owner:
            yield from _share_cover(loc, alliance, share, cluster)
        elif share.under:
            yield (*loc, "under"), f"{share.member} owns {cluster.name}: its share needs no agreement"
        in_cluster[share.cluster] += share.gpus
        if in_cluster[share.cluster] > cluster.gpus_complete:
            yield (*loc, "gpus"), (
                f"shares in {cluster.name} come to {in_cluster[share.cluster]} GPUs, "
                f"but it has {cluster.gpus_complete} when complete"
            )
        if share.under:
            agreement = next(a for a in alliance.agreements if a.name == share.under)
            under[share.under] += share.gpus
            if under[share.under] > agreement.limit_gpus:
                yield (*loc, "gpus"), (
                    f"shares under {share.under} come to {under[share.under]} GPUs, above its limit_gpus of "
                    f"{agreement.limit_gpus}"
                )


def _share_topology(loc: Loc, share: ShareSpec, cluster: ClusterSpec) -> Problems:
    unit = {"count": 1, "rack": cluster.rack_gpus, "block": cluster.block_gpus}[share.topology]
    if share.gpus % unit:
        below = share.gpus // unit * unit
        nearby = f"{below} or {below + unit}" if below else f"{unit}"
        yield (*loc, "gpus"), (
            f"{share.gpus} GPUs are no whole number of {share.topology}s of {unit} GPUs in {cluster.name}; "
            f"{nearby} would be"
        )


def _share_cover(loc: Loc, alliance: Alliance, share: ShareSpec, cluster: ClusterSpec) -> Problems:
    """A share in another's cluster stands under a RESERVE agreement that allows it."""
    if not share.under:
        yield (*loc, "under"), (
            f"{share.member} does not own {cluster.name}: name a RESERVE agreement of {cluster.owner} here"
        )
        return
    agreement = next(a for a in alliance.agreements if a.name == share.under)
    lenders, borrowers = parties(alliance, agreement)
    names = [member.name for member in alliance.members]
    if agreement.kind != "RESERVE":
        yield (*loc, "under"), f"{share.under} is a {agreement.kind} agreement; shares need RESERVE"
    elif names.index(cluster.owner) not in lenders:
        yield (*loc, "under"), f"{cluster.owner}, which owns {cluster.name}, is no lender in {share.under}"
    elif names.index(share.member) not in borrowers:
        yield (*loc, "under"), f"{share.member} is no borrower in {share.under}"
    elif not any(covers(agreement, site, c) for site, c in _placed(alliance) if c.name == cluster.name):
        yield (*loc, "under"), f"{share.under} does not cover {cluster.name}"
