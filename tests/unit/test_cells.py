"""Cell sites in the alliance: nodes that come and go by the hour, and only work that leaves in time (rule 10)."""

from __future__ import annotations

from datetime import date

import numpy as np
import pytest
from tests.unit.test_live import job, of

from dure.core import cells
from dure.core.explain import Explainer, Reason
from dure.core.live import Alliance, UnknownJobError
from dure.core.snapshot import pack, unpack
from dure.model.alliance import load_alliance
from dure.model.alliance_build import build_fleet
from dure.model.errors import InputError
from dure.model.events import CellsReleased, Drain, Exited, NodeUp, Start, Submit, Tick, Vacate
from dure.model.jobs import Trace, make_jobs
from dure.policy.config import named_policy
from dure.twin.compare import run_scenario
from dure.twin.forecast import forecast
from dure.twin.loop import FAILURE, REPAIR, WORD_DTYPE
from dure.twin.metrics import measure
from dure.twin.radio_words import Words, words_of
from dure.twin.replay import FAULT_DTYPE, replay
from dure.twin.result import PROMISE_FORECAST

HOUR = 3_600_000
#: Half of the nodes from 1:00 to 5:00, all of them from 5:00 to 7:00, else none.
WEEKDAYS = [0, 0.5, 0.5, 0.5, 0.5, 1, 1] + 17 * [0]
YAML = f"""
name: Masts
start: 2026-01-05  # a Monday
gpu_types:
  - {{name: G, speed_milli: 1000, idle_w: 100, busy_w: 500, sleep_w: 20, mem_gib: 80}}
members:
  - {{name: tower, kind: telco}}
  - {{name: guest, kind: startup}}
sites:
  - name: masts
    kind: cell
    cells:
      vacate: 2s
      weekdays: {WEEKDAYS}
      weekends: {24 * [1]}
    clusters:
      - {{name: masts, owner: tower, gpu_type: G, gpus: 8, gpus_per_node: 2, nodes_per_rack: 1}}
agreements:
  - {{name: night, lenders: [tower], borrowers: [guest], kind: LEND, limit_gpus: 8, notice: 1m, start: 2026-01-01}}
"""


def fleet_and_terms(text: str = YAML, **more):
    spec = load_alliance(text, "masts.yaml")
    return build_fleet(spec, spec.start, **more)


def trace(*rows) -> Trace:
    """Jobs: (submit, duration, GPUs, other columns by name), of the guest."""
    jobs = make_jobs(len(rows))
    for row, (submit, duration, gpus, *more) in zip(jobs, rows, strict=True):
        row["submit_ms"], row["duration_ms"] = submit, duration
        row["num_gpus"] = row["min_gpus"] = row["max_gpus"] = gpus
        row["grace_ms"] = 2000
        for name, value in (more[0] if more else {}).items():
            row[name] = value
    return Trace(jobs, [str(i) for i in range(len(rows))], ["guest"], ["p"], ["u"], [], "test")


def run(given: Trace, **more):
    fleet, terms = fleet_and_terms()
    return replay(given, fleet, named_policy("dure"), terms, **more)


def test_hours_are_those_of_the_sites_week() -> None:
    (site,) = fleet_and_terms()[0].sites
    assert site.cells is not None
    assert [site.cells.lent_milli[site.cells.hour(h * HOUR)] for h in range(8)] == [0, 500, 500, 500, 500, 1000, 1000, 0]
    assert site.cells.lent_milli[site.cells.hour(5 * 24 * HOUR)] == 1000, "Saturday"
    # Midnight UTC is 9:00 in Korea.
    (site,) = fleet_and_terms(is_utc=True)[0].sites
    assert site.cells is not None
    assert site.cells.hour(0) == 9
    assert site.cells.next_hour_ms(HOUR // 2) == HOUR


def test_the_first_nodes_are_open_longest() -> None:
    fleet, _ = fleet_and_terms()
    assert [sorted(cells.withheld(fleet, h * HOUR)) for h in (0, 1, 5, 7)] == [[0, 1, 2, 3], [2, 3], [], [0, 1, 2, 3]]
    nodes, gpus = cells.open_most(fleet, 1)
    assert (nodes.tolist(), gpus.tolist()) == ([4], [8])


@pytest.mark.parametrize(
    ("old", "new", "line", "field"),
    [
        ("    kind: cell\n", "", 11, "sites[0].cells"),
        ("      vacate: 2s\n", "", 13, "sites[0].cells.vacate"),
        (f"{WEEKDAYS}", "[0.5]", 15, "sites[0].cells.weekdays"),
        (f"{WEEKDAYS}", f"{23 * [0] + [1.5]}", 15, "sites[0].cells.weekdays[23]"),
    ],
)
def test_what_is_wrong_is_named(old: str, new: str, line: int, field: str) -> None:
    with pytest.raises(InputError) as caught:
        load_alliance(YAML.replace(old, new), "masts.yaml")
    assert caught.value.field == field
    assert abs(caught.value.line - line) <= 3


def test_work_waits_for_the_hour_leaves_in_time_and_goes_on_the_next_night() -> None:
    result = run(trace((0, 3 * HOUR, 8, {"checkpoint_ms": 600_000})))
    (row,) = result.jobs
    # All eight GPUs: from 5:00 to 7:00, and what is left of it on Tuesday from 5:00.
    assert row["first_start_ms"] == 5 * HOUR
    assert row["preemptions"] == 1
    assert 24 * HOUR + 6 * HOUR - 2000 <= row["end_ms"] <= 24 * HOUR + 6 * HOUR + 2000
    assert 3 * HOUR <= row["run_ms"] <= 3 * HOUR + 2000


def test_without_checkpoints_it_starts_anew() -> None:
    (row,) = run(trace((0, 3 * HOUR, 8)), horizon_ms=7 * 24 * HOUR).jobs
    # Five nights of two hours are too short for three; Saturday's are all open.
    assert row["preemptions"] == 5
    assert 5 * 24 * HOUR + 3 * HOUR <= row["end_ms"] <= 5 * 24 * HOUR + 3 * HOUR + 10_000
    assert row["lost_ms"] >= 5 * 2 * HOUR


def test_who_leaves_too_slowly_never_starts() -> None:
    given = trace((0, HOUR, 1, {"grace_ms": 2001}), (0, HOUR, 1, {"grace_ms": -1}), (0, HOUR, 1))
    with pytest.raises(InputError, match="can never run"):
        run(given)
    jobs = run(given, is_rejecting=True).jobs
    assert (jobs["first_start_ms"] >= 0).tolist() == [False, False, True]
    assert jobs["first_start_ms"][2] == HOUR


def test_more_than_is_ever_open_can_never_run() -> None:
    text = YAML.replace(f"{WEEKDAYS}", f"{24 * [0.5]}").replace(f"{24 * [1]}", f"{24 * [0.5]}")
    fleet, terms = fleet_and_terms(text)
    with pytest.raises(InputError, match="can never run"):
        replay(trace((0, HOUR, 5)), fleet, named_policy("dure"), terms)
    assert replay(trace((0, HOUR, 4)), fleet, named_policy("dure"), terms).jobs["first_start_ms"][0] == 0


def test_a_node_repaired_in_radio_hours_opens_with_its_hour() -> None:
    faults = np.array([(1 * HOUR + 1, 0, FAILURE), (9 * HOUR, 0, REPAIR)], FAULT_DTYPE)
    result = run(trace((8 * HOUR, HOUR, 1), (9 * HOUR + 1, HOUR, 1)), faults=faults)
    assert (result.jobs["first_start_ms"] == 25 * HOUR).all()


def test_what_was_open_and_used_is_counted() -> None:
    metrics = measure(run(trace((0, HOUR, 2), (5 * HOUR, HOUR, 4)), horizon_ms=24 * HOUR))
    found = metrics.cell_gpu_h
    # 4 GPUs for four hours, 8 for two; by night all but the hour from 6:00. It ends with the last job at 6:00.
    assert found["night_open"] == pytest.approx(4 * 4 + 8, abs=0.7)
    assert found["night_used"] == pytest.approx(2 + 4, abs=0.4)
    assert found["open"] == pytest.approx(found["night_open"], abs=0.7)
    other = measure(replay(trace((0, HOUR, 2)), *_plain())).cell_gpu_h
    assert other == {}


def said(*words, days=1) -> Words:
    """Words of the only site: (at, part, until) in hours."""
    rows = [(round(at * HOUR), 0, round(1000 * part), round(until * HOUR)) for at, part, until in words]
    return Words(np.array(rows, WORD_DTYPE), days * 24 * HOUR)


def test_what_the_radio_says_counts_in_place_of_the_hours() -> None:
    # Half of the nodes from 0:30, all from 2:00, none from 3:30 until 5:30 where the hours would open them, and so each day.
    words = said((0.5, 0.5, 4), (2, 1, 4), (3.5, 0, 5.5))
    given = trace((0, HOUR, 2), (0, 3 * HOUR, 8, {"checkpoint_ms": 600_000}), (4 * HOUR, HOUR // 4, 1), (12 * HOUR, HOUR // 4, 4))
    result = run(given, words=words)
    assert result.jobs["first_start_ms"].tolist() == [HOUR // 2, 2 * HOUR, 5.5 * HOUR, 24.5 * HOUR]
    assert result.jobs["preemptions"][1] == 2
    assert run(given).jobs["first_start_ms"].tolist() == [HOUR, 5 * HOUR, 4 * HOUR, 25 * HOUR]
    # Two days of words: on the second nothing is said.
    result = run(given, words=said((0.5, 0.5, 4), (2, 1, 4), (3.5, 0, 5.5), days=2))
    assert result.jobs["first_start_ms"].tolist() == [HOUR // 2, 2 * HOUR, 5.5 * HOUR, 25 * HOUR]


def test_a_forecast_knows_what_has_been_said_and_until_when_and_nothing_that_will_be() -> None:
    # Nothing from 1:00 to 2:30, which is known at 1:30; then everything, which is not: the hours open half of it.
    words = said((1, 0, 2.5), (2.5, 1, 3), (2.75, 0, 4.75))
    result = run(trace((0, HOUR // 8, 1), (HOUR, HOUR // 8, 8), (6 * HOUR, 0, 1)), words=words, forecast_at_ms=[round(1.5 * HOUR)])
    foretold = {int(p["job"]): int(p["promised_ms"]) for p in result.promises if p["kind"] == PROMISE_FORECAST}
    assert foretold == {0: 2.5 * HOUR, 1: 5 * HOUR}
    assert result.jobs["first_start_ms"][:2].tolist() == [2.5 * HOUR, 2.5 * HOUR + HOUR // 8]


def test_a_file_of_words_is_said_by_every_cell_site_from_its_own_midnight(tmp_path) -> None:
    path = tmp_path / "words.csv"
    path.write_text("at_s,part,for_s\n3600,0.5,840\n100000,1,840\n")
    fleet, _ = fleet_and_terms()
    words = words_of(str(path), fleet)
    assert words.period_ms == 48 * HOUR
    assert words.words.tolist() == [(HOUR, 0, 500, HOUR + 840_000), (100_000_000, 0, 1000, 100_840_000)]
    # In the alliance's own time, UTC, the site is nine hours ahead: its 1:00 comes at 16:00 of the day before.
    fleet, _ = fleet_and_terms(is_utc=True)
    words = words_of(str(path), fleet)
    assert words.words["at_ms"].tolist() == [100_000_000 - 9 * HOUR, 40 * HOUR]
    with pytest.raises(InputError, match="no site of the alliance is a cell site with hours"):
        words_of(str(path), _plain()[0])


def test_a_scenario_compares_hours_with_words(tmp_path) -> None:
    (tmp_path / "masts.yaml").write_text(YAML)
    (tmp_path / "words.csv").write_text("at_s,part,for_s\n" + "".join(f"{600 * i},1,840\n" for i in range(144)))
    (tmp_path / "ask.yaml").write_text(
        "name: Words\nfleet: {alliance: masts.yaml}\nload: {generator: {days: 1, offered_load: 0.5}}\n"
        "compare:\n  - {name: hours}\n  - {name: words, words: words.csv}\nhorizon: 1d\n"
    )
    hours, words = (trial.cell_gpu_h["open"] for trial in run_scenario(tmp_path / "ask.yaml", 1).trials)
    assert hours < 17
    assert words > 50
    (tmp_path / "words.csv").write_text("at_s,part,for_s\n0,2,840\n")
    with pytest.raises(InputError, match=r"words\.csv.*part"):
        run_scenario(tmp_path / "ask.yaml", 1)


def _plain():
    start, stop = YAML.index("    kind: cell"), YAML.index("    clusters:")
    fleet, terms = fleet_and_terms(YAML[:start] + YAML[stop:])
    return fleet, named_policy("dure"), terms


def test_a_run_is_given_up_in_which_a_job_starts_again_and_again() -> None:
    # Two hours a night are too short, and there is no weekend.
    text = YAML.replace(f"{24 * [1]}", f"{WEEKDAYS}")
    fleet, terms = fleet_and_terms(text)
    result = replay(trace((0, HOUR, 8), (0, 3 * HOUR, 8)), fleet, named_policy("dure"), terms)
    assert (result.jobs["end_ms"] > 0).tolist() == [True, False]
    assert 5 <= result.jobs["preemptions"][1] <= 8
    assert any("Given up" in note for note in result.notes)
    rows = forecast(trace((0, HOUR, 8)), fleet, named_policy("dure"), 0, terms)
    assert [row.expected_start_ms for row in rows] == [5 * HOUR]
    assert rows[0].why.reason is Reason.RADIO


def live() -> Alliance:
    spec = load_alliance(YAML, "masts.yaml")
    # Midnight UTC of a Monday: 9:00 there.
    start_ms = int(np.datetime64(date(2026, 1, 5), "ms").astype(np.int64))
    return Alliance(*build_fleet(spec, spec.start, is_utc=True), named_policy("dure"), start_ms)


def offer(a: Alliance) -> list[NodeUp]:
    """What an agent's picture would say of nodes that are out of service."""
    return [NodeUp(name) for name in a.nodes_of_site("masts") if not a.is_withheld(name)]


def quick(name: str, **more):
    return job(name, "guest", grace_ms=2000, **more)


def test_live_nodes_close_and_open_with_the_hours() -> None:
    a = live()
    at = a.start_ms
    assert not offer(a)
    effects = a.apply(at, [NodeUp(name) for name in a.nodes_of_site("masts")] + [Submit(quick("j", gpus=4, checkpoint_ms=60_000))])
    assert not of(effects, Start)
    found = Explainer(a.policy_core.built, withheld=a.withheld_nodes()).explain(a.jobs["j"].row)
    assert (found.reason, found.rule) == (Reason.RADIO, 10)
    assert found.nearest is not None
    assert (found.nearest.facts["nodes"], found.nearest.facts["free_milli"]) == (4, 8000)
    one = at + 16 * HOUR  # 1:00
    assert a.next_due_ms() == at + HOUR
    a.apply(one, [Tick()])
    (begun,) = of(a.apply(one + 1, offer(a)), Start)
    assert {p.node for p in begun.placements} == {a.node_name(0), a.node_name(1)}
    assert begun.is_borrowed
    body = pack(a)
    seven = at + 22 * HOUR
    for hour in range(17, 22):
        assert not of(a.apply(at + hour * HOUR, [Tick()]), Vacate)
    (told,) = of(a.apply(seven, [Tick()]), Vacate)
    assert (told.job_id, told.deadline_ms, told.cause) == ("j", seven + 2000, "radio")
    assert not of(a.apply(seven + 1500, [Exited("j", 1, 75)]), Start)
    again = live()
    unpack(again, body)
    assert again.withheld_nodes() == frozenset({2, 3})
    for hour in range(17, 23):
        again.apply(at + hour * HOUR, [Tick()])
    again.apply(seven + 1500, [Exited("j", 1, 75)])
    assert pack(again) == pack(a)


def test_live_jobs_that_leave_too_slowly_are_told_what_would_help() -> None:
    a = live()
    assert a.could_run([quick("a"), job("b", "guest"), job("c", "tower", grace_ms=2001)]) == [True, False, False]


MINUTE = 60_000


def test_the_radio_s_word_counts_in_place_of_the_hours_until_it_ends() -> None:
    a = live()
    at = a.start_ms
    a.apply(at, [Submit(quick("long", gpus=2, checkpoint_ms=60_000)), Submit(quick("wide", gpus=4, checkpoint_ms=60_000))])
    assert a.released("masts", at) == (0.0, None)
    # Three of four nodes, past the turn of the hour, at which the hours would close all.
    until = at + HOUR + 10 * MINUTE
    a.apply(at + MINUTE, [CellsReleased("masts", 800, until)])
    assert a.released("masts", at + MINUTE) == (0.8, until)
    assert sorted(a.withheld_nodes()) == [3]
    begun = of(a.apply(at + MINUTE + 1, offer(a)), Start)
    assert {s.job_id for s in begun} == {"long", "wide"}
    assert not of(a.apply(at + HOUR, [Tick()]), Vacate)
    again = live()
    unpack(again, pack(a))
    # Less than before: who is on what the radio takes leaves in `vacate`, the others stay.
    (told,) = of(a.apply(at + HOUR + MINUTE, [CellsReleased("masts", 600, until)]), Vacate)
    assert (told.deadline_ms, told.cause) == (at + HOUR + MINUTE + 2000, "radio")
    assert sorted(a.withheld_nodes()) == [2, 3]
    assert a.next_due_ms() == until
    # Its end: the hours close the rest.
    a.apply(until - 1, [Exited(told.job_id, 1, 75)])
    assert {v.job_id for v in of(a.apply(until, [Tick()]), Vacate)} == {"long", "wide"} - {told.job_id}
    assert len(a.withheld_nodes()) == 4
    assert a.released("masts", until) == (0.0, None)
    # The same from a snapshot on.
    again.apply(at + HOUR + MINUTE, [CellsReleased("masts", 600, until)])
    again.apply(until - 1, [Exited(told.job_id, 1, 75)])
    again.apply(until, [Tick()])
    assert pack(again) == pack(a)


def test_who_is_leaving_already_leaves_sooner_where_less_time_is_left() -> None:
    a = live()
    at = a.start_ms
    a.apply(at, [CellsReleased("masts", 1000, at + HOUR), Submit(quick("j", gpus=2))])
    (begun,) = of(a.apply(at + 1, offer(a)), Start)
    (told,) = of(a.apply(at + 1000, [Drain(node=begun.placements[0].node, notice_ms=60_000)]), Vacate)
    assert (told.deadline_ms, told.cause) == (at + 61_000, "drained")
    (again,) = of(a.apply(at + 2000, [CellsReleased("masts", 0, at + HOUR)]), Vacate)
    assert (again.job_id, again.attempt, again.deadline_ms, again.cause) == ("j", 1, at + 4000, "radio")
    # Not later than it has been told.
    assert not of(a.apply(at + 3000, [Drain(node=begun.placements[0].node, notice_ms=60_000)]), Vacate)
    assert a.jobs["j"].state == "COMPLETING"


def test_a_word_may_be_taken_back_and_the_hours_are_watched_after_it() -> None:
    a = live()
    at = a.start_ms
    for n in range(6):
        a.apply(at + n * MINUTE, [CellsReleased("masts", 1000, at + (n + 12) * MINUTE)])
    assert not a.withheld_nodes()
    a.apply(at + 6 * MINUTE, [CellsReleased("masts", 1000, at + 6 * MINUTE)])
    assert len(a.withheld_nodes()) == 4
    # 1:00: half of them, by the hours.
    a.apply(at + 16 * HOUR - 1, [Tick()])
    assert len(a.withheld_nodes()) == 4
    a.apply(at + 16 * HOUR, [Tick()])
    assert sorted(a.withheld_nodes()) == [2, 3]
    assert a.next_due_ms() == at + 17 * HOUR


def test_only_a_cell_site_with_hours_has_a_word_to_give() -> None:
    spec = load_alliance(YAML[: YAML.index("    kind: cell")] + YAML[YAML.index("    clusters:") :], "masts.yaml")
    a = Alliance(*build_fleet(spec, spec.start), named_policy("dure"), 0)
    assert a.released("masts", 0) is None
    with pytest.raises(InputError, match="no cell site"):
        a.apply(1, [CellsReleased("masts", 500, 10)])
    with pytest.raises(UnknownJobError):
        a.apply(1, [CellsReleased("mast", 500, 10)])
