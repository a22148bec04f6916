"""What Slurm's commands say, and what is asked of them: no cluster is needed."""

from pathlib import PurePath

import pytest

from dure.executors.far import Now, RankEnd, order_to_json
from dure.executors.slurm.attempt import SlurmAttempt, attempt_from
from dure.executors.slurm.commands import (
    gpus_of_job,
    has_accounts,
    parse_accounts,
    parse_job,
    parse_node,
    parse_partition,
    sbatch_options,
)
from dure.executors.slurm.engine import Cluster, Part, Phase, Shape, SlurmJob
from dure.executors.slurm.nodes import cluster_from_json, cluster_to_json, nodes_of, offer, partition_of, shape_of
from dure.model.accounts import is_unlike
from dure.model.errors import InputError
from dure.model.events import Placement
from dure.ports.executor import Launch, LaunchError, RunState

NOW = Now(1_000_000, 1_800_000_000_000, "boot")


def node_line(name="n0", *, gres="gpu:h100:4(S:0-1)", used="gpu:h100:0(IDX:N/A)", state="IDLE", partitions="gpu,all", more=""):
    return (
        f"NodeName={name} Arch=x86_64 CPUAlloc=0 CPUEfctv=60 CPUTot=64 Gres={gres} GresUsed={used} NodeAddr=10.0.0.1 "
        f"OS=Linux 6.1 #1 SMP x=y RealMemory=512000 State={state} Partitions={partitions} {more}"
    )


PARTITIONS = (
    "PartitionName=gpu Default=YES MaxTime=UNLIMITED Nodes=n[0-9]",
    "PartitionName=all Default=NO MaxTime=1-12:30:00 Nodes=n[0-9]",
)


def cluster(*lines):
    return Cluster(tuple(parse_node(line) for line in lines), tuple(parse_partition(line) for line in PARTITIONS))


@pytest.mark.parametrize(
    ("gres", "gpus", "types"),
    [
        ("gpu:h100:4(S:0-1)", 4, ("h100",)),
        ("gpu:8", 8, ("",)),
        ("gpu:4(S:0-1)", 4, ("",)),
        ("tmp:100G,gpu:a100_80gb:2,shard:h:8", 2, ("a100_80gb",)),
        ("gpu:a:2(IDX:0,1),gpu:b:3(IDX:0-2)", 5, ("a", "b")),
        ("(null)", 0, ()),
    ],
)
def test_gpus_of_a_node(gres, gpus, types):
    node = parse_node(node_line(gres=gres))
    assert (node.gpus, node.gpu_types) == (gpus, types)


def test_a_node_gives_what_jobs_can_have():
    node = parse_node(node_line(used="gpu:h100:3(IDX:0-1,3)", more="MemSpecLimit=2000"))
    assert (node.cpus, node.mem_mib, node.gpus_used, node.address) == (60, 510_000, 3, "10.0.0.1")
    assert node.partitions == {"gpu", "all"}


@pytest.mark.parametrize(
    ("state", "is_there", "is_open"),
    [
        ("IDLE", True, True),
        ("MIXED", True, True),
        ("ALLOCATED", True, True),
        ("IDLE+CLOUD+POWERED_DOWN", True, True),
        ("MIXED+DRAIN", True, False),
        ("IDLE+DRAIN", True, False),
        ("ALLOCATED+COMPLETING+DRAIN", True, False),
        ("IDLE*", True, False),
        ("IDLE+NOT_RESPONDING", True, False),
        ("MIXED+MAINT+RESERVED", True, False),
        ("DOWN", False, False),
        ("DOWN*+DRAIN", False, False),
        ("IDLE+FAIL", False, False),
        ("FUTURE", False, False),
        ("UNKNOWN", True, False),
    ],
)
def test_which_nodes_are_offered(state, is_there, is_open):
    all_of = cluster(node_line(state=state))
    found = offer(nodes_of(all_of, partition_of(all_of, "")), {}, ())
    assert bool(found) is is_there
    assert all(node.is_open is is_open for node in found)


def test_nodes_of_other_partitions_and_of_mixed_types_are_not_offered():
    all_of = cluster(node_line("n0", partitions="other"), node_line("n1", gres="gpu:a:1,gpu:b:1"), node_line("n2"))
    assert [node.name for node in offer(nodes_of(all_of, partition_of(all_of, "gpu")), {}, ())] == ["n2"]


def test_a_node_is_closed_where_more_gpus_are_used_than_are_ours():
    all_of = cluster(*(node_line(name, used="gpu:h100:2(IDX:0-1)") for name in ("n0", "n1", "n2")))
    found = offer(nodes_of(all_of, partition_of(all_of, "")), {"n0": 2, "n1": 1, "n2": 4}, {"n2"})
    assert [node.is_open for node in found] == [True, False, False]


def test_partitions():
    all_of = cluster()
    assert partition_of(all_of, "").time_max_min is None
    assert partition_of(all_of, "all").time_max_min == 36 * 60 + 30
    with pytest.raises(InputError, match="no partition 'none'; there are all, gpu"):
        partition_of(all_of, "none")


def launch(*placements, **other):
    values = {"lease_id": "j1.1", "fence": 1, "job_id": "j1", "attempt": 1, "argv": ("true",), "log_dir": "/l", "checkpoint_dir": "/c"}
    return Launch(placements=placements, **{**values, **other})


@pytest.mark.parametrize(
    ("placements", "other", "partition", "asked"),
    [
        ([Placement("n0", (0,))], {}, "gpu", Shape("gpu", (Part(("n0",), 1, "h100", 15, 128_000),), None)),
        ([Placement("n0", (0, 1)), Placement("n1", (2, 3))], {"cpu_milli": 5_500, "mem_mib": 1_001}, "gpu",
         Shape("gpu", (Part(("n0", "n1"), 2, "h100", 3, 501),), None)),
        ([Placement("n0", (0, 1)), Placement("n1", (2,)), Placement("a0", (0, 1)), Placement("n2", (2, 3))],
         {"cpu_milli": 14_000, "mem_mib": 1_002}, "gpu",
         Shape("gpu", (Part(("n0", "n2"), 2, "h100", 4, 287), Part(("n1",), 1, "h100", 2, 144), Part(("a0",), 2, "a100", 4, 287)), None)),
        ([Placement("n0", (0,)), Placement("n1", (0, 1))], {}, "gpu",
         Shape("gpu", (Part(("n0",), 1, "h100", 15, 128_000), Part(("n1",), 2, "h100", 30, 256_000)), None)),
        ([Placement("n0", ())], {"cpu_milli": 6_000}, "gpu", Shape("gpu", (Part(("n0",), 0, "", 6, 51_200),), None)),
        ([Placement("n0", ()), Placement("a0", ())], {}, "all", Shape("all", (Part(("n0", "a0"), 0, "", 1, 8_533),), 36 * 60 + 30)),
        ([Placement("n0", (0,))], {"limit_ms": 61_000, "grace_ms": 0}, "gpu", Shape("gpu", (Part(("n0",), 1, "h100", 15, 128_000),), 7)),
        ([Placement("n0", (0,))], {"limit_ms": 10**9}, "all", Shape("all", (Part(("n0",), 1, "h100", 15, 128_000),), 36 * 60 + 30)),
    ],
)  # fmt: skip
def test_what_is_asked_for_a_launch(placements, other, partition, asked):
    all_of = cluster(node_line("n0"), node_line("n1"), node_line("n2"), node_line("a0", gres="gpu:a100:4"))
    found = partition_of(all_of, partition)
    assert shape_of(launch(*placements, **other), nodes_of(all_of, found), found) == asked


def test_parts_of_gpus_are_refused():
    all_of = cluster(node_line("n0"))
    found = partition_of(all_of, "")
    with pytest.raises(LaunchError, match="parts of GPUs"):
        shape_of(launch(Placement("n0", (0,), 500)), nodes_of(all_of, found), found)


def test_options_of_sbatch():
    shape = Shape("gpu", (Part(("n0", "n1"), 2, "", 3, 501),), None)
    words = sbatch_options(shape, "dure-j1.1-x", "fence=1", 1, "acct")
    assert {"--nodelist=n0,n1", "--nodes=2", "--gres=gpu:2", "--mem=501M", "--time=UNLIMITED", "--account=acct", "--no-requeue"} <= set(words)
    assert not any(word.startswith("--array") for word in words)
    assert "--array=0-4" in sbatch_options(shape, "dure-j1.1-x", "fence=1", 5)
    unlike = Shape("gpu", (shape.parts[0], Part(("n2",), 1, "h100", 1, 99)), 7)
    words = sbatch_options(unlike, "dure-j1.1-x", "fence=1", 1)
    first, second = words[: words.index(":")], words[words.index(":") + 1 :]
    assert {"--nodelist=n0,n1", "--gres=gpu:2", "--job-name=dure-j1.1-x", "--no-requeue", "--time=7"} <= set(first)
    assert {"--nodelist=n2", "--gres=gpu:h100:1", "--job-name=dure-j1.1-x", "--no-requeue", "--time=7"} <= set(second)


def job_line(state, *, task="N/A", restarts=0, status="0", tres="cpu=4,gres/gpu=5,gres/gpu:h100=5"):
    columns = (("41", 14), ("40", 14), (task, 12), ("dure-a b.1-x", 128), (state, 20), ("None", 48), ("1800000000", 24), ("NONE", 24),
               (str(restarts), 8), (status, 10), ("2", 8), ("gres:gpu:h100:3", 64), (tres, 256))  # fmt: skip
    return "".join(text.ljust(width) for text, width in columns)


def test_a_line_of_squeue():
    assert parse_job(job_line("RUNNING", task="3")) == SlurmJob(41, 40, 3, "dure-a b.1-x", "RUNNING", "None", 1_800_000_000, -1, 0, 0, 5)
    assert parse_job(job_line("RUNNING", task="0")).word == "40_0"
    assert parse_job(job_line("RUNNING")).word == "41"


@pytest.mark.parametrize(
    ("state", "restarts", "phase"),
    [("PENDING", 0, Phase.PENDING), ("CONFIGURING", 0, Phase.STARTING), ("SUSPENDED", 0, Phase.RUNNING), ("COMPLETING", 0, Phase.RUNNING),
     ("FAILED", 0, Phase.ENDED), ("PREEMPTED", 0, Phase.TAKEN), ("NODE_FAIL", 0, Phase.TAKEN), ("REQUEUED", 0, Phase.TAKEN),
     ("A_STATE_OF_THE_FUTURE", 0, Phase.TAKEN), ("PENDING", 1, Phase.TAKEN), ("RUNNING", 1, Phase.TAKEN)],
)  # fmt: skip
def test_phases(state, restarts, phase):
    assert parse_job(job_line(state, restarts=restarts)).phase is phase


@pytest.mark.parametrize(("status", "code"), [("0", 0), ("768", 3), ("15", 143), ("9", 137), ("3:0", None)])
def test_exit_codes(status, code):
    assert parse_job(job_line("FAILED", status=status)).exit_code == code


@pytest.mark.parametrize(
    ("allocated", "per_node", "nodes", "gpus"),
    [
        ("cpu=4,mem=200M,node=2,billing=4,gres/gpu=5", "gres:gpu:2", "2", 5),
        ("cpu=4,mem=200M,node=2,billing=4", "gres:gpu:h100:2", "2", 4),
        ("cpu=4", "gres/gpu:a100_80gb:2", "3", 6),
        ("cpu=4", "gres:gpu:2,gres:tmp:5", "1", 2),
        ("cpu=4", "gres:gpu", "2", 2),
        ("cpu=4", "gres:tmp:5", "2", 0),
        ("", "N/A", "1", 0),
    ],
)
def test_gpus_of_a_job(allocated, per_node, nodes, gpus):
    assert gpus_of_job(allocated, per_node, nodes) == gpus


def test_accounts_of_jobs_that_have_ended():
    text = (
        "41|COMPLETED|10|billing=1,cpu=1,gres/gpu:h100=2,gres/gpu=2,node=1\n40_7|CANCELLED by 0|3|cpu=1,gres/gpu=1\n42|RUNNING|9|gres/gpu=1\n"
        "50+0|FAILED|4|gres/gpu=2\n50+1|FAILED|4|gres/gpu=1\n60+0|COMPLETED|4|gres/gpu=2\n60+1|RUNNING|4|gres/gpu=1\n70|TIMEOUT|4|cpu=1\n"
    )
    assert parse_accounts(text) == {"41": 20_000, "40_7": 3_000, "50": 12_000, "70": 0}


@pytest.mark.parametrize(
    ("kind", "counted", "is_so"),
    [("accounting_storage/slurmdbd", "cpu,mem,gres/gpu", True), ("accounting_storage/slurmdbd", "cpu,mem", False),
     ("accounting_storage/none", "cpu,mem,gres/gpu", False)],
)  # fmt: skip
def test_whether_there_are_accounts(kind, counted, is_so):
    assert has_accounts(f"x = y\nAccountingStorageTRES   = {counted}\nAccountingStorageType   = {kind}\n") is is_so


@pytest.mark.parametrize(
    ("ours", "theirs", "gpus", "is_so"),
    [(100_000, 95_000, 1, False), (100_000, 94_999, 1, True), (800_000, 840_000, 8, False), (1_000_000, 1_009_999, 1, False), (0, 9_000, 1, True)],
)
def test_when_accounts_differ(ours, theirs, gpus, is_so):
    assert is_unlike(ours, theirs, gpus * 1000) is is_so


def attempt(**other):
    shape = Shape("gpu", (Part(("n0", "n1"), 1, "h100", 1, 1),), None)
    return SlurmAttempt(launch(Placement("n0", (0,)), Placement("n1", (0,)), **other), PurePath("/f"), shape, "name")


def test_the_first_failure_counts():
    one = attempt()
    assert one.code_of({0: RankEnd(0, 5)}) is None
    assert one.code_of({0: RankEnd(0, 5), 1: RankEnd(0, 6)}) == 0
    assert one.code_of({0: RankEnd(137, 9), 1: RankEnd(3, 6)}) == 3


def test_a_stop_order_outlives_a_reboot_of_this_machine():
    one = attempt()
    assert one.order("TERM", NOW.boot_ms + 30_000)
    assert not one.order("TERM", NOW.boot_ms + 40_000)
    text = order_to_json(one.stop, NOW)
    same = attempt_from(one.intent(), text, PurePath("/f"), Now(NOW.boot_ms + 10_000, NOW.wall_ms - 99, "boot"))
    assert (same.stop, same.state, same.launch, same.shape) == (one.stop, RunState.STOPPING, one.launch, one.shape)
    later = attempt_from(one.intent(), text, PurePath("/f"), Now(5_000, NOW.wall_ms + 20_000, "another boot"))
    assert later.stop.kill_at_boot_ms == 15_000


def test_the_limit_of_an_attempt_taken_up_counts_from_its_start():
    one = attempt(limit_ms=60_000)
    one.is_adopted = True
    one.see_begun(NOW.wall_ms - 50_000, NOW)
    assert one.due_at() == NOW.boot_ms + 10_000
    fresh = attempt(limit_ms=60_000)
    fresh.see_begun(NOW.wall_ms - 50_000, NOW)
    assert fresh.due_at() == NOW.boot_ms + 60_000


def test_a_cluster_is_the_same_after_it_was_written():
    all_of = cluster(node_line("n0"), node_line("n1", gres="(null)", state="DOWN*"))
    assert cluster_from_json(cluster_to_json(all_of)) == all_of
