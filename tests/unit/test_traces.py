"""Loaders: small samples of our own for every format and fault, then the real files where they are."""

import gzip

import numpy as np
import pytest

from dure.model.errors import InputError
from dure.twin.data import data_dir
from dure.twin.traces import (
    capacity_for_load,
    head,
    load_nodes,
    load_trace,
    load_trace_with_notes,
    select_members,
)
from dure.twin.traces.parquet import read_trace, write_trace
from dure.twin.traces.swf import header_of

SAMPLES = {
    "philly": (
        "timestamp,duration,num_gpus,gpu_time,cluster\n"
        "2017-10-09 07:01:55,66.0,1,66.0,b\n2017-10-09 06:13:03,2951.0,4,11804.0,a\n"
    ),
    "openb": (
        "name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec,qos,pod_phase,creation_time,deletion_time,"
        "scheduled_time\np0,12000,16384,1,1000,,LS,Running,0,50,10\np1,6000,12288,1,460,T4|P100,BE,Running,5,60,\n"
    ),
    "muri": (
        "job_id,num_gpu,submit_time,iterations,model_name,batch_size,duration,interval,iteration_time,"
        "resource_time_0,resource_time_1,resource_time_2,priority\n0,1,5,9,dqn,1,2000,0,1,1,1,0,1\n"
        "1,2,8,9,dqn,1,3000,0,1,1,1,0,1\n"
    ),
    "elasticflow": (
        "job_id,submit_time,iteration,model_name,ddl,batch_size,num_gpu,duration\n"
        "0,10,1,m,99,1,1,5\n1,12,1,m,88,1,2,6\n"
    ),
    "chronus": (
        "job_id,user,num_gpu,submit_time,iterations,model_name,duration,interval,expect_time_list,"
        "expect_value_list,best_effort,job_type\n0,u,0,1,1,m,1,1,1,1,0,strict\n1,u,4,2,1,m,3,1,1,1,0,strict\n"
        "2,v,1,2,1,m,3,1,1,1,0,strict\n"
    ),
    "acme": (
        "job_id,arrival_time,num_iteration,iteration_computing_time,iteration_networking_time,gpu_workers,"
        "cpu_per_gpu_worker\n0,0.0,100,0.5,0.25,8,15\n1,3.0,10,0.5,0.25,16,15\n"
    ),
    "sia": "name,time,application,num_replicas,batch_size\na-0,4.5,bert,8,32\nb-1,5.5,ncf,1,64\n",
    "tiresias": (
        "job_id,num_gpu,submit_time,iterations,model_name,duration,interval\n"
        "0,1,0,6,vgg,164,30\n1,8,30,1,vgg,147,23\n"
    ),
    "swf": (
        "; Version: 2.2\n; Computer: none\n; MaxProcs: 8\n; free words\n"
        "1 0 5 100 2 -1 -1 2 200 -1 1 3 4 1 1 1 -1 -1\n2 7 0 50 4 -1 -1 4 60 -1 0 3 5 1 1 1 -1 -1 extra\n"
        "2 7 0 20 4 -1 -1 4 60 -1 2 3 5 1 1 1 -1 -1\n3 9 -1 -1 4 -1 -1 4 60 -1 5 3 5 1 1 1 -1 -1\n"
    ),
    "gavel": "A (batch size 1)\tcmd\t-n\t1\t100\t0.0\t1\nB (batch size 2)\tcmd\t-n\t1\t50\t6.5\t2\n",
}


def put(tmp_path, text, name="trace.csv"):
    path = tmp_path / name
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", SAMPLES)
def test_each_format_is_recognised_plain_and_packed(tmp_path, name):
    trace = load_trace(put(tmp_path, SAMPLES[name]))
    assert trace.source == name
    assert len(trace.jobs) == 2
    assert trace.jobs["submit_ms"][0] == 0
    assert (np.diff(trace.jobs["submit_ms"]) >= 0).all()
    packed = tmp_path / "trace.gz"
    packed.write_bytes(gzip.compress(SAMPLES[name].encode()))
    assert load_trace(packed).digest() == trace.digest()


def test_values_and_units(tmp_path):
    philly = load_trace(put(tmp_path, SAMPLES["philly"]))
    assert philly.members == ["b", "a"]
    assert philly.jobs["submit_ms"].tolist() == [0, (48 * 60 + 52) * 1000]
    assert philly.jobs["duration_ms"].tolist() == [2_951_000, 66_000]
    openb = load_trace(put(tmp_path, SAMPLES["openb"]))
    assert openb.jobs["duration_ms"].tolist() == [40_000, 55_000]
    assert openb.jobs["gpu_milli"].tolist() == [1000, 460]
    assert openb.gpu_types == ["T4", "P100"]
    assert openb.jobs["type_mask"].tolist() == [0, 3]
    assert load_trace(put(tmp_path, SAMPLES["muri"])).jobs["duration_ms"].tolist() == [2000, 3000]
    flow = load_trace(put(tmp_path, SAMPLES["elasticflow"]))
    assert flow.jobs["deadline_ms"].tolist() == [89_000, 78_000]
    assert load_trace(put(tmp_path, SAMPLES["chronus"])).jobs["duration_ms"].tolist() == [180_000] * 2
    assert load_trace(put(tmp_path, SAMPLES["acme"])).jobs["duration_ms"].tolist() == [75_000, 7_500]


def test_swf_parts_and_unknowns_are_counted(tmp_path):
    path = put(tmp_path, SAMPLES["swf"])
    trace, notes = load_trace_with_notes(path)
    assert trace.job_ids == ["1", "2"]
    assert trace.jobs["limit_ms"].tolist() == [200_000, 60_000]
    assert len(notes) == 2
    head_of = header_of(path.read_text().splitlines())
    assert head_of["Version"] == ["2.2"]
    assert head_of["MaxProcs"] == ["8"]
    assert head_of[""] == ["free words"]


@pytest.mark.parametrize(
    ("name", "old", "new", "line", "field"),
    [
        ("philly", "66.0,1", "-66.0,1", 2, "duration"),
        ("philly", "2951.0,4", "2951.0,0", 3, "num_gpus"),
        ("philly", "2017-10-09 06", "not a day", 3, "timestamp"),
        ("philly", ",duration", "", 1, ""),
        ("openb", "0,50,10", "0,5,10", 2, "deletion_time"),
        ("openb", "1,460", "1,1460", 3, "gpu_milli"),
        ("openb", "1,460", "2,460", 3, "gpu_milli"),
        ("openb", "p1", "p0", 3, "name"),
        ("muri", "3000", "nan", 3, "duration"),
        ("muri", "\n1,2", "\n1,2.5", 3, "num_gpu"),
        ("sia", "4.5", "x", 2, "time"),
        ("swf", "2 7 0 50", "1 7 0 50", 6, "job"),
        ("swf", "1 0 5 100", "1 -9 5 100", 5, "submit_s"),
        ("gavel", "\t2\n", "\n", 2, ""),
    ],
)
def test_faults_name_line_and_field(tmp_path, name, old, new, line, field):
    assert old in SAMPLES[name]
    with pytest.raises(InputError) as caught:
        load_trace(put(tmp_path, SAMPLES[name].replace(old, new, 1)), format=name)
    assert (caught.value.line, caught.value.field) == (line, field or caught.value.field)


def test_files_that_are_no_trace(tmp_path):
    for text in ("", "\n\n", "a,b\n1,2\n"):
        with pytest.raises(InputError):
            load_trace(put(tmp_path, text))
    packed = gzip.compress(SAMPLES["philly"].encode())
    (tmp_path / "cut.gz").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(InputError, match="gzip"):
        load_trace(tmp_path / "cut.gz")
    with pytest.raises(InputError, match="cannot read"):
        load_trace(tmp_path / "none.csv")
    with pytest.raises(InputError, match="unknown format"):
        load_trace(put(tmp_path, SAMPLES["sia"]), format="nothing")


@pytest.mark.parametrize("name", SAMPLES)
def test_parquet_round_trip(tmp_path, name):
    trace = load_trace(put(tmp_path, SAMPLES[name]))
    back = load_trace(write_trace(tmp_path / "t.parquet", trace))
    assert back.digest() == trace.digest()
    assert (back.members, back.users, back.gpu_types) == (trace.members, trace.users, trace.gpu_types)
    assert all((back.extra[k] == trace.extra[k]).all() for k in trace.extra)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["t.parquet", "trace.csv"]


def test_damaged_parquet(tmp_path):
    trace = load_trace(put(tmp_path, SAMPLES["muri"]))
    path = write_trace(tmp_path / "t.parquet", trace)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match="damaged"):
        read_trace(path)


def test_cutting(tmp_path):
    trace = load_trace(put(tmp_path, SAMPLES["philly"]))
    only = select_members(trace, ["b"])
    assert only.jobs["num_gpus"].tolist() == [1]
    assert only.jobs["submit_ms"].tolist() == [0]
    with pytest.raises(InputError):
        select_members(trace, ["z"])
    assert head(trace, 1).job_ids == trace.job_ids[:1]
    assert capacity_for_load(trace, 1.0) == -(-(2951 * 4 + 66) // 2932)


ROWS = {
    "philly_2017/philly.csv.gz": 70_783, "muri/traces/trace1.csv.gz": 1_494, "muri/traces/trace4.csv.gz": 2_638,
    "elasticflow/philly_103959.csv": 876, "elasticflow/elasticVpollux_e.csv": 195,
    "acme_2023/kalos_converted_319jobs.csv": 319, "pollux_osdi21/workloads/workload-1.csv": 160,
    "sia_workloads/newtrace/workload-1.csv.gz": 960, "tiresias/60_job.csv": 60,
    "alibaba_openb_2023/pods/openb_pod_list_default.csv.gz": 8_152,
}  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
def test_real_files(name):
    data = data_dir()
    if data is None:
        pytest.skip("the recorded traces are not here (DURE_DATA)")
    assert len(load_trace(data / name).jobs) == ROWS[name]


@pytest.mark.parametrize(("name", "rows"), [("hpc2n", 3_170), ("wagap-2013", 17_900)])
def test_real_swf_accounts_for_every_line(name, rows):
    data = data_dir()
    if data is None:
        pytest.skip("the recorded traces are not here (DURE_DATA)")
    trace, notes = load_trace_with_notes(data / "swf" / f"{name}.swf.gz")
    left = sum(int(note.split(" ")[0].replace(",", "")) for note in notes)
    assert len(trace.jobs) + left == rows


def test_real_nodes():
    data = data_dir()
    if data is None:
        pytest.skip("the recorded traces are not here (DURE_DATA)")
    every = load_nodes(data / "alibaba_openb_2023" / "openb_node_list_all_node.csv")
    assert (len(every.nodes), every.num_gpus) == (1_523, 6_212)
    spot = load_nodes(data / "alibaba_spot_2026" / "node_info_df.csv")
    assert (len(spot.nodes), spot.num_gpus) == (4_278, 10_412)
