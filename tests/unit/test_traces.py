"""Loaders: small samples of our own for every format and fault, then the real files where they are."""

import gzip

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dure.model.errors import InputError
from dure.twin.data import data_dir
from dure.twin.traces import (
    capacity_for_load,
    head,
    load_nodes,
    load_trace,
    load_trace_with_notes,
    rescale_arrivals,
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
    "shockwave": (
        "A (batch size 1)\tcmd\tdir\t-n\t1\t100\t1\tgns\t1\t-1.000000\t1418\t0\n"
        "B (batch size 2)\tcmd\tdir\t-n\t1\t50\t2\tstatic\t1\t2.000000\t300\t55\n"
    ),
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
        ("swf", "2 7 0 50", "2.5 7 0 50", 6, "job"),
        ("gavel", "\t2\n", "\n", 2, ""),
        ("shockwave", "\t55\n", "\n", 2, ""),
        ("shockwave", "\t1418\t", "\tx\t", 1, ""),
        ("shockwave", "\t300\t", "\t-300\t", 2, ""),
        ("shockwave", "\t50\t2\t", "\t50\t0\t", 2, ""),
        ("openb", "1,460", "1,0", 3, "gpu_milli"),
        ("chronus", "1,1,1,0,strict\n2", "1,1-x,1,0,strict\n2", 3, "expect_time_list"),
        ("acme", "16,15", "16,99999", 3, "cpu_per_gpu_worker"),
    ],
)
def test_faults_name_line_and_field(tmp_path, name, old, new, line, field):
    assert old in SAMPLES[name]
    with pytest.raises(InputError) as caught:
        load_trace(put(tmp_path, SAMPLES[name].replace(old, new, 1)), format=name)
    assert (caught.value.line, caught.value.field) == (line, field or caught.value.field)


def test_openb_without_times_and_with_some(tmp_path):
    text = "name,cpu_milli,memory_mib,num_gpu,gpu_milli\np0,1,2,1,500\np1,1,2,8,1000\n"
    trace, notes = load_trace_with_notes(put(tmp_path, text))
    assert (trace.source, trace.job_ids, trace.jobs["duration_ms"].tolist()) == ("openb", ["p0", "p1"], [-1, -1])
    assert "Times are not recorded" in notes[0]
    with pytest.raises(InputError) as caught:
        load_trace(put(tmp_path, SAMPLES["openb"].replace("deletion_time", "gone")))
    assert (caught.value.line, caught.value.field) == (1, "deletion_time")
    assert load_trace_with_notes(put(tmp_path, SAMPLES["openb"]))[1][0].startswith("1 pods were never scheduled")


def test_chronus_deadlines_count_from_submission_and_soft_ones_have_steps(tmp_path):
    text = SAMPLES["chronus"].replace("2,v,1,2,1,m,3,1,1,1,0,strict", "2,v,1,2,1,m,3,1,9,1,1,best")
    text += "3,v,1,4,1,m,3,1,5-7-9,10-5-1,0,soft\n"
    trace = load_trace(put(tmp_path, text))
    assert trace.job_ids == ["1", "2", "3"]
    assert trace.jobs["submit_ms"].tolist() == [0, 0, 120_000]
    assert trace.jobs["deadline_ms"].tolist() == [60_000, -1, 120_000 + 300_000]
    assert trace.extra["expect_time_list"].tolist() == ["1", "9", "5-7-9"]


def test_swf_counts_each_cause_once(tmp_path):
    tail = "-1 -1 1 60 -1 {} 3 5 1 1 1 -1 -1"
    rows = [
        "1 0 0 10 1 " + tail.format(1), "1 0 0 4 1 " + tail.format(2), "2 0 0 4 1 " + tail.format(3),
        "3 0 9 -1 1 " + tail.format(5), "4 0 9 -1 1 " + tail.format(0), "5 0 9 5 0 -1 -1 0 60 -1 1 3 5 1 1 1 -1 -1",
        "6 -1 9 5 1 " + tail.format(1),
    ]  # fmt: skip
    trace, notes = load_trace_with_notes(put(tmp_path, "\n".join(rows)))
    assert trace.job_ids == ["1"]
    assert [note.split(" ")[0] for note in notes] == ["1"] * 6
    for note, word in zip(notes, ["whole is kept", "without a row", "cancelled", "run time", "processors", "submit"],
                          strict=True):  # fmt: skip
        assert word in note


def test_gavel_run_times_from_the_table_beside_it(tmp_path):
    table = tmp_path / "simulation_throughputs.json.gz"
    table.write_bytes(gzip.compress(b'{"v100": {"(\'A (batch size 1)\', 1)": {"null": 4.0}}}'))
    trace, notes = load_trace_with_notes(put(tmp_path, SAMPLES["gavel"]))
    assert trace.jobs["duration_ms"].tolist() == [25_000, -1]
    assert notes[0].startswith("1 jobs")
    for damaged in (b"", gzip.compress(b"{}"), gzip.compress(b"[1]"), table.read_bytes()[:-9]):
        table.write_bytes(damaged)
        with pytest.raises(InputError, match="damaged table") as caught:
            load_trace(tmp_path / "trace.csv")
        assert caught.value.path == str(table)


def test_shockwave_run_time_deadline_and_mode(tmp_path):
    trace, notes = load_trace_with_notes(put(tmp_path, SAMPLES["shockwave"]))
    assert trace.jobs["submit_ms"].tolist() == [0, 55_000]
    assert trace.jobs["duration_ms"].tolist() == [1_418_000, 300_000]
    assert trace.jobs["num_gpus"].tolist() == [1, 2]
    assert trace.jobs["deadline_ms"].tolist() == [-1, 655_000]
    assert trace.extra["mode"].tolist() == ["gns", "static"]
    assert trace.extra["total_steps"].tolist() == [100, 50]
    assert notes[0].startswith("1 jobs change")
    static = SAMPLES["shockwave"].replace("gns", "static")
    assert load_trace_with_notes(put(tmp_path, static))[1] == []


def test_line_numbers_count_line_breaks_in_quotes(tmp_path):
    text = SAMPLES["sia"].replace("bert", '"be\nrt"').replace("5.5", "x")
    with pytest.raises(InputError) as caught:
        load_trace(put(tmp_path, text))
    assert (caught.value.line, caught.value.field) == (4, "time")


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
    assert (back.projects, back.source) == (trace.projects, trace.source)
    assert list(back.extra) == list(trace.extra)
    for key, values in trace.extra.items():
        assert back.extra[key].dtype == values.dtype
        assert (back.extra[key] == values).all()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["t.parquet", "trace.csv"]


def test_damaged_parquet(tmp_path):
    trace = load_trace(put(tmp_path, SAMPLES["muri"]))
    path = write_trace(tmp_path / "t.parquet", trace)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match="damaged"):
        read_trace(path)


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("duration_ms", lambda v: ["x"] * len(v)),
        ("duration_ms", lambda v: [None, *v[1:]]),
        ("duration_ms", lambda v: [-2, *v[1:]]),
        ("gpu_milli", lambda v: [0, *v[1:]]),
        ("submit_ms", lambda v: [9, *v[1:]]),
        ("member", lambda v: [7, *v[1:]]),
        ("job_id", lambda v: ["a"] * len(v)),
        ("extra.batch_size", lambda v: [None, *v[1:]]),
    ],
)
def test_parquet_with_values_that_no_loader_makes(tmp_path, field, change):
    path = write_trace(tmp_path / "t.parquet", load_trace(put(tmp_path, SAMPLES["muri"])))
    table = pq.read_table(path)
    values = change(table[field].to_pylist())
    kind = None if isinstance(values[0], str) else table[field].type
    pq.write_table(table.set_column(table.column_names.index(field), field, pa.array(values, kind)), path)
    with pytest.raises(InputError) as caught:
        read_trace(path)
    assert caught.value.field == field


def test_parquet_of_others_and_of_other_versions(tmp_path):
    path = write_trace(tmp_path / "t.parquet", load_trace(put(tmp_path, SAMPLES["muri"])))
    table = pq.read_table(path)
    for meta, word in ((None, "not a trace"), ({b"dure.trace": b"[]"}, "not a trace"),
                       ({b"dure.trace": b'{"version": 99}'}, "version 99"),
                       ({b"dure.trace": b'{"version": 1}'}, "list of names")):  # fmt: skip
        pq.write_table(table.replace_schema_metadata(meta), path)
        with pytest.raises(InputError, match=word):
            load_trace(path)
    pq.write_table(table.drop_columns(["num_gpus"]), path)
    with pytest.raises(InputError, match="missing column"):
        load_trace(path)


def test_a_failed_write_leaves_nothing(tmp_path):
    trace = load_trace(put(tmp_path, SAMPLES["muri"]))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "full").mkdir()
    with pytest.raises(OSError, match="directory"):
        write_trace(tmp_path / "out" / "full", trace)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["full"]


def test_deadlines_follow_cuts_and_stretches(tmp_path):
    trace = load_trace(put(tmp_path, SAMPLES["chronus"].replace("1,u,4,2", "1,u,4,3")))
    assert (trace.members, trace.jobs["deadline_ms"].tolist()) == (["u", "v"], [60_000, 120_000])
    assert select_members(trace, ["u"]).jobs["deadline_ms"].tolist() == [60_000]
    wide = rescale_arrivals(trace, 2.5)
    assert wide.jobs["submit_ms"].tolist() == [0, 150_000]
    assert (wide.jobs["deadline_ms"] - wide.jobs["submit_ms"]).tolist() == [60_000, 60_000]
    assert trace.jobs["submit_ms"].tolist() == [0, 60_000]
    for factor in (0, -1, float("nan"), float("inf"), 1e12):
        with pytest.raises(InputError):
            rescale_arrivals(trace, factor)


def test_capacity_gives_the_load_and_refuses_what_it_cannot_know(tmp_path):
    trace = load_trace(put(tmp_path, SAMPLES["philly"]))
    asked = 2951 * 4 + 66
    for load in (0.5, 0.7, 0.95):
        gpus = capacity_for_load(trace, load)
        assert asked / (2932 * gpus) <= load < asked / (2932 * (gpus - 1))
        # the same load, half as dense, needs half the GPUs
        assert abs(capacity_for_load(rescale_arrivals(trace, 2), load) - gpus / 2) <= 1
    for wrong in (0, -1, float("nan")):
        with pytest.raises(InputError):
            capacity_for_load(trace, wrong)
    with pytest.raises(InputError, match="2 of 2 jobs"):
        capacity_for_load(load_trace(put(tmp_path, SAMPLES["sia"])), 0.5)


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
    "alibaba_openb_2023/pods/openb_pod_list_multigpu50.csv.gz": 9_061, "gavel/msr_seed0/103959.trace.gz": 986,
}  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
def test_real_files(name):
    data = data_dir()
    if data is None:
        pytest.skip("the recorded traces are not here (DURE_DATA)")
    assert len(load_trace(data / name).jobs) == ROWS[name]


SHOCKWAVE_ROWS = {
    "120_0.2_5_100_40_25": 120, "220_0.2_5_100_25_4": 220, "460_0.2_5_100_10_1": 460, "900_0.2_5_1000_5_15": 900,
    "900_0.2_5_100_5_15": 900,
}  # fmt: skip


@pytest.mark.parametrize("name", SHOCKWAVE_ROWS)
def test_real_shockwave(name):
    data = data_dir()
    if data is None or not (data / "shockwave").is_dir():
        pytest.skip("the recorded traces are not here (DURE_DATA)")
    trace = load_trace(data / "shockwave" / f"{name}_0,0.5,0.5_0.6,0.3,0.09,0.01_multigpu_dynamic.trace.gz")
    assert (trace.source, len(trace.jobs)) == ("shockwave", SHOCKWAVE_ROWS[name])
    assert (trace.jobs["duration_ms"] > 0).all()
    assert set(trace.extra["mode"]) == {"static", "accordion", "gns"}


@pytest.mark.parametrize(("name", "rows"), [("hpc2n", 3_170), ("wagap-2013", 17_900)])
def test_real_swf_accounts_for_every_line(name, rows):
    data = data_dir()
    if data is None:
        pytest.skip("the recorded traces are not here (DURE_DATA)")
    trace, notes = load_trace_with_notes(data / "swf" / f"{name}.swf.gz")
    left = sum(int(note.split(" ")[0].replace(",", "")) for note in notes)
    assert len(trace.jobs) + left == rows


@pytest.mark.parametrize(("name", "rows"), [("SLO", 25_288), ("MIX1", 25_295), ("MIX2", 25_341)])
def test_real_chronus_accounts_for_every_row(name, rows):
    data = data_dir()
    if data is None:
        pytest.skip("the recorded traces are not here (DURE_DATA)")
    trace, notes = load_trace_with_notes(data / "chronus" / f"trace_job_Philly_{name}.csv.gz")
    assert len(trace.jobs) + int(notes[0].split(" ")[0]) == rows
    due = trace.jobs["deadline_ms"]
    is_best = trace.extra["job_type"] == "best"
    assert (due[is_best] == -1).all()
    assert (due[~is_best] > trace.jobs["submit_ms"][~is_best]).all()


def test_machines_and_cluster_specs(tmp_path):
    fleet = load_nodes(put(tmp_path, "0\tbig\t2\t40\t1\t4096\n1\tsmall\t3\t2\t1\t2048\n"))
    assert fleet.nodes["num_gpus"].tolist() == [14, 13, 13, 14, 13, 13, 2, 2, 2]
    assert fleet.nodes["rack"].tolist() == [0, 0, 0, 1, 1, 1, 2, 3, 4]
    assert fleet.clusters == ["big", "small"]
    assert len(set(fleet.node_names)) == 9
    head_of = "num_switch,num_node_p_switch,num_gpu_p_node,num_cpu_p_node,mem_p_node\n"
    spec = load_nodes(put(tmp_path, head_of + "2,3,4,128,256"))
    assert (spec.num_gpus, spec.nodes["rack"].tolist()) == (24, [0, 0, 0, 1, 1, 1])
    assert (spec.nodes["cpu_milli"] == 128_000).all()


@pytest.mark.parametrize(
    ("text", "line", "field"),
    [
        ("0 a 2 x 1 4\n", 1, "processors"), ("0 a 2 2 1 4\n1 a 2 2 1 4\n", 2, "name"), ("0 a 0 2 1 4\n", 1, "nodes"),
        ("0 a 2 2 1 4\n1 b 2\n", 2, ""), ("0 a 2 2 1 -4\n", 1, "memory_kib"),
        ("num_switch,num_node_p_switch,num_gpu_p_node,num_cpu_p_node,mem_p_node\n1,2,99,4,5\n", 2, "num_gpu_p_node"),
        ("num_switch,num_node_p_switch,num_gpu_p_node,num_cpu_p_node,mem_p_node\n", 1, ""),
        ("sn,cpu_milli,memory_mib,gpu,model\na,1,1,17,T4\n", 2, "gpu"),
        ("sn,cpu_milli,memory_mib,gpu,model\na,1,1,2,T4\na,1,1,2,T4\n", 3, "sn"),
        ("a,b\n", 1, ""),
    ],
)  # fmt: skip
def test_faults_in_node_lists(tmp_path, text, line, field):
    with pytest.raises(InputError) as caught:
        load_nodes(put(tmp_path, text))
    assert (caught.value.line, caught.value.field) == (line, field)


def test_real_nodes():
    data = data_dir()
    if data is None:
        pytest.skip("the recorded traces are not here (DURE_DATA)")
    every = load_nodes(data / "alibaba_openb_2023" / "openb_node_list_all_node.csv")
    assert (len(every.nodes), every.num_gpus) == (1_523, 6_212)
    spot = load_nodes(data / "alibaba_spot_2026" / "node_info_df.csv")
    assert (len(spot.nodes), spot.num_gpus) == (4_278, 10_412)
    assert load_nodes(data / "tiresias" / "n256g8.csv").num_gpus == 8 * 32 * 8
    assert load_nodes(data / "swf" / "hpc2n.swf.machines").num_gpus == 120 * 2
    assert load_nodes(data / "swf" / "wagap-2013.swf.machines").num_gpus == 20 * 80 + 48 * 12
