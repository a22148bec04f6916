"""The HTML report: whole, self-contained, true to the run, safe with any name, readable in both languages."""

from __future__ import annotations

import dataclasses
import json
import re
import runpy
import string
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dure.model.jobs import Trace, make_jobs
from dure.model.terms import Member
from dure.twin.metrics import measure
from dure.twin.report import page, write_report
from dure.twin.report.decimate import envelope, interval_means
from dure.twin.report.words import WORDS, Text, count, duration, number, percent, word
from dure.twin.result import PROMISE_DTYPE, Series, make_result_jobs

synthetic_result = runpy.run_path(str(Path(__file__).parents[1] / "synthetic_result.py"))["synthetic_result"]

#: Elements that have no end tag.
VOID = {"meta", "input", "br", "link", "img", "hr"}


class Page(HTMLParser):
    """What the tests ask of a page: elements, ids, the plots' data; fails on tags that do not nest."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.ids, self.references, self.scripts, self.texts = [], [], [], [], []
        self.open = []
        self.feed(text)
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        of = dict(attrs)
        self.tags.append(tag)
        if "id" in of:
            self.ids.append(of["id"])
        self.references += [of[key] for key in ("src", "href", "action", "data") if key in of]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)
        elif "style" not in self.open:
            self.texts.append(data)

    @property
    def specs(self):
        return json.loads(self.scripts[0])


@pytest.fixture(scope="module")
def small():
    return synthetic_result(num_jobs=400, num_members=6, num_samples=60)


def written(results, tmp_path, **options):
    path = write_report(results, tmp_path / "report.html", "A question", **options)
    return path.read_text("utf-8")


def empty_of(result):
    trace = Trace(make_jobs(0), [], result.trace.members, ["p"], ["u"], [], "nothing")
    none = Series(*(np.zeros(0) for _ in range(7)), *(np.zeros((n, 0)) for n in (8, 6, 6, 6, 6, 6)))
    return dataclasses.replace(
        result, trace=trace, jobs=make_result_jobs(0), series=none, lent_gpu_ms=np.zeros((6, 6), np.int64),
        used_gpu_ms=np.zeros(6, np.int64), lost_gpu_ms=np.zeros(6, np.int64), online_gpu_ms=0,
        reclaim_latency_ms=np.zeros(0, np.int64), notes=(), versions={}, promises=result.promises[:0],
    )  # fmt: skip


def test_the_reference_alliance_fits_one_self_contained_file_below_8_mb(tmp_path):
    text = written([synthetic_result(num_jobs=20_000, num_members=130)], tmp_path)
    found = Page(text)
    assert len(text.encode()) < 8_000_000
    assert [link for link in found.references if not link.startswith("#")] == []
    assert "link" not in found.tags
    assert "default-src 'none'" in text
    assert text.count("plotly.js v") == 1
    links = {link[1:] for link in found.references}
    assert links <= set(found.ids)
    assert len(found.ids) == len(set(found.ids))


def test_every_figure_has_a_drawing_place_a_caption_and_a_table(small, tmp_path):
    found = Page(written([small], tmp_path))
    assert set(found.specs) <= set(found.ids)
    plots = {key.split("-")[1] for key in found.specs}
    assert plots == {
        "use", "members", "wait_size", "wait_member", "lending", "balance", "lent", "credits", "frag",
        "power", "sites", "start_error", "error_share",
    }  # fmt: skip
    assert found.tags.count("figure") == found.tags.count("figcaption") == found.tags.count("details") == 13


def test_every_axis_of_a_number_says_what_it_counts(small, tmp_path):
    for key, spec in Page(written([small], tmp_path)).specs.items():
        for axis, of in spec["layout"].items():
            if axis.startswith(("xaxis", "yaxis")) and "ticktext" not in of:
                assert of["title"]["text"]["en"], f"{key}: {axis}"
                assert of["title"]["text"]["ko"], f"{key}: {axis}"


def test_no_line_has_more_than_2000_points(tmp_path):
    specs = Page(written([synthetic_result(num_jobs=2_000, num_samples=50_000)], tmp_path)).specs
    longest = max(len(trace["x"]) for spec in specs.values() for trace in spec["data"])
    assert 1_000 < longest <= 2_000


def test_headline_figures_are_those_of_the_metrics(small, tmp_path):
    text = " ".join(Page(written([small], tmp_path)).texts)
    of = measure(small)
    assert f"{percent(of.summary['utilisation'])} of the GPU-time online" in text
    assert duration(of.wait_s.p99).en in text
    assert duration(of.wait_s.p99).ko in text
    assert small.digest in text
    assert small.trace.digest() in text
    for note in small.notes:
        assert note in text


def test_drawn_waits_are_the_metrics_and_the_rest_is_summed(tmp_path):
    result = synthetic_result(num_jobs=5_000, num_members=40, num_samples=60)
    spec = Page(written([result], tmp_path)).specs["run0-wait_member"]
    labels = spec["layout"]["yaxis"]["ticktext"]["en"]
    assert len(labels) == 13
    assert labels[-1].startswith("28 others (")
    biggest = int(np.argmax(result.used_gpu_ms))
    p99_s = measure(result).by_member[biggest].wait_s.p99
    assert spec["data"][3]["x"][0] == pytest.approx(max(1, p99_s), rel=1e-4)
    shown = sum(int(re.search(r"\(([\d,]+)\)$", label).group(1).replace(",", "")) for label in labels)
    assert shown == 5_000


def test_drawn_errors_of_starts_are_the_metrics(small, tmp_path):
    of = measure(small)
    specs = Page(written([small], tmp_path)).specs
    spec = specs["run0-start_error"]
    rows = [*of.promised_by_kind.values(), *of.foretold_by_horizon.values()]
    labels = spec["layout"]["yaxis"]["ticktext"]["en"]
    assert [label.rsplit("(", 1)[1] for label in labels] == [f"{errors.n:,})" for errors in rows if errors.n]
    medians = [trace["x"][0] for trace in spec["data"] if trace["mode"] == "markers" and len(trace["x"]) == 1]
    drawn = [(10 ** abs(x) - 1) * 60 * np.sign(x) for x in medians if x is not None]
    assert drawn == pytest.approx([errors.quantiles_s[3] for errors in rows if errors.n], rel=1e-3, abs=0.1)


def test_classes_of_error_hold_every_scored_start_late_ones_first(small, tmp_path):
    promises = np.zeros(11, PROMISE_DTYPE)
    promises["promised_ms"] = 10**9
    # The middle of each class, from the latest to the earliest.
    off_s = [90_000, 30_000, 7_000, 1_000, 100, 0, -100, -1_000, -7_000, -30_000, -90_000]
    promises["start_ms"] = 10**9 + np.array(off_s) * 1000
    spec = Page(written([dataclasses.replace(small, promises=promises)], tmp_path)).specs["run0-error_share"]
    (bars,) = spec["data"]
    assert bars["x"] == pytest.approx([100 / 11] * 11, rel=1e-3)
    promises["start_ms"] = 10**9 + 60_001
    (bars,) = Page(written([dataclasses.replace(small, promises=promises)], tmp_path)).specs["run0-error_share"]["data"]
    assert bars["x"].index(100) == spec["layout"]["yaxis"]["ticktext"]["en"].index("1 min – 10 min later")
    promises["start_ms"] = 10**9 + np.where(np.arange(11) % 2, 60_000, -60_000)
    (bars,) = Page(written([dataclasses.replace(small, promises=promises)], tmp_path)).specs["run0-error_share"]["data"]
    assert bars["x"].index(100) == spec["layout"]["yaxis"]["ticktext"]["en"].index("within 1 min")


def test_the_lending_matrix_keeps_every_gpu_hour(tmp_path):
    result = synthetic_result(num_jobs=5_000, num_members=40, num_samples=60)
    z = Page(written([result], tmp_path)).specs["run0-lending"]["data"][0]["z"]
    assert len(z) <= 9
    total = sum(value or 0 for row in z for value in row)
    assert total == pytest.approx(measure(result).lent_gpu_h, rel=1e-3)


@pytest.mark.parametrize(
    "name", ["</script><script>alert(1)</script>", "<img src=x onerror=alert(1)>", 'a"b&c']
)
def test_a_hostile_name_stays_a_name(small, tmp_path, name):
    members = [Member(name), *small.terms.members[1:]]
    terms = dataclasses.replace(small.terms, members=members)
    result = dataclasses.replace(small, terms=terms, label=name, notes=(name,))
    text = written([result, dataclasses.replace(result, label="other")], tmp_path)
    found = Page(text)
    assert "img" not in found.tags
    assert found.tags.count("script") == 3
    drawn = json.dumps(found.specs).replace("<extra></extra>", "")
    assert "<" not in drawn


def test_several_runs_are_compared_with_intervals_and_each_can_be_shown(tmp_path):
    results = [
        synthetic_result(num_jobs=300, num_members=5, num_samples=40, seed=seed, policy=policy,
                         mean_wait_scale=scale)
        for policy, scale in (("fifo", 3.0), ("dure", 1.0))
        for seed in (1, 2, 3)
    ]  # fmt: skip
    text = written(results, tmp_path)
    found = Page(text)
    assert "sec_compare" in found.ids
    assert {key.split("-")[0] for key in found.specs} == {"all", "run0", "run1"}
    assert "Mean waiting time was shortest under dure" in text
    assert "Means over 3 seeds" in text
    assert text.count('class="run"') == 2
    assert found.specs["all-interval_wait_mean_s"]["data"][0]["error_x"]["array"][0] > 0


def test_numbers_of_more_seeds_than_are_drawn_can_be_given(small, tmp_path):
    one = measure(small)
    trials = [dataclasses.replace(one, name=name, seed=seed) for name in ("a", "b") for seed in range(5)]
    shown = [dataclasses.replace(small, label="a"), dataclasses.replace(small, label="b")]
    text = written(shown, tmp_path, trials=trials)
    assert "Means over 5 seeds" in text
    assert "Mean waiting time was" in text


def test_a_run_of_nothing_still_makes_a_page(small, tmp_path):
    text = written([empty_of(small)], tmp_path)
    found = Page(text)
    assert "No job started." in text
    assert found.specs == {}


def test_one_member_alone_gets_no_plots_about_members(tmp_path):
    found = Page(written([synthetic_result(num_jobs=300, num_members=1, num_samples=40)], tmp_path))
    plots = {key.split("-")[1] for key in found.specs}
    assert not plots & {"members", "wait_member", "lending", "balance"}
    assert "use" in plots


def test_no_result_is_refused(tmp_path):
    with pytest.raises(ValueError, match="at least one result"):
        write_report([], tmp_path / "report.html", "x")


def test_a_failure_leaves_the_old_file_and_no_draft(small, tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    path.write_text("old")

    def broken(*_):
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", broken)
    with pytest.raises(OSError, match="disk full"):
        write_report([small], path, "x")
    monkeypatch.undo()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_same_run_makes_the_same_bytes(small, tmp_path):
    assert written([small], tmp_path) == written([small], tmp_path)


def test_the_content_policy_lets_nothing_be_fetched():
    sources = dict(part.split(" ", 1) for part in page.CONTENT_POLICY.split("; "))
    assert sources.pop("default-src") == "'none'"
    assert not any("http" in source or "*" in source or "'self'" in source for source in sources.values())


# ---------------------------------------------------------------- long series


@given(st.lists(st.integers(-1_000, 1_000), min_size=1, max_size=400), st.integers(4, 60))
def test_an_envelope_is_short_and_keeps_ends_and_extremes(values, num_points):
    y = np.array(values)
    t = np.arange(len(y)) * 10
    short_t, short_y = envelope(t, y, num_points)
    assert len(short_t) <= max(num_points, 4)
    assert (short_y.min(), short_y.max()) == (y.min(), y.max())
    assert (short_t[0], short_t[-1]) == (t[0], t[-1])
    assert (np.diff(short_t) > 0).all()
    assert (y[short_t // 10] == short_y).all()


def test_interval_means_weigh_each_value_by_how_long_it_held():
    t, y = np.array([0, 10, 40, 100]), np.array([6.0, 2.0, 1.0, 99.0])
    middles, means = interval_means(t, y, 1)
    assert middles == pytest.approx([50])
    assert means == pytest.approx([(6 * 10 + 2 * 30 + 1 * 60) / 100])
    _, halves = interval_means(t, y, 2)
    assert halves == pytest.approx([(6 * 10 + 2 * 30 + 1 * 10) / 50, 1])


@given(st.lists(st.integers(0, 100), min_size=2, max_size=80), st.integers(1, 90))
def test_interval_means_keep_the_whole(values, num_bins):
    y = np.array(values, float)
    t = np.cumsum(np.arange(1, len(y) + 1))
    middles, means = interval_means(t, y, num_bins)
    width = (t[-1] - t[0]) / len(middles)
    assert means.sum() * width == pytest.approx((y[:-1] * np.diff(t)).sum())


# ---------------------------------------------------------------- words


def placeholders(text):
    return sorted(name for _, name, _, _ in string.Formatter().parse(text) if name)


@pytest.mark.parametrize("key", WORDS)
def test_both_languages_say_the_same_things(key):
    en, ko = WORDS[key]
    assert placeholders(en) == placeholders(ko)
    if re.search(r"[a-z]{3}", re.sub(r"\{\w+\}|GPU|MWh|Jain", "", en)):
        assert re.search("[가-힣]", ko), f"{key} has no Korean"


def test_words_are_filled_in_each_language_with_its_own():
    assert word("foretold_ahead", range=word("from_to", a=duration(90), b=duration(7_200))) == Text(
        "foretold 1 min 30 s – 2 h ahead", "1분 30초~2시간 앞선 예측"
    )
    assert word("promise_open", n="3").en == "3 whose jobs had not started when the run ended are not scored."


@pytest.mark.parametrize(("seconds", "en", "ko"), [
    (0, "0 s", "0초"), (0.04, "0 s", "0초"), (0.25, "0.2 s", "0.2초"), (9.94, "9.9 s", "9.9초"),
    (9.96, "10 s", "10초"),
    (59.4, "59 s", "59초"), (59.6, "1 min", "1분"), (60, "1 min", "1분"), (95, "1 min 35 s", "1분 35초"),
    (3_599.6, "1 h", "1시간"), (4_320, "1 h 12 min", "1시간 12분"), (86_399, "1 d", "1일"),
    (85_000, "23 h 37 min", "23시간 37분"),
    (86_400 * 3 + 3_600 * 4, "3 d 4 h", "3일 4시간"), (86_400 * 1_500, "1,500 d", "1,500일"),
    (-90, "−1 min 30 s", "−1분 30초"), (float("nan"), "–", "–"),
])  # fmt: skip
def test_durations_read_as_people_say_them(seconds, en, ko):
    assert duration(seconds) == Text(en, ko)


@pytest.mark.parametrize(("value", "text"), [
    (0, "0"), (1234.5, "1,234"), (99.94, "99.9"), (12.345, "12.3"), (1.0, "1.00"), (0.01234, "0.0123"),
    (-5.5, "−5.50"),
    (float("nan"), "–"),
])  # fmt: skip
def test_numbers_have_three_digits(value, text):
    assert number(value) == text


def test_counts_and_shares():
    assert count(1_234_567) == "1,234,567"
    assert percent(0.98765) == "98.8%"
