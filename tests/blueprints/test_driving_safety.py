"""Driving safety: the scenes, the drivers, that SUMO and the training model are one world, the gate, and exact resume."""

import csv
import importlib.util
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from tests.blueprints.modules import ModulesOf

from dure.client.blueprints import catalogue_folder
from dure.client.resuming import assert_resumes_exactly
from dure.client.saved import Saved

torch = pytest.importorskip("torch")
pytest.importorskip("cmaes")
pytest.importorskip("matplotlib")
pytest.importorskip("scipy")

FOLDER = catalogue_folder() / "driving-safety"
MODULES = ("scenes", "drivers", "closed_loop", "measures", "train", "report")


@pytest.fixture
def code(modules_of: ModulesOf) -> SimpleNamespace:
    load = modules_of(FOLDER)
    return SimpleNamespace(**{name: load(name) for name in MODULES})


def has_sumo() -> bool:
    # In this process it must not be loaded: pyarrow may be there already.
    return importlib.util.find_spec("libsumo") is not None


needs_sumo = pytest.mark.skipif(not has_sumo(), reason="libsumo is not installed")


def run(state: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """In folders of its own beneath `state`; what one hands on, the others read."""
    name = command[0].removesuffix(".py") + "".join(command[1:3]).replace("/", "-of-")
    dirs = {
        "DURE_CHECKPOINT_DIR": str(state / "checkpoint" / name),
        "DURE_OUTPUT_DIR": str(state / "input" / name),
        "DURE_INPUT_DIR": str(state / "input"),
    }
    return subprocess.run(
        [sys.executable, *command], cwd=FOLDER, env={**os.environ, "OMP_NUM_THREADS": "1", **dirs},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def metrics(done: subprocess.CompletedProcess[str]) -> dict[str, float]:
    mark = "dure-metrics: "
    return json.loads(next(line for line in done.stdout.splitlines() if line.startswith(mark)).removeprefix(mark))


def write_policy(folder: Path, seed: int = 0, scale: float = 0.3) -> np.ndarray:
    weights = np.random.default_rng(seed).normal(0, scale, 122)
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "policy.npz", weights=weights)
    return weights


def see(code: SimpleNamespace, rows: list[tuple[float, float, float, float]], speed: float = 30.0) -> dict[str, float]:
    """What is seen of vehicles given as gap, lateral offset, speed and lateral speed."""
    table = torch.tensor(rows, dtype=torch.float64).T[:, None, None]
    one = torch.full((1, 1), speed, dtype=torch.float64)
    names = dict(zip(("gap_m", "y_m", "v_mps", "vy_mps"), table, strict=True))
    more = {
        "a_mps2": torch.zeros_like(table[0]),
        "is_there": torch.ones_like(table[0], dtype=torch.bool),
        "length_m": torch.full_like(table[0], 4.8),
    }
    seen = code.drivers.observe({"v_mps": one, "a_mps2": torch.zeros_like(one), "wish_mps": one}, {**names, **more})
    return {name: float(value) for name, value in seen.items()}


def test_a_scene_depends_on_its_family_number_seed_and_role_only(code: SimpleNamespace) -> None:
    draw = code.scenes.draw
    for family in code.scenes.FAMILIES:
        assert draw(family, 3, 1, "test") == draw(family, 3, 1, "test")
        others = [draw(family, 4, 1, "test"), draw(family, 3, 2, "test"), draw(family, 3, 1, "train")]
        assert all(draw(family, 3, 1, "test") != other for other in others)


@pytest.mark.parametrize(("by_m", "speed_mps"), [(3.5, 0.4), (-3.5, 1.8), (0.3, 0.8), (-0.5, 0.3)])
def test_a_lateral_move_ends_where_it_should_and_keeps_to_its_limits(code: SimpleNamespace, by_m: float, speed_mps: float) -> None:
    time_s = np.arange(0, 30, 0.01)
    way_m = code.scenes.moved_m(code.scenes.Move(1.0, by_m, speed_mps), time_s)
    assert np.all(way_m[time_s <= 1.0] == 0)
    assert way_m[-1] == pytest.approx(by_m)
    speed = np.diff(way_m) / 0.01
    assert np.abs(speed).max() <= speed_mps + 1e-9
    assert np.abs(np.diff(speed)).max() / 0.01 <= code.scenes.LATERAL_MPS2 + 1e-6


def test_drifting_never_crosses_the_line_and_a_cut_in_always_does(code: SimpleNamespace) -> None:
    for family, crosses in (("drift", False), ("cut-in", True)):
        for number in range(100):
            y_m = code.scenes.scripts([code.scenes.draw(family, number, 7, "test")])["y_m"][0, :, 0]
            assert (np.abs(y_m).min() < code.scenes.CROSSED_M) == crosses, f"{family} {number} of seed 7"


def test_in_a_cut_out_the_leader_itself_gets_past_the_slow_vehicle(code: SimpleNamespace) -> None:
    for number in range(200):
        script = code.scenes.scripts([code.scenes.draw("cut-out", number, 7, "test")])
        gap_m = script["x_m"][0, :, 1] - script["x_m"][0, :, 0] - code.scenes.LENGTH_M
        beside = np.abs(script["y_m"][0, :, 0]) >= code.scenes.WIDTH_M
        assert np.all(beside[gap_m < 0]), f"number {number} of seed 7"


def test_the_idm_rests_at_its_equilibrium(code: SimpleNamespace) -> None:
    # s* / sqrt(1 - (v/v0)^4), Treiber et al. 2000, eq. (6).
    speed, wish = torch.tensor(20.0), torch.tensor(30.0)
    gap = (2 + 1.5 * speed) / torch.sqrt(1 - (speed / wish) ** 4)
    assert float(code.drivers.idm_mps2(speed, wish, gap, speed)) == pytest.approx(0, abs=1e-6)
    assert float(code.drivers.idm_mps2(wish, wish, torch.tensor(1e9), wish)) == pytest.approx(0, abs=1e-6)


def test_what_counts_is_the_one_that_asks_most_and_can_be_seen(code: SimpleNamespace) -> None:
    leader, standing = (30.0, 0.0, 30.0, 0.0), (60.0, 0.0, 0.0, 0.0)
    assert see(code, [leader, standing])["lead_mps"] == 30, "the one behind the leader is hidden"
    assert see(code, [(30.0, 1.2, 30.0, 1.0), standing])["lead_mps"] == 0, "a leader half out of the lane reveals it"
    assert see(code, [(-6.0, 0.0, 35.0, 0.0)])["lead_gap_m"] == code.drivers.RANGE_M, "behind is the other's care"
    calm, coming = (10.0, 3.5, 25.0, 0.0), (40.0, -3.2, 20.0, 0.6)
    seen = see(code, [calm, coming])
    assert (seen["threat_mps"], seen["threat_inward_mps"]) == (20, pytest.approx(0.6))
    assert seen["lead_gap_m"] == code.drivers.RANGE_M


def test_the_reference_driver_brakes_so_long_after_the_risk(code: SimpleNamespace) -> None:
    driver = code.drivers.Reference()

    def seen(gap: float) -> dict[str, torch.Tensor]:
        one = torch.ones(1, 1, dtype=torch.float64)
        still = {"lead_mps2": 0 * one, "threat_gap_m": 150 * one, "threat_mps": 30 * one, "threat_off_m": one, "threat_inward_mps": 0 * one}
        return {"v_mps": 30 * one, "a_mps2": 0 * one, "wish_mps": 30 * one, "lead_gap_m": gap * one, "lead_mps": 10 * one, **still}

    assert float(driver.act(seen(140.0))) >= -3.5
    answers = [float(driver.act(seen(30.0))) for _ in range(20)]
    first = next(i for i, answer in enumerate(answers) if answer == -code.drivers.BRAKE_MPS2)
    assert first * code.scenes.DT_S == pytest.approx(1.15, abs=code.scenes.DT_S)


def test_the_vehicle_keeps_to_its_limits_and_never_goes_backwards(code: SimpleNamespace) -> None:
    speed, acceleration = torch.tensor(3.0, dtype=torch.float64), torch.tensor(0.0, dtype=torch.float64)
    speeds, rates = [], []
    for _ in range(30):
        speed, acceleration = code.drivers.driven(torch.tensor(-99.0), speed, acceleration)
        speeds.append(float(speed))
        rates.append(float(acceleration))
    assert rates[0] == pytest.approx(-code.drivers.JERK_MPS3 * code.scenes.DT_S)
    assert min(rates) >= -code.drivers.BRAKE_MPS2 - 1e-9
    assert speeds[-1] == 0


def test_a_policy_of_zeros_is_the_idm_where_nobody_is_beside(code: SimpleNamespace) -> None:
    batch = code.closed_loop.Batch([code.scenes.draw("braking", i, 5, "train") for i in range(20)])
    zeros = batch.drive(code.drivers.Policy(torch.zeros(1, code.drivers.NUM_WEIGHTS, dtype=torch.float64)))
    idm = batch.drive(code.drivers.Idm())
    for name in idm:
        assert torch.equal(zeros[name], idm[name]), name


def test_candidates_are_driven_apart(code: SimpleNamespace) -> None:
    batch = code.closed_loop.Batch([code.scenes.draw("cut-in", i, 5, "train") for i in range(10)])
    weights = torch.as_tensor(np.random.default_rng(1).normal(0, 0.5, (3, code.drivers.NUM_WEIGHTS)))
    together = code.closed_loop.cost(batch.drive(code.drivers.Policy(weights), 3))
    for k in range(3):
        alone = code.closed_loop.cost(batch.drive(code.drivers.Policy(weights[k : k + 1])))[0]
        assert torch.allclose(together[k], alone, rtol=0, atol=1e-9), f"candidate {k}"


def test_intervals_are_the_published_ones(code: SimpleNamespace) -> None:
    # Wilson without continuity correction, 0 and 5 of 10 (Brown, Cai, DasGupta 2001, Stat. Sci. 16, 101).
    assert code.measures.share_interval(0, 10) == pytest.approx((0, 0.2775), abs=1e-4)
    assert code.measures.share_interval(5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    middle, low, high = code.measures.quantile_interval(list(range(1001)), 0.5)
    assert middle == 500
    # 1.96 standard errors of the median of a uniform sample: 1.96 × 1000 / (2 √1001).
    assert (high - low) / 2 == pytest.approx(31, rel=0.15)


def test_avoidable_is_what_the_reference_driver_avoids(code: SimpleNamespace) -> None:
    hits = {"reference": (1, 0, 0), "idm": (1, 1, 0), "trained": (0, 0, 1)}
    rows = [
        {"family": "cut-in", "scene": str(i), "driver": driver, "is_hit": hit, "impact_mps": hit * 4.0, "ttc_min": 1.0 - hit,
         "brake_max_mps2": 1.0, "jerk_p95_mps3": 1.0, "progress": 1.0}
        for driver, own in hits.items() for i, hit in enumerate(own)
    ]  # fmt: skip
    lines = {line["driver"]: line for line in code.report.summed_up(rows)}
    assert {driver: line["collisions"] for driver, line in lines.items()} == {"idm": 2, "reference": 1, "trained": 1}
    assert {driver: line["avoidable"] for driver, line in lines.items()} == {"idm": 1, "reference": 0, "trained": 1}


def test_bad_arguments_end_with_2(code: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py", "--population", "2"])
    with pytest.raises(SystemExit) as ended:
        code.train.read_options()
    assert ended.value.code == 2
    assert "--population" in capsys.readouterr().err


def test_missing_and_doubled_input_are_refused(code: SimpleNamespace, tmp_path: Path) -> None:
    with pytest.raises(code.report.InputError, match=r"run sweep\.py first"):
        code.report.read_rows(tmp_path)
    for shard in ("sweep-1", "sweep-2"):
        (tmp_path / shard).mkdir()
        head = ["family", "scene", "driver", *code.report.MEASURES]
        row = ["cut-in", "0", "idm", *("0" for _ in code.report.MEASURES)]
        (tmp_path / shard / "scenes.csv").write_text(",".join(head) + "\n" + ",".join(row) + "\n")
    with pytest.raises(code.report.InputError, match="a scene twice"):
        code.report.read_rows(tmp_path)


def test_other_settings_on_the_same_folder_are_refused(code: SimpleNamespace, tmp_path: Path) -> None:
    path = tmp_path / "train.pickle"
    Saved(path, {"sigma": 0.3}, 10).save({"generation": 4})
    assert Saved(path, {"sigma": 0.3}, 10).load() == {"generation": 4}
    with pytest.raises(code.report.InputError, match="other settings"):
        Saved(path, {"sigma": 0.2}, 10).load()


@pytest.mark.slow
@needs_sumo
def test_sumo_and_the_training_model_are_one_world(code: SimpleNamespace, tmp_path: Path) -> None:
    weights = write_policy(tmp_path / "input" / "train")
    done = run(tmp_path, "sweep.py", "--scenes", "4", "--traffic", "0", "--seed", "11")
    assert done.returncode == 0, done.stderr
    with (tmp_path / "input" / "sweep--scenes4" / "scenes.csv").open() as file:
        rows = list(csv.DictReader(file))
    makers = {
        "idm": code.drivers.Idm,
        "reference": code.drivers.Reference,
        "trained": lambda: code.drivers.Policy(torch.as_tensor(weights)[None]),
    }
    num_same = 0
    for name, make in makers.items():
        own = [row for row in rows if row["driver"] == name]
        scenes = [code.scenes.draw(row["family"], int(row["scene"]), 11, "test") for row in own]
        there = code.closed_loop.Batch(scenes).drive(make())
        for i, row in enumerate(own):
            # SUMO moves laterally in steps of its own: a few cm that may decide about a graze.
            is_same = bool(there["is_hit"][0, i]) == bool(int(row["is_hit"]))
            near = abs(min(99.0, float(there["ttc_min_s"][0, i])) - float(row["ttc_min"])) < 0.3
            num_same += is_same and near
    assert len(rows) == 4 * 4 * 3
    assert num_same >= 0.93 * len(rows)


@pytest.mark.slow
@needs_sumo
def test_sumo_sees_the_collisions_that_are_counted() -> None:
    program = """
import libsumo
from drivers import Idm
from highway import highway
from scenes import draw
counted = seen = 0
with highway() as road:
    for number in range(15):
        drive = road.drive(draw("cut-in", number, 11, "test"), Idm())
        colliding = "ego" in road.sumo.simulation.getCollidingVehiclesIDList()
        counted += drive.hit_mps is not None
        seen += colliding
        assert colliding == (drive.hit_mps is not None), (number, drive.hit_mps)
print(counted, seen)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=FOLDER, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout.split()[-1]) > 0


@pytest.mark.slow
def test_training_goes_on_exactly(tmp_path: Path) -> None:
    command = ("train.py", "--generations", "12", "--population", "6", "--scenes", "4", "--judged", "10")
    assert_resumes_exactly("driving-safety", command, tmp_path, stop_after=(5,), number=signal.SIGTERM)


@pytest.mark.slow
@needs_sumo
def test_a_sweep_goes_on_exactly(tmp_path: Path) -> None:
    for name in ("whole", "parts"):
        write_policy(tmp_path / name / "input" / "train")
    command = ("sweep.py", "--scenes", "2", "--traffic", "1", "--shard", "1/1")
    assert_resumes_exactly("driving-safety", command, tmp_path, stop_after=(4,), number=signal.SIGUSR1)
    for name in ("scenes.csv", "worst.json"):
        assert (tmp_path / "whole" / "output" / name).read_bytes() == (tmp_path / "parts" / "output" / name).read_bytes()


@pytest.mark.slow
@needs_sumo
def test_trained_for_a_little_it_is_safer_than_the_idm_and_the_gate_judges(tmp_path: Path) -> None:
    trained = run(tmp_path, "train.py", "--generations", "20", "--population", "12", "--scenes", "12", "--judged", "40")
    assert trained.returncode == 0, trained.stderr
    assert metrics(trained)["train_cost"] < metrics(trained)["train_cost_idm"]
    for shard in ("1/2", "2/2"):
        swept = run(tmp_path, "sweep.py", "--shard", shard, "--scenes", "6", "--traffic", "0")
        assert swept.returncode == 0, swept.stderr
    report = run(tmp_path, "report.py", "--gate", "1")
    assert report.returncode == 0, report.stderr
    found = metrics(report)
    assert found["scenes"] == 18
    assert found["collision_rate"] <= found["collision_rate_idm"]
    page = (tmp_path / "input" / "report--gate1" / "report.html").read_text()
    assert "<svg" in page
    assert not [word for word in ('src="', 'href="http', "@import") if word in page]
    if found["collision_rate"] > 0:
        assert run(tmp_path, "report.py", "--gate", "0").returncode == 1
