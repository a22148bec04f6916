"""`dure ran sleep`: keys, determinism, bad input, the recorded loads."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from dure.cli.main import cli
from dure.ran import sleep
from dure.ran.gpu_sleep import IDLE_W, OPEN_W, compare, needed_gpus
from dure.ran.sleep_load import SLOTS_PER_S, Bursts, Windows, read_windows, slots_of
from dure.twin.data import data_dir

SITE_KEYS = {
    "clairvoyant_saving", "fixed_timer_saving", "fixed_timer_share_of_clairvoyant", "fixed_timer_added_p95_ms",
    "fixed_timer_missed_ssb", "fixed_timer_unserved", "saving", "share_of_clairvoyant", "added_p95_ms", "missed_ssb", "unserved",
    "energy_by_state", "fixed_timer_energy_by_state", "carriers_off_share",
}  # fmt: skip
DEVICE_KEYS = {
    "bursts", "clairvoyant_saving", "saving", "share_of_clairvoyant", "added_p95_ms", "added_mean_ms", "late_share",
    "fixed_added_p95_ms", "fixed_added_mean_ms",
}  # fmt: skip


@pytest.fixture
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("CALIBRATE_WINDOWS", 8), ("TEST_WINDOWS", 8), ("DEVICE_WINDOWS", 20), ("INVENTED_DAYS", 2)):
        monkeypatch.setattr(sleep, name, value)


def found(*options: str) -> dict[str, object]:
    run = CliRunner().invoke(cli, ["ran", "sleep", *options, "--seconds", "2", "--json"], catch_exceptions=False)
    out: dict[str, object] = json.loads(run.output)
    return out


@pytest.mark.slow
@pytest.mark.usefixtures("_small")
def test_keys_without_any_file_and_the_same_again() -> None:
    first = found("--seed", "4")
    assert set(first) == {
        "bs_table", "ssb_ms", "capacity_carriers", "seed", "load", "mean_load", "synthetic_below_s", "bs_one_carrier",
        "ue_sessions", "gpu", "digest", *(f"bs_{key}" for key in SITE_KEYS), *(f"ue_{key}" for key in DEVICE_KEYS),
    }  # fmt: skip
    assert set(first["bs_one_carrier"]) == SITE_KEYS  # type: ignore[call-overload]
    assert set(first["ue_sessions"]) == DEVICE_KEYS  # type: ignore[call-overload]
    assert (first["synthetic_below_s"], first["load"], first["bs_missed_ssb"]) == (120, "invented", 0)
    assert found("--seed", "4") == first
    assert found("--seed", "5")["digest"] != first["digest"]


@pytest.mark.usefixtures("_small")
def test_the_page_opens_offline_and_shows_every_state(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    out = found("--html", str(path))
    page = path.read_text("utf-8")
    assert "default-src 'none'" in page
    specs = [json.loads(part.split("</script>")[0].split(">", 1)[1]) for part in page.split('type="application/json"')[1:]]
    assert len(specs) == 4
    drawn = {trace["name"]: trace["y"][1] for trace in specs[0]["data"]}
    assert drawn == out["bs_energy_by_state"]
    assert [file.name for file in tmp_path.iterdir()] == ["page.html"]


@pytest.mark.slow
@pytest.mark.usefixtures("_small")
def test_no_saving_beyond_the_bound() -> None:
    out = found("--ssb-ms", "160", "--bs", "cat2-set1", "--capacity-carriers", "0")
    assert 0 <= out["bs_share_of_clairvoyant"] <= 1  # type: ignore[operator]
    assert "bs_one_carrier" not in out


@pytest.mark.parametrize(
    ("options", "field"),
    [
        (["--bs", "cat3"], "--bs"), (["--ssb-ms", "7"], "--ssb-ms"), (["--drx", "160/8"], "--drx"), (["--drx", "8/8/9"], "--drx"),
        (["--drx", "0/0/0"], "--drx"), (["none.csv"], "none.csv"),
    ],
)  # fmt: skip
def test_bad_options_end_with_2(options: list[str], field: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "dure.cli.main", "ran", "sleep", *options], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert field in done.stderr
    assert done.stderr.count("\n") == 1


def test_days_to_calibrate_with_come_first(tmp_path: Path) -> None:
    path = tmp_path / "site.csv"
    rows = [f"2024-01-01 00:{2 * at:02}:00,{at / 100},{at / 200},15" for at in range(10)]
    path.write_text("time,rb_down,rb_up,mcs_up\n" + "\n".join(rows) + "\n")
    early, late = read_windows([str(path)], 0.6, is_planned=False)
    assert early.down.tolist() == [at / 100 for at in range(6)]
    assert late.down.tolist() == [at / 100 for at in range(6, 10)]
    planned, later = read_windows([str(path)], 0.6, is_planned=True)
    # what fills a planned cell comes from the first six rows alone
    assert later.down[-1] / late.down[-1] == pytest.approx(planned.down[-1] / early.down[-1])


def test_bursts_make_the_mean_load() -> None:
    work = slots_of(0.3, 0.8, Bursts(swing=0.0), 60 * SLOTS_PER_S, np.random.default_rng(1))
    assert work[: 60 * SLOTS_PER_S].mean() == pytest.approx(0.24, rel=0.05)


def test_gpus_by_hand() -> None:
    load = np.array([0.1, 0.3, 0.6, 0.6, 0.1])
    assert needed_gpus(load, 4).tolist() == [1, 2, 3, 3, 1]
    windows = Windows(load, load, np.zeros(5, np.int64))
    runs = compare(Windows(np.full(5, 0.1), load, np.zeros(5, np.int64)), windows, 4)
    assert runs["all_open"].mean_w == 4 * OPEN_W
    assert runs["clairvoyant"].mean_w == pytest.approx(4 * IDLE_W + 2 * (OPEN_W - IDLE_W))
    # no rise was seen while it was calibrated: it opens what the last window needed, and is short in two of five
    assert runs["dure"].short_share == 0.4


@pytest.mark.slow
def test_recorded_loads() -> None:
    root = data_dir()
    if root is None or not (root / "ran" / "lte_barcelona").is_dir():
        pytest.skip("no loads of cells: set DURE_DATA")
    paths = sorted(map(str, (root / "ran" / "lte_barcelona").glob("*.csv.gz")))
    out = found(*paths)
    assert out["bs_saving"] >= 0.3  # type: ignore[operator]
    assert out["bs_added_p95_ms"] <= 20.0  # type: ignore[operator]
    assert out["ue_saving"] >= 0.4  # type: ignore[operator]
    assert out["ue_added_p95_ms"] <= 50.0  # type: ignore[operator]
