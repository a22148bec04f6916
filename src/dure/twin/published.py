"""Published average completion times, and the same settings rebuilt for a replay.

Three sources whose policies are ones that we have; what was read where is named at each constant:

- Muri's testbed (SIGCOMM'22, Table 3 and 4): 400 jobs on 8 nodes of 8 GPUs, logs of SRTF, SRSF and Tiresias.
- Muri's simulator (figures 9 and 10): Philly traces 1, 3, 4 on the same cluster, and with all jobs at time 0.
- Pollux' simulator (OSDI'21, figure 8a at load 1): eight workloads of 160 jobs on 16 nodes of 4 GPUs under Tiresias.

All three go through the whole queue in its order and start what fits, so a blocked gang holds nobody up (`FITTING`).
All three also count GPUs rather than nodes: Pollux' Tiresias and Muri's simulated Tiresias do so outright, the others
place every job anew in each round, which for gangs of 1, 2, 4… GPUs by first fit comes to the same. `mean_jct_s`
therefore takes nodes of one GPU unless told otherwise: a replay never moves a running job.
"""

from __future__ import annotations

import csv
import gzip
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dure.model.errors import InputError
from dure.model.fleet import uniform_fleet
from dure.model.jobs import Trace, make_jobs
from dure.policy.config import Policy, named_policy
from dure.policy.kernels import layout
from dure.twin.replay import replay
from dure.twin.traces import load_trace
from dure.twin.traces.shape import with_checkpoints
from dure.twin.traces.text import finish, read_lines, read_table

#: GPUs of all three clusters, and GPUs of a node.
NUM_GPUS, MURI_NODE, POLLUX_NODE = 64, 8, 4

#: Whoever fits starts: no gang ever holds nodes, and every shape that waits is looked at.
FITTING: dict[str, Any] = {"backfill": layout.BACKFILL_EASY, "hold_after_ms": 1 << 50, "scan_max": 1 << 20}

#: Half of the distance in rank between two queues of `las`: a job of a queue is never stopped for one of the same.
_WITHIN_QUEUE = 1 << 49

#: Muri's queues (`queue_limit` of jobs.py, Rivendile/Muri @ 7264b1aee900): 3,250 and 7,200 GPU-s. Ours double: 3,250
#: and 6,500. Jobs that wait are put behind those that run in the same queue (`dlas_sim_jobs` of run.py, run_sim.py).
MURI_LAS = replace(named_policy("las"), **FITTING, las_base=3250, las_levels=2, margin_ms=_WITHIN_QUEUE)

MURI_POLICIES: dict[str, Policy] = {
    "SRTF": replace(named_policy("srtf"), **FITTING),
    "SRSF": replace(named_policy("srsf"), **FITTING),
    "tiresias": MURI_LAS,
}

#: Average JCT in s, "existing numbers are our test results": simulator/draw_fig9-10.py, Rivendile/Muri @ 66626473223a.
#: Traces 2 and 2_pr are not among the data sets.
MURI_SIMULATED: dict[str, dict[str, float]] = {
    "SRTF": {"1": 1370603.198, "1_pr": 2303543.816, "3": 193081.796, "3_pr": 844394.78, "4": 581982.9002,
             "4_pr": 1430856.446},
    "SRSF": {"1": 980140.5699, "1_pr": 1801859.995, "3": 185021.8802, "3_pr": 798057.6829, "4": 487167.1688,
             "4_pr": 1218501.968},
    "tiresias": {"1": 3330371.307, "1_pr": 6921682.793, "3": 347213.2481, "3_pr": 2213110.128, "4": 1319382.936,
                 "4_pr": 2674022.636},
}  # fmt: skip

#: The simulator makes every iteration this much longer: `itertime_overhead_list` of simulator/jobs.py.
MURI_SLOWDOWN = 1.015

#: Pollux' Tiresias has two queues, parted at 16 GPU-hours (`_queue_threshold` of simulator/tiresias.py); rounds of
#: 60 s and 30 s for a start (simulator/simulator.py, petuum/adaptdl @ de25dcc90c35).
POLLUX_LAS = replace(named_policy("las"), **FITTING, las_base=57_600, las_levels=1)
POLLUX_ROUND_S, POLLUX_START_S = 60, 30

#: Epochs to train, and the largest batch of one GPU where it is not the profile's (simulator/applications.py).
POLLUX_EPOCHS = {"bert": 2, "cifar10": 100, "ncf": 10, "imagenet": 90, "deepspeech2": 80, "yolov3": 50}
POLLUX_LOCAL_MAX = {"yolov3": 8.0}
POLLUX_WORKLOADS = tuple(f"workload-{i}" for i in range(1, 9))


@dataclass(frozen=True)
class Case:
    """A published average and its setting.

    Attributes
    ----------
    source, load, scheme : str
        ``muri testbed``, ``muri simulator`` or ``pollux``; which trace; the policy's published name.
    policy : Policy
    trace : Trace
        ``extra["shift_ms"]``, int64, shape (J,), if there: what rounds add to a job's time from submission to end.
    published_s : float
        Average JCT, s, from submission to end.
    node : int
        GPUs of a node of the published cluster.
    """

    source: str
    load: str
    scheme: str
    policy: Policy
    trace: Trace
    published_s: float
    node: int


def mean_jct_s(case: Case, gpus_per_node: int = 1) -> float:
    """Average JCT of our replay, in s, on 64 GPUs in nodes of that size."""
    fleet = uniform_fleet(NUM_GPUS, gpus_per_node, nodes_per_rack=NUM_GPUS)
    result = replay(case.trace, fleet, case.policy)
    jct_ms = result.jobs["end_ms"] - case.trace.jobs["submit_ms"]
    return float((jct_ms + case.trace.extra.get("shift_ms", 0)).mean()) / 1000


def muri_testbed(data: Path, scheme: str) -> Case:
    """The 400 jobs of one testbed run, each with the time on GPUs that the run's own log has for it.

    Parameters
    ----------
    data : Path
        The folder of the data sets; ``muri/results/<scheme>/job.csv.gz`` and ``result.txt`` are read.
    scheme : str
        A key of MURI_POLICIES.
    """
    folder = data / "muri" / "results" / scheme
    path = folder / "job.csv.gz"
    needed = ("job_id", "num_gpu", "submit_time", "real_executed_time")
    table = read_table(path, read_lines(path), needed)
    jobs = make_jobs(len(table))
    jobs["submit_ms"] = table.numbers("submit_time") * 1000
    jobs["duration_ms"] = table.numbers("real_executed_time") * 1000
    jobs["num_gpus"] = table.counts("num_gpu", 1)
    trace = with_checkpoints(finish(jobs, table.ids("job_id"), "muri testbed"), 1)
    found = re.search(r"avg JCT: ([0-9.]+)", read_lines(folder / "result.txt")[0])
    if found is None:
        raise InputError("no average JCT", str(folder / "result.txt"), 1)
    return Case("muri testbed", "400 jobs", scheme, MURI_POLICIES[scheme], trace, float(found[1]), MURI_NODE)


def muri_simulator(data: Path, name: str, scheme: str) -> Case:
    """One of Muri's Philly traces (``1``, ``1_pr``…) as its simulator runs it: every iteration 1.5% longer."""
    trace = load_trace(data / "muri" / "traces" / f"trace{name}.csv.gz")
    jobs = trace.jobs.copy()
    jobs["duration_ms"] = np.rint(jobs["duration_ms"] * MURI_SLOWDOWN)
    trace = with_checkpoints(replace(trace, jobs=jobs), 1)
    published = MURI_SIMULATED[scheme][name]
    return Case("muri simulator", f"trace {name}", scheme, MURI_POLICIES[scheme], trace, published, MURI_NODE)


def _columns(path: Path) -> dict[str, NDArray[Any]]:
    """Columns of a CSV file as float64 (``placement`` stays text), packed or not."""
    packed = path.with_name(path.name + ".gz")
    where = packed if packed.is_file() else path
    rows = list(csv.DictReader(read_lines(where)))
    return {
        key: np.array([row[key] for row in rows], str if key == "placement" else np.float64) for key in rows[0]
    }


class PolluxApplication:
    """Measured profile of one application of Pollux' simulator: how long a job of a given size and batch trains.

    From ``pollux_osdi21/traces/<name>/``: progress and gradient statistics by epoch and batch size (validation-*),
    step times by placement (placements) or by nodes and replicas (scalability).
    """

    def __init__(self, data: Path, name: str) -> None:
        folder = data / "pollux_osdi21" / "traces" / name
        self.name, self.epochs = name, POLLUX_EPOCHS[name]
        found = {int(p.name[len("validation-") :].split(".")[0]): _columns(p) for p in folder.glob("validation-*")}
        self.validation = dict(sorted(found.items()))
        self.placements = _columns(folder / "placements.csv")
        self.scalability = _columns(folder / "scalability.csv")
        self.local_max = POLLUX_LOCAL_MAX.get(name, float(self.placements["local_bsz"].max()))

    def step_s(self, gpus: int, local_batch: int) -> tuple[float, float]:
        """Time of a step and of its communication, in s, with GPUs packed on nodes of four."""
        nodes, rest = divmod(gpus, POLLUX_NODE)
        digits = (str(rest) if rest else "") + str(POLLUX_NODE) * nodes
        table = self.placements
        is_it = table["placement"] == digits
        if not is_it.any():  # above 16 GPUs: the table by nodes and replicas
            table = self.scalability
            is_it = (table["num_replicas"] == gpus) & (table["num_nodes"] == nodes + (rest > 0))
        if not is_it.any():
            raise InputError(f"no measured step of {gpus} GPUs", self.name, field="num_replicas")
        order = np.argsort(table["local_bsz"][is_it], kind="stable")
        sizes = table["local_bsz"][is_it][order]
        step, sync = (np.interp(local_batch, sizes, table[key][is_it][order]) for key in ("step_time", "sync_time"))
        return float(step), float(sync)

    def run_s(self, gpus: int, batch: int) -> int:
        """Run time in whole s of a job whose GPUs and batch size stay as asked: progress ÷ goodput, epoch by epoch.

        Goodput is the statistical gain of the batch size (from the gradients' squares and variances) ÷ the time of
        a step; each epoch is rounded to a second, as there.
        """
        sizes = list(self.validation)
        local = math.ceil(batch / gpus - 1e-8)
        passes = math.ceil(local / self.local_max - 1e-8)
        if gpus == 1 and batch > sizes[0]:
            passes = max(passes, 2)
        local = min(math.ceil(local / passes - 1e-8), sizes[-1] // (gpus * passes))
        batch = gpus * local * passes
        step, sync = self.step_s(gpus, local)
        time_s = step + (step - sync) * (passes - 1)
        low, high = max(b for b in sizes if b <= batch), min(b for b in sizes if b >= batch)
        lower, upper = self.validation[low], self.validation[high]
        part = (batch - low) / (high - low) if high > low else 0.0
        total, before = 0, 0.0
        for epoch in range(self.epochs):
            square, variance = (
                lower[key][epoch] * (1 - part) + upper[key][epoch] * part for key in ("grad_sqr", "grad_var")
            )
            gain = (variance + square) / (variance / (batch / sizes[0]) + square)
            after = min(float(v["progress"][epoch]) for v in self.validation.values())
            total += round(float((after - before) / (gain / time_s)))
            before = after
        return total


def pollux(data: Path, workload: str) -> Case:
    """One workload at load 1 under Tiresias, in rounds of 60 s.

    Jobs are seen, start and give their GPUs back at whole rounds: submission and run time (30 s of start included)
    are rounded up to them here, and what that adds beyond the true times is in ``shift_ms``.
    """
    path = data / "pollux_osdi21" / "workloads" / f"{workload}.csv"
    source = load_trace(path)
    first_s = min(float(row["time"]) for row in csv.DictReader(read_lines(path)))
    known: dict[str, PolluxApplication] = {}
    jobs = source.jobs.copy()
    submit_s = first_s + jobs["submit_ms"] / 1000
    run_s = np.empty(len(jobs))
    batches = source.extra["batch_size"]
    for i, name in enumerate(source.extra["application"].tolist()):
        application = known.get(name) or known.setdefault(name, PolluxApplication(data, name))
        run_s[i] = application.run_s(int(jobs["num_gpus"][i]), int(batches[i])) + POLLUX_START_S
    seen_s = np.ceil(np.maximum(submit_s, POLLUX_ROUND_S) / POLLUX_ROUND_S) * POLLUX_ROUND_S
    held_s = np.ceil(run_s / POLLUX_ROUND_S) * POLLUX_ROUND_S
    jobs["submit_ms"], jobs["duration_ms"] = seen_s * 1000, held_s * 1000
    shift_ms = np.rint(((seen_s - submit_s) - (held_s - run_s)) * 1000).astype(np.int64)
    trace = finish(jobs, source.job_ids, "pollux", extra={"shift_ms": shift_ms, "run_s": run_s})
    averages = pollux_published(data)["avgs"]
    return Case(
        "pollux", workload, "tiresias", POLLUX_LAS, with_checkpoints(trace, 1), averages[workload], POLLUX_NODE
    )


def pollux_published(data: Path) -> dict[str, Any]:
    """The published summary at load 1: ``mean``, ``avgs`` by workload and ``jcts`` by workload and job, in s."""
    path = data / "pollux_osdi21" / "results-jobload" / "tiresias-1.0" / "summary.json.gz"
    out: dict[str, Any] = json.loads(gzip.decompress(path.read_bytes()))
    return out


def cases(data: Path) -> Iterator[Case]:
    """Every published average that a policy of ours can be put beside."""
    for scheme in MURI_POLICIES:
        yield muri_testbed(data, scheme)
    for scheme, by_trace in MURI_SIMULATED.items():
        for name in by_trace:
            yield muri_simulator(data, name, scheme)
    for workload in POLLUX_WORKLOADS:
        yield pollux(data, workload)
