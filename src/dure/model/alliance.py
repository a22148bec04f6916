"""The alliance file: who shares what with whom, as a person writes it.

Every key's meaning stands once, in its field's ``description``: the JSON Schema and the tables of
docs/alliance.md are made from them. What a schema cannot say is checked in ``alliance_checks``;
``alliance_build`` makes fleet and terms.
"""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema

from dure.model.fleet import GPUS_PER_NODE_MAX
from dure.model.yaml_file import DurationMs, FileModel, in_form, load_model

#: Columns of jobs carry one bit a site and one bit a GPU type.
SITES_MAX = GPU_TYPES_MAX = 64
#: Bound on one number of GPUs in a file.
GPUS_MAX = 2_000_000

MemberKind = Literal["ministry", "company", "telco", "university", "public", "startup"]
AgreementKind = Literal["RESERVE", "LEND", "LEND_AND_BORROW"]
ShareTopology = Literal["count", "rack", "block"]


def _to_decimal(value: object) -> Decimal:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return Decimal(str(value))
    raise ValueError(f"must be a number, not {value!r}")


_INNER = r"[^\x00-\x1f\x7f-\x9f\u2028\u2029/:#,@]"
_NAME = rf"[^\s/:#,@](?:{_INNER}*[^\s/:#,@])?"
Name = Annotated[
    str,
    Field(max_length=64),
    in_form(_NAME, "a name without / : # , @ and spaces around it"),
    WithJsonSchema({"type": "string", "maxLength": 64, "pattern": f"^{_NAME}$"}),
]
Names = tuple[Name, ...]
Country = Annotated[
    str,
    in_form("[A-Z]{2}", "two capital letters such as KR"),
    WithJsonSchema({"type": "string", "pattern": "^[A-Z]{2}$"}),
]
Currency = Annotated[
    str,
    in_form("[A-Z]{3}", "three capital letters such as KRW"),
    WithJsonSchema({"type": "string", "pattern": "^[A-Z]{3}$"}),
]
ShareName = Annotated[
    str,
    Field(max_length=129),
    in_form(rf"(?:{_INNER}|@)*", "a name without / : # ,"),
    WithJsonSchema({"type": "string", "maxLength": 129}),
]
NumGpus = Annotated[int, Field(ge=0, le=GPUS_MAX)]
SomeGpus = Annotated[int, Field(ge=1, le=GPUS_MAX)]
Watts = Annotated[int, Field(ge=0, le=100_000)]
Price = Annotated[
    Decimal,
    BeforeValidator(_to_decimal),
    Field(ge=0, le=10**9),
    WithJsonSchema({"type": "number", "minimum": 0, "maximum": 10**9}),
]


class GpuTypeSpec(FileModel):
    """A GPU model."""

    name: Name = Field(description="Its name, used everywhere else in the file.")
    speed_milli: int = Field(
        ge=1, le=1_000_000, description="Training speed in 1/1000 of the reference type (H200 = 1000)."
    )
    idle_w: Watts = Field(description="Power of one GPU with its part of the node, idle.")
    busy_w: Watts = Field(description="The same, fully used.")
    sleep_w: Watts = Field(description="The same, with the node asleep.")
    mem_gib: int = Field(ge=1, le=65_536, description="Device memory.")
    mig_slices: int = Field(
        default=1,
        ge=1,
        le=64,
        description="Hardware slices that one GPU is cut into for jobs that ask for a part of it; 1: none, parts are as asked. 7 follows NVIDIA's MIG profiles.",
    )
    scale: Literal["node", "rack"] = Field(
        default="node",
        description="What NVLink spans: one node, or one rack. Rack-scale types come in whole racks.",
    )


class MemberSpec(FileModel):
    """An organisation."""

    name: Name = Field(description="Short name, used everywhere else in the file.")
    kind: MemberKind = Field(description="What sort of organisation; agreements may be open to a kind.")
    country: Country = Field(default="KR", description="ISO 3166 code of two capital letters.")
    weight: float = Field(
        default=1.0, gt=0, le=1000, description="Weight in lending where a member has no share of its own."
    )
    title: str = Field(default="", max_length=200, description="Full name, for reports.")


#: A date, under a name that a field called ``date`` does not hide.
Day = date


class Delivery(FileModel):
    """GPUs that arrive."""

    date: Day = Field(description="First day of use.")
    gpus: SomeGpus = Field(description="How many arrive, not the new total. Whole nodes; whole racks if rack scale.")


class ClusterSpec(FileModel):
    """Equal nodes on one fabric, of one owner."""

    name: Name = Field(description="Its name, unique in the alliance.")
    owner: Name = Field(description="The member that brought the GPUs in.")
    gpu_type: Name = Field(description="A name from `gpu_types`.")
    gpus: NumGpus = Field(default=0, description="GPUs that are there from the beginning.")
    deliveries: tuple[Delivery, ...] = Field(default=(), description="GPUs that come later, in order of date.")
    gpus_per_node: int = Field(default=8, ge=1, le=GPUS_PER_NODE_MAX, description="GPUs of one node.")
    nodes_per_rack: int = Field(
        default=4, ge=1, le=1024, description="Nodes of one rack. In a cell cluster, a rack is one cell site."
    )
    racks_per_block: int = Field(default=16, ge=1, le=4096, description="Racks under one leaf of the fabric.")
    cpu_cores_per_node: int = Field(
        default=224, ge=1, le=65_536, description="CPU cores (hardware threads) of one node."
    )
    mem_gib_per_node: int = Field(default=2048, ge=1, le=1_048_576, description="Host memory of one node.")
    network_gbps_per_node: int = Field(
        default=3200,
        ge=0,
        le=1_000_000,
        description="Bandwidth of one node into the fabric; 0: not given, never in the way.",
    )
    fabric: str = Field(default="", max_length=100, description="What the network is, for reports.")

    @property
    def rack_gpus(self) -> int:
        """GPUs of a full rack."""
        return self.gpus_per_node * self.nodes_per_rack

    @property
    def block_gpus(self) -> int:
        """GPUs of a full block."""
        return self.rack_gpus * self.racks_per_block

    @property
    def gpus_complete(self) -> int:
        """GPUs after the last delivery."""
        return self.gpus + sum(d.gpus for d in self.deliveries)


class PowerStep(FileModel):
    """A power cap from a day on."""

    date: Day = Field(description="First day of this cap.")
    mw: float = Field(gt=0, le=100_000, description="The cap.")


ReleasedPart = Annotated[float, Field(ge=0, le=1)]
DayHours = Annotated[tuple[ReleasedPart, ...], Field(min_length=24, max_length=24)]


class CellSpec(FileModel):
    """What a cell site's lending guard releases."""

    vacate: DurationMs = Field(
        description="What runs there is gone so soon after radio work wants its GPU: jobs whose `checkpoint.grace` is longer never start there."
    )
    weekdays: DayHours = Field(
        description="Part of the site's GPUs that is released in each hour from 0:00 to 23:00, the site's time; "
        "`lent_by_hour` of `dure ran guard` has such numbers."
    )
    weekends: DayHours | None = Field(default=None, description="The same, on Saturdays and Sundays; none: as on weekdays.")
    utc_offset: DurationMs = Field(default=9 * 3_600_000, description="How far the site's time is ahead of UTC.")


class SiteSpec(FileModel):
    """A place with one power feed."""

    name: Name = Field(description="Its name; jobs may be bound to sites.")
    country: Country = Field(default="KR", description="ISO 3166 code: where the data stays.")
    location: str = Field(default="", max_length=100, description="City or region, for reports.")
    operator: str = Field(
        default="", max_length=64, description="The member that runs it; the owner of its clusters if empty."
    )
    kind: Literal["datacentre", "cell"] = Field(
        default="datacentre",
        description="`cell`: a telco's AI-RAN sites of one region, where radio work goes first.",
    )
    cells: CellSpec | None = Field(
        default=None, description="When a cell site's GPUs are released, and how soon they are wanted back; none: all are, always."
    )
    reaches: dict[Name, Annotated[float, Field(gt=0, le=10_000)]] = Field(
        default={}, max_length=10_000,
        description="Areas whose devices it serves, and the round trip there in ms: from the area's radio to the site and back, without the radio's own time.",
    )
    power_cap_mw: float = Field(default=0.0, ge=0, le=100_000, description="Power of the feed; 0: no cap.")
    power_steps: tuple[PowerStep, ...] = Field(
        default=(),
        description="Later caps, in order of date; each replaces the one before. A run uses its first day's cap.",
    )
    pue: float = Field(
        default=1.0, ge=1, le=3, description="Power of the feed per power of the nodes (cooling, losses)."
    )
    clusters: tuple[ClusterSpec, ...] = Field(min_length=1, description="What stands here; see below.")


class ShareSpec(FileModel):
    """GPUs that a member is guaranteed."""

    member: Name = Field(description="Who is guaranteed.")
    cluster: Name = Field(description="In which cluster.")
    gpus: SomeGpus = Field(
        description="How many once the cluster is complete; before, in proportion to what has been delivered."
    )
    topology: ShareTopology = Field(
        default="count",
        description="`count`: that many GPUs, anywhere. `rack` or `block`: whole racks or blocks are "
        "set apart as a pool of their own, so that lending never costs the member its "
        "topology; `gpus` is a multiple of them.",
    )
    under: str = Field(
        default="",
        max_length=64,
        description="The RESERVE agreement behind it; needed for all but the cluster's owner. The share "
        "holds while the agreement is in force on the run's first day.",
    )
    name: ShareName = Field(
        default="", description="Name for programmes to point at; if empty, it is `member@cluster`."
    )

    @property
    def title(self) -> str:
        """The share's name, also where none is written."""
        return self.name or f"{self.member}@{self.cluster}"


class Eligibility(FileModel):
    """Who among the borrowers may use an agreement."""

    countries: tuple[Country, ...] = Field(default=(), description="Members of these countries only; empty: all.")
    except_members: Names = Field(default=(), description="Members left out, though their name or kind is listed.")


class AgreementSpec(FileModel):
    """Signed terms. A change is a new version, never an edit."""

    name: Name = Field(description="Its name, unique in the alliance.")
    kind: AgreementKind = Field(
        description="`RESERVE`: shares may be written under it. `LEND`: the lenders' idle GPUs are open "
        "to the borrowers. `LEND_AND_BORROW`: all parties lend to each other.",
    )
    version: int = Field(default=1, ge=1, le=10_000, description="Counts the signed versions.")
    lenders: Names = Field(min_length=1, description="Members that give.")
    borrowers: Names = Field(default=(), description="Members that may take.")
    borrower_kinds: tuple[MemberKind, ...] = Field(default=(), description="All members of these kinds may take, too.")
    clusters: Names = Field(default=(), description="Only these clusters; empty: all of the lenders'.")
    gpu_types: Names = Field(default=(), description="Only these GPU types; empty: all.")
    sites: Names = Field(default=(), description="Only these sites; empty: all.")
    limit_gpus: SomeGpus = Field(description="Most GPUs out at a time, of each lender. RESERVE: the sum of its shares.")
    notice: DurationMs = Field(
        default=0, description="LEND: time from reclaim to the GPUs being back, such as 120s or 5m."
    )
    price_per_gpu_hour: Price = Field(
        default=Decimal(0), description="In the alliance's currency; 0: settled in credits."
    )
    eligibility: Eligibility = Field(default=Eligibility(), description="Who of the borrowers is left; see below.")
    start: date = Field(description="First day in force.")
    end: date | None = Field(default=None, description="First day no longer in force; none: open-ended.")

    def is_in_force(self, day: date) -> bool:
        """Whether ``day`` is within its dates."""
        return self.start <= day and (self.end is None or day < self.end)


class Call(FileModel):
    """A call for applications."""

    name: Name = Field(description="Its name, unique in the programme.")
    opens: date = Field(description="First day for applications.")
    closes: date = Field(description="Last day for applications.")
    gpu_hours: int = Field(ge=1, le=10**12, description="What it hands out in all.")
    gpus_per_award_max: NumGpus = Field(default=0, description="Most GPUs at a time for one award; 0: no such bound.")


class ProgrammeSpec(FileModel):
    """A way in for those who own nothing."""

    name: Name = Field(description="Its name, unique in the alliance.")
    run_by: Name = Field(description="The member that answers for it.")
    funded_from: tuple[str, ...] = Field(min_length=1, description="Names of the shares that it hands out.")
    open_to: tuple[MemberKind, ...] = Field(default=(), description="Kinds of members that may apply; empty: all.")
    calls: tuple[Call, ...] = Field(default=(), description="When it hands out how much; see below.")


class Alliance(FileModel):
    """An alliance file."""

    name: str = Field(min_length=1, max_length=100, description="What it is called.")
    start: date = Field(description="First day of a run, unless the run says else.")
    currency: Currency = Field(default="KRW", description="ISO 4217 code of all prices.")
    own_notice: DurationMs = Field(
        default=60_000, description="Notice for use above one's share inside a pool in which one has a share."
    )
    gpu_types: tuple[GpuTypeSpec, ...] = Field(min_length=1, max_length=GPU_TYPES_MAX, description="GPU models.")
    members: tuple[MemberSpec, ...] = Field(min_length=1, max_length=4096, description="Organisations.")
    sites: tuple[SiteSpec, ...] = Field(min_length=1, max_length=SITES_MAX, description="Places and what stands there.")
    shares: tuple[ShareSpec, ...] = Field(
        default=(),
        description="Guarantees. What of a cluster is in nobody's share is guaranteed to its owner.",
    )
    agreements: tuple[AgreementSpec, ...] = Field(
        default=(),
        description="Terms of lending. Where several would let a member borrow in a pool, the first counts.",
    )
    programmes: tuple[ProgrammeSpec, ...] = Field(default=(), description="Ways in for those who own nothing.")

    @property
    def clusters(self) -> tuple[tuple[int, ClusterSpec], ...]:
        """All clusters in the file's order, each with its site's index."""
        return tuple((idx, cluster) for idx, site in enumerate(self.sites) for cluster in site.clusters)

    @property
    def gpus_complete(self) -> int:
        """GPUs after the last delivery."""
        return sum(cluster.gpus_complete for _, cluster in self.clusters)

    def releasing(self, cells: CellSpec) -> Alliance:
        """The same alliance, whose cell sites all release so much."""
        sites = tuple(s.model_copy(update={"cells": cells}) if s.kind == "cell" else s for s in self.sites)
        return self.model_copy(update={"sites": sites})


def parties(alliance: Alliance, agreement: AgreementSpec) -> tuple[list[int], list[int]]:
    """Indices of the members that lend and that may borrow under ``agreement``, each ascending.

    In a LEND_AND_BORROW agreement every party does both. Eligibility narrows the borrowers only.
    """
    names = {member.name: idx for idx, member in enumerate(alliance.members)}
    lenders = {names[name] for name in agreement.lenders}
    borrowers = {names[name] for name in agreement.borrowers}
    borrowers |= {idx for idx, m in enumerate(alliance.members) if m.kind in agreement.borrower_kinds}
    if agreement.kind == "LEND_AND_BORROW":
        lenders = borrowers = lenders | borrowers
    rule = agreement.eligibility
    eligible = [
        idx
        for idx in sorted(borrowers)
        if (not rule.countries or alliance.members[idx].country in rule.countries)
        and alliance.members[idx].name not in rule.except_members
    ]
    return sorted(lenders), eligible


def covers(agreement: AgreementSpec, site: SiteSpec, cluster: ClusterSpec) -> bool:
    """Whether ``agreement`` reaches into ``cluster`` of ``site``, whoever lends there."""
    return (
        (not agreement.clusters or cluster.name in agreement.clusters)
        and (not agreement.gpu_types or cluster.gpu_type in agreement.gpu_types)
        and (not agreement.sites or site.name in agreement.sites)
    )


def load_alliance(text: str, path: str) -> Alliance:
    """The alliance written in ``text``.

    Parameters
    ----------
    text : str
        YAML.
    path : str
        The file as the user named it, for errors.

    Raises
    ------
    InputError
        With line and dotted field: broken YAML, an unknown or missing key, a value out of range, a name that
        stands nowhere, shares above what there is, dates in the wrong order, GPUs that make no whole node or
        rack.
    """
    from dure.model.alliance_checks import problems  # it names the models of this file

    return load_model(Alliance, text, path, problems)
