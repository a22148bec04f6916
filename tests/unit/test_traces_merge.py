"""Several traces as one load: who is who, which GPU types are meant, in which order."""

import numpy as np
import pytest

from dure.model.errors import InputError
from dure.model.jobs import Trace, make_jobs
from dure.twin.traces.merge import merged, shaped


def trace_of(submits_ms, members, types, masks, extra=None):
    jobs = make_jobs(len(submits_ms))
    jobs["submit_ms"], jobs["duration_ms"], jobs["type_mask"] = submits_ms, 1000, masks
    jobs["member"] = np.arange(len(jobs)) % len(members)
    ids = [f"j{i}" for i in range(len(jobs))]
    return Trace(jobs, ids, members, ["p"], ["u"], types, "made", extra or {})


FIRST = trace_of([0, 10, 20], ["a", "b"], ["v100", "k80"], [1, 2, 0], {"model": np.array(["x", "y", "z"])})
SECOND = trace_of([5, 10], ["b", "c"], ["p100", "v100"], [2, 3])


def test_jobs_stand_by_time_and_at_one_time_in_the_order_of_the_traces():
    both = merged([FIRST, SECOND])
    assert both.jobs["submit_ms"].tolist() == [0, 5, 10, 10, 20]
    assert both.job_ids == ["1/j0", "2/j0", "1/j1", "2/j1", "j2"]
    assert both.extra == {}


def test_members_and_types_of_one_name_are_the_same():
    both = merged([FIRST, SECOND])
    assert [both.members[m] for m in both.jobs["member"]] == ["a", "b", "b", "c", "a"]
    types = [{name for bit, name in enumerate(both.gpu_types) if mask >> bit & 1} for mask in map(int, both.jobs["type_mask"])]
    assert types == [{"v100"}, {"v100"}, {"k80"}, {"p100", "v100"}, set()]


def test_one_trace_stays_as_it_is():
    assert merged([FIRST]) is FIRST


def test_more_than_64_types_are_refused():
    many = [trace_of([0], ["a"], [f"t{n}-{i}" for i in range(40)], [1]) for n in range(2)]
    with pytest.raises(InputError, match="80 GPU types"):
        merged(many)


def test_options_are_applied_in_their_order_whatever_the_file_s():
    made = shaped(FIRST, {"checkpoint_s": 60, "num_jobs": 1, "arrivals": 2, "member": "a"})
    assert made.jobs["submit_ms"].tolist() == [0]
    assert made.jobs["checkpoint_ms"].tolist() == [60_000]
    assert shaped(FIRST, {"member": "a", "arrivals": 2}).jobs["submit_ms"].tolist() == [0, 40]


@pytest.mark.parametrize(("options", "field"), [({"jobs": 1}, "jobs"), ({"arrivals": 0}, "arrivals"), ({"num_jobs": True}, "num_jobs")])
def test_what_is_not_an_option_is_refused(options, field):
    with pytest.raises(InputError) as error:
        shaped(FIRST, options)
    assert error.value.field == field
