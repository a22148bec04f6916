"""A Slurm cluster through its commands, in those of their formats that have not changed for ten years.

``--json`` gives more, but another shape with nearly every release, takes ten times as long for many jobs, and heeds no
filter; what is needed here fits into columns.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from collections.abc import Mapping, Sequence

from dure.executors.slurm.engine import (
    Cluster,
    Part,
    Shape,
    SlurmJob,
    SlurmNode,
    SlurmPartition,
    SlurmRefusalError,
    SlurmSilentError,
)

_TIMEOUT_S = 60.0
#: Columns of squeue and their widths.
_COLUMNS = {
    "JobID": 14, "ArrayJobID": 14, "ArrayTaskID": 12, "Name": 128, "State": 20, "Reason": 48, "StartTime": 24,
    "EndTime": 24, "RestartCnt": 8, "exit_code": 10, "NumNodes": 8, "tres-per-node": 64, "tres-alloc": 256,
}  # fmt: skip
_ACCOUNT_COLUMNS = "JobID,State,ElapsedRaw,AllocTRES"
_NOT_OVER = ("PENDING", "RUNNING", "SUSPENDED", "REQUEUED", "RESIZING")
#: Words of an error that say that no answer has come, rather than no; of the second kind, that nothing was sent.
_SILENT = ("contact slurm", "timed out", "timeout", "zero bytes", "standby", "unexpected message", "slurmdbd")
_UNSENT = ("connect failure", "connection refused")


class SlurmCommands:
    """See `dure.executors.slurm.engine.Engine`.

    Parameters
    ----------
    env : mapping
        The environment of the commands, and so of every job: nothing else of the agent's reaches one.
    account : str
        Whom Slurm bills; empty: its default.
    """

    def __init__(self, env: Mapping[str, str], account: str = "") -> None:
        self._env = {**env, "SLURM_TIME_FORMAT": "%s"}
        self._job_env = dict(env)
        self._account = account

    async def cluster(self) -> Cluster:
        """Its nodes and partitions."""
        nodes = await self._run("scontrol", "-a", "-d", "-o", "show", "node")
        partitions = await self._run("scontrol", "-a", "-o", "show", "partition")
        return Cluster(
            tuple(parse_node(line) for line in nodes.splitlines() if line.startswith("NodeName=")),
            tuple(parse_partition(line) for line in partitions.splitlines() if line.startswith("PartitionName=")),
        )

    async def jobs(self) -> list[SlurmJob]:
        """Jobs of this user that wait, run, or have ended not long ago; arrays task by task."""
        columns = ",".join(f"{name}:{width}" for name, width in _COLUMNS.items())
        text = await self._run("squeue", "-a", "-h", "-r", "-t", "all", f"--user={os.getuid()}", "-O", columns)
        return [parse_job(line) for line in text.splitlines() if line.strip()]

    async def submit(self, shape: Shape, text: str, *, name: str, comment: str, tasks: int) -> int:
        """Hand in a batch script, as an array where there are several tasks; the id of the job."""
        options = sbatch_options(shape, name, comment, tasks, self._account)
        text = await self._run("sbatch", *options, given=text, env=self._job_env)
        return int(text.strip().split(";")[0])

    async def signal(self, jobs: Sequence[str], signal: str, *, is_gang: bool) -> None:
        """A signal to the tasks of some jobs: of a gang those of its step, otherwise the batch script and its children."""
        await self._scancel([f"--signal={signal}", *(() if is_gang else ("--full",))], jobs)

    async def cancel(self, jobs: Sequence[str]) -> None:
        """End some jobs; those that are over already are passed over."""
        await self._scancel([], jobs)

    async def has_accounts(self) -> bool:
        """Whether it has a database of accounts in which GPUs are counted."""
        return has_accounts(await self._run("scontrol", "show", "config"))

    async def accounts(self, jobs: Sequence[str]) -> dict[str, int]:
        """GPU-milliseconds of some jobs by the database, where it has their ends."""
        text = await self._run("sacct", "-X", "-n", "-P", f"--jobs={','.join(jobs)}", f"--format={_ACCOUNT_COLUMNS}")
        return parse_accounts(text)

    async def close(self) -> None:
        """Nothing is held between two commands."""

    async def _scancel(self, options: Sequence[str], jobs: Sequence[str]) -> None:
        # What scancel says no to is over, or not yet begun: both are seen in the list of jobs.
        with contextlib.suppress(SlurmRefusalError):
            await self._run("scancel", "-Q", *options, *jobs)

    async def _run(self, *words: str, given: str = "", env: Mapping[str, str] | None = None) -> str:
        try:
            process = await asyncio.create_subprocess_exec(
                *words, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
                env=self._env if env is None else env, cwd="/", start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            raise SlurmRefusalError(f"{words[0]}: {error}") from error
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                out, err = await process.communicate(given.encode())
        except TimeoutError:
            raise SlurmSilentError(f"{words[0]}: no answer within {_TIMEOUT_S:g} s") from None
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        if process.returncode:
            why = " ".join(err.decode(errors="replace").split())[:500]
            raise error_of(words[0], why)
        return out.decode(errors="replace")


def error_of(command: str, why: str) -> SlurmSilentError | SlurmRefusalError:
    """Of what a command, or Slurm, has said against it: whether it was a no, or no answer."""
    is_sent = not any(word in why.lower() for word in _UNSENT)
    if is_sent and not any(word in why.lower() for word in _SILENT):
        return SlurmRefusalError(f"{command}: {why}")
    return SlurmSilentError(f"{command}: {why}", is_sent=is_sent)


def sbatch_options(shape: Shape, name: str, comment: str, tasks: int, account: str = "") -> list[str]:
    """The options of sbatch, for each component of a heterogeneous job."""
    found: list[str] = []
    for part in shape.parts:
        found += [*([":"] if found else []), *_part_options(shape, part, name, comment, tasks, account)]
    return found


def gres_of(part: Part) -> str:
    """What is asked of each node of a part; empty: no GPUs."""
    if not part.gpus:
        return ""
    return f"gpu:{part.gpu_type}:{part.gpus}" if part.gpu_type else f"gpu:{part.gpus}"


def _part_options(shape: Shape, part: Part, name: str, comment: str, tasks: int, account: str) -> list[str]:
    """The memory is always named: without, a job has all of the node's."""
    gres = gres_of(part)
    return [
        "--parsable", f"--job-name={name}", f"--comment={comment}",
        f"--partition={shape.partition}", f"--nodelist={','.join(part.nodes)}", f"--nodes={len(part.nodes)}",
        "--ntasks-per-node=1", f"--cpus-per-task={part.cpus}", f"--mem={part.mem_mib}M",
        *([f"--gres={gres}"] if gres else []),
        f"--time={'UNLIMITED' if shape.time_min is None else shape.time_min}",
        *([f"--array=0-{tasks - 1}"] if tasks > 1 else []),
        *([f"--account={account}"] if account else []),
        "--no-requeue", "--export=ALL", "--output=/dev/null", "--chdir=/",
    ]  # fmt: skip


def parse_job(line: str) -> SlurmJob:
    """A line of squeue with `_COLUMNS`."""
    found, at = {}, 0
    for name, width in _COLUMNS.items():
        found[name] = line[at : at + width].strip()
        at += width
    return SlurmJob(
        int(found["JobID"]), _number(found["ArrayJobID"], int(found["JobID"])), _number(found["ArrayTaskID"], -1),
        found["Name"], found["State"], found["Reason"], _number(found["StartTime"], -1), _number(found["EndTime"], -1),
        _number(found["RestartCnt"], 0), _number(found["exit_code"], -1),
        gpus_of_job(found["tres-alloc"], found["tres-per-node"], found["NumNodes"]),
    )  # fmt: skip


def gpus_of_job(allocated: str, per_node: str, num_nodes: str) -> int:
    """GPUs of a job: those counted, where Slurm counts them (AccountingStorageTRES), otherwise those it has asked for."""
    counted = re.search(r"gres/gpu=(\d+)", allocated)
    if counted is not None:
        return int(counted[1])
    asked = re.search(r"gres[:/]gpu(?:[:=][^:=,()]+)??(?:[:=](\d+))?(?=[,(]|$)", per_node)
    return 0 if asked is None else int(asked[1] or 1) * _number(num_nodes, 1)


def has_accounts(config: str) -> bool:
    """Whether ``scontrol show config`` names a database, and GPUs among what is counted."""
    found = dict(re.findall(r"^AccountingStorage(Type|TRES)\s*=\s*(\S+)\s*$", config, re.MULTILINE))
    return found.get("Type") == "accounting_storage/slurmdbd" and "gres/gpu" in found.get("TRES", "").split(",")


def parse_accounts(text: str) -> dict[str, int]:
    """Lines of sacct with `_ACCOUNT_COLUMNS`: what scancel calls a job that has ended → its GPU-milliseconds."""
    found: dict[str, int] = {}
    going: set[str] = set()
    for line in text.splitlines():
        name, state, elapsed_s, allocated = line.split("|")
        # Components of a heterogeneous job are 7+0, 7+1: together they are the job 7.
        job = name.partition("+")[0]
        found[job] = found.get(job, 0) + gpus_of_job(allocated, "", "") * _number(elapsed_s, 0) * 1000
        if state.split()[0] in _NOT_OVER:
            going.add(job)
    return {job: gpu_ms for job, gpu_ms in found.items() if job not in going}


def _number(text: str, otherwise: int) -> int:
    return int(text) if text.isdecimal() else otherwise


def _fields(line: str) -> dict[str, str]:
    # Values may hold spaces (OS=Linux 6.1 #1): those that matter here do not.
    return dict(word.split("=", 1) for word in line.split() if "=" in word)


def parse_node(line: str) -> SlurmNode:
    """A line of ``scontrol -d -o show node``."""
    found = _fields(line)
    gpus = gpus_in(found.get("Gres", ""))
    return SlurmNode(
        found["NodeName"], frozenset(re.findall(r"\w+|[^\w+]", found["State"])), sum(gpus.values()), tuple(gpus),
        sum(gpus_in(found.get("GresUsed", "")).values()), int(found.get("CPUEfctv", found["CPUTot"])),
        int(found["RealMemory"]) - int(found.get("MemSpecLimit", 0)), found.get("NodeAddr", found["NodeName"]),
        frozenset(found.get("Partitions", "").split(",")) - {""},
    )  # fmt: skip


def gpus_in(gres: str) -> dict[str, int]:
    """``gpu:h100:4(S:0-1),tmp:1`` → ``{"h100": 4}``; without a type its name is empty."""
    found: dict[str, int] = {}
    for gpu_type, num in re.findall(r"(?:^|,)gpu(?::([^:,()]+))??:(\d+)(?=[,(]|$)", gres):
        found[gpu_type] = found.get(gpu_type, 0) + int(num)
    return found


def parse_partition(line: str) -> SlurmPartition:
    """A line of ``scontrol -o show partition``."""
    found = _fields(line)
    return SlurmPartition(found["PartitionName"], found.get("Default") == "YES", _minutes(found.get("MaxTime", "UNLIMITED")))


def _minutes(text: str) -> int | None:
    """``1-12:30:00`` → minutes; None: no limit."""
    match = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d+):\d+", text)
    if match is None:
        return None
    days, hours, minutes = (int(part or 0) for part in match.groups())
    return (days * 24 + hours) * 60 + minutes
