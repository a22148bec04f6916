"""The alliance file: the shipped examples, and each way in which one can be wrong."""

from __future__ import annotations

from collections import Counter
from datetime import date
from pathlib import Path

import pytest

from dure.examples import example_names, example_path
from dure.model.alliance import Alliance, load_alliance, parties
from dure.model.errors import InputError
from dure.twin.files import read_alliance

VILLAGE = example_path("village").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def reference() -> Alliance:
    return read_alliance(example_path("alliance"))


def gpus_of(alliance: Alliance, owner: str, day: date | None = None) -> int:
    return sum(
        cluster.gpus + sum(d.gpus for d in cluster.deliveries if day is None or d.date <= day)
        for _, cluster in alliance.clusters
        if cluster.owner == owner
    )


def test_the_five_bring_260_000(reference: Alliance) -> None:
    brought = {owner: gpus_of(reference, owner) for owner in ("msit", "samsung", "sk", "hyundai", "naver")}
    assert brought == {"msit": 50_000, "samsung": 50_000, "sk": 50_000, "hyundai": 50_000, "naver": 60_000}


def test_cell_sites_are_on_top(reference: Alliance) -> None:
    cells = sum(c.gpus_complete for idx, c in reference.clusters if reference.sites[idx].kind == "cell")
    assert reference.gpus_complete == 260_000 + cells
    owners = {c.owner for idx, c in reference.clusters if reference.sites[idx].kind == "cell"}
    assert owners == {"skt", "kt", "lguplus"}


def test_public_figures(reference: Alliance) -> None:
    first = Counter[str]()
    for _, cluster in reference.clusters:
        if cluster.owner == "msit":
            first[cluster.gpu_type] += cluster.gpus
    assert first == {"B200": 10_080, "H200": 3_056, "B300": 0, "VR-NVL72": 0}
    assert gpus_of(reference, "msit", date(2027, 12, 31)) == 10_080 + 3_056 + 9_704
    haenam = [c for idx, c in reference.clusters if reference.sites[idx].name == "haenam"]
    assert sum(d.gpus for c in haenam for d in c.deliveries if d.date.year <= 2028) == 15_000
    ulsan = next(site for site in reference.sites if site.name == "ulsan")
    assert ulsan.power_cap_mw == 100
    assert min(d.date for c in ulsan.clusters for d in c.deliveries).year == 2027
    sejong = next(site for site in reference.sites if site.name == "sejong")
    assert [(step.date.year, step.mw) for step in sejong.power_steps] == [
        (2027, 55),
        (2027, 100),
        (2028, 200),
    ]
    cloud = next(c for _, c in reference.clusters if c.name == "sk-manufacturing")
    assert (cloud.gpu_type, cloud.gpus_complete) == ("RTX-PRO-6000", 2_000)


def test_all_is_delivered_by_the_reference_day_and_by_2030(reference: Alliance) -> None:
    last = max(d.date for _, c in reference.clusters for d in c.deliveries)
    assert last <= reference.start <= date(2030, 12, 31)


def test_every_kind_of_thing_occurs(reference: Alliance) -> None:
    assert {m.kind for m in reference.members} == {
        "ministry",
        "company",
        "telco",
        "university",
        "public",
        "startup",
    }
    assert {a.kind for a in reference.agreements} == {"RESERVE", "LEND", "LEND_AND_BORROW"}
    assert {s.topology for s in reference.shares} == {"count", "rack", "block"}
    assert len({a.notice for a in reference.agreements if a.kind != "RESERVE"}) >= 4
    assert {t.name for t in reference.gpu_types} >= {"B200", "B300", "GB200-NVL72", "H200", "RTX-PRO-6000"}


def test_parties() -> None:
    village = load_alliance(VILLAGE, "village.yaml")
    by_name = {agreement.name: agreement for agreement in village.agreements}
    assert parties(village, by_name["well"]) == ([0, 1, 2], [0, 1, 2])
    assert parties(village, by_name["open-door"]) == ([0, 1, 2, 4], [4, 5])
    assert parties(village, by_name["town-to-academy"]) == ([0], [4])


BAD = [
    # (what stands in village.yaml, what replaces it, line's text, field, words)
    (
        "owner: forge",
        "owner: forgge",
        "owner: forgge",
        "sites[1].clusters[0].owner",
        "unknown member 'forgge'; did you mean 'forge'?",
    ),
    ("kind: telco", "kind: radio", "kind: radio", "members[3].kind", "'telco'"),
    (
        "power_cap_mw: 0.18",
        "power_cap: 0.18",
        "power_cap: 0.18",
        "sites[0].power_cap",
        "did you mean 'power_cap_mw'?",
    ),
    (
        "gpu_type: B300",
        "gpu_type: b300",
        "gpu_type: b300",
        "sites[1].clusters[1].gpu_type",
        "did you mean 'B300'?",
    ),
    ("gpus: 144", "gpus: 140", "gpus: 140", "sites[1].clusters[0].gpus", "72 or 144 would be"),
    ("gpus: 128,", "gpus: 127,", "gpus: 127,", "sites[0].clusters[0].gpus", "120 or 128 would be"),
    ("gpus: 128,", "gpus: 0,", "gpus: 0,", "sites[0].clusters[0].gpus", "never has a GPU"),
    ("gpus: 128,", "gpus: -8,", "gpus: -8,", "sites[0].clusters[0].gpus", "greater than or equal to 0"),
    ("gpus: 128,", "gpus: 10,080,", "10,080", "sites[0].clusters[0].080", "unknown key '080'"),
    (
        "gpus: 32, topology: rack",
        "gpus: 40, topology: rack",
        "gpus: 40",
        "shares[0].gpus",
        "32 or 64 would be",
    ),
    ("gpus: 8, under", "gpus: 104, under", "gpus: 104", "shares[1].gpus", "come to 136 GPUs, but it has 128"),
    (
        "gpus: 32, topology: rack",
        "gpus: 64, topology: rack",
        "gpus: 64, top",
        "shares[0].gpus",
        "limit_gpus of 32",
    ),
    (
        ", under: town-to-seedling",
        "",
        "seedling, cluster: hall",
        "shares[1].under",
        "name a RESERVE agreement of township",
    ),
    ("under: town-to-seedling", "under: open-door", "under: open-door", "shares[1].under", "LEND agreement"),
    (
        "under: town-to-seedling",
        "under: town-to-academy",
        "seedling, cluster",
        "shares[1].under",
        "is no borrower",
    ),
    (
        "member: seedling, cluster: hall",
        "name: seedling@hall, member: seedling, cluster: quay",
        "cluster: quay",
        "shares[1].under",
        "harbour, which owns quay, is no lender",
    ),
    (
        "member: seedling,",
        "name: seedling@hall, member: township,",
        "member: township,",
        "shares[1].under",
        "needs no agreement",
    ),
    (
        "{member: seedling, cluster: hall, gpus: 8, under: town-to-seedling}",
        "{member: academy, cluster: hall, gpus: 8, under: town-to-academy}",
        "gpus: 8",
        "shares[1].name",
        "a second share is called 'academy@hall'",
    ),
    (
        "name: forge, kind",
        "name: township, kind",
        "name: township, kind: company",
        "members[1].name",
        "a second member",
    ),
    ("idle_w: 280", "idle_w: 2800", "idle_w: 2800", "gpu_types[0].busy_w", "must rise"),
    (
        "limit_gpus: 72\n    notice: 2m\n    start: 2026-01-01",
        "limit_gpus: 72\n    notice: 2m\n    start: 2026-01-01\n    end: 2025-12-31",
        "end: 2025-12-31",
        "agreements[2].end",
        "must be after start (2026-01-01)",
    ),
    ("notice: 2m", "notice: 2", "notice: 2", "agreements[2].notice", "a duration with its unit"),
    (
        "lenders: [tower]",
        "lenders: [seedling]",
        "lenders: [seedling]",
        "agreements[4].lenders",
        "has no GPUs",
    ),
    (
        "borrower_kinds: [startup, university]",
        "borrowers: []",
        "borrowers: []",
        "agreements[4].borrowers",
        "nobody may borrow",
    ),
    (
        "opens: 2026-09-01, closes: 2026-09-30",
        "opens: 2026-09-01, closes: 2026-08-30",
        "closes: 2026-08-30",
        "programmes[0].calls[0].closes",
        "closes before it opens",
    ),
    (
        "funded_from: [seedling@hall]",
        "funded_from: [seedlings@hall]",
        "seedlings@hall",
        "programmes[0].funded_from[0]",
        "did you mean 'seedling@hall'?",
    ),
    (
        "deliveries: [{date: 2026-10-03, gpus: 32}]",
        "deliveries: [{date: 2026-10-03, gpus: 32}, {date: 2026-10-02, gpus: 8}]",
        "2026-10-02",
        "sites[1].clusters[1].deliveries[1].date",
        "must be after 2026-10-03",
    ),
    ("start: 2026-10-01", "start: 2026-13-01", "2026-13-01", "", "there is no day 2026-13-01"),
    ("start: 2026-10-01", "start: soon", "soon", "start", "must be a date"),
    (
        "name: masts\n    kind: cell",
        "name: town-hall\n    kind: cell",
        "name: town-hall\n    kind",
        "sites[2].name",
        "a second site",
    ),
    (
        "name: quay",
        "name: smelter",
        "name: smelter\n        owner: harbour",
        "sites[1].clusters[1].name",
        "a second cluster",
    ),
    (
        "pue: 1.2\n    clusters:\n      - {name: hall",
        "pue: 0.9\n    clusters:\n      - {name: hall",
        "pue: 0.9",
        "sites[0].pue",
        "greater than or equal to 1",
    ),
    ("name: forge, kind", "name: for/ge, kind", "for/ge", "members[1].name", "must be a name without"),
]


@pytest.mark.parametrize(("old", "new", "line_text", "field", "words"), BAD)
def test_a_bad_alliance_names_line_and_field(
    old: str, new: str, line_text: str, field: str, words: str
) -> None:
    assert old in VILLAGE
    text = VILLAGE.replace(old, new, 1)
    line = text.count("\n", 0, text.index(line_text)) + 1
    with pytest.raises(InputError) as caught:
        load_alliance(text, "village.yaml")
    assert words in caught.value.message
    assert (caught.value.path, caught.value.line, caught.value.field) == ("village.yaml", line, field)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read: No such file"):
        read_alliance(tmp_path / "gone.yaml")
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        read_alliance(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"name: x\nstart: caf\xe9\n")
    with pytest.raises(InputError) as caught:
        read_alliance(tmp_path / "latin.yaml")
    assert (caught.value.line, caught.value.message) == (2, "byte 0xe9 is not UTF-8")


def test_examples_by_name() -> None:
    assert example_names() == ["alliance", "scenario-day", "scenario-night", "scenario-village", "scenario-year", "village"]
    assert example_path("alliance.yaml") == example_path("alliance")
    with pytest.raises(InputError, match="did you mean 'village'"):
        example_path("vilage")
