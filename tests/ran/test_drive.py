"""A robot in real time with plans from a job of a live alliance, which is taken away on the way."""

from __future__ import annotations

import sys
import threading
import time

import pytest

pytest.importorskip("mujoco", reason="MuJoCo is not installed (dure[ran])")

from tests.blueprints.alliance import Alliance
from tests.service.processes import until
from tests.service.world import ALLIANCE, document_of_today

from dure.client.resuming import play
from dure.model.job_file import Checkpoint, JobSpec, Reach, Resources
from dure.ran.control_task import PERIOD_S
from dure.ran.drive import Finder, Place, run_drive

#: The hall of the small alliance, as a cell site of the city.
CELL = ALLIANCE.replace("  - name: hall\n", "  - name: hall\n    kind: cell\n    reaches: {city: 2.5}\n", 1)


def test_without_a_service_the_fallback_drives():
    found = run_drive(list, episodes=1, seconds=0.4, deadline_ms=20, slowed_by=1, seed=1)
    assert (found["asked"], found["late"], found["nowhere"]) == (0, 0, 20)
    assert found["control_cost"]["service"] == pytest.approx(found["control_cost"]["fallback"])


def test_an_address_that_nobody_answers_at_is_asked_for_again_and_the_loop_does_not_wait():
    asked = []

    def ask():
        asked.append(time.monotonic())
        return [Place("http://127.0.0.1:9", 0.0)]

    begun = time.monotonic()
    found = run_drive(ask, episodes=1, seconds=2.5, deadline_ms=20, slowed_by=1, seed=1)
    assert found["nowhere"] == 125
    assert 2 <= len(asked) <= 4
    # Real time: the periods, and the two courses that are driven beside.
    assert time.monotonic() - begun >= 2.5


def test_a_trip_longer_than_the_deadline_is_late_without_being_made():
    found = run_drive(lambda: [Place("http://127.0.0.1:9", 25.0)], episodes=1, seconds=0.4, deadline_ms=20, slowed_by=1, seed=1)
    assert (found["late"], found["nowhere"]) == (20, 0)


def test_the_finder_survives_an_api_that_is_away():
    def ask():
        raise ConnectionError

    finder = Finder(ask)
    finder.wait(5)
    assert finder.place() is None
    assert finder.num_found == 0


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """A network of the blueprint, after a few courses."""
    for library in ("matplotlib", "onnxruntime", "onnxscript", "torch"):
        pytest.importorskip(library)
    state = tmp_path_factory.mktemp("robot-control")
    play("robot-control", ["train.py", "--steps", "12", "--courses", "2", "--publish", ""], state)
    return state / "output" / "controller.onnx"


@pytest.mark.slow
@pytest.mark.parametrize("by", ["planner", "network"])
def test_a_robot_finds_its_planner_loses_it_to_a_reclaim_and_finds_it_again(tmp_path, by, request):
    words = ("--network", str(request.getfixturevalue("network"))) if by == "network" else ()
    with Alliance(tmp_path, document_of_today() | {"alliance": CELL}) as alliance:
        spec = JobSpec(
            name="planner", project="guest/main", service="planner", command=(sys.executable, "-m", "dure.cli.plan_service", *words),
            resources=Resources(gpus=1, reach=Reach(area="city", within="5ms")), checkpoint=Checkpoint(every="1s", grace="10s"), retries=3,
        )  # fmt: skip
        job_id = alliance.guest.submit(spec).job_id
        until(lambda: alliance.guest.find_service("planner", area="city"), 120)
        owner = threading.Timer(4.0, alliance.reclaim)
        owner.start()

        def ask():
            return [Place(end.url, end.trip_ms or 0.0) for end in alliance.guest.find_service("planner", area="city", within_ms=20)]

        # A tenth of real time, as the machine's cores are shared; 30 s on the clock.
        found = run_drive(ask, episodes=2, seconds=1.5, deadline_ms=20, slowed_by=10, seed=1)
        owner.join()
        assert found["found"] >= 2, found
        assert found["nowhere"] > 0, found
        assert found["asked"] > found["periods"] / 2, found
        # Nearly all were in time while it was there, and with the site's 2.5 ms.
        assert found["late"] < 0.2 * found["asked"], found
        assert found["latency_ms"]["p50"] > 2.5
        assert found["control_cost"]["service"] <= 1.5 * found["control_cost"]["fallback"], found
        assert alliance.guest.job(job_id).attempt >= 2
        assert found["periods"] == round(2 * 1.5 / PERIOD_S)
        alliance.cancel_all()
        # Its process ends before its agent is killed.
        until(lambda: alliance.guest.job(job_id).state == "ENDED", 60)
