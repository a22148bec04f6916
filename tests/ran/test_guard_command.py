"""`dure ran guard` as a person and as the contract call it."""

import json
from dataclasses import asdict

import pytest
from tests.in_process import caller
from tests.ran.loads_files import write_days

from dure.ran.guard_run import FAULTS, POLICIES
from dure.ran.measure import write_coefficients
from dure.ran.site import SiteModel

KEYS = {
    "policy", "slots", "on_time", "miss_rate_upper95", "idle_lent", "lent_by_hour", "hard_misses", "soft_misses", "cells_failed_over", "interrupted_slots", "synthetic_below_s",
    "cpu_s", "digest",
}  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("loads")
    for name, peak in (("One", 0.4), ("Two", 0.2)):
        write_days(folder / f"{name}-early.csv", days=3, peak=peak)
        write_days(folder / f"{name}-late.csv", days=1, first_day=5, peak=peak)
    return folder


@pytest.fixture
def dure(monkeypatch, capfd):
    return caller(monkeypatch, capfd, "ran", "guard")


def few(files, policy="dure", *more):
    return [
        "--calibrate", files / "One-early.csv", files / "Two-early.csv", "--load", files / "One-late.csv",
        files / "Two-late.csv", "--cells", 20, "--slots", 200_000, "--calibrate-slots", 400_000, "--vacate-ms", 2,
        "--policy", policy, *more, "--json",
    ]  # fmt: skip


def test_measured_coefficients_take_the_place_of_the_stated_ones(files, dure, tmp_path):
    words = [word if word != 200_000 else 20_000 for word in few(files)]
    stated = json.loads(dure(*words).stdout)
    path = str(tmp_path / "coefficients.json")
    write_coefficients({"coefficients": asdict(SiteModel())}, path)
    same = json.loads(dure(*words, "--coefficients", path).stdout)
    assert set(same) == KEYS | {"slowed_by"}
    assert (same["digest"], same["slowed_by"]) == (stated["digest"], 1.0)
    write_coefficients({"coefficients": asdict(SiteModel(d1_us=0.1))}, path)
    slow = json.loads(dure(*words, "--coefficients", path).stdout)
    assert slow["slowed_by"] > 5
    assert slow["digest"] != stated["digest"]
    (tmp_path / "coefficients.json").write_text('{"coefficients": {"d1": 1}}')
    bad = dure(*words, "--coefficients", path)
    assert (bad.returncode, "coefficients.d1" in bad.stderr) == (2, True)


def test_every_policy_answers_with_the_contract_s_keys_and_the_guard_lends_most(files, dure):
    found = {}
    for policy in POLICIES:
        done = dure(*few(files, policy))
        assert (done.returncode, done.stderr) == (0, "")
        found[policy] = json.loads(done.stdout)
        assert set(found[policy]) == KEYS
        assert found[policy]["policy"] == policy
        assert (found[policy]["slots"], found[policy]["synthetic_below_s"]) == (200_000, 120)
        assert found[policy]["hard_misses"] == 0
        late = found[policy]["soft_misses"]
        assert found[policy]["on_time"] == pytest.approx(1 - late / 200_000)
        assert late <= 4  # 1 in 50,000: five times the bar, for so few slots
    lent = {policy: found[policy]["idle_lent"] for policy in POLICIES}
    assert lent["per-slot"] > lent["dure"] > max(lent["static"], lent["mig"]) + 0.15
    assert lent["dure"] > lent["fence"] > 0


def test_the_same_seed_gives_the_same_digest_and_another_another(files, dure):
    first, again, other = (json.loads(dure(*few(files, "dure", "--seed", s)).stdout) for s in (3, 3, 4))
    assert first["digest"] == again["digest"] != other["digest"]
    assert {k: v for k, v in first.items() if k != "cpu_s"} == {k: v for k, v in again.items() if k != "cpu_s"}


def test_several_files_may_follow_one_option_or_each_its_own(files, dure):
    apart = []
    for arg in few(files):
        apart.append(arg)
        if arg == files / "One-early.csv":
            apart.append("--calibrate")
        if arg == files / "One-late.csv":
            apart.append("--load")
    assert json.loads(dure(*apart).stdout)["digest"] == json.loads(dure(*few(files)).stdout)["digest"]


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault != "gpu"])
def test_faults_by_option_make_no_hard_miss(files, dure, fault):
    found = json.loads(dure(*few(files, "dure", "--fault", fault)).stdout)
    assert found["hard_misses"] == 0
    assert found["idle_lent"] > 0.3


def test_what_is_calibrated_sees_only_the_calibration_files(files, dure, tmp_path):
    """With other files to replay, a fixed reserve stays what it was: the sums of what is kept are the same."""
    busy = write_days(tmp_path / "One-late.csv", days=1, first_day=5, peak=0.9)
    kept = set()
    for load in (files / "One-late.csv", busy):
        done = dure("--calibrate", files / "One-early.csv", "--load", load, "--policy", "static", "--slots", 20_000,
                    "--calibrate-slots", 100_000)  # fmt: skip
        kept.add(next(line for line in done.stdout.splitlines() if line.startswith("sms_kept_mean")))
    assert len(kept) == 1


def test_a_city_is_sampled_and_a_report_written(files, dure, tmp_path):
    page = tmp_path / "site.html"
    found = json.loads(dure(*few(files, "dure", "--sites", 50, "--html", page)).stdout)
    assert found["slots"] == 200_000
    text = page.read_text()
    assert "synthetic below two minutes" in text
    assert text.count("Plotly.newPlot(") >= 3


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--vacate-ms", "1.3"], "--vacate-ms: 1.3 is no multiple of a slot's 0.5 ms"),
        (["--policy", "static", "--fault", "tenant"], "--fault: static has nothing that a tenant fault could hit"),
        (["--policy", "best"], "'best' is not one of"),
        (["--cells", "0"], "0 is not in the range"),
        (["--html", "/nowhere/x.html"], "there is no folder"),
    ],
)
def test_bad_options_are_one_line_and_code_2(files, dure, args, said):
    done = dure("--calibrate", files / "One-early.csv", "--load", files / "One-late.csv", *args, "--json")
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_bad_files_are_named_with_line_and_field(files, dure, tmp_path):
    bad = tmp_path / "bad.csv"
    lines = (files / "One-late.csv").read_text().splitlines()
    lines[4] = lines[4].replace(lines[4].split(",")[8], "x")
    bad.write_text("\n".join(lines))
    done = dure("--calibrate", files / "One-early.csv", "--load", bad, "--json")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"dure: {bad}:5: rb_down: not a number: 'x'\n"
    done = dure("--calibrate", files / "none.csv", "--load", bad)
    assert (done.returncode, "none.csv: cannot be read" in done.stderr) == (2, True)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("rows", [2, 3, 720])
def test_files_that_say_little_make_a_guard_that_lends_little_not_an_error(files, dure, tmp_path, policy, rows):
    short = tmp_path / "short.csv"
    short.write_text("\n".join((files / "One-early.csv").read_text().splitlines()[: rows + 1]) + "\n")
    done = dure("--calibrate", short, "--load", files / "One-late.csv", "--policy", policy, "--slots", 50_000,
                "--calibrate-slots", 50_000, "--json")  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert found["hard_misses"] == 0
    assert 0 <= found["idle_lent"] <= 1
    if policy == "mig" and rows == 720:
        # The first half of a day says nothing of the second half's hours.
        assert found["idle_lent"] == 0
