"""What the governor tells tenants, with stand-ins for them: no process, no clock."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.ran.worlds import loads_of

from dure.ran.calibrate import calibrate_guard
from dure.ran.governor import EVICT_SLOTS, Governor, deal_cores
from dure.ran.guard import RESUME_SLOTS
from dure.ran.machine import choose_slot_ms
from dure.ran.planned import Planned, Site
from dure.ran.radio import DOWNLINK, IS_COUNTED, UPLINK
from dure.ran.site import PERIOD, SiteModel
from dure.ran.site_plan import SETTLING_SLOTS, draw_stretches, invented_loads, radio_plan, site_model


class Standing:
    """Stops when told, unless it is `stubborn`; then only when it is killed."""

    def __init__(self, lease_id, gpu_milli=1000, *, stubborn=False):
        self.lease_id, self.gpu_milli, self.stubborn = lease_id, gpu_milli, stubborn
        self.runs, self.said, self.cores = True, [], None

    def stop(self):
        self.said.append("stop")
        self.runs = self.runs and self.stubborn

    def resume(self):
        self.said.append("resume")
        self.runs = True

    def is_standing(self):
        return not self.runs

    def evict(self):
        self.said.append("evict")
        self.runs = False

    def pin(self, cores):
        self.cores = list(cores)


def governed(*tenants, cores=8, floor=2, vacate=4):
    governor = Governor(list(range(cores)), floor, vacate)

    def at(slot, keep):
        governor.apply(tenants, keep, slot, slot * 1000)
        governor.settle(slot * 1000 + 300)
        return [tenant.runs for tenant in tenants]

    return governor, at


def test_the_youngest_lease_stands_first_and_all_go_on_when_their_cores_are_lent_again():
    old, middle, young = Standing("a"), Standing("b"), Standing("c")
    governor, at = governed(old, middle, young)
    assert at(0, 2) == [True, True, True]
    assert [tenant.cores for tenant in (old, middle, young)] == [[6, 7], [4, 5], [2, 3]]
    assert governor.num_in_hand() == 2
    assert at(1, 3) == [True, True, False]
    assert governor.num_in_hand() == 4
    assert at(2, 7) == [False, False, False]
    assert governor.num_in_hand() == 8
    assert at(3, 4) == [True, True, False]
    assert at(4, 2) == [True, True, True]
    assert (governor.num_stops, governor.num_late, governor.num_evicted) == (3, 0, 0)
    assert governor.stop_ns == [300, 300, 300]


def test_everything_reserved_is_everybody_standing_also_who_comes_now():
    tenants = [Standing("a")]
    governor = Governor([0, 1], 1, 4)
    governor.apply(tenants, 2, 0, 0)
    assert governor.settle(100)
    tenants.append(Standing("b"))
    assert governor.num_in_hand() == 2, "not seen yet"
    governor.apply(tenants, 2, 1, 1000)
    assert governor.num_in_hand() == 1, "told, and not seen to stand"
    assert governor.settle(1100)
    assert governor.num_in_hand() == 2
    assert [tenant.runs for tenant in tenants] == [False, False]


def test_a_tenant_that_runs_on_is_late_after_v_and_killed_in_the_end():
    tenant = Standing("a", stubborn=True)
    governor, at = governed(tenant, cores=2, floor=1)
    at(0, 1)
    for slot in range(1, 1 + EVICT_SLOTS):
        at(slot, 2)
        assert governor.num_late == (slot - 1 >= 4)
        assert governor.num_in_hand() == 1, "its core is not the radio's"
    assert governor.num_evicted == 0
    at(1 + EVICT_SLOTS, 2)
    assert (governor.num_late, governor.num_evicted, tenant.said.count("evict")) == (1, 1, 1)
    assert governor.num_in_hand() == 2


def test_who_is_continued_by_another_is_told_again():
    tenant = Standing("a")
    governor, at = governed(tenant, cores=2, floor=1)
    at(0, 2)
    tenant.runs = True
    at(1, 2)
    assert (tenant.runs, governor.num_stops, governor.num_late) == (False, 1, 0)


def test_who_was_left_standing_by_a_governor_before_goes_on():
    tenant = Standing("a")
    tenant.runs = False
    _, at = governed(tenant, cores=2, floor=1)
    assert at(0, 1) == [True]


def test_where_nothing_can_be_lent_tenants_stand():
    tenant = Standing("a")
    governor, at = governed(tenant, cores=1, floor=1)
    assert at(0, 1) == [False]
    assert governor.num_in_hand() == 1


def test_a_node_handed_back_is_all_the_tenants():
    tenants = [Standing("a"), Standing("b")]
    governor, at = governed(*tenants)
    at(0, 8)
    governor.release(tenants)
    assert [(tenant.runs, tenant.cores) for tenant in tenants] == 2 * [(True, list(range(8)))]


@given(st.lists(st.integers(1, 8000), min_size=1, max_size=20), st.integers(1, 64))
def test_every_tenant_has_cores_in_a_row_and_the_oldest_the_last(weights, num):
    cores = list(range(100, 100 + num))
    dealt = deal_cores(weights, cores)
    assert len(dealt) == len(weights)
    assert all(len(own) and list(own) == cores[cores.index(own[0]) : cores.index(own[0]) + len(own)] for own in dealt)
    assert dealt[0][-1] == cores[-1]
    starts = [own[0] for own in dealt]
    assert starts == sorted(starts, reverse=True)


def test_the_slot_is_the_shortest_step_that_leaves_room():
    assert choose_slot_ms(0.01, 0.02, 0.1) == 0.5
    assert choose_slot_ms(0.1, 0.02, 0.1) == 1.0
    assert choose_slot_ms(0.1, 0.3, 0.1) == 10.0
    assert choose_slot_ms(0.1, 0.02, 9.0) == 25.0
    assert choose_slot_ms(1.0, 0.02, 1.0) == 10.0


@pytest.mark.parametrize("num_cores", [1, 2, 16, 200])
def test_cores_stand_for_the_gpu_and_peak_cells_fill_them(num_cores):
    model, default = site_model(num_cores, 0.5), SiteModel()
    assert model.num_sms == num_cores * model.grain_sms
    # Twenty peak cells need the same part of the node as of the GPU.
    for work, per_us in (("dl_work_us", "dl_sms_per_us"), ("ul_work_us", "ul_sms_per_us")):
        words = (273, 4) if work == "dl_work_us" else (273, 2, 1.0, 1.0)
        part = getattr(model, work)(*words) * getattr(model, per_us) / model.num_sms
        assert part == pytest.approx(getattr(default, work)(*words) * getattr(default, per_us) / default.num_sms)


def test_a_plan_is_whole_frames_with_the_work_of_the_load():
    model = site_model(2, 0.1)
    stretches = draw_stretches(model, invented_loads(5), 1999, 0)
    assert [stretch.num_slots for stretch in stretches] == [660, 660, 660]
    plan = radio_plan(stretches, 2, 1_000_000)
    assert plan.shape == (3, 1980)
    assert plan[IS_COUNTED].sum() == 1980 - 3 * SETTLING_SLOTS
    busy = plan[[DOWNLINK, UPLINK]].sum(axis=0) / 2_000_000
    assert 0 < busy.mean() < busy.max() < 1
    uplink_only = [t for t in range(PERIOD) if plan[DOWNLINK, t::PERIOD].max() == 0]
    assert uplink_only == [3, 4]
    assert np.array_equal(plan, radio_plan(draw_stretches(model, invented_loads(5), 1999, 0), 2, 1_000_000))


def test_where_nobody_watches_everything_is_kept_and_for_twenty_slots_after():
    model, loads = site_model(2, 0.1), loads_of(0.02, 0.01)
    learnt = calibrate_guard(model, loads, 4, 100_000, 1, lambda done, of: None)
    planned = Planned(Site(model, learnt, draw_stretches(model, loads, 400, 0), [0, 1], 10**6, "plain"))

    def keep(slot, *, is_told=True):
        return planned.keep(slot, 2, is_missed=False, is_told=is_told)

    kept = [keep(slot) for slot in range(200)]
    assert kept[:RESUME_SLOTS] == [2] * RESUME_SLOTS
    assert kept[RESUME_SLOTS:].count(1) > 100
    assert keep(200, is_told=False) == 2
    assert [keep(slot) for slot in range(201, 200 + RESUME_SLOTS)] == [2] * (RESUME_SLOTS - 1)
    assert 1 in [keep(slot) for slot in range(200 + RESUME_SLOTS, 240 + RESUME_SLOTS)]
    # Slots that are lost are silence too.
    assert keep(300) == 2
