"""`dure ran fence --out`: what would have been said over recorded loads."""

import json

import pytest
from tests.in_process import caller
from tests.ran.loads_files import write_days

from dure.ran.fence_words import read_words


@pytest.fixture
def dure(monkeypatch, capfd):
    return caller(monkeypatch, capfd, "ran", "fence")


def test_words_of_recorded_loads(dure, tmp_path):
    write_days(tmp_path / "early.csv", days=3, peak=0.4)
    write_days(tmp_path / "late.csv", days=1, first_day=5, peak=0.4)
    out = tmp_path / "words.csv"
    given = ["--calibrate", tmp_path / "early.csv", "--load", tmp_path / "late.csv", "--calibrate-slots", 200_000, "--json"]
    said = json.loads(dure(*given, "--out", out).stdout)
    words = read_words(str(out))
    assert (said["out"], said["words"]) == (str(out), len(words))
    assert 23 < said["hours"] < 25
    assert 0 < said["part"] < 1
    assert words[0].after_s == 480
    assert min(word.part for word in words) < said["part"] < max(word.part for word in words)
    for wrong in ((), ("--out", out, "--site", "masts")):
        bad = dure(*given, *wrong)
        assert (bad.returncode, "one of --site, --out" in bad.stderr) == (2, True)


def test_loads_that_are_over_too_soon(dure, tmp_path):
    write_days(tmp_path / "early.csv", days=3, peak=0.4)
    text = (tmp_path / "early.csv").read_text().splitlines(keepends=True)
    (tmp_path / "late.csv").write_text("".join(text[:6]))
    bad = dure(
        "--calibrate", tmp_path / "early.csv", "--load", tmp_path / "late.csv", "--calibrate-slots", 200_000, "--out", tmp_path / "words.csv",
    )  # fmt: skip
    assert (bad.returncode, "six windows" in bad.stderr) == (2, True)
    assert not (tmp_path / "words.csv").exists()
