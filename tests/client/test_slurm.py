"""Slurm's commands: tables of options and forms; scripts really run by sh through the stand-in's HTTP."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dure.cli.slurm.commands import TABLES
from dure.cli.slurm.docs import with_tables
from dure.cli.slurm.getopt import Takes, read_options
from dure.cli.slurm.options import HONOURED, REFUSED, SBATCH
from dure.cli.slurm.script import script_options
from dure.cli.slurm.spec import Caller, batch_spec
from dure.cli.slurm.times import duration, parse_limit_s, parse_moment
from dure.cli.slurm.words import host_list
from dure.model.errors import InputError
from dure.model.job_file import JobSpec

SEOUL = timezone(timedelta(hours=9))
NOW = datetime(2031, 5, 6, 13, 30, 15, tzinfo=SEOUL)
CALLER = Caller("/home/alice", {"PATH": "/bin", "TOKEN": "t", "DURE_TOKEN": "secret", "SLURM_X": "1"}, NOW, "alice")


def spec_of(*words):
    values, rest = read_options(SBATCH, words)
    assert rest == ()
    return batch_spec(values, "#!/bin/sh\n", (), "job.sh", CALLER)


def res(**values):
    return lambda spec: {key: getattr(spec.resources, key) for key in values} == values


def has(**values):
    return lambda spec: {key: getattr(spec, key) for key in values} == values


def env(**values):
    return lambda spec: {key: spec.env.get(key) for key in values} == values


@pytest.mark.parametrize(
    ("words", "is_right"),
    [
        ("", res(gpus=0, cpus=0, mem_gib=0, sites=(), gpu_types=())),
        ("", has(name="job.sh", workdir="/home/alice", priority="normal", project="", time_limit=None)),
        ("-J train", has(name="train")),
        ("-Jtrain", has(name="train")),
        ("--job-name=train", has(name="train")),
        ("--job-n train", has(name="train")),
        ("-A forge/vision", has(project="forge/vision")),
        ("-D /data", has(workdir="/data")),
        ("--chdir sub", has(workdir="/home/alice/sub")),
        ("-p seoul,busan", res(sites=("seoul", "busan"))),
        ("-C H200", res(gpu_types=("H200",))),
        ("-C [H200|B300]", res(gpu_types=("H200", "B300"))),
        ("-G 16", res(gpus=16, gpus_per_node=0)),
        ("--gpus=H200:16", res(gpus=16, gpu_types=("H200",))),
        ("-N 2 -G 16", res(gpus=16, gpus_per_node=8)),
        ("-N 2 --gpus-per-node=8", res(gpus=16, gpus_per_node=8)),
        ("--gpus-per-node=4", res(gpus=4, gpus_per_node=4)),
        ("--gres=gpu", res(gpus=1, gpus_per_node=1)),
        ("--gres=gpu:2", res(gpus=2, gpus_per_node=2)),
        ("--gres=gpu:H200", res(gpus=1, gpu_types=("H200",))),
        ("-N4 --gres=gpu:H200:2", res(gpus=8, gpus_per_node=2, gpu_types=("H200",))),
        ("--gres=gpu:2 --gpus-per-node=2", res(gpus=2)),
        ("-n 8 --gpus-per-task=1", res(gpus=8, cpus=8)),
        ("-n 8 --ntasks-per-node=4 --gpus-per-node=4", res(gpus=8, gpus_per_node=4)),
        ("-G 8 --gres=gpu:4", res(gpus=8, gpus_per_node=4)),
        ("-n 4", res(cpus=4)),
        ("-c 6", res(cpus=6)),
        ("-n 4 -c 6", res(cpus=24)),
        ("-N 2 --gres=gpu:1 --ntasks-per-node=2 -c 3", res(cpus=12)),
        ("-G 4 --cpus-per-gpu=12", res(cpus=48)),
        ("--ntasks-per-gpu=2 -G 4", env(SLURM_NTASKS="8")),
        ("--mem=64G", res(mem_gib=64)),
        ("--mem=512", res(mem_gib=0.5)),
        ("--mem=1T", res(mem_gib=1024)),
        ("--mem=2048K", res(mem_gib=2 / 1024)),
        ("-N 2 --gres=gpu:1 --mem=10G", res(mem_gib=20)),
        ("-n 4 --mem-per-cpu=2G", res(mem_gib=8)),
        ("-G 4 --mem-per-gpu=100G", res(mem_gib=400)),
        ("--switches=1", res(topology="block")),
        ("-t 90", has(time_limit=5_400_000)),
        ("-t 1-0", has(time_limit=86_400_000)),
        ("-t 0", has(time_limit=None)),
        ("-t UNLIMITED", has(time_limit=None)),
        ("-b now+2hours", has(begin="2031-05-06T15:30:15+09:00")),
        ("--begin=2031-06-01T08:00", has(begin="2031-06-01T08:00:00+09:00")),
        ("-q high", has(priority="high")),
        ("--qos=low", has(priority="best-effort")),
        ("--nice", has(priority="best-effort")),
        ("--nice=0", has(priority="normal")),
        ("--requeue", has(name="job.sh")),
        ("--kill-on-invalid-dep=yes", has(name="job.sh")),
        ("--comment=hello", env(SLURM_JOB_COMMENT="hello")),
        ("", env(PATH=None, TOKEN=None, SLURM_JOB_NAME="job.sh", SLURM_SUBMIT_DIR="/home/alice")),
        ("--export=NONE", env(PATH=None)),
        ("--export=TOKEN,A=b=c,ABSENT", env(TOKEN="t", A="b=c", ABSENT=None, PATH=None)),
        ("--export=ALL", env(PATH="/bin", TOKEN="t", DURE_TOKEN=None, SLURM_X=None)),
        ("--export=ALL,A=1", env(PATH="/bin", A="1")),
        ("-n 8 --ntasks-per-node 4 -c 2 --gres=gpu:4", env(SLURM_NTASKS="8", SLURM_NTASKS_PER_NODE="4", SLURM_CPUS_PER_TASK="2", SLURM_GPUS="8")),
        ("-o out-%j.txt", env(DURE_SBATCH_OUTPUT="out-\"${SLURM_JOB_ID}\".txt")),
        ("-o %x%%;rm", env(DURE_SBATCH_OUTPUT="job.sh%';rm'")),
        ("-e %A_%a.err --open-mode=append", env(DURE_SBATCH_APPEND="1")),
    ],
)  # fmt: skip
def test_an_option_is_honoured(words, is_right):
    spec = spec_of(*words.split())
    assert is_right(spec), spec


@pytest.mark.parametrize(
    ("text", "indices", "limit"),
    [
        ("0-3", (0, 1, 2, 3), 0),
        ("1,3,5-7", (1, 3, 5, 6, 7), 0),
        ("0-15:4%2", (0, 4, 8, 12), 2),
        ("5%1", (5,), 1),
        ("3,1,2-3", (1, 2, 3), 0),
    ],
)
def test_arrays(text, indices, limit):
    spec = spec_of("--array", text)
    assert (spec.array.indices, spec.array.limit) == (indices, limit)
    assert spec.env["SLURM_ARRAY_TASK_COUNT"] == str(len(indices))
    assert (spec.env["SLURM_ARRAY_TASK_MIN"], spec.env["SLURM_ARRAY_TASK_MAX"]) == (str(indices[0]), str(indices[-1]))


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("afterok:1:2", [("1", "afterok"), ("2", "afterok")]),
        ("afterok:1,afterany:2,afternotok:3", [("1", "afterok"), ("2", "afterany"), ("3", "afternotok")]),
        ("17", [("17", "afterany")]),
    ],
)
def test_dependencies(text, wanted):
    assert [(part.job, part.when) for part in spec_of("-d", text).depends_on] == wanted


@pytest.mark.parametrize(
    ("text", "signal_name", "grace_s"),
    [("USR1@90", "USR1", 90), ("B:TERM@5", "TERM", 5), ("10", "USR1", 60), ("SIGTERM", "TERM", 60), ("B:usr1", "USR1", 60)],
)
def test_signals(text, signal_name, grace_s):
    checkpoint = spec_of("--signal", text).checkpoint
    assert (checkpoint.signal, checkpoint.grace) == (signal_name, grace_s * 1000)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--no-such", "--no-such: is no option"),
        ("-Z", "-Z: is no option"),
        ("--ntasks-per", "may mean --ntasks-per-gpu, --ntasks-per-node"),
        ("--time", "-t, --time: needs a value"),
        ("-n", "-n, --ntasks: needs a value"),
        ("--parsable=1", "takes no value"),
        ("-N 0", "-N, --nodes: must be a whole number"),
        ("-N 1-4 -G 4", "a range of nodes is not honoured"),
        ("-N 2", "2 nodes need GPUs"),
        ("-N 2 -G 3", "cannot stand in equal parts"),
        ("-n x", "must be a whole number from 1 on"),
        ("-c 0", "-c, --cpus-per-task: must be"),
        ("--gres=shard:4", "must be gpu[:TYPE][:COUNT]"),
        ("--gres=gpu:1,lscratch:10", "must be gpu[:TYPE][:COUNT]"),
        ("--gres=gpu:2 --gpus-per-node=3", "says 2 GPUs a node, --gpus-per-node 3"),
        ("-N 2 -G 8 --gres=gpu:2", "do not agree: 4 or 8 in all"),
        ("-G 200000", "200000 GPUs are more"),
        ("--gpus-per-node=32", "--gpus-per-node: "),
        ("-C a&b", "-C, --constraint: must be GPU types"),
        ("-C H200 --gres=gpu:B300:1", "do not agree on a GPU type"),
        ("--mem=lots", "must be a number with K, M, G or T"),
        ("--mem=0", "0 (all of a node's memory)"),
        ("--mem=1G --mem-per-cpu=1G", "--mem-per-cpu: cannot stand beside --mem"),
        ("-G 16 --mem=10G", "give --nodes too"),
        ("--mem-per-gpu=1G", "needs GPUs"),
        ("-t soon", "-t, --time: must be minutes"),
        ("-t 1:2:3:4", "must be minutes"),
        ("-b yesterday", "-b, --begin: must be"),
        ("-b now+3moons", "counts in seconds"),
        ("-b 25:00", "no such time of day"),
        ("-a 5-1", "-a, --array: '5-1' is no range"),
        ("-a 0-4%0", "after % must stand"),
        ("-a 0-99999", "is no range of at most"),
        ("-a 0-9999,20000", "more than 10,000"),
        ("-a x", "must be such as 0-15"),
        ("-d after:1", "must be afterok"),
        ("-d afterok", "must be afterok" ),
        ("-d afterok:", "names no job"),
        ("-d afterok:1?afterok:2", "must be afterok"),
        ("-d singleton", "must be afterok"),
        ("-d afterok:1+5", "names no job"),
        ("--signal=USR2@60", "--signal: must be [B:]TERM"),
        ("--signal=R:TERM", "R: (overlap"),
        ("--switches=2", "must be 1"),
        ("--switches=1@10:00", "must be 1"),
        ("-q gold", "-q, --qos: must be high"),
        ("--nice=-5", "nobody moves themselves forward"),
        ("--export=A-B", "--export: must be names"),
        ("-o %s", "%s is not honoured"),
        ("-o x%", "% is not honoured"),
        ("--open-mode=maybe", "--open-mode: must be append"),
        ("--kill-on-invalid-dep=no", "must be yes"),
        ("-A a,b", "-A, --account: String should match"),
        ("--mail-type=END", "--mail-type: is not honoured: Dure sends no mail"),
        ("-w n1", "-w, --nodelist: is not honoured"),
    ],
)
def test_what_is_not_honoured_is_refused_by_name(words, says):
    with pytest.raises(InputError, match=re.escape(says)):
        spec_of(*words.split())


@pytest.mark.parametrize("option", REFUSED, ids=lambda option: option.name)
def test_each_refused_option_is_refused_in_both_places(option, dure, tmp_path, monkeypatch):
    monkeypatch.delenv("DURE_URL", raising=False)
    word = f"--{option.name}" + ("=1" if option.takes is Takes.VALUE else "")
    path = tmp_path / "job.sh"
    path.write_text(f"#!/bin/sh\n\n#SBATCH {word}\ntrue\n")
    for said, place in ((dure("sbatch", word, str(path)), ""), (dure("sbatch", "--test-only", str(path)), f"{path}:3: ")):
        assert said.returncode == 2
        assert said.stderr == f"dure: {place}{option.shown}: is not honoured: {option.meaning}\n"


def test_the_table_is_slurm_s():
    names = [option.name for option in SBATCH]
    shorts = [option.short for option in SBATCH if option.short]
    assert len(set(names)) == len(names)
    assert len(set(shorts)) == len(shorts)
    assert len(HONOURED) >= 30
    assert all(option.meaning for usage, table in TABLES.values() for option in table)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("5", 300), ("5:30", 330), ("1:00:00", 3600), ("2-3", 183_600), ("1-2:03", 93_780), ("1-2:03:04", 93_784), ("0", None),
     ("infinite", None), ("00:30", 30)],
)  # fmt: skip
def test_time_limits(text, seconds):
    assert parse_limit_s(text) == seconds


@pytest.mark.parametrize("text", ["", "-1", "1-", "1:", "a", "1:2:3:4", "1-2:3:4:5", "1.5", "99999999999", "٣"])
def test_no_time_limits(text):
    with pytest.raises(ValueError, match=r"must be|longer"):
        parse_limit_s(text)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("now", "2031-05-06T13:30:15"),
        ("now+60", "2031-05-06T13:31:15"),
        ("now + 3days", "2031-05-09T13:30:15"),
        ("16:00", "2031-05-06T16:00:00"),
        ("12:00", "2031-05-07T12:00:00"),
        ("04:30:10 PM", "2031-05-06T16:30:10"),
        ("12:15am", "2031-05-07T00:15:00"),
        ("noon", "2031-05-07T12:00:00"),
        ("teatime", "2031-05-06T16:00:00"),
        ("midnight", "2031-05-07T00:00:00"),
        ("today", "2031-05-06T00:00:00"),
        ("tomorrow", "2031-05-07T00:00:00"),
        ("2031-12-24", "2031-12-24T00:00:00"),
        ("2031-12-24T18:00:01", "2031-12-24T18:00:01"),
        ("12/24/31", "2031-12-24T00:00:00"),
        ("122431", "2031-12-24T00:00:00"),
        ("12/24", "2031-12-24T00:00:00"),
        ("02/03", "2032-02-03T00:00:00"),
    ],
)
def test_moments(text, wanted):
    assert parse_moment(text, NOW).isoformat() == wanted + "+09:00"


@pytest.mark.parametrize(("seconds", "text"), [(5, "0:05"), (3600, "1:00:00"), (93_784, "1-02:03:04"), (-3, "0:00")])
def test_durations(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (["n1", "n2", "n3", "n7"], "n[1-3,7]"), (["n1"], "n1"), (["n01", "n02"], "n[01-02]"), (["a", "b"], "a,b"), ([], ""),
        (["gpu-1", "gpu-2", "login"], "gpu-[1-2],login"),
    ],
)  # fmt: skip
def test_host_lists(names, text):
    assert host_list(names) == text


SCRIPT = """#!/bin/bash
#SBATCH -J first
# a comment

#SBATCH --job-name="two words"   # why
#SBATCH -N 2 --gres=gpu:4
#SBATCHX not one of ours
##SBATCH --mem=1G
#SBATCH --comment 'it''s' -p a\\ b
echo hello
#SBATCH --job-name=late
"""


def test_a_script_s_lines():
    found = script_options(SCRIPT, "job.sh")
    assert {name: (part.value, part.line) for name, part in found.items()} == {
        "job-name": ("two words", 5), "nodes": ("2", 6), "gres": ("gpu:4", 6), "comment": ("its", 9), "partition": ("a b", 9),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("echo\n", "job.sh:1: is no batch script"),
        ("", "job.sh:1: is no batch script"),
        ("#!/bin/sh\r\n", "job.sh:1: has DOS line ends"),
        ("#!/bin/sh\n\0", "job.sh:2: has a NUL"),
        ("#!/bin/sh\n#SBATCH --wrong=1\n", "job.sh:2: --wrong: is no option"),
        ("#!/bin/sh\n#SBATCH -J 'x\n", "job.sh:2: #SBATCH: a ' is not closed"),
        ("#!/bin/sh\n#SBATCH train\n", "job.sh:2: #SBATCH: 'train' is no option"),
        ("#!/bin/sh\n#SBATCH hetjob\n", "job.sh:2: #SBATCH: 'hetjob' is no option"),
        ("#!/bin/sh\n\n#SBATCH -t\n", "job.sh:3: -t, --time: needs a value"),
        ("#!/bin/sh\n#SBATCH --mem=x\n", "job.sh:2: --mem: must be a number"),
        ("#!/bin/sh\n" + "#" * 1_000_001, "longer than 1,000,000"),
    ],
)
def test_a_bad_script_names_its_line(text, says):
    with pytest.raises(InputError, match=re.escape(says)):
        batch_spec(script_options(text, "job.sh"), text, (), "job.sh", CALLER)


OPTION_TEXT = st.one_of(
    st.text(max_size=30),
    st.builds(
        lambda option, eq, value: f"--{option.name}{eq}{value}" if option.takes is not Takes.NOTHING else f"--{option.name}",
        st.sampled_from(SBATCH),
        st.sampled_from(["=", " "]),
        st.one_of(
            st.sampled_from(["1", "0", "2-3", "gpu:2", "afterok:1", "now+1", "10:00", "USR1@9", "4G", "H200", "%j", "ALL", "high"]),
            st.text(max_size=12),
            st.from_regex(r"[0-9:%@,\-+]{1,12}", fullmatch=True),
        ),
    ),
    st.from_regex(r"-[A-Za-z] ?[A-Za-z0-9:=]{0,8}", fullmatch=True),
)


def outcome(read):
    """What it gives, or the one kind of error that it may raise."""
    try:
        return read()
    except InputError as error:
        return error


@given(st.lists(OPTION_TEXT, max_size=5))
@example(["--begin=0000-01-01"])
@example(["--begin=9999-12-31T23:59:59 --nice"])
@example(["--begin=now+999999999weeks"])
@example(["-t 999999-999:99:99"])
@example(['--job-name=""'])
@example(["--job-name=" + "x" * 300])
@example(["--array=0-0"])
@example(["-C []"])
@example(["--chdir=" + "/x" * 3000])
def test_any_sbatch_line_gives_a_job_or_one_error_with_its_place(lines):
    text = "#!/bin/sh\n" + "".join(f"#SBATCH {line}\n" for line in lines) + "true\n"
    found = outcome(lambda: batch_spec(script_options(text, "job.sh"), text, (), "job.sh", CALLER))
    if isinstance(found, JobSpec):
        assert JobSpec.model_validate_json(found.model_dump_json()) == found
        return
    assert found.path == "job.sh", found
    assert found.line >= 1
    assert found.field.startswith(("-", "#SBATCH")) or found.message.startswith(("has ", "is no batch"))


@given(st.text(max_size=200), st.booleans())
def test_any_text_is_a_script_or_one_error(text, is_script):
    text = "#!/bin/sh\n#SBATCH" + text if is_script else text
    found = outcome(lambda: script_options(text, "job.sh"))
    assert isinstance(found, dict) or found.path == "job.sh"


def submit(dure, tmp_path, script, *options):
    path = tmp_path / "job.sh"
    path.write_text(script)
    said = dure("sbatch", "--parsable", *options, str(path))
    assert said.returncode == 0, said.stderr
    return said.stdout.strip()


def log_of(dure, job_id, rank=0):
    return dure("logs", job_id, "-f", "--rank", str(rank)).stdout


def test_a_script_runs_by_its_first_line_with_its_words(service, dure, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "job.py"
    path.write_text(f"#!{sys.executable}\n#SBATCH -J py\nimport os, sys\nprint(sys.argv[1:], os.getcwd(), os.environ['SLURM_JOB_NAME'])\n")
    said = dure("sbatch", str(path), "a b", "--json")
    assert said.stdout == "Submitted batch job job-1\n"
    assert log_of(dure, "job-1") == f"['a b', '--json'] {tmp_path} py\n"


def test_the_variables_of_a_job(service, dure, tmp_path):
    script = "#!/bin/sh\n#SBATCH --array=4,7 --gres=gpu:2 -n 4 -c 3\nenv | grep ^SLURM_ | sort\n"
    taken = json.loads(dure("sbatch", "--json", str(_written(tmp_path, script))).stdout)
    assert len(taken["job_ids"]) == 2
    found = dict(line.split("=", 1) for line in log_of(dure, taken["job_ids"][1]).splitlines())
    wanted = {
        "SLURM_JOB_ID": taken["job_ids"][1], "SLURM_ARRAY_JOB_ID": taken["job_id"], "SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_COUNT": "2", "SLURM_NTASKS": "4",
        "SLURM_CPUS_PER_TASK": "3", "SLURM_NNODES": "1", "SLURM_NODEID": "0", "SLURM_PROCID": "0", "SLURM_GPUS": "2",
        "SLURM_GPUS_ON_NODE": "2", "SLURM_JOB_GPUS": "0,1", "SLURM_RESTART_COUNT": "0", "SLURM_JOB_NODELIST": os.uname().nodename,
        "SLURM_JOB_ACCOUNT": "forge/default",
    }  # fmt: skip
    assert {key: found.get(key) for key in wanted} == wanted


def _written(tmp_path, script):
    path = tmp_path / "script.sh"
    path.write_text(script)
    return path


def test_a_long_script_arrives_whole(service, dure, tmp_path):
    lines = "".join(f"x{i}='{'한' * 30}'\n" for i in range(3000))
    job_id = submit(dure, tmp_path, f"#!/bin/bash\n{lines}echo $x0 $x2999\n")
    assert len(service.jobs[job_id].spec.command) > 7
    assert log_of(dure, job_id) == f"{'한' * 30} {'한' * 30}\n"


@pytest.mark.parametrize("code", [0, 3, 77])
def test_the_exit_code_comes_through(service, dure, tmp_path, code):
    path = _written(tmp_path, f"#!/bin/sh\nexit {code}\n")
    assert dure("sbatch", "--wait", "-Q", "-o", "/dev/null", str(path)).returncode == code
    assert dure("sbatch", "-W", "--wrap", f"exit {code}").returncode == code


def test_copies_of_the_log(service, dure, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    script = "#!/bin/sh\n#SBATCH -J 'a b' -o %x-%j.out\necho out; echo err >&2\n"
    job_id = submit(dure, tmp_path, script)
    assert sorted(log_of(dure, job_id).split()) == ["err", "out"]
    assert (tmp_path / f"a b-{job_id}.out").read_text() == "out\nerr\n"
    for _ in range(2):
        job_id = submit(dure, tmp_path, script, "-o", "o.txt", "-e", "e.txt", "--open-mode=append")
        log_of(dure, job_id)
    assert (tmp_path / "o.txt").read_text() == "out\nout\n"
    assert (tmp_path / "e.txt").read_text() == "err\nerr\n"
    job_id = submit(dure, tmp_path, script, "-o", "no/such/folder")
    log_of(dure, job_id)
    assert service.jobs[job_id].exit_code != 0


def test_nothing_is_left_in_the_temporary_folder(service, dure, tmp_path, monkeypatch):
    temporary = tmp_path / "t"
    temporary.mkdir()
    job_id = submit(dure, tmp_path, "#!/bin/sh\nls $TMPDIR\n", "--export", f"TMPDIR={temporary}")
    assert log_of(dure, job_id).startswith("dure-sbatch.")
    assert list(temporary.iterdir()) == []


STEP = "srun sh -c 'echo $SLURM_PROCID $SLURM_LOCALID $SLURM_NTASKS $RANK $WORLD_SIZE $CUDA_VISIBLE_DEVICES'"


def test_srun_in_a_script_starts_the_tasks(service, dure, tmp_path):
    job_id = submit(dure, tmp_path, f"#!/bin/sh\n#SBATCH -n 4 -G 4 --gpus-per-task=1\necho before\n{STEP}\n")
    first, *tasks = log_of(dure, job_id).splitlines()
    assert first == "before"
    assert sorted(tasks) == [f"{i} {i} 4 {i} 4 {i}" for i in range(4)]


def test_srun_over_nodes_numbers_all_tasks(service, dure, tmp_path):
    job_id = submit(dure, tmp_path, f"#!/bin/sh\n#SBATCH -N 2 --gres=gpu:2 --ntasks-per-node=2\n{STEP}\n")
    tasks = [line for rank in (0, 1) for line in sorted(log_of(dure, job_id, rank).splitlines())]
    assert tasks == ["0 0 4 0 4 0,1", "1 1 4 1 4 0,1", "2 0 4 2 4 0,1", "3 1 4 3 4 0,1"]
    job_id = submit(dure, tmp_path, "#!/bin/sh\n#SBATCH -N 2 --gres=gpu:2\nsrun -n 3 sh -c 'echo $SLURM_PROCID'\n")
    assert [sorted(log_of(dure, job_id, rank).split()) for rank in (0, 1)] == [["0", "1"], ["2"]]


@pytest.mark.parametrize(
    ("line", "code", "output"),
    [
        ("srun -n 2 sh -c 'exit $SLURM_PROCID'", 1, ""),
        ("srun -l -n 1 echo hi", 0, "0: hi\n"),
        ("srun --label sh -c 'exit 5'", 5, ""),
        ("srun -K -n 3 sh -c '[ $SLURM_PROCID = 0 ] && exit 9; exec sleep 30'", 9, ""),
        ("srun --kill-on-bad-exit=1 -n 3 sh -c '[ $SLURM_PROCID = 2 ] && exit 9; exec sleep 30'", 9, ""),
        ("srun -K -n 3 sh -c 'sleep 0.2; exit 0'", 0, ""),
        ("srun -K -l true", 2, "dure srun: -l with -K: is not honoured inside a job\n"),
        ("srun -l -n 2 sh -c 'echo $SLURM_PROCID; echo err >&2' | sort", 0, "0: 0\n0: err\n1: 1\n1: err\n"),
        ("srun --mpi=pmix x", 2, "dure srun: --mpi: is not honoured inside a job\n"),
        ("srun -n two x", 2, "dure srun: -n: must be a whole number, not 'two'\n"),
        ("srun -n", 2, "dure srun: -n: needs a value\n"),
        ("srun", 2, "dure srun: no command\n"),
        ("srun -u -c2 -n1 -- sh -c 'echo $SLURM_CPUS_PER_TASK'", 0, "2\n"),
        ("srun /no/such/program 2>/dev/null", 127, ""),
    ],
)
def test_srun_inside_a_job(service, dure, tmp_path, line, code, output):
    job_id = submit(dure, tmp_path, f"#!/bin/sh\n{line}\n")
    assert log_of(dure, job_id) == output
    assert service.jobs[job_id].exit_code == code


TRAPS = """#!/bin/bash
trap 'echo script; kill $child 2>/dev/null' {signal}
{run} {python} -u -c "
import signal, time, sys
signal.signal(signal.SIGUSR1, lambda *_: (print('task'), sys.exit(0)))
print('ready')
time.sleep(30)
" & child=$!
wait; wait
echo end
"""


@pytest.mark.parametrize(
    ("option", "run", "wanted"),
    [("B:USR1@30", "", {"script", "task"}), ("USR1@30", "srun", {"task"}), ("B:USR1@30", "srun", {"script", "task"})],
)
def test_signals_reach_whom_they_are_meant_for(service, dure, tmp_path, option, run, wanted):
    script = TRAPS.format(signal="USR1", run=run, python=sys.executable)
    job_id = submit(dure, tmp_path, script, f"--signal={option}")
    job = service.jobs[job_id]
    until = time.monotonic() + 20
    while "ready" not in dure("logs", job_id).stdout:
        assert time.monotonic() < until
        time.sleep(0.02)
    service.kill(job, signal.SIGUSR1)
    said = set(log_of(dure, job_id).split())
    assert said - {"ready", "end"} <= wanted
    assert "task" in said or "script" in said
    assert ("script" in said) == ("script" in wanted)


def test_srun_outside_of_a_job(service, dure, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = dure("srun", "-n", "2", "-l", sys.executable, "-c", "import os; print(os.environ['RANK'])")
    assert (said.returncode, sorted(said.stdout.splitlines())) == (0, ["0: 0", "1: 1"])
    assert dure("srun", "sh", "-c", "exit 4").returncode == 4
    assert json.loads(dure("srun", "--json", "true").stdout)["outcome"] == "succeeded"
    assert dure("srun").returncode == 2
    assert "is no option" in dure("srun", "--mpi=pmix", "true").stderr


def test_dure_srun_inside_a_job(service, dure, tmp_path):
    line = f"PYTHONPATH={os.environ.get('PYTHONPATH', '')} {sys.executable} -m dure.cli.main srun -n 2 sh -c 'echo $RANK'"
    job_id = submit(dure, tmp_path, f"#!/bin/sh\n{line}\n")
    assert sorted(log_of(dure, job_id).split()) == ["0", "1"]
    assert len(service.jobs) == 1


def test_dependencies_hold(service, dure, tmp_path):
    first = submit(dure, tmp_path, "#!/bin/sh\nsleep 0.2; exit 1\n")
    ok = submit(dure, tmp_path, "#!/bin/sh\ntrue\n", "-d", f"afterok:{first}")
    bad = submit(dure, tmp_path, "#!/bin/sh\necho cleaned\n", "-d", f"afternotok:{first}")
    assert log_of(dure, bad) == "cleaned\n"
    assert service.jobs[ok].outcome == "dependency"
    assert dure("sacct", "-j", ok, "-n", "-P", "-o", "state,reason").stdout == "CANCELLED|DependencyNeverSatisfied\n"


def test_squeue(service, dure, tmp_path):
    waiting = submit(dure, tmp_path, "#!/bin/sh\ntrue\n", "-G", "9", "-J", "a-name-that-is-long")
    running = submit(dure, tmp_path, "#!/bin/sh\nsleep 60\n", "-G", "1")
    said = dure("squeue").stdout.splitlines()
    assert said[0] == "             JOBID PARTITION     NAME     USER ST       TIME  NODES NODELIST(REASON)"
    assert said[1].split()[:5] == [waiting, "any", "a-name-t", "alice", "PD"]
    assert said[1].endswith("0:00    N/A (Resources)")
    assert said[2].split()[:5] == [running, "seoul", "job.sh", "alice", "R"]
    assert dure("squeue", "-h", "-t", "R", "-o", "%i %T").stdout == f"{running} RUNNING\n"
    assert dure("squeue", "-h", "--me", "-j", waiting, "-o", "%.10i|%r|%S").stdout.startswith(f"     {waiting}|Resources|2031-01-0")
    assert waiting in dure("squeue", "--start").stdout
    assert running not in dure("squeue", "--start").stdout
    assert "TIME_LIMIT" in dure("squeue", "-l").stdout.replace("TIME_LIMI ", "TIME_LIMIT")
    assert dure("squeue", "-h", "-u", "bob").stdout == ""
    assert dure("squeue", "-h", "-p", "seoul", "-o", "%A").stdout == f"{running}\n"
    assert [job["job_id"] for job in json.loads(dure("squeue", "--json").stdout)["jobs"]] == [waiting, running]
    for words, says in (
        (("-o", "%q"), "%q is not honoured"), (("-o", "id"), "must be such as"), (("-t", "odd"), "'odd' is no state"),
        (("-w", "n1"), "-w: is no option"), (("what",), "takes no word"),
    ):  # fmt: skip
        said = dure("squeue", *words)
        assert (said.returncode, says in said.stderr) == (2, True), said.stderr


def test_scancel(service, dure, tmp_path):
    script = "#!/bin/sh\nsleep 60\n"
    ids = [submit(dure, tmp_path, script, "-J", name) for name in ("a", "a", "b")]
    array = json.loads(dure("sbatch", "--json", "-a", "1-3", str(_written(tmp_path, script))).stdout)
    assert dure("scancel", ids[2]).stdout == ""
    assert dure("scancel", "-v", "-n", "a").stdout.splitlines() == [f"{ids[1]} CANCELLED", f"{ids[0]} CANCELLED"]
    assert dure("scancel", f"{array['job_id']}_2").returncode == 0
    assert [service.jobs[job_id].outcome for job_id in array["job_ids"]] == [None, "cancelled", None]
    assert dure("scancel", array["job_id"]).returncode == 0
    assert dure("squeue", "-h").stdout == ""
    said = dure("scancel", "job-99", ids[0])
    assert (said.returncode, said.stderr) == (2, "dure: job-99: no job job-99\n")
    assert "name a job" in dure("scancel").stderr
    assert "-s, --signal: is not honoured" in dure("scancel", "-s", "USR1", ids[0]).stderr


def test_sinfo(service, dure):
    said = dure("sinfo").stdout.splitlines()
    assert said[0] == "PARTITION  AVAIL  TIMELIMIT  NODES  STATE NODELIST"
    assert [line.split() for line in said[1:]] == [
        ["seoul", "up", "infinite", "1", "down", "n2"], ["seoul", "up", "infinite", "1", "mix", "n1"],
    ]  # fmt: skip
    assert dure("sinfo", "-s").stdout.splitlines()[1].split() == ["seoul", "up", "infinite", "1/0/1/2", "n[1-2]"]
    assert [line.split() for line in dure("sinfo", "-N", "-h").stdout.splitlines()] == [
        ["n2", "1", "seoul", "down"], ["n1", "1", "seoul", "mix"],
    ]  # fmt: skip
    assert dure("sinfo", "-h", "-t", "mixed", "-o", "%N %G").stdout == "n1 gpu:H200:4\n"
    assert {node["state"] for node in json.loads(dure("sinfo", "--json").stdout)["nodes"]} == {"mixed", "down"}


def test_sacct(service, dure, tmp_path):
    done = submit(dure, tmp_path, "#!/bin/sh\nexit 3\n", "-G", "2", "-J", "job-with-a-long-name")
    log_of(dure, done)
    said = dure("sacct").stdout.splitlines()
    assert said[0].split() == ["JobID", "JobName", "Partition", "Account", "AllocGPUS", "State", "ExitCode"]
    assert set(said[1]) == {"-", " "}
    assert said[2].split() == [done, "job-with-+", "seoul", "forge/def+", "2", "FAILED", "3:0"]
    assert dure("sacct", "-n", "-P", "-o", "jobid%30,elapsed,alloctres").stdout == f"{done}|00:00:00|gres/gpu=2\n"
    assert dure("sacct", "-n", "-p", "-j", done, "-o", "state").stdout == "FAILED|\n"
    assert dure("sacct", "-n", "-s", "CD").stdout == ""
    assert dure("sacct", "-n", "-S", "now+1hour").stdout == ""
    assert dure("sacct", "-n", "-E", "2001-01-01").stdout == ""
    assert json.loads(dure("sacct", "--json").stdout)["jobs"][0]["exit_code"] == 3
    killed = submit(dure, tmp_path, "#!/bin/sh\nsleep 60\n")
    assert dure("scancel", killed).returncode == 0
    assert dure("sacct", "-n", "-P", "-j", killed, "-o", "state,exitcode").stdout == "CANCELLED|0:15\n"
    assert "JobName" in dure("sacct", "-e").stdout.split()
    assert "'maxrss' is not honoured" in dure("sacct", "-o", "maxrss").stderr


def test_sshare(service, dure):
    said = dure("sshare").stdout.splitlines()
    assert said[0].split() == ["Account", "RawShares", "NormShares", "RawUsage", "EffectvUsage", "FairShare"]
    assert said[2].split() == ["forge", "6", "0.750000", "0", "0.000000", "1.000000"]
    assert dure("sshare", "-n", "-P", "-A", "forge", "-o", "account,rawshares").stdout == "forge|6\n"
    rows = json.loads(dure("sshare", "--json").stdout)["shares"]
    assert [row["norm_shares"] for row in rows] == [0.75, 0.25]


@pytest.mark.parametrize("name", TABLES)
def test_help_and_version(name, dure):
    said = dure(name, "--help")
    assert said.returncode == 0
    assert said.stdout.startswith(f"Usage: dure {name}")
    assert all(f"--{option.name}" in said.stdout for option in TABLES[name][1])
    assert dure(name, "--version").stdout.startswith("dure ")


def test_a_script_from_standard_input(service):
    command = [sys.executable, "-m", "dure.cli.main", "sbatch", "-Q"]
    subprocess.run(command, input="#!/bin/sh\n#SBATCH -J piped\ntrue\n", text=True, check=True)
    assert [job.spec.name for job in service.jobs.values()] == ["piped"]


def test_the_shell_scripts_are_posix():
    for name in ("prelude", "srun"):
        path = Path(__file__).parents[2] / "src" / "dure" / "cli" / "slurm" / f"{name}.sh"
        for shell in ("sh", "bash"):
            subprocess.run([shell, "-n", str(path)], check=True)


def test_moments_in_the_past_year_zero():
    with pytest.raises((ValueError, OverflowError)):
        parse_moment("0000-01-01", datetime(2031, 1, 1, tzinfo=UTC))


def test_the_docs_tables_are_current():
    page = (Path(__file__).parents[2] / "docs" / "slurm.md").read_text(encoding="utf-8")
    assert with_tables(page) == page, "run `python -m dure.cli.slurm.docs` in the repository's root"
    with pytest.raises(InputError, match="lacks the marker"):
        with_tables(page.replace("<!-- reasons -->", ""))


def test_the_variables_that_the_page_names_are_those_that_are_set(service, dure, tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "slurm.md").read_text(encoding="utf-8")
    paragraph = next(part for part in page.split("\n\n") if part.startswith("Set as in Slurm"))
    named = set(re.findall(r"`(SLURM[A-Z_]*)`", paragraph)) | {f"SLURM_ARRAY_TASK_{end}" for end in ("COUNT", "MIN", "MAX", "STEP")}
    script = "#!/bin/sh\nsrun env | grep -o '^SLURM[A-Z_]*' | sort -u\n"
    options = "-a 1 -n 1 -c 1 --gpus-per-task=1 --ntasks-per-node=1 --gres=gpu:1 -p seoul -q high -d afterany:job-1 --comment x"
    first = submit(dure, tmp_path, "#!/bin/sh\ntrue\n")
    assert first == "job-1"
    array = submit(dure, tmp_path, script, *options.split())
    found = set(log_of(dure, f"{array}_1").split())
    with_gpus = submit(dure, tmp_path, "#!/bin/sh\nenv | grep -o '^SLURM_CPUS_PER_GPU'\n", "-G", "1", "--cpus-per-gpu", "2")
    found |= set(log_of(dure, with_gpus).split())
    assert found - {"SLURM_CLUSTER_NAME", "SLURM_TASK_PID", "SLURM_NODELIST", "SLURM_JOB_NODELIST", "SLURM_STEP_ID", "SLURM_STEP_NUM_TASKS"} == named
