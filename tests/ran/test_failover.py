"""Rule G8: cells go to a standby by plan or at once, come back in calm, and the twin and the agent decide alike."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.in_process import caller
from tests.ran.loads_files import write_days
from tests.ran.worlds import drawn_of, flat, loads_of, play, waves

from dure.ran import failover as f
from dure.ran import guard as g
from dure.ran import kernels as k
from dure.ran.calibrate import Drawn, Segment, calibrate_guard
from dure.ran.site import KNOWN_SLOTS, PERIOD, UPLINK_SLOTS, SiteModel, downlink_shares

MODEL = SiteModel()
NUM_SMS, FLOOR, VACATE = 132, 10, 4


class Standby:
    """The rule stepped by hand: by itself nothing is strained and the whole GPU is there."""

    def __init__(self, room, loads=(1.0,) * 20):
        self.memory, self.loads = f.new_failover(room), np.zeros((len(loads), 2))[:, 0]
        self.loads[:] = loads
        self.place = np.full(len(loads), f.HERE)

    def step(self, num=1, *, present=132.0, planned=20.0, held=0.0, is_all_kept=True):
        """So many slots alike; whether everything was to be kept in the last."""
        for _ in range(num):
            is_held = f.failover_step(
                self.memory, self.place, self.loads, 132.0, 10.0, 4.0, present, planned, held, is_all_kept
            )
        return is_held

    @property
    def away(self):
        return list(np.flatnonzero(self.place == f.AWAY))


def test_strain_that_costs_what_a_move_costs_and_goes_on_moves_the_fewest_cells_that_free_most():
    site = Standby(4, loads=[1.0, 3.0, 2.0, 3.0, 0.0, 1.0])
    site.step(f.BREAK_EVEN_SLOTS - 1, held=5.0)
    assert (site.place == f.HERE).all()
    # Five lacked in the mean: two cells of three free six, of equal ones the first are taken first.
    site.step(held=5.0)
    assert list(site.place) == [f.HERE, f.PRIMED, f.HERE, f.PRIMED, f.HERE, f.HERE]
    site.step(f.PREPARE_SLOTS - 1, held=5.0)
    assert site.away == []
    assert site.step(held=5.0)
    assert site.away == [1, 3]


def test_strain_that_lending_made_or_that_passes_moves_nothing():
    site = Standby(4)
    site.step(1000, held=5.0, is_all_kept=False)
    assert (site.place == f.HERE).all()
    site.step(f.BREAK_EVEN_SLOTS, held=5.0)
    assert (site.place == f.PRIMED).any()
    site.step(f.PREPARE_SLOTS)
    assert (site.place == f.HERE).all()
    # Seldom enough it is a new strain each time.
    for _ in range(3 * f.BREAK_EVEN_SLOTS):
        site.step(held=5.0)
        site.step(f.PREPARE_SLOTS)
    assert (site.place == f.HERE).all()


def test_cells_without_load_stay_and_room_is_the_most_that_goes():
    idle = Standby(4, loads=[0.0, 1.0, 0.0])
    idle.step(f.BREAK_EVEN_SLOTS + f.PREPARE_SLOTS, held=50.0)
    assert idle.away == [1]
    full = Standby(2)
    full.step(5000, held=50.0)
    assert full.away == [0, 1]


def test_a_failure_takes_as_many_cells_as_control_has_no_room_for_at_once():
    # Control of twenty cells needs ten SMs: six carry that of twelve.
    site = Standby(20, loads=range(20))
    assert site.step(present=6.0)
    assert site.away == list(range(12, 20))
    assert site.memory[f.FAILED] == 8
    site.step(present=0.0)
    assert len(site.away) == 20
    few = Standby(3, loads=range(20))
    few.step(present=0.0)
    assert few.away == [17, 18, 19]
    assert not few.step(present=0.0)


def test_cells_come_back_when_all_of_them_at_their_peak_would_have_fitted_for_long():
    site = Standby(4)
    site.step(f.BREAK_EVEN_SLOTS + f.PREPARE_SLOTS, present=34.0, planned=33.0, held=4.0)
    assert len(site.away) == 4
    # Four peak cells need 26.4 SMs: eight more than these do not fit 34.
    assert not site.step(2 * f.CALM_SLOTS, present=34.0, planned=8.0)
    assert len(site.away) == 4
    # Nor is it calm where work was held back, for whatever reason.
    assert not site.step(f.CALM_SLOTS - VACATE - 1, present=34.0, planned=7.0)
    assert not site.step(held=1.0, is_all_kept=False, present=34.0, planned=7.0)
    assert not site.step(f.CALM_SLOTS - VACATE - 1, present=34.0, planned=7.0)
    # Everything is kept from v before the return on.
    assert site.step(present=34.0, planned=7.0)
    assert len(site.away) == 4
    assert site.step(VACATE, present=34.0, planned=7.0)
    assert site.away == []


scenes = st.lists(
    st.tuples(
        st.sampled_from([1, 7, 150, 250, 1000, 21_000]), st.sampled_from([132.0, 66.0, 34.0, 9.0, 3.0, 0.0]),
        st.sampled_from([5.0, 30.0, 100.0]), st.sampled_from([0.0, 0.0, 2.0, 40.0]), st.booleans(),
    ),
    min_size=2, max_size=8,
)  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(scenes, st.integers(0, 20), st.integers(0, 1000))
def test_no_cell_flaps_and_the_standby_s_room_and_control_are_kept(scene, room, seed):
    """A cell that is away stays so until a long calm, whatever comes; what is left here fits as far as there is room."""
    site = Standby(room, np.random.default_rng(seed).integers(0, 5, 20).astype(float))
    calm = 0
    for num, present, planned, held, is_all_kept in scene:
        for _ in range(num):
            before = site.place.copy()
            site.step(present=present, planned=planned, held=held, is_all_kept=is_all_kept)
            calm = calm + 1 if held == 0.0 and planned <= present else 0
            if (before == site.place).all():
                continue
            was_away, is_away = before == f.AWAY, site.place == f.AWAY
            if (was_away & ~is_away).any():
                assert calm >= f.CALM_SLOTS
                assert not is_away.any()
            assert is_away.sum() <= room
            if (is_away & ~was_away).any() and site.memory[f.FAILED] == 0:
                # By plan a cell goes only after it was primed for.
                assert (before[is_away & ~was_away] == f.PRIMED).all()
        num_here = 20 - len(site.away)
        assert num_here * FLOOR / 20 <= present or num_here == 20 - room


@pytest.fixture(scope="module")
def learnt():
    return calibrate_guard(MODEL, waves(), VACATE, 200_000, 1, lambda done, of: None)


@pytest.mark.parametrize("room", [0, 2, 6])
def test_the_agent_s_guard_is_the_twin_s(learnt, room):
    """Through a GPU that loses SMs, fails and is whole again, with cells that go and return."""
    drawn = Drawn(MODEL, loads_of(0.5, 0.2, cells=6), VACATE, 5)
    num = 1700 + f.CALM_SLOTS + 1000
    segment = Segment(0, num)
    needs, cells = drawn.draw(segment), drawn.draw_cells(segment)
    floor = MODEL.floor_sms(6)
    rules, memory = learnt.rules(NUM_SMS, floor, 2), g.new_memory(VACATE, NUM_SMS, 0)
    standby, place = f.new_failover(room), np.full(6, f.HERE)
    agent = g.LendingGuard(learnt, 6, NUM_SMS, floor, 2, 0, room)
    share = downlink_shares()
    data = cells[:, k.DL] - cells[:, k.DL_CONTROL]
    kept, held, num_away = [], 0.0, [0]
    for t in range(-KNOWN_SLOTS, num):
        s = t + KNOWN_SLOTS
        if share[s % PERIOD] == 1.0:
            agent.track(data[:, s])
        if t < 0:
            continue
        present = 132.0 if t < 500 else 14.0 if t < 1500 else 0.0 if t < 1600 else 132.0
        in_hand = min([present, *kept[-VACATE:]])
        is_here = place != f.AWAY
        plan = slice(t, t + KNOWN_SLOTS + 2)
        told = needs[k.DL, plan].copy(), needs[k.UL_PLAN, plan].copy(), needs[k.UL_RISK, plan].copy()
        kept.append(g.guard_step(
            rules, learnt.weights, learnt.edges, learnt.spread, memory, standby, place, cells[:, k.LONG_OF, s], t,
            needs[k.DL], needs[k.UL_PLAN], needs[k.UL_RISK], t, needs[k.LEVEL_OF, s], needs[k.LONG_OF, s],
            needs[k.RISK_OF, s], in_hand, present, held, False,
        ))  # fmt: skip
        assert agent.step(t, *told, in_hand, present_sms=present, held_sms=held, is_missed=False) == kept[-1]
        assert list(agent.place) == list(place)
        assert min(present, floor) <= kept[-1] <= present
        now_here = place != f.AWAY
        if (now_here != is_here).any():
            k.move_needs(needs, cells, is_here, now_here, t)
            num_away.append(int((~now_here).sum()))
        # A cell that is back finds what it needs in hand.
        in_force = min([present, *kept[-VACATE - 1 :]])
        assert not (now_here & ~is_here).any() or in_force == present
        held = max(0.0, needs[k.DL, t] + needs[k.UL_LEAST, t] - in_force)
    assert len(set(kept)) > 5
    # Some go by plan, all for which there is room where the GPU fails, and all come back.
    assert num_away[-1] == 0
    assert max(num_away) == room
    assert len(num_away) >= (1, 3)[room > 0]


def failing(table, left_sms, standby_cells, *, num=2000, windows=20, interruption_slots=220):
    """Segments of a busy site whose GPU loses SMs; counts and moves of each."""
    drawn = drawn_of(0.4, 0.15, vacate_slots=table.vacate_slots, seed=3)
    rules = table.rules(NUM_SMS, MODEL.floor_sms(20), 2)
    counts, moves = [], []
    for window in range(windows):
        part = Segment(window, num)
        own, moved, _ = play(
            drawn, drawn.draw(part), table, rules, num, fault=k.GPU, left_sms=left_sms, cells=drawn.draw_cells(part),
            standby_cells=standby_cells, interruption_slots=interruption_slots,
        )  # fmt: skip
        counts.append(own)
        moves.append(moved)
    return np.array(counts), np.array(moves)


def test_a_planned_move_makes_no_hard_miss_and_saves_soft_ones(learnt):
    # With v = 0 all SMs that are left are in hand at once, so that the loss itself makes no hard miss either.
    found = {room: failing(flat(0), 34, room) for room in (0, 4, 20)}
    for counts, moves in found.values():
        assert counts[:, k.HARD].sum() == moves[:, k.INTERRUPTED].sum() == 0
    soft = {room: counts[:, k.SOFT].sum() for room, (counts, _) in found.items()}
    moved = {room: moves[:, k.CELLS_FAILED_OVER] for room, (_, moves) in found.items()}
    assert moved[0].sum() == 0
    assert moved[4].max() == 4
    assert 4 < moved[20].max() <= 20
    assert soft[20] < soft[4] < soft[0]
    # Where tenants take v to leave, the slots until then are the only hard ones, with and without a standby.
    hard = [failing(learnt, 34, room)[0][:, k.HARD] for room in (0, 20)]
    assert (hard[0] == hard[1]).all()
    assert hard[0].max() <= VACATE


@pytest.mark.parametrize(("uplink_phase", "num_late"), [(8, 1), (9, 2), (0, 3), (1, 0), (7, 0)])
def test_a_move_costs_the_slots_in_which_its_uplink_was_due(learnt, uplink_phase, num_late):
    """Cells move at slot 200, phase 0: uplink begun in one of the two slots before or due to begin is lost."""
    drawn = drawn_of(0.1, 0.05, seed=1)
    standby = f.new_failover(20)
    # As if there had been strain, and would be until the standby is primed.
    standby[f.STRAINED], standby[f.LACKING], standby[f.UNSTRAINED] = f.BREAK_EVEN_SLOTS, 1.0, -np.inf
    counts, moves, sums = np.zeros(k.COUNTS, np.int64), np.zeros(k.MOVES, np.int64), np.zeros(k.SUMS)
    k.play(
        drawn.constants, drawn.dl_share, np.arange(PERIOD) == uplink_phase, drawn.draw(Segment(0, 100)), drawn.draw_cells(Segment(0, 100)),
        learnt.rules(NUM_SMS, FLOOR, 2), learnt.weights, learnt.edges, learnt.spread, g.new_memory(VACATE, NUM_SMS, 0), standby, 0.0, 100,
        k.NONE, 0, 0, drawn.stream, counts, moves, sums,
    )  # fmt: skip
    assert f.PREPARE_SLOTS == k.WARM_SLOTS == 200
    assert moves[k.CELLS_FAILED_OVER] >= 1
    assert (counts[k.HARD], counts[k.SOFT]) == (0, num_late)
    assert num_late <= UPLINK_SLOTS


@pytest.mark.parametrize("interruption_slots", [0, 1, 7, 220])
def test_a_failure_interrupts_exactly_the_stated_slots(learnt, interruption_slots):
    counts, moves = failing(learnt, 0, 20, interruption_slots=interruption_slots, windows=3)
    assert (moves[:, k.CELLS_FAILED_OVER] == 20).all()
    assert (moves[:, k.INTERRUPTED] == interruption_slots).all()
    assert (counts[:, k.HARD] == interruption_slots).all()
    assert (counts[:, k.SOFT] == 0).all()


def test_cells_that_find_no_room_are_lost_with_their_gpu(learnt):
    counts, moves = failing(learnt, 0, 4, windows=3)
    assert (moves == [4, 220]).all()
    # From the failure on every slot in which control is due: eight of ten.
    due = 2000 - 2000 // 3
    assert counts[:, k.HARD] == pytest.approx(220 + 0.8 * (due - 220), abs=2)


def test_cells_drawn_alone_are_those_of_the_site_and_leave_nothing_when_all_have_gone():
    drawn = drawn_of(0.3, 0.1)
    needs, cells = drawn.draw(Segment(1, 1000)), drawn.draw_cells(Segment(1, 1000))
    plain = [row for row in range(k.ROWS) if row not in (k.RISK_OF, k.UL_RISK)]
    assert cells.sum(axis=0)[plain] == pytest.approx(needs[plain])
    assert np.sqrt((cells[:, k.UL_RISK] ** 2).sum(axis=0)) == pytest.approx(needs[k.UL_RISK])
    all_here, some, none = np.ones(20, bool), np.arange(20) < 5, np.zeros(20, bool)
    moved = needs.copy()
    moved[k.DL, 600] += 10.0  # comes again
    k.move_needs(moved, cells, all_here, some, 500)
    assert (moved[:, :500] == needs[:, :500]).all()
    part = cells[some, k.LONG_OF, 500].sum() / cells[:, k.LONG_OF, 500].sum()
    assert moved[k.DL, 600] == pytest.approx(cells[some, k.DL, 600].sum() + 10 * part)
    assert moved[k.RISK_OF, 600] == pytest.approx(
        np.sqrt((cells[some, k.LEVEL_OF, 600] ** 2).sum() + g.RISE_SMS * cells[some, k.LONG_OF, 600].sum())
    )
    k.move_needs(moved, cells, some, none, 700)
    assert (moved[:, 700:] == 0).all()
    k.move_needs(moved, cells, none, all_here, 900)
    assert moved[:, 900:] == pytest.approx(needs[:, 900:])


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("loads")
    write_days(folder / "One-early.csv", days=3, peak=0.4)
    write_days(folder / "One-late.csv", days=1, first_day=5, peak=0.4)
    return folder


@pytest.fixture
def guard(files, monkeypatch, capfd):
    dure = caller(monkeypatch, capfd, "ran", "guard")
    return lambda *more: dure(
        "--calibrate", files / "One-early.csv", "--load", files / "One-late.csv", "--slots", 60_000, "--calibrate-slots", 200_000,
        *more, "--json",
    )  # fmt: skip


def test_by_option_a_standby_takes_cells_and_is_not_asked_without_need(guard):
    found = {}
    for room in (0, 20):
        for name, fault in (("none", []), ("part", ["--fault", "gpu", "--gpu-left", 0.25]), ("all", ["--fault", "gpu", "--gpu-left", 0])):
            done = guard("--standby-cells", room, *fault)
            assert (done.returncode, done.stderr) == (0, "")
            found[name, room] = json.loads(done.stdout)
    assert found["none", 0]["digest"] == found["none", 20]["digest"]
    assert found["part", 20]["on_time"] > found["part", 0]["on_time"]
    assert found["part", 20]["hard_misses"] == found["part", 0]["hard_misses"]
    assert found["part", 20]["cells_failed_over"] > 0
    assert {found[key]["interrupted_slots"] for key in found if key != ("all", 20)} == {0}
    assert {found[key]["cells_failed_over"] for key in found if key[1] == 0} == {0}
    # Thirty stretches, 220 slots each.
    assert found["all", 20]["interrupted_slots"] == found["all", 20]["hard_misses"] == 30 * 220
    assert found["all", 20]["cells_failed_over"] == 30 * 20
    brief = json.loads(guard("--standby-cells", 20, "--fault", "gpu", "--gpu-left", 0, "--interruption-ms", 10).stdout)
    assert brief["interrupted_slots"] == 30 * 20


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--fault", "gpu"], "--gpu-left: it says what the fault gpu leaves"),
        (["--gpu-left", "0.5"], "--gpu-left: it says what the fault gpu leaves"),
        (["--fault", "gpu", "--gpu-left", "1.5"], "1.5 is not in the range"),
        (["--fault", "gpu", "--gpu-left", "-0.1"], "-0.1 is not in the range"),
        (["--fault", "gpu", "--gpu-left", "nan"], "--gpu-left: nan is no part of a GPU"),
        (["--standby-cells", "-1"], "-1 is not in the range"),
        (["--interruption-ms", "nan"], "--interruption-ms: nan is no time"),
        (["--policy", "static", "--fault", "gpu", "--gpu-left", "0.5"], "--fault: static has nothing that a gpu fault could hit"),
        (["--policy", "mig", "--standby-cells", "4"], "--standby-cells: mig moves no cells"),
    ],
)
def test_bad_options_are_one_line_and_code_2(guard, args, said):
    done = guard(*args)
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
