"""What runs on a node of a Ray cluster: an actor that starts the ranks of one attempt there, and a keeper beside it.

Both come to the node by value: it has Ray and nothing of Dure, so that this module uses the standard library, and what it
imports from Dure travels with it (`dure.executors.ray.driver.TRAVELLING`). Modules are imported name by name: a module itself does not travel.

Who begins an attempt makes its claim in the shared folder, which only one can do: the actor of the first node, or an agent
that wants the attempt never to run. How each rank has ended is in its rank file, as for local jobs (`dure.executors.shim`).
When nothing of the attempt is left on the node, that is noted in the folder too: by the actor, or, if that has died however
it may, by the keeper, a shell that has left its session and holds one end of a pipe.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import select
import signal as signals
import socket
import threading
import time
import traceback
from concurrent.futures import Future
from pathlib import Path

from dure.executors.process import kill_members, signal_number
from dure.executors.ranks import node_env
from dure.executors.ray.spec import NodeSpec
from dure.executors.shim import CUT_NOTE, read_rank, spawn

#: The word that ends what has not heeded others.
KILL = "KILL"
CLAIM, BEGUN, REVOKED = "claim", "begun\n", "revoked\n"
#: Names of files: of a node on which nothing of the attempt is left, of the GPUs that it has there, of a rank's end.
GONE, GPUS, RANK = "{}.gone", "{}.gpus", "{}.rank"

_KILL_AGAIN_MS, _RAYLET_EVERY_S = 50, 1.0
_SWEEPS_MAX = 40
_LOG_WAIT_MS = 2_000
_CLAIM_WAIT_S = 2.0
#: An agent that is there takes an attempt that has ended away at once; without one its GPUs are given back after so long.
_LINGER_S = 10.0
#: Below those that systems give out, above those that Ray's workers listen on.
_PORTS = (20_000, 32_000)

_KEEPER = """\
trap "" HUP INT QUIT TERM USR1 USR2
read -r dure_word <&3
[ "$dure_word" = done ] && exit 0
dure_empty=0
while [ $dure_empty -lt 3 ]; do
    dure_pids=$(grep -lszxF "DURE_LEASE_MARK=$1" /proc/[0-9]*/environ | cut -d/ -f3)
    dure_empty=$((dure_empty + 1))
    if [ -n "$dure_pids" ]; then
        kill -KILL $dure_pids
        dure_empty=0
    fi
    sleep 0.05
done
: > "$2"
"""


class NotClaimedError(Exception):
    """The attempt is not to begin: somebody has claimed it before."""


class RayletGoneError(Exception):
    """An actor that is out of everybody's reach."""


def claim(folder: Path, word: str) -> bool:
    """Make the claim of an attempt; False: it has been made."""
    try:
        with (folder / CLAIM).open("x") as file:
            file.write(word)
    except FileExistsError:
        return False
    return True


def free_port() -> int:
    """One that nobody listens on."""
    while True:
        port = random.randrange(*_PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("", port))
            return port


def start_keeper(mark: str, gone: Path) -> int:
    """Start what ends all processes of a mark when this process dies; the end of its pipe that is to be held."""
    read_end, write_end = os.pipe()
    try:
        # Its parent ends at once, so that it is nobody's child: Ray ends the children of its workers.
        launcher = os.posix_spawn(
            "/bin/sh",
            ["sh", "-c", 'sh -c "$1" dure-keeper "$2" "$3" > /dev/null 2>&1 &', "dure", _KEEPER, mark, str(gone)],
            # Not its input: a shell takes that from what it starts in the background.
            {"PATH": os.defpath}, setsid=True, file_actions=[(os.POSIX_SPAWN_DUP2, read_end, 3)],
        )  # fmt: skip
    finally:
        os.close(read_end)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(launcher, 0)
    return write_end


class NodeRunner:
    """The actor. Its own thread starts the ranks and waits for them; Ray's calls of its methods come beside.

    Parameters
    ----------
    spec : NodeSpec
        What to start.
    """

    def __init__(self, spec: NodeSpec) -> None:
        self._spec = spec
        self._folder = Path(spec["folder"])
        self._gone = self._folder / GONE.format(spec["node_rank"])
        self._begun: Future[int] = Future()
        self._ended: Future[None] = Future()
        self._lock = threading.Lock()
        self._shells: dict[int, int] = {}
        self._pidfds: dict[int, int] = {}
        self._writers: dict[int, int] = {}
        self._told: set[str] = set()
        self._wake_read, self._wake_write = os.pipe()
        self._raylet = os.getppid()
        threading.Thread(target=self._run, daemon=True).start()

    # --- what others may ask

    async def begun(self) -> int:
        """Return once the ranks have been started; the port where all of them meet."""
        return await asyncio.shield(asyncio.wrap_future(self._begun))

    async def ended(self) -> None:
        """Return once nothing of the attempt is left on this node."""
        await asyncio.shield(asyncio.wrap_future(self._ended))

    async def tell(self, signal: str) -> None:
        """Send a signal to the ranks, once, whoever asks again; `KILL`: end every process of them."""
        await self.begun()
        if signal in self._told:
            return
        if signal != KILL:
            await self._until_claimed()
            with self._lock:
                for pid in self._shells.values():
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(pid, signal_number(signal))
        self._told.add(signal)
        os.write(self._wake_write, b"x")

    async def _until_claimed(self) -> None:
        """A shell that has claimed its rank heeds signals; one that has not is ended by them without a trace."""
        until = time.monotonic() + _CLAIM_WAIT_S
        while time.monotonic() < until:
            records = [read_rank(self._folder / RANK.format(rank)) for rank in list(self._shells)]
            if all(record is not None and record.shim is not None for record in records):
                return
            await asyncio.sleep(0.01)

    # --- its thread

    def _run(self) -> None:
        try:
            self._begin()
        except BaseException as error:
            self._begun.set_exception(error)
            self._ended.set_exception(error)
        else:
            self._begun.set_result(self._port)
            try:
                self._wait()
                self._finish()
            except BaseException:
                # Ray keeps what its workers print; the keeper does what is left to do.
                traceback.print_exc()
                os._exit(1)
            self._ended.set_result(None)
        time.sleep(_LINGER_S)
        self._leave()

    def _begin(self) -> None:
        import ray

        spec = self._spec
        gpus = ray.get_runtime_context().get_accelerator_ids()["GPU"]
        # Before the claim: who sees that it has begun is to see these too.
        (self._folder / GPUS.format(spec["node_rank"])).write_text(",".join(gpus) + "\n")
        if spec["node_rank"] == 0:
            if not claim(self._folder, BEGUN):
                raise NotClaimedError(f"{self._folder.name} has been claimed")
            self._port = free_port()
        else:
            self._port = ray.get(ray.get_actor(spec["first"]).begun.remote())
        self._keeper = start_keeper(spec["mark"], self._gone)
        try:
            env = node_env(spec["master_addr"], self._port)
            for rank in spec["ranks"]:
                self._start(rank["rank"], env | rank["env"] | {"CUDA_VISIBLE_DEVICES": ",".join(gpus)})
        except BaseException:
            self._finish()
            raise

    def _start(self, rank: int, env: dict[str, str]) -> None:
        spec = self._spec
        started = spawn(
            self._folder / RANK.format(rank), self._log_file(rank), spec["argv"], env,
            cwd=spec["cwd"], cgroup_procs="", setup=spec["setup"], log_max_bytes=spec["log_max_bytes"],
        )  # fmt: skip
        self._shells[rank], self._writers[rank] = started.shim_pid, started.log_pid
        self._pidfds[os.pidfd_open(started.shim_pid)] = rank

    def _log_file(self, rank: int) -> Path:
        return Path(self._spec["log_dir"]) / f"{rank}.log"

    def _wait(self) -> None:
        """Until every shell has ended; SIGKILL to all but them when they are told so, or after the limit.

        A worker whose raylet has died may live on while the head is away, and nobody could reach it.
        """
        limit_s = self._spec["limit_s"]
        until = time.monotonic() + limit_s if limit_s >= 0 else float("inf")
        poll = select.poll()
        for fd in (self._wake_read, *self._pidfds):
            poll.register(fd, select.POLLIN)
        while self._pidfds:
            left_s = until - time.monotonic()
            timeout_ms = int(min(left_s, _RAYLET_EVERY_S) * 1000) + 1
            if KILL in self._told or left_s <= 0:
                self._kill()
                timeout_ms = _KILL_AGAIN_MS
            for fd, _ in poll.poll(timeout_ms):
                if fd == self._wake_read:
                    os.read(fd, 4096)
                else:
                    poll.unregister(fd)
                    self._reap(fd)
            if os.getppid() != self._raylet:
                raise RayletGoneError("the raylet has died")

    def _reap(self, pidfd: int) -> None:
        with self._lock:
            rank = self._pidfds.pop(pidfd)
            os.close(pidfd)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self._shells.pop(rank), 0)

    def _kill(self) -> None:
        """SIGKILL to all but the shells, which record the end."""
        shells = set(self._shells.values())
        kill_members({self._spec["mark"]}, shells, spared=shells)
        for pid in shells:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signals.SIGCONT)

    def _finish(self) -> None:
        """Nothing may be left when it is said."""
        for _ in range(_SWEEPS_MAX):
            if not kill_members({self._spec["mark"]}):
                break
            time.sleep(0.01)
        for rank, pid in self._writers.items():
            self._finish_log(rank, pid)
        with contextlib.suppress(OSError):
            self._gone.touch()
            os.write(self._keeper, b"done\n")
        os.close(self._keeper)

    def _finish_log(self, rank: int, pid: int) -> None:
        """Wait for the last output, and say so where some of it was lost."""
        with contextlib.suppress(ChildProcessError, ProcessLookupError):
            pidfd = os.pidfd_open(pid)
            select.select([pidfd], [], [], _LOG_WAIT_MS / 1000)
            os.close(pidfd)
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended and status:
                with contextlib.suppress(OSError), self._log_file(rank).open("a") as file:
                    file.write(CUT_NOTE)

    def _leave(self) -> None:
        """No agent has taken the attempt away: give its GPUs back, once it has ended on all of its nodes."""
        import ray

        if all((self._folder / GONE.format(node_rank)).exists() for node_rank in range(self._spec["nodes"])):
            group = ray.util.get_current_placement_group()
            if group is not None:
                ray.util.remove_placement_group(group)
        os._exit(0)
