"""Invented load: how much, when, how large, how long, and the same again for the same seed."""

from __future__ import annotations

import csv
import gzip
import json
import math
from datetime import date
from importlib.resources import files

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dure.core.build import build_state, too_large
from dure.examples import example_path
from dure.model.alliance import load_alliance
from dure.model.alliance_build import build_fleet
from dure.model.errors import InputError
from dure.model.fleet import Fleet, GpuType, uniform_fleet
from dure.model.jobs import TOPOLOGY_NODE
from dure.model.terms import Terms, single_member_terms
from dure.policy.config import named_policy
from dure.twin.data import data_dir
from dure.twin.generate import CLASS_NAMES, LoadSpec, generate, scale_load
from dure.twin.generate.classes import ASSUMED, load_classes
from dure.twin.generate.members import demands, speed_gpus, stream, zipf_cdf

DAY_MS = 86_400_000
MONDAY = date(2030, 7, 1)


@pytest.fixture(scope="module")
def alliance() -> tuple[Fleet, Terms]:
    path = example_path("alliance")
    return build_fleet(load_alliance(path.read_text(), str(path)), date(2030, 12, 31))


@pytest.fixture(scope="module")
def scale(alliance):
    return scale_load(200_000, *alliance, seed=1)


@pytest.fixture(scope="module")
def week(alliance):
    return generate(LoadSpec(7, 0.2, MONDAY), *alliance, seed=1)


def work(jobs):
    return jobs["num_gpus"] * (jobs["gpu_milli"] / 1000) * jobs["duration_ms"]


def check_trace(trace):
    jobs = trace.jobs
    assert len(trace.job_ids) == len(set(trace.job_ids)) == len(jobs)
    assert (np.diff(jobs["submit_ms"]) >= 0).all()
    assert jobs["submit_ms"].min() >= 0
    assert jobs["duration_ms"].min() > 0
    limited = jobs["limit_ms"] > 0
    assert (jobs["limit_ms"] >= jobs["duration_ms"])[limited].all()
    assert ((jobs["min_gpus"] <= jobs["num_gpus"]) & (jobs["num_gpus"] <= jobs["max_gpus"])).all()
    assert (jobs["gpu_milli"][jobs["num_gpus"] > 1] == 1000).all()
    for name, names in (("member", trace.members), ("project", trace.projects), ("user", trace.users)):
        assert len(set(names)) == len(names)
        assert jobs[name].min() >= 0
        assert jobs[name].max() < len(names)
        owner = [names[idx].split("/")[0] for idx in np.unique(jobs[name])]
        assert set(owner) <= set(trace.members)
    member = np.array(trace.members)[jobs["member"][:500]]
    for name, names in (("project", trace.projects), ("user", trace.users)):
        assert [names[idx].split("/")[0] for idx in jobs[name][:500]] == member.tolist()


def test_scale_load_is_whole(scale):
    check_trace(scale)
    assert len(scale.jobs) == 200_000
    assert scale.jobs["num_gpus"].max() == 1024
    assert (scale.jobs["num_gpus"] <= 8).mean() > 0.8
    gangs = scale.jobs["num_gpus"] >= 32
    assert work(scale.jobs)[gangs].sum() > 0.6 * work(scale.jobs).sum()
    checkpointing = scale.jobs["checkpoint_ms"] == 600_000
    assert checkpointing.mean() == pytest.approx(0.8, abs=5 * math.sqrt(0.16 / 200_000))


def test_scale_load_offers_what_it_says(scale, alliance):
    fleet, terms = alliance
    capacity = speed_gpus(fleet, len(terms.pools)).sum() * float(scale.jobs["submit_ms"][-1])
    # The span is cut at the first and last arrival: a part of 2 / 200,000 and a rounding.
    assert work(scale.jobs).sum() / capacity == pytest.approx(0.95, rel=1e-3)


def test_scale_load_gives_members_work_by_share(scale, alliance):
    fleet, terms = alliance
    gpus = speed_gpus(fleet, len(terms.pools))
    for idx, demand in enumerate(demands(fleet, terms)):
        mine = work(scale.jobs[scale.jobs["member"] == idx])
        share = (demand.pool_part * gpus).sum() / gpus.sum() * work(scale.jobs).sum()
        # The spread of all jobs of the sizes that it may have: few jobs hardly show their own.
        alike = work(scale.jobs[scale.jobs["num_gpus"] <= demand.gpus_max])
        error = 5 * math.sqrt(len(mine) * (alike**2).mean())
        # The whole misses its expectation too: by the error of the largest.
        assert abs(mine.sum() - share) < error + 0.02 * share, demand.name


def test_scale_load_fits_every_member(scale, alliance):
    fleet, terms = alliance
    pool_gpus = np.bincount(fleet.nodes["pool"], fleet.nodes["num_gpus"])
    for idx in range(len(terms.members)):
        largest = scale.jobs["num_gpus"][scale.jobs["member"] == idx].max()
        own = terms.guarantee_gpus[idx] > 0
        assert largest <= (pool_gpus[own].min() if own.any() else 8)


def test_members_burst_out_of_phase(scale):
    """The big five's demand swings by more than a half, the sum of all hardly."""
    share = np.bincount(scale.jobs["member"])
    span = scale.jobs["submit_ms"][-1] + 1
    slot = scale.jobs["submit_ms"] * 64 // span
    for idx in np.argsort(share)[-5:]:
        each = np.bincount(slot[scale.jobs["member"] == idx], minlength=64)
        assert np.percentile(each, 90) > 1.8 * np.percentile(each, 10)
    total = np.bincount(slot, minlength=64)
    assert total.max() < 1.4 * total.min()


def test_scale_load_of_one_pool_and_one_member():
    fleet = uniform_fleet(100, 8)
    trace = scale_load(1, fleet, single_member_terms(100), 1)
    assert len(trace.jobs) == 1
    many = scale_load(1000, fleet, single_member_terms(100, ["a", "b"]), 1)
    check_trace(many)
    assert many.jobs["num_gpus"].max() <= 64
    assert set(np.unique(many.jobs["member"])) == {0, 1}


@pytest.mark.parametrize("make", [
    lambda fleet, terms, seed: scale_load(20_000, fleet, terms, seed),
    lambda fleet, terms, seed: generate(LoadSpec(0.5, 0.1), fleet, terms, seed),
], ids=["scale_load", "generate"])  # fmt: skip
def test_same_seed_same_load(make, alliance):
    assert make(*alliance, 1).digest() == make(*alliance, 1).digest() != make(*alliance, 2).digest()


def test_a_member_s_jobs_do_not_depend_on_the_others(alliance):
    fleet, terms = alliance
    fewer = terms.guarantee_gpus.copy()
    fewer[1] //= 2  # samsung brings half
    changed = Terms(terms.members, terms.pools, fewer, terms.agreements, terms.agreement)
    spec = LoadSpec(0.5, 0.1)
    before, after = generate(spec, fleet, terms, 3), generate(spec, fleet, changed, 3)
    assert before.members[4] == "naver"
    naver = [trace.jobs[trace.jobs["member"] == 4] for trace in (before, after)]
    for name in naver[0].dtype.names:
        assert (naver[0][name] == naver[1][name]).all(), name
    assert (before.jobs["member"] == 1).sum() != (after.jobs["member"] == 1).sum()


def test_streams_of_members_differ():
    draws = [stream(1, name).random(4).tolist() for name in ("a", "b")] + [stream(2, "a").random(4).tolist()]
    assert len({tuple(draw) for draw in draws}) == 3


def test_generated_week_is_whole(week):
    check_trace(week)
    assert week.jobs["submit_ms"].max() < 7 * DAY_MS
    pretraining = week.extra["job_class"] == CLASS_NAMES.index("pretraining")
    assert week.jobs["num_gpus"][pretraining].min() >= 512
    assert week.jobs["num_gpus"].max() == 16_384
    elastic = week.jobs["min_gpus"] < week.jobs["max_gpus"]
    assert elastic.any()
    assert (week.extra["job_class"][elastic] == CLASS_NAMES.index("fine_tuning")).all()


def test_offered_load_and_mix(week, alliance):
    fleet, terms = alliance
    capacity = speed_gpus(fleet, len(terms.pools)).sum() * 7 * DAY_MS
    each = np.bincount(week.extra["job_class"], work(week.jobs), len(CLASS_NAMES))
    assert each.sum() / capacity == pytest.approx(0.2, rel=0.2)  # see the slow test below
    for name, part in zip(CLASS_NAMES, each / each.sum(), strict=True):
        assert part == pytest.approx(ASSUMED[name].part, rel=0.35)


@pytest.mark.slow
def test_offered_load_is_right_on_average(alliance):
    fleet, terms = alliance
    capacity = speed_gpus(fleet, len(terms.pools)).sum() * DAY_MS
    spec = LoadSpec(1, 0.9)
    loads = [work(generate(spec, fleet, terms, seed).jobs).sum() / capacity for seed in range(24)]
    assert np.mean(loads) == pytest.approx(0.9, abs=5 * np.std(loads, ddof=1) / math.sqrt(24))
    assert np.std(loads, ddof=1) < 0.15  # docs/load.md: a day misses the load by about 0.1


def test_arrivals_follow_the_rhythm(week):
    """Submissions (arrays once) of what people submit by hand, by hour of the week: Poisson counts."""
    _, rhythm = load_classes()
    by_hand = [idx for idx, name in enumerate(CLASS_NAMES) if ASSUMED[name].rhythm == 1.0]
    is_first = week.extra["array"] == np.arange(len(week.jobs))
    chosen = is_first & np.isin(week.extra["job_class"], by_hand)
    hour = (week.jobs["submit_ms"][chosen] // 3_600_000).astype(int)
    counts = np.bincount(hour, minlength=168)
    expected = rhythm * len(hour) / 168
    chi_square = ((counts - expected) ** 2 / expected).sum()
    # 167 degrees of freedom: mean 167, deviation 18.3.
    assert abs(chi_square - 167) < 5 * math.sqrt(2 * 167)
    assert counts.reshape(7, 24)[:5].sum() / 5 > 1.2 * counts.reshape(7, 24)[5:].sum() / 2


def test_the_week_starts_on_the_day_told(alliance):
    fleet, terms = alliance
    only = {name: 0.0 for name in CLASS_NAMES if name != "debug"}
    sizes = [
        len(generate(LoadSpec(2, 0.0005, start, only), fleet, terms, 1).jobs)
        for start in (date(2030, 7, 1), date(2030, 7, 6))
    ]
    # The load is the same on two working days and on a weekend; the hours are not.
    assert sizes[0] == pytest.approx(sizes[1], rel=0.05)
    hours = [
        np.bincount(generate(LoadSpec(7, 0.0005, s, only), fleet, terms, 1).jobs["submit_ms"] // DAY_MS)
        for s in (date(2030, 7, 1), date(2030, 7, 6))
    ]
    assert hours[0][5:].sum() / hours[0].sum() == pytest.approx(hours[1][:2].sum() / hours[1].sum(), rel=0.05)
    assert hours[0][5:].mean() < 0.9 * hours[0][:5].mean()


def test_load_comes_with_the_deliveries():
    fleet = uniform_fleet(8000, 8)
    fleet.nodes["online_ms"][500:] = 10 * DAY_MS
    trace = generate(LoadSpec(20, 0.5), fleet, single_member_terms(8000), 1)
    is_first = trace.extra["array"] == np.arange(len(trace.jobs))
    late = (trace.jobs["submit_ms"][is_first] >= 10 * DAY_MS).mean()
    # Days 10 to 19 of a Monday start hold 3 and not 4 days of weekend: within 10% of two thirds.
    assert late == pytest.approx(2 / 3, rel=0.1)
    assert trace.jobs["num_gpus"][trace.jobs["submit_ms"] < 10 * DAY_MS].max() <= 4000


def test_users_repeat_similar_jobs(week):
    """Two neighbours in a user's debug work are closer in length than two of the class at random."""
    chosen = week.jobs[week.extra["job_class"] == CLASS_NAMES.index("debug")]
    ordered = chosen[np.lexsort((chosen["submit_ms"], chosen["user"]))]
    log_s = np.log(ordered["duration_ms"] / 1000)
    same_user = ordered["user"][1:] == ordered["user"][:-1]
    gap = np.abs(np.diff(log_s))[same_user].mean()
    assert gap < 0.6 * np.abs(log_s - np.random.default_rng(0).permutation(log_s)).mean()
    most = np.sort(np.bincount(ordered["user"][ordered["member"] == 4]))[::-1]
    assert most[:5].sum() > 0.4 * most.sum()  # Zipf


def test_arrays_arrive_at_once_and_are_alike(week):
    sweeps = week.extra["job_class"] == CLASS_NAMES.index("sweep")
    first = week.extra["array"][sweeps]
    length = np.bincount(np.unique(first, return_inverse=True)[1])
    num, mean = len(length), ASSUMED["sweep"].array_mean
    # Geometric: variance mean (mean - 1).
    assert length.mean() == pytest.approx(mean, abs=5 * math.sqrt(mean * (mean - 1) / num))
    for name in ("submit_ms", "user", "member", "num_gpus"):
        assert (week.jobs[name][sweeps] == week.jobs[name][first]).all()


def test_campaigns_last_weeks(alliance):
    fleet, terms = alliance
    spec = LoadSpec(60, 0.3, MONDAY, dict.fromkeys(CLASS_NAMES, 0.0) | {"campaign": 1.0})
    trace = generate(spec, fleet, terms, 1)
    check_trace(trace)
    assert (trace.extra["job_class"] == CLASS_NAMES.index("campaign")).all()
    days = trace.jobs["duration_ms"] / DAY_MS
    assert days.min() >= 7
    assert days.max() <= 90
    # Median 21 days; a sample's median is off by 1.25 sigma / sqrt(n).
    assert np.median(days) == pytest.approx(21, rel=5 * 1.25 * 0.5 / math.sqrt(len(days)))
    assert trace.jobs["num_gpus"].min() >= 2048
    usual = generate(LoadSpec(1, 0.1), fleet, terms, 1)
    assert CLASS_NAMES.index("campaign") not in usual.extra["job_class"]


def test_limits_are_over_estimated(week):
    """Half of the arrays use less than half of their limit; an array has one limit."""
    jobs, first = week.jobs, week.extra["array"]
    assert (jobs["limit_ms"] == jobs["limit_ms"][first]).all()
    single = (np.bincount(first, minlength=len(jobs)) == 1) & (jobs["limit_ms"] > 0)
    used = jobs["duration_ms"][single] / jobs["limit_ms"][single]
    assert used.max() <= 0.9
    assert np.median(used) < 0.5
    # The limit tells little of the run time: jobs of an hour to two have several.
    alike = single & (np.abs(jobs["duration_ms"] - 5_400_000) < 1_800_000)
    assert len(np.unique(jobs["limit_ms"][alike])) >= 4


def test_some_jobs_want_one_node_that_can_hold_them(week, alliance):
    node_gpus = alliance[0].nodes["num_gpus"].min()
    jobs = week.jobs
    wants = jobs["topology"] == TOPOLOGY_NODE
    assert (jobs["max_gpus"][wants] <= node_gpus).all()
    may = (week.extra["job_class"] == CLASS_NAMES.index("fine_tuning")) & (jobs["num_gpus"] > 1)
    may &= jobs["max_gpus"] <= node_gpus
    assert not wants[~may].any()
    # Runs of about 8 jobs in a week, not single jobs, are drawn: as many independent draws as users' runs.
    runs = may.sum() / ASSUMED["fine_tuning"].run_mean
    assert wants[may].mean() == pytest.approx(0.5, abs=5 * math.sqrt(0.25 * 2 / runs))


def test_mean_of_a_class_is_that_of_its_draws():
    rng = np.random.default_rng(1)
    for job_class in load_classes()[0]:
        component = np.searchsorted(np.cumsum(job_class.weights)[:-1], rng.random(400_000))
        drawn_s = job_class.draw_ms(component, rng.standard_normal(400_000)) / 1000
        error = 5 * drawn_s.std() / math.sqrt(len(drawn_s))
        assert job_class.mean_s() == pytest.approx(drawn_s.mean(), abs=error), job_class.name


@pytest.fixture(scope="module")
def philly():
    data = data_dir()
    if data is None:
        pytest.skip("no data sets: DURE_DATA is not set")
    text = gzip.decompress((data / "philly_2017/philly.csv.gz").read_bytes()).decode()
    return list(csv.DictReader(text.splitlines()))


def test_durations_are_philly_s(philly):
    """Recorded and drawn run times: the two-sample distance, against the data itself."""
    gpus = np.array([int(row["num_gpus"]) for row in philly])
    seconds = np.array([float(row["duration"]) for row in philly])
    rng = np.random.default_rng(2)
    fitted = json.loads(files("dure.twin.generate").joinpath("fitted.json").read_text())["classes"]
    classes = {job_class.name: job_class for job_class in load_classes()[0]}
    for name, rows in (
        ("debug", seconds[(seconds < 1800) & (gpus <= 8)]),
        ("sweep", seconds[(seconds >= 1800) & (gpus == 1)]),
        ("fine_tuning", seconds[(seconds >= 1800) & (gpus > 1)]),
    ):
        job_class = classes[name]
        component = np.searchsorted(np.cumsum(job_class.weights)[:-1], rng.random(100_000))
        drawn = np.sort(job_class.draw_ms(component, rng.standard_normal(100_000)) / 1000)
        real = np.sort(rows)
        at = np.unique(real)
        distance = np.abs(
            np.searchsorted(drawn, at, side="right") / 100_000 - np.searchsorted(real, at, side="right") / len(real)
        ).max()
        assert fitted[name]["num_rows"] == len(real)
        # What the fit says of itself, and 1.95 / √n (0.1%) for the drawn sample.
        assert distance < fitted[name]["ks"] + 1.95 / math.sqrt(100_000), name


def test_zipf():
    assert zipf_cdf(3, 1.0) == pytest.approx([6 / 11, 9 / 11, 1.0])


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        (LoadSpec(0, 0.9), "days"), (LoadSpec(-1, 0.9), "days"), (LoadSpec(math.nan, 0.9), "days"),
        (LoadSpec(1, 0), "offered_load"), (LoadSpec(1, 11), "offered_load"),
        (LoadSpec(1, 0.9, mix={"debugging": 1}), "mix"), (LoadSpec(1, 0.9, mix={"debug": -1}), "mix.debug"),
        (LoadSpec(1, 0.9, mix=dict.fromkeys(CLASS_NAMES, 0.0)), "mix"),
        (LoadSpec(3650, 0.9), "days"),
    ],
)  # fmt: skip
def test_bad_specs_are_refused(spec, field, alliance):
    with pytest.raises(InputError) as caught:
        generate(spec, *alliance, seed=1)
    assert caught.value.field == field


def test_bad_counts_seeds_and_fleets_are_refused(alliance):
    for num_jobs, seed in ((0, 1), (10, -1), (10, 1 << 64)):
        with pytest.raises(InputError):
            scale_load(num_jobs, *alliance, seed=seed)
    empty = uniform_fleet(8, 8)
    empty.nodes["num_gpus"] = 0
    with pytest.raises(InputError):
        scale_load(10, empty, single_member_terms(0), 1)
    lonely = single_member_terms(8, ["a", "b"])
    lonely.agreement[1] = -1
    with pytest.raises(InputError, match="'b'"):
        scale_load(10, uniform_fleet(8, 8), lonely, 1)


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 2**64 - 1), gpus=st.integers(1, 3000), per_node=st.integers(1, 16),
    days=st.floats(0.01, 20), load=st.floats(0.001, 2), names=st.integers(1, 4), start=st.dates(),
)  # fmt: skip
def test_any_load_is_whole(seed, gpus, per_node, days, load, names, start):
    terms = single_member_terms(gpus, [f"m{i}" for i in range(names)])
    fleet = uniform_fleet(gpus, per_node)
    trace = generate(LoadSpec(days, load, start), fleet, terms, seed)
    if len(trace.jobs):
        check_trace(trace)
        assert trace.jobs["submit_ms"].max() < days * DAY_MS
        assert trace.jobs["max_gpus"].max() <= gpus
        first = trace.extra["array"]
        assert (first[first] == first).all()
    check_trace(scale_load(100, fleet, terms, seed))


def test_a_mix_that_fits_nobody_is_refused():
    only = dict.fromkeys(CLASS_NAMES, 0.0) | {"campaign": 1.0}
    with pytest.raises(InputError, match="large enough"):
        generate(LoadSpec(1, 0.5, MONDAY, only), uniform_fleet(100, 8), single_member_terms(100), 1)


@pytest.mark.parametrize("load", [1e-9, 1e-4, 0.05])
def test_hardly_any_load(load):
    trace = generate(LoadSpec(0.01, load), uniform_fleet(100, 8), single_member_terms(100), 1)
    assert (np.diff(trace.jobs["submit_ms"]) >= 0).all()
    assert len(trace.job_ids) == len(trace.jobs) <= 100


def test_gangs_ask_for_fast_types(alliance, week):
    fleet, _ = alliance
    pretraining = week.extra["job_class"] == CLASS_NAMES.index("pretraining")
    fast = sum(1 << idx for idx, kind in enumerate(fleet.gpu_types) if kind.speed_milli >= 1000)
    assert (week.jobs["type_mask"][pretraining] == fast).all()
    assert (week.jobs["type_mask"][~pretraining] == 0).all()
    one_type = uniform_fleet(8000, 8, gpu_type=GpuType("slow", speed_milli=500))
    trace = generate(LoadSpec(2, 0.5), one_type, single_member_terms(8000), 1)
    assert not trace.jobs["type_mask"].any()


def test_every_job_can_run_on_the_alliance(alliance, week, scale):
    """Rights, types, shapes and power caps as the policy sees them."""
    fleet, terms = alliance
    for trace in (week, scale):
        assert len(too_large(build_state(fleet, terms, trace, named_policy("dure")), trace)) == 0


def test_the_docs_table_is_the_fit_s():
    fitted = json.loads(files("dure.twin.generate").joinpath("fitted.json").read_text())["classes"]
    page = (example_path("alliance").parents[3] / "docs/load.md").read_text()
    for name, entry in fitted.items():
        row = next(line for line in page.splitlines() if line.startswith(f"| {name.replace('_', '-')} |"))
        assert f"| {entry['num_rows']:,} |" in row
        assert f"| {entry['ks']:.3f} | {entry['ks_one']:.3f} |" in row
