"""Whatever a file holds: a trace that keeps its promises, or one InputError."""

import gzip
import runpy
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dure.model.errors import InputError
from dure.twin.traces import load_nodes, load_trace

SAMPLES = runpy.run_path(str(Path(__file__).parents[1] / "unit" / "test_traces.py"))["SAMPLES"]
WORDS = ["", "-1", "nan", "1e400", "inf", "0", "9" * 30, "두레", "x", '"', "1.5", "-0", "\x00", "1e9", ","]


def load_bytes(tmp_path, data):
    path = tmp_path / "trace"
    path.write_bytes(data)
    try:
        trace = load_trace(path)
    except InputError:
        return
    jobs = trace.jobs
    assert (np.diff(jobs["submit_ms"]) >= 0).all()
    assert len(set(trace.job_ids)) == len(trace.job_ids) == len(jobs)
    assert (jobs["submit_ms"] >= 0).all()
    assert (jobs["duration_ms"] >= -1).all()
    assert (jobs["num_gpus"] >= 0).all()
    assert ((jobs["gpu_milli"] > 0) & (jobs["gpu_milli"] <= 1000)).all()
    for name, names in (("member", trace.members), ("user", trace.users)):
        assert len(jobs) == 0 or jobs[name].max() < len(names)


relaxed = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@relaxed
@given(data=st.binary(max_size=400))
def test_any_bytes(tmp_path, data):
    load_bytes(tmp_path, data)
    load_bytes(tmp_path, gzip.compress(data))


@settings(relaxed, max_examples=400)
@given(
    name=st.sampled_from(sorted(SAMPLES)), row=st.integers(0, 5), cell=st.integers(0, 18), word=st.sampled_from(WORDS),
    drop=st.booleans(),
)  # fmt: skip
def test_changed_cells(tmp_path, name, row, cell, word, drop):
    comma = {"swf": " ", "gavel": "\t", "shockwave": "\t"}.get(name, ",")
    lines = [line.split(comma) for line in SAMPLES[name].splitlines()]
    line = lines[row % len(lines)]
    if drop:
        del line[cell % len(line)]
    else:
        line[cell % len(line)] = word
    load_bytes(tmp_path, "\n".join(comma.join(cells) for cells in lines).encode())


@relaxed
@given(name=st.sampled_from(sorted(SAMPLES)), at=st.floats(0, 1))
def test_cut_files(tmp_path, name, at):
    data = SAMPLES[name].encode()
    load_bytes(tmp_path, data[: int(at * len(data))])
    packed = gzip.compress(data)
    load_bytes(tmp_path, packed[: int(at * len(packed))])


NODES = [
    "sn,cpu_milli,memory_mib,gpu,model\na,1,1,2,T4\nb,1,1,0,\n",
    "gpu_model,gpu_capacity_num,cpu_num,node_name\nA10,1,128,a\nH800,8,64,b\n",
    "num_switch,num_node_p_switch,num_gpu_p_node,num_cpu_p_node,mem_p_node\n2,3,4,128,256\n",
    "0 a 2 40 1 4096\n1 b 3 2 1 2048\n",
]


@relaxed
@given(
    text=st.sampled_from(NODES), row=st.integers(0, 2), cell=st.integers(0, 5), word=st.sampled_from(WORDS),
    at=st.floats(0, 1),
)  # fmt: skip
def test_changed_node_lists(tmp_path, text, row, cell, word, at):
    comma = "," if "," in text else " "
    lines = [line.split(comma) for line in text.splitlines()]
    line = lines[row % len(lines)]
    line[cell % len(line)] = word
    changed = "\n".join(comma.join(cells) for cells in lines)
    path = tmp_path / "nodes"
    path.write_text(changed[: int(at * 2 * len(changed))])
    try:
        fleet = load_nodes(path)
    except InputError:
        return
    assert fleet.num_gpus >= 0
    assert not fleet.node_names or len(set(fleet.node_names)) == len(fleet.nodes)
    assert (fleet.nodes["mem_mib"] >= 0).all()
    assert (fleet.nodes["gpu_type"] < len(fleet.gpu_types)).all()
