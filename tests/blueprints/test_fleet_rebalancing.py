"""Fleet rebalancing: the city, no look ahead in the forecast, plans and days by hand, the bound, and exact resume."""

import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from tests.blueprints.modules import ModulesOf

from dure.client.blueprints import catalogue_folder
from dure.client.resuming import assert_resumes_exactly
from dure.client.saved import Saved
from dure.model.errors import InputError

pytest.importorskip("ortools")
pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")

FOLDER = catalogue_folder() / "fleet-rebalancing"
MODULES = ("city", "forecast", "rebalance", "simulation", "result", "operate")


@pytest.fixture
def code(modules_of: ModulesOf) -> SimpleNamespace:
    load = modules_of(FOLDER)
    return SimpleNamespace(**{name: load(name) for name in MODULES})


def empty_day(code: SimpleNamespace, num_zones: int) -> np.ndarray:
    return np.zeros((code.city.SLOTS, num_zones, num_zones), np.int64)


def test_a_day_depends_on_seed_and_number_only(code: SimpleNamespace) -> None:
    city = code.city.City(3)
    assert np.array_equal(city.day(9).requests, code.city.City(3).day(9).requests)
    assert not np.array_equal(city.day(9).requests, city.day(8).requests)
    assert not np.array_equal(city.day(9).requests, code.city.City(4).day(9).requests)


def test_a_mean_weekday_asks_for_as_many_trips_as_was_said(code: SimpleNamespace) -> None:
    city = code.city.City(3, trips=4000)
    asked = [city.day(number).rate.sum() for number in range(140) if number % 7 < 4]
    # Rain, events and lively zones come on top.
    assert 4000 * 0.95 < np.mean(asked) < 4000 * 1.25


def test_people_go_to_work_in_the_morning_and_home_in_the_evening(code: SimpleNamespace) -> None:
    city = code.city.City(3)
    rate = sum(city.day(number).rate for number in range(4))
    work, home = int(city.uses["work"].argmax()), int(city.uses["home"].argmax())
    hour = 12
    morning, evening = rate[3 * hour : 6 * hour], rate[13 * hour : 16 * hour]
    assert morning[:, home, work].sum() > 2 * morning[:, work, home].sum()
    assert evening[:, work, home].sum() > 2 * evening[:, home, work].sum()


def test_the_forecast_knows_nothing_of_what_is_still_to_come(code: SimpleNamespace) -> None:
    city = code.city.City(3, grid=3)
    history = code.forecast.History([city.day(number) for number in range(10)])
    now = np.full(9, 8 * code.city.BINS + 40)
    for ahead in range(code.forecast.HORIZON):
        before = history.features(now, np.full(9, ahead), np.arange(9))
        hidden = code.forecast.History([city.day(number) for number in range(10)])
        hidden.departures[now[0] :] = 1e6
        hidden.is_raining[now[0] :] ^= True
        assert np.array_equal(hidden.features(now, np.full(9, ahead), np.arange(9)), before), f"{ahead} bins ahead"
        hidden.departures[now[0] - 1] = 1e6
        assert not np.array_equal(hidden.features(now, np.full(9, ahead), np.arange(9)), before)


def test_learning_beats_last_week_and_not_chance(code: SimpleNamespace) -> None:
    city = code.city.City(3)
    days = [city.day(number) for number in range(23)]
    history = code.forecast.History(days)
    model = code.forecast.Forecast(1)
    model.grow(*code.forecast.lessons(history, 21), 40)
    found = code.operate.errors(history, days[21], 21, model.day(history, 21), history.naive(21))
    assert found["wmape_chance"] < found["wmape"] < 0.9 * found["wmape_seasonal"]


def test_trees_grown_in_rounds_are_the_same_after_being_put_away(code: SimpleNamespace) -> None:
    import pickle

    city = code.city.City(3, grid=3)
    history = code.forecast.History([city.day(number) for number in range(11)])
    lessons = code.forecast.lessons(history, 10)
    straight, put_away = code.forecast.Forecast(1), code.forecast.Forecast(1)
    for _ in range(3):
        straight.grow(*lessons, 5)
        put_away.grow(*lessons, 5)
        put_away = pickle.loads(pickle.dumps(put_away))
    assert np.array_equal(straight.day(history, 9), put_away.day(history, 9))


def test_shares_of_destinations_add_up(code: SimpleNamespace) -> None:
    city = code.city.City(3, grid=3)
    shares = code.forecast.destinations([city.day(number) for number in range(9)], 0)
    assert shares.shape == (2, 24, 9, 9)
    assert np.allclose(shares.sum(-1), 1)


def test_a_plan_sends_vehicles_where_they_will_be_asked_for_and_no_further(code: SimpleNamespace) -> None:
    city = code.city.City(1, grid=3)
    coming = np.zeros((12, 9), np.int64)
    coming[0, 0] = 5
    nobody = np.zeros((12, 9, 9))
    assert code.rebalance.plan(city, coming, nobody, 3).sum() == 0
    # Zone 2 is two slots away from zone 0; from slot 2 on two vehicles' worth are asked for.
    asked = nobody.copy()
    asked[2, 2, 8] = 2
    moves = code.rebalance.plan(city, coming, asked, 3)
    assert moves[0, 0, 1] == 2
    assert moves[1, 1, 2] == 2
    assert moves.sum() == 4
    late = nobody.copy()
    late[1, 2, 8] = 2
    assert code.rebalance.plan(city, coming, late, 3).sum() == 0, "they would be too late"


def test_a_request_takes_the_nearest_vehicle_waits_and_is_lost(code: SimpleNamespace) -> None:
    city = code.city.City(1, grid=3)
    requests = empty_day(code, 9)
    requests[10, 4, 8] = 1
    start = np.zeros(9, np.int64)
    start[4] = 1
    here = code.simulation.play(city, start, requests, None)
    assert (here.served, here.waited_min, here.empty_km, here.full_km) == (1, [0], 0.0, 4.0)
    start[:] = 0
    start[1] = 1
    beside = code.simulation.play(city, start, requests, None)
    assert (beside.served, beside.waited_min, beside.empty_km) == (1, [5], 2.0)
    start[:] = 0
    start[0] = 1
    too_far = code.simulation.play(city, start, requests, None)
    assert (too_far.served, too_far.asked) == (0, 1)


def test_a_vehicle_is_not_in_two_places(code: SimpleNamespace) -> None:
    city = code.city.City(1, grid=2)
    requests = empty_day(code, 4)
    requests[0, 0, 3] = 1
    requests[1, 0, 0] = 1
    requests[2, 3, 3] = 1
    start = np.array([1, 0, 0, 0])
    # It rides two slots to zone 3, where it serves the third; the second is lost.
    assert code.simulation.play(city, start, requests, None).served == 2
    # Without patience the bound is a plain flow, and whole.
    assert code.rebalance.most_served(city, start, requests, 0) == pytest.approx(2)


def test_nobody_serves_more_than_the_bound(code: SimpleNamespace) -> None:
    for seed in range(4):
        city = code.city.City(seed, grid=3, trips=500)
        day = city.day(0)
        start = np.full(9, 1)
        shares = code.forecast.destinations([day], 0)[0]
        operator = code.operate.Operator(shares, day, np.zeros((96, 4, 9)), np.zeros((96, 4, 9)))
        bound = code.rebalance.most_served(city, start, day.requests, code.simulation.PATIENCE)
        served = {
            way: code.simulation.play(city, start, day.requests, operator.expect(way)).served
            for way in ("none", "reactive", "clairvoyant")
        }
        assert max(served.values()) <= bound + 1e-6, f"seed {seed}: {served}, bound {bound}"
        assert served["clairvoyant"] > served["none"], f"seed {seed}"
        assert bound <= day.requests.sum()


def test_the_fleet_stands_where_the_morning_asks(code: SimpleNamespace) -> None:
    city = code.city.City(3, grid=3)
    start = code.operate.start_of(41, [city.day(0), city.day(1)])
    assert start.sum() == 41
    assert start.min() >= 0
    assert int(start.argmax()) == int(sum(city.day(n).departures[:24].sum(0) for n in (0, 1)).argmax())


@pytest.mark.parametrize("wrong", [("--trees", "15"), ("--train-days", "7"), ("--fleet", "0")])
def test_bad_arguments_end_with_2(
    code: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], wrong: tuple[str, str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["operate.py", *wrong])
    with pytest.raises(SystemExit) as ended:
        code.operate.read_options()
    assert ended.value.code == 2
    assert wrong[0] in capsys.readouterr().err


def test_other_settings_on_the_same_folder_are_refused(code: SimpleNamespace, tmp_path: Path) -> None:
    Saved(tmp_path / "x", {"fleet": 80}, 10).save({"rows": []})
    with pytest.raises(InputError, match="other settings"):
        Saved(tmp_path / "x", {"fleet": 81}, 10).load()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_it_goes_on_exactly_and_forecasting_serves_more(tmp_path: Path, number: int) -> None:
    command = ("operate.py", "--days", "3", "--train-days", "14", "--trees", "20", "--grid", "3", "--trips", "1200", "--fleet", "20")
    story = assert_resumes_exactly("fleet-rebalancing", command, tmp_path, stop_after=(1, 1), number=number)
    assert story.metrics is not None
    found = story.metrics
    assert found["served_share_none"] < found["served_share"] <= found["served_share_bound"]
    assert (tmp_path / "whole" / "output" / "days.csv").read_bytes() == (tmp_path / "parts" / "output" / "days.csv").read_bytes()
