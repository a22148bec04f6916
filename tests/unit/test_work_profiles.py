"""Kinds of work: how they scale, what restarts and checkpoints cost them, and how they fail by themselves."""

import dataclasses
import json
import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dure.model.errors import InputError
from dure.model.fleet import uniform_fleet
from dure.model.jobs import Trace, WorkProfile, make_jobs
from dure.policy.config import named_policy
from dure.twin.faults import expected_ettr
from dure.twin.loop import FAILURE
from dure.twin.metrics import measure
from dure.twin.replay import FAULT_DTYPE, replay
from dure.twin.result import OUTCOME_FINISHED
from dure.twin.traces.parquet import read_trace, write_trace

REPAIR = 1 - FAILURE


def load(num, profile, **columns):
    jobs = make_jobs(num)
    jobs["profile"] = 0
    for name, value in columns.items():
        jobs[name] = value
    if "num_gpus" in columns and "min_gpus" not in columns:
        jobs["min_gpus"] = jobs["max_gpus"] = jobs["num_gpus"]
    return Trace(jobs, [str(i) for i in range(num)], ["m"], ["p"], ["u"], [], "kinds", profiles=(profile,))


def faults(*times_ms):
    """Failures of node 0 at some moments, each repaired a second later."""
    rows = [row for at in times_ms for row in ((at, 0, FAILURE), (at + 1000, 0, REPAIR))]
    return np.array(rows, FAULT_DTYPE)


def test_a_restart_costs_time_and_what_was_not_saved():
    trace = load(1, WorkProfile("k", restart_ms=60_000), duration_ms=2_000_000, checkpoint_ms=600_000)
    done = replay(trace, uniform_fleet(8, 8), named_policy("fifo"), faults=faults(700_000)).jobs[0]
    # 600 s were saved; a second of repair, a minute of restart, and the 1,400 s that are left.
    assert done["end_ms"] == 701_000 + 60_000 + 1_400_000
    assert (done["useful_ms"], done["lost_ms"], done["restart_ms"], done["saving_ms"]) == (2_000_000, 100_000, 60_000, 0)


def test_a_restart_that_is_lost_is_paid_again():
    trace = load(1, WorkProfile("k", restart_ms=60_000), duration_ms=2_000_000, checkpoint_ms=600_000)
    done = replay(trace, uniform_fleet(8, 8), named_policy("fifo"), faults=faults(700_000, 731_000)).jobs[0]
    assert done["end_ms"] == 732_000 + 60_000 + 1_400_000
    assert (done["useful_ms"], done["lost_ms"], done["restart_ms"]) == (2_000_000, 130_000, 60_000)


def test_what_was_never_saved_leaves_no_restart_behind():
    trace = load(1, WorkProfile("k", restart_ms=60_000), duration_ms=2_000_000)
    done = replay(trace, uniform_fleet(8, 8), named_policy("fifo"), faults=faults(700_000, 900_000)).jobs[0]
    assert done["end_ms"] == 901_000 + 60_000 + 2_000_000
    assert (done["useful_ms"], done["lost_ms"], done["restart_ms"]) == (2_000_000, 700_000 + 199_000, 60_000)


def test_the_first_start_is_no_restart_and_neither_is_work_without_a_kind():
    trace = load(2, WorkProfile("k", restart_ms=60_000), duration_ms=100_000)
    trace.jobs["profile"][1] = -1
    done = replay(trace, uniform_fleet(8, 8), named_policy("fifo"), faults=faults(50_000)).jobs
    assert done["end_ms"].tolist() == [51_000 + 60_000 + 100_000, 51_000 + 100_000]


@pytest.mark.parametrize("scaling", [1.0, 0.5, 0.877])
def test_an_elastic_job_is_as_fast_as_its_kind_scales(scaling):
    # It asks for 8 and starts on the 4 that there are.
    trace = load(1, WorkProfile("k", scaling=scaling), duration_ms=1_000_000, num_gpus=8, min_gpus=4, max_gpus=8)
    done = replay(trace, uniform_fleet(4, 4), named_policy("dure")).jobs[0]
    assert done["run_ms"] == pytest.approx(1_000_000 * 2**scaling, rel=2e-3)


def test_checkpoints_are_a_part_of_the_run_time():
    trace = load(1, WorkProfile("k", save_ms=30_000), duration_ms=1_000_000, checkpoint_ms=600_000)
    done = replay(trace, uniform_fleet(8, 8), named_policy("fifo")).jobs[0]
    assert (done["end_ms"], done["saving_ms"], done["useful_ms"]) == (1_000_000, 50_000, 950_000)


def test_jobs_fail_by_themselves_at_their_rate_and_alike_for_a_seed():
    trace = load(500, WorkProfile("k", failures_per_day=24.0), duration_ms=10 * 3_600_000, checkpoint_ms=1)
    none = np.zeros(0, FAULT_DTYPE)
    runs = [replay(trace, uniform_fleet(512, 8), named_policy("dure"), faults=none, seed=seed) for seed in (1, 1, 2)]
    assert runs[0].digest == runs[1].digest != runs[2].digest
    for run in runs:
        assert (run.jobs["outcome"] == OUTCOME_FINISHED).all()
        assert run.counters.num_own_failures == run.counters.num_job_failures == run.jobs["failures"].sum()
        # 5,000 hours at one an hour: Poisson, so within five of its deviations.
        assert run.counters.num_own_failures == pytest.approx(5000, abs=5 * math.sqrt(5000))


def test_nothing_fails_where_failures_are_off():
    trace = load(100, WorkProfile("k", failures_per_day=100.0), duration_ms=10 * 3_600_000)
    run = replay(trace, uniform_fleet(512, 8), named_policy("dure"))
    assert run.counters.num_own_failures == 0
    assert (run.jobs["end_ms"] == 10 * 3_600_000).all()


def test_a_gang_is_as_useful_as_the_formula_of_rsc_expects():
    """arXiv 2410.21680, §III: failures of the run alone, so that there is no wait for nodes."""
    per_day, save_s, restart_s, every_s = 8.0, 10.0, 300.0, 600.0
    kind = WorkProfile("k", save_ms=int(1000 * save_s), restart_ms=int(1000 * restart_s), failures_per_day=per_day)
    trace = load(40, kind, duration_ms=20 * 86_400_000, checkpoint_ms=int(1000 * every_s), num_gpus=8)
    run = replay(trace, uniform_fleet(320, 8), named_policy("dure"), faults=np.zeros(0, FAULT_DTYPE), seed=3)
    (row,) = measure(run).by_work
    expected = expected_ettr(1, 1000 * per_day, every_s - save_s, restart_s, save_s)
    assert row.useful == pytest.approx(expected, abs=0.002)
    assert row.useful + row.idle + row.lost + row.restarting + row.saving == pytest.approx(1.0)
    assert measure(run).goodput == pytest.approx(row.useful * measure(run).summary["utilisation"], rel=1e-6)


def test_rows_name_jobs_without_a_kind_last_and_part_what_services_hold_idle():
    trace = load(3, WorkProfile("service", busy=0.25), duration_ms=100_000)
    trace.jobs["profile"][0] = -1
    rows = measure(replay(trace, uniform_fleet(8, 8), named_policy("fifo"))).by_work
    assert [(row.name, row.num_jobs, row.useful, row.idle) for row in rows] == [("service", 2, 0.25, 0.75), ("", 1, 1.0, 0.0)]


def test_kinds_survive_the_file(tmp_path):
    kind = WorkProfile("k", {"b": 500}, 0.877, 6300, 600_000, 2.2, 0.5)
    trace = load(2, kind, duration_ms=1000)
    again = read_trace(write_trace(tmp_path / "t.parquet", trace))
    assert again.profiles == (kind,)
    assert again.digest() == trace.digest()
    assert trace.digest() != dataclasses.replace(trace, profiles=(WorkProfile("k", {"b": 500}),)).digest()


@pytest.mark.parametrize(
    "row", [{"name": "k", "scaling": 3.0}, {"name": "k", "save_ms": -1}, {"name": "k", "busy": 2.0}, {"name": "k", "colour": 1}, {"name": 3}, 7, ["k", {"b": 0}]]
)
def test_a_kind_that_cannot_be_is_refused(tmp_path, row):
    path = write_trace(tmp_path / "t.parquet", load(1, WorkProfile("k"), duration_ms=1000))
    table = pq.read_table(path)
    (key, text), = table.schema.metadata.items()
    meta = json.loads(text) | {"profiles": [row]}
    pq.write_table(pa.table(table).replace_schema_metadata({key: json.dumps(meta).encode()}), path)
    with pytest.raises(InputError, match="kinds of work"):
        read_trace(path)


def test_kinds_of_files_from_before_are_names_and_speeds(tmp_path):
    path = write_trace(tmp_path / "t.parquet", load(1, WorkProfile("k"), duration_ms=1000))
    table = pq.read_table(path)
    (key, text), = table.schema.metadata.items()
    meta = json.loads(text) | {"profiles": [["k", {"b": 500}]]}
    pq.write_table(table.replace_schema_metadata({key: json.dumps(meta).encode()}), path)
    assert read_trace(path).profiles == (WorkProfile("k", {"b": 500}),)
