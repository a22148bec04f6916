"""A Slurm cluster through slurmrestd, which takes a job in a few milliseconds where sbatch needs some tens.

Of its API the version that Slurm 22.05 to 23.02 have; each version says the same in another shape.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import httpx

from dure.executors.slurm import script
from dure.executors.slurm.commands import error_of, gpus_in, gpus_of_job, gres_of
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
from dure.model.errors import InputError

_VERSION = "v0.0.38"
_TIMEOUT_S = 60.0
_CONNECTIONS = 8


class SlurmRest:
    """See `dure.executors.slurm.engine.Engine`.

    Parameters
    ----------
    address : str
        ``unix:/path`` of its socket, or ``http://host:port``.
    env : mapping
        The environment of every job: nothing else of the agent's reaches one.
    account : str
        Whom Slurm bills; empty: its default.
    user, token : str
        The token that ``scontrol token`` gives; empty: over a socket the caller is known.

    Raises
    ------
    InputError
        That is no address.
    """

    def __init__(self, address: str, env: Mapping[str, str], account: str = "", user: str = "", token: str = "") -> None:
        self._env, self._account = dict(env), account
        path = address.removeprefix("unix:")
        if path == address and not address.startswith(("http://", "https://")):
            raise InputError(f"not an address: {address!r}; write unix:/path or http://host:port", field="--slurmrestd")
        limits = httpx.Limits(max_connections=_CONNECTIONS)
        self._http = httpx.AsyncClient(
            transport=httpx.AsyncHTTPTransport(uds=path, limits=limits) if path != address else None, limits=limits,
            base_url="http://slurmrestd" if path != address else address.rstrip("/"), timeout=_TIMEOUT_S, trust_env=False,
            headers={"X-SLURM-USER-NAME": user, "X-SLURM-USER-TOKEN": token} if token else {},
        )  # fmt: skip

    async def cluster(self) -> Cluster:
        """Its nodes and partitions."""
        nodes = await self._get("slurm", "nodes")
        partitions = await self._get("slurm", "partitions")
        return Cluster(tuple(node_of(form) for form in nodes["nodes"]), tuple(partition_of(form) for form in partitions["partitions"]))

    async def jobs(self) -> list[SlurmJob]:
        """Jobs of this user that wait, run, or have ended not long ago; arrays task by task."""
        forms = (await self._get("slurm", "jobs"))["jobs"]
        return [job for form in forms if form["user_id"] == os.getuid() for job in jobs_of(form)]

    async def submit(self, shape: Shape, text: str, *, name: str, comment: str, tasks: int) -> int:
        """Hand in a batch script, as an array where there are several tasks; the id of the job."""
        parts = [job_form(shape, part, name, comment, tasks, self._account, self._env) for part in shape.parts]
        form = {"script": text, **({"job": parts[0]} if len(parts) == 1 else {"jobs": parts})}
        return int((await self._ask("POST", "slurm", "job/submit", form=form))["job_id"])

    async def signal(self, jobs: Sequence[str], signal: str, *, is_gang: bool) -> None:
        """A signal to the tasks of some jobs: of a gang, of which it would come to ``srun`` alone, by its batch script."""
        await self._delete(jobs, {"signal": script.STOP_WORD if is_gang else signal})

    async def cancel(self, jobs: Sequence[str]) -> None:
        """End some jobs; those that are over already are passed over."""
        await self._delete(jobs, {})

    async def _delete(self, jobs: Sequence[str], params: Mapping[str, str]) -> None:
        for job in jobs:
            try:
                await self._ask("DELETE", "slurm", f"job/{job}", params=params)
            except SlurmRefusalError:
                # It is over, or not yet begun: both are seen in the list of jobs.
                continue

    async def has_accounts(self) -> bool:
        """Whether it has a database of accounts in which GPUs are counted."""
        try:
            found = await self._get("slurmdb", "tres")
        except (SlurmSilentError, SlurmRefusalError):
            return False
        return any((form["type"], form["name"]) == ("gres", "gpu") for form in found.get("TRES", found.get("tres", ())))

    async def accounts(self, jobs: Sequence[str]) -> dict[str, int]:
        """GPU-milliseconds of some jobs by the database, where it has their ends."""
        found: dict[str, int] = {}
        for job in jobs:
            number, _, task = job.partition("_")
            try:
                rows = (await self._ask("GET", "slurmdb", f"job/{number}"))["jobs"]
            except SlurmRefusalError:
                # It has not heard of it yet.
                continue
            if task:
                rows = [row for row in rows if str(row["array"]["task_id"]) == task]
            if rows and all(row["time"]["end"] for row in rows):
                found[job] = sum(gpu_ms_of(row) for row in rows)
        return found

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def _get(self, api: str, path: str) -> dict[str, Any]:
        """What is only read has no errors but those of a controller that does not answer: it calls them unspecified."""
        try:
            return await self._ask("GET", api, path)
        except SlurmRefusalError as error:
            raise SlurmSilentError(str(error)) from error

    async def _ask(
        self, method: str, api: str, path: str, *, form: object = None, params: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        what = f"slurmrestd: {method} {path}"
        try:
            answer = await self._http.request(method, f"/{api}/{_VERSION}/{path}", json=form, params=params)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise SlurmSilentError(f"{what}: {error}", is_sent=False) from error
        except httpx.HTTPError as error:
            raise SlurmSilentError(f"{what}: {type(error).__name__} {error}") from error
        try:
            body: dict[str, Any] = answer.json()
        except ValueError:
            body = {}
        errors = body.get("errors") or ([] if answer.is_success and body else [{"error": f"{answer.status_code} {answer.text[:200]}"}])
        # With the id of a job it is no refusal, but why the job that was taken will wait.
        if errors and not body.get("job_id"):
            raise error_of(what, "; ".join(str(error.get("description") or error.get("error")) for error in errors))
        return body


def job_form(shape: Shape, part: Part, name: str, comment: str, tasks: int, account: str, env: Mapping[str, str]) -> dict[str, Any]:
    """The description of a job, or of a component of one; the memory is always named: without, it has all of the node's."""
    num = len(part.nodes)
    gres = gres_of(part)
    return {
        "name": name, "comment": comment, "partition": shape.partition, "nodelist": ",".join(part.nodes), "nodes": [num, num],
        "tasks": num, "tasks_per_node": 1, "cpus_per_task": part.cpus, "memory_per_node": part.mem_mib,
        **({"gres": gres} if gres else {}),
        "time_limit": "UNLIMITED" if shape.time_min is None else shape.time_min,
        **({"array": f"0-{tasks - 1}"} if tasks > 1 else {}),
        **({"account": account} if account else {}),
        # The API takes a false for nothing said: a job that is put back runs nothing, as its claim is taken.
        "requeue": False, "environment": dict(env), "standard_output": "/dev/null", "current_working_directory": "/",
    }  # fmt: skip


def jobs_of(form: Mapping[str, Any]) -> list[SlurmJob]:
    """A record of jobs: one, or the tasks of an array that still wait together."""
    array = form["array_job_id"] or form["job_id"]
    tasks: Sequence[int] = (-1,)
    if form["array_job_id"]:
        tasks = (form["array_task_id"],) if form["array_task_id"] is not None else tasks_in(form["array_task_string"])
    return [
        SlurmJob(
            form["job_id"], array, task, form["name"], form["job_state"], form["state_reason"], form["start_time"] or -1,
            form["end_time"] or -1, form["restart_cnt"], form["exit_code"],
            gpus_of_job(form["tres_alloc_str"] or "", form["tres_per_node"] or "", str(form["node_count"])),
        )
        for task in tasks
    ]  # fmt: skip


def tasks_in(text: str) -> list[int]:
    """``0-2,5%4`` → 0, 1, 2, 5."""
    found: list[int] = []
    for first, last in re.findall(r"(\d+)(?:-(\d+))?", text.partition("%")[0]):
        found += range(int(first), int(last or first) + 1)
    return found


def node_of(form: Mapping[str, Any]) -> SlurmNode:
    """A record of a node."""
    gpus = gpus_in(form["gres"] or "")
    states = {form["state"], *form["state_flags"]}
    return SlurmNode(
        form["name"], frozenset(state.upper() for state in states), sum(gpus.values()), tuple(gpus),
        sum(gpus_in(form["gres_used"] or "").values()), form["cpus"], form["real_memory"], form["address"] or form["name"],
        frozenset(form["partitions"]),
    )  # fmt: skip


def partition_of(form: Mapping[str, Any]) -> SlurmPartition:
    """A record of a partition."""
    limit_min = form["max_time_limit"]
    return SlurmPartition(form["name"], "default" in form["flags"], limit_min if limit_min is not None and limit_min >= 0 else None)


def gpu_ms_of(row: Mapping[str, Any]) -> int:
    """GPU-milliseconds of a row of the database."""
    gpus = sum(tres["count"] or 0 for tres in row["tres"]["allocated"] if (tres["type"], tres["name"]) == ("gres", "gpu"))
    return int(gpus * row["time"]["elapsed"] * 1000)
