"""The slow tier speaks: the fence that comes next, and what of it is said when."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.ran.worlds import days

from dure.model.errors import InputError
from dure.ran.fence_words import DRAIN_S, ROUND_S, FenceTeller, Word, read_words, words_over, write_words
from dure.ran.forecast import HOLD_WINDOWS, LEAD_WINDOWS, FenceForecast, calibrate_fence
from dure.ran.loads import WINDOW_S, CellLoads
from dure.ran.site import SiteModel

MODEL = SiteModel()
ALL = float(MODEL.num_sms)


@pytest.fixture(scope="module")
def learnt() -> FenceForecast:
    return calibrate_fence(MODEL, days(4, noise=0.02), 200_000, 1, lambda done, of: None)


def first(loads: CellLoads, num: int) -> CellLoads:
    return CellLoads(*(part[:num] for part in (loads.down, loads.up, loads.mcs_up, loads.hour)))


@pytest.mark.parametrize("num", [4, 9, 334, 339, 699])
def test_the_next_fence_is_that_which_a_replay_has_from_then_on(learnt: FenceForecast, num: int) -> None:
    loads = days(2, noise=0.05, seed=5)
    begin = num + LEAD_WINDOWS - 1
    assert begin % HOLD_WINDOWS == 0
    kept, expected = learnt.ahead(first(loads, num), 0, MODEL)
    assert learnt.fences(loads, MODEL)[begin : begin + HOLD_WINDOWS] == pytest.approx([kept] * HOLD_WINDOWS)
    assert expected == pytest.approx(learnt.expected(loads)[begin : begin + HOLD_WINDOWS].mean())


@pytest.mark.parametrize("num", [1, 2, 3, 5, 336, 337, 338])
def test_a_fence_may_be_decided_in_any_window(learnt: FenceForecast, num: int) -> None:
    """Of loads that are the season's all fences that begin near each other are near each other."""
    kept, expected = learnt.ahead(first(days(2), num), 0, MODEL)
    begin = num + LEAD_WINDOWS - 1
    hour = begin // 30 % 24
    assert expected == pytest.approx(np.mean([learnt.season[hour], learnt.season[(begin + HOLD_WINDOWS - 1) // 30 % 24]]), abs=0.3)
    assert MODEL.floor_sms(20) <= kept < ALL


def test_hours_go_on_after_the_last_load(learnt: FenceForecast) -> None:
    loads = days(1)
    # Five minutes before eight the next hour's load is expected, and at midnight the next day's.
    for num in (8 * 30 - 3, 720):
        kept, _ = learnt.ahead(first(loads, num), 0, MODEL)
        later, _ = learnt.ahead(first(loads, num), 12 * 30, MODEL)
        assert kept != later, "half a day away"


class Fences(FenceForecast):
    """Says what it is told."""

    def __init__(self, *kept: float) -> None:
        object.__setattr__(self, "left", list(kept))

    def ahead(self, loads: CellLoads, start_window: int, model: SiteModel) -> tuple[float, float]:
        return self.left.pop(0), 1.0  # type: ignore[attr-defined]


def test_what_is_taken_is_said_at_once_and_what_is_given_when_the_fence_begins() -> None:
    loads = days(1)
    teller = FenceTeller(Fences(ALL / 2, ALL / 4, ALL / 2, ALL / 2), MODEL, 0.0)
    spare_s = ROUND_S + WINDOW_S
    up, more, less, same = (teller.decide(first(loads, 100 + 5 * n), 0).words for n in range(4))
    assert up == (Word(0.0, 0.0, WINDOW_S + spare_s), Word(WINDOW_S, 0.5, spare_s))
    assert more == (Word(0.0, 0.5, WINDOW_S + spare_s), Word(WINDOW_S, 0.75, spare_s))
    assert less == (Word(0.0, 0.5, WINDOW_S + spare_s),)
    assert same == less
    # A word counts until the next round's last one is due, and a window longer.
    assert spare_s + WINDOW_S == ROUND_S + 2 * WINDOW_S


def test_no_new_load_keeps_everything() -> None:
    loads = days(1)
    teller = FenceTeller(Fences(ALL / 2, ALL / 2, ALL / 2), MODEL, 0.5)
    assert teller.decide(first(loads, 100), 0).part == 0.5
    stale = teller.decide(first(loads, 100), 0)
    assert (stale.part, stale.sms_kept, [word.part for word in stale.words]) == (0.0, ALL, [0.0])
    assert [word.part for word in teller.decide(first(loads, 105), 0).words] == [0.0, 0.5]


def test_an_hour_never_seen_is_kept(learnt: FenceForecast) -> None:
    nights = days(4)
    is_night = nights.hour < 8
    by_night = CellLoads(*(part[is_night] for part in (nights.down, nights.up, nights.mcs_up, nights.hour)))
    found = calibrate_fence(MODEL, by_night, 100_000, 1, lambda done, of: None)
    assert found.ahead(first(days(1), 8 * 30 + 60), 0, MODEL)[0] == ALL
    assert np.isnan(found.ahead(first(days(1), 8 * 30 + 60), 0, MODEL)[1])


def test_words_over_recorded_loads_are_those_that_are_said_as_they_come(learnt: FenceForecast) -> None:
    loads, start_window = days(1, noise=0.05, seed=5), 0
    teller, said = FenceTeller(learnt, MODEL, 0.0), []
    for begin in range(HOLD_WINDOWS, 720, HOLD_WINDOWS):
        decided = begin - LEAD_WINDOWS + 1
        at_s = (begin * WINDOW_S) - DRAIN_S
        said += [(at_s + word.after_s, word.part, word.for_s) for word in teller.decide(first(loads, decided), start_window).words]
    found = [(word.after_s, word.part, word.for_s) for word in words_over(learnt, loads, start_window, MODEL)]
    assert len({part for _, part, _ in found}) > 2
    assert np.array(found) == pytest.approx(np.array(said))


def test_a_file_of_words_is_read_as_it_was_written(tmp_path: Path) -> None:
    words = [Word(480.0, 0.0, 840.0), Word(600.0, 3 / 7, 720.0), Word(600.0, 1.0, 720.0)]
    path = str(tmp_path / "words.csv")
    write_words(path, words)
    assert [(w.after_s, round(w.part, 6), w.for_s) for w in read_words(path)] == [(480.0, 0.0, 840.0), (600.0, 0.428571, 720.0), (600.0, 1.0, 720.0)]
    with pytest.raises(InputError, match="cannot be written"):
        write_words(str(tmp_path / "no" / "words.csv"), words)


@pytest.mark.parametrize(
    ("text", "line", "field"),
    [
        ("at_s,part\n", 1, "for_s"),
        ("at_s,part,for_s\n", 0, ""),
        ("at_s,part,for_s\n600,0.5,720\n480,0.5,720\n", 3, "at_s"),
        ("at_s,part,for_s\n600,1.5,720\n", 2, "part"),
        ("at_s,part,for_s\n600,nan,720\n", 2, "part"),
        ("at_s,part,for_s\n600,0.5,-1\n", 2, "for_s"),
        ("at_s,part,for_s\n600,0.5,ten\n", 2, "for_s"),
        ("at_s,part,for_s\n600,0.5\n", 2, ""),
    ],
)
def test_a_bad_file_of_words_is_told_by_line_and_field(tmp_path: Path, text: str, line: int, field: str) -> None:
    path = tmp_path / "words.csv"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        read_words(str(path))
    assert (caught.value.path, caught.value.line, caught.value.field) == (str(path), line, field)
