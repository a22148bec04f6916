"""The `local` executor: attempts as processes of this machine that survive the death of their agent."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal as signals
import socket
from hashlib import sha256
from pathlib import Path
from urllib.parse import quote

import structlog

from dure.executors import cgroup, process, shim
from dure.executors.attempt import Attempt, StopOrder, Task, attempt_from, order_to_json
from dure.executors.booked import BookedExecutor
from dure.executors.clock import Clock
from dure.executors.gpus import share_env, visible_devices
from dure.executors.lease_book import BookUnwritableError, LeaseBook
from dure.executors.local_nodes import LocalNodes
from dure.executors.ranks import rank_env
from dure.executors.state_lock import take_lock
from dure.executors.sweep import Sweeper
from dure.ports.executor import Launch, LaunchError, NodeInfo, RunState

#: How long an end is held back for the last output to be written.
_LOG_WAIT_S = 2.0

_log = structlog.get_logger(__name__)


class LocalExecutor(BookedExecutor[Attempt]):
    """See `dure.ports.executor.Executor`.

    Parameters
    ----------
    state_dir : Path
        What must outlive the agent; for one executor at a time.
    nodes : LocalNodes
    clock : Clock
    log_max_bytes : int
        A task's log is cut there.
    """

    def __init__(
        self, state_dir: Path, nodes: LocalNodes, *, clock: Clock | None = None, log_max_bytes: int = 256 << 20
    ) -> None:
        super().__init__()
        self._dir = state_dir.resolve()
        self._nodes = nodes
        self._clock = clock or Clock()
        self._log_max_bytes = log_max_bytes
        self._supervisors: dict[str, asyncio.Task[None]] = {}
        self._boot = process.boot_id()

    async def open(self) -> None:
        """Take up what an earlier process has left running.

        Raises
        ------
        StateInUseError
            That process still lives.
        """
        (self._dir / "leases").mkdir(parents=True, exist_ok=True)
        self._lock = await take_lock(self._dir / "lock")
        self._book = LeaseBook(book_path(self._dir))
        self._sweeper = Sweeper()
        self._cgroups = cgroup.open_root(cgroup_name(self._dir))
        if self._cgroups is None or not self._cgroups.limits:
            _log.warning("no limits", detail="limits of cpu and memory are not enforced: no cgroup v2 that may be written")
        for lease_id, intent, stop in self._book.live():
            attempt = attempt_from(intent, stop, self._folder(lease_id))
            self._attempts[lease_id] = attempt
            await self._adopt(attempt)
            self._supervise(attempt)
        self._remove_strays()

    def _remove_strays(self) -> None:
        """Folders of launches that were never written down: nothing has run there."""
        known = {self._folder(lease_id).name for lease_id in self._attempts}
        for folder in (self._dir / "leases").iterdir():
            if folder.name not in known:
                shutil.rmtree(folder, ignore_errors=True)
        if self._cgroups is not None:
            self._cgroups.remove_all_but(known)

    def _folder(self, lease_id: str) -> Path:
        return lease_folder(self._dir, lease_id)

    async def nodes(self) -> list[NodeInfo]:
        """The nodes that it can launch on."""
        return list(self._nodes.infos)

    async def launch(self, launch: Launch) -> None:
        """Start an attempt, unless its lease was ever launched here."""
        if launch.lease_id in self._attempts:
            return
        attempt = self._prepare(launch)
        self._attempts[launch.lease_id] = attempt
        try:
            is_new = await self._book.intend(launch.lease_id, launch.fence, attempt.intent())
        except BookUnwritableError as error:
            await self._drop(attempt)
            raise LaunchError(f"{launch.lease_id}: {error}") from error
        if not is_new:
            await self._drop(attempt)
            return
        self._start(attempt)
        self._supervise(attempt)

    def _prepare(self, launch: Launch) -> Attempt:
        folder = self._folder(launch.lease_id)
        taken = {
            device
            for other in self._attempts.values() if not other.is_over
            for devices in other.visible.values() for device in devices
        }  # fmt: skip
        visible: dict[str, tuple[str, ...]] = {}
        energy: dict[str, int] = {}
        try:
            for part in launch.placements:
                found = visible_devices(part, self._nodes.gpus[part.node], taken)
                taken |= set(found)
                visible[part.node] = visible.get(part.node, ()) + found
                energy |= self._nodes.energy_mj(part.node, part.gpus)
            for path in (launch.log_dir, launch.checkpoint_dir, str(folder)):
                os.makedirs(path, exist_ok=True)  # noqa: PTH103 - thrice as fast as Path.mkdir
            if launch.setup:
                (folder / "setup.sh").write_text(launch.setup)
            group = None
            if self._cgroups is not None:
                group = self._cgroups.make(folder.name, launch.cpu_milli, launch.mem_mib)
        except KeyError as error:
            raise LaunchError(f"{launch.lease_id}: there is no node {error} here") from None
        except (OSError, LookupError) as error:
            shutil.rmtree(folder, ignore_errors=True)
            raise LaunchError(f"{launch.lease_id}: {error}") from error
        return Attempt(
            launch, folder, visible, _free_port(), energy, self._boot, self._clock.boot_ms(), self._clock.wall_ms(), group
        )

    async def _drop(self, attempt: Attempt) -> None:
        if self._attempts.pop(attempt.launch.lease_id, None) is None:
            return
        shutil.rmtree(attempt.folder, ignore_errors=True)
        if attempt.cgroup is not None:
            attempt.cgroup.remove()

    def _start(self, attempt: Attempt) -> None:
        launch = attempt.launch
        part_of = {part.node: part for part in launch.placements}
        for task in attempt.tasks:
            visible = attempt.visible[task.place.node]
            env = {
                **rank_env(launch, task.place, len(attempt.tasks), visible, attempt.master_port),
                **share_env(part_of[task.place.node], visible),
                process.LEASE_MARK: attempt.mark,
            }
            try:
                started = shim.spawn(
                    task.rank_file, task.log_file, launch.argv, env,
                    cwd=launch.cwd or launch.log_dir,
                    cgroup_procs=attempt.cgroup.procs if attempt.cgroup is not None else "",
                    setup=str(attempt.folder / "setup.sh") if launch.setup else "",
                    log_max_bytes=self._log_max_bytes,
                )  # fmt: skip
            except OSError as error:
                _log.error("a task was not started", lease=launch.lease_id, rank=task.place.rank, error=str(error))
                attempt.end_task(task, None, self._clock.boot_ms())
                continue
            task.pid, task.log_pid, task.is_child = started.shim_pid, started.log_pid, True
            self._watch(attempt, task, os.pidfd_open(task.pid))
        attempt.state = RunState.RUNNING
        self._changed.set()

    async def _adopt(self, attempt: Attempt) -> None:
        """Find the tasks of an attempt that an earlier process has launched."""
        for task in attempt.tasks:
            record = await self._claimed(attempt, task)
            if record.exit_code is None and record.shim is not None and attempt.boot == self._boot:
                pidfd = process.open_pidfd(record.shim)
                if pidfd is not None:
                    task.pid = record.shim.pid
                    self._watch(attempt, task, pidfd)
                    continue
                record = shim.read_rank(task.rank_file) or record
            attempt.end_task(task, self._end_of(attempt, record), self._clock.boot_ms())
        attempt.state = RunState.RUNNING if attempt.stop is None else RunState.STOPPING

    async def _claimed(self, attempt: Attempt, task: Task) -> shim.RankRecord:
        """What is known of a task that nobody can start any more."""
        if not attempt.folder.is_dir() or (shim.read_rank(task.rank_file) is None and shim.revoke(task.rank_file)):
            return shim.RankRecord(is_revoked=True)
        is_final = False
        while True:
            record = shim.read_rank(task.rank_file) or shim.RankRecord()
            if record.shim is not None or record.is_revoked or is_final:
                return record
            # Read once more after this: what a shell has written before its end is seen.
            is_final = not await asyncio.to_thread(shim.is_shell_alive, attempt.mark, task.rank_file)
            await asyncio.sleep(0.02)

    def _end_of(self, attempt: Attempt, record: shim.RankRecord) -> int | None:
        """Exit code of a task whose shell is gone; a shell that left none was killed: by us, if its time was over."""
        if record.exit_code is None and attempt.is_kill_due(self._clock.boot_ms()):
            return 128 + signals.SIGKILL
        return record.exit_code

    def _watch(self, attempt: Attempt, task: Task, pidfd: int) -> None:
        task.pidfd = pidfd
        asyncio.get_running_loop().add_reader(pidfd, self._on_task_end, attempt, task)

    def _unwatch(self, task: Task) -> None:
        if task.pidfd >= 0:
            asyncio.get_running_loop().remove_reader(task.pidfd)
            os.close(task.pidfd)
            task.pidfd = -1

    def _on_task_end(self, attempt: Attempt, task: Task) -> None:
        self._unwatch(task)
        if task.is_child:
            os.waitpid(task.pid, 0)
        record = shim.read_rank(task.rank_file) or shim.RankRecord()
        code = self._end_of(attempt, record)
        if code is None and record.shim is None and attempt.stop is not None:
            # The stop came before the shell was ready for it.
            code = 128 + process.signal_number(attempt.stop.signals[-1])
        attempt.end_task(task, code, self._clock.boot_ms())
        attempt.wake.set()

    def _supervise(self, attempt: Attempt) -> None:
        lease_id = attempt.launch.lease_id
        supervisor = asyncio.create_task(self._supervised(attempt), name=f"supervise {lease_id}")
        self._supervisors[lease_id] = supervisor
        supervisor.add_done_callback(lambda done: self._on_supervised(lease_id, done))

    def _on_supervised(self, lease_id: str, done: asyncio.Task[None]) -> None:
        self._supervisors.pop(lease_id, None)
        if not done.cancelled() and done.exception() is not None:
            _log.error("an attempt is not looked after any more", lease=lease_id, exc_info=done.exception())

    async def _supervised(self, attempt: Attempt) -> None:
        while attempt.running:
            now_ms = self._clock.boot_ms()
            order = attempt.due_order(now_ms)
            if order is not None:
                self._order(attempt, *order)
            elif attempt.is_kill_due(now_ms):
                await self._kill(attempt)
            due_ms = attempt.due_in_ms(now_ms)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(attempt.wake.wait(), None if due_ms is None else due_ms / 1000)
            attempt.wake.clear()
        await self._finish(attempt)

    async def stop(self, lease_id: str, *, signal: str, grace_ms: int) -> None:
        """Ask an attempt to leave: signal, after the grace SIGKILL, to every process of it."""
        attempt = self._attempts.get(lease_id)
        if attempt is None or attempt.is_over:
            return
        kill_at_ms = self._clock.boot_ms() + grace_ms
        known = attempt.stop
        if known is not None and signal in known.signals and known.kill_at_boot_ms <= kill_at_ms:
            return
        self._order(attempt, signal, grace_ms)
        assert attempt.stop is not None
        try:
            await self._book.order_stop(lease_id, order_to_json(attempt.stop))
        except BookUnwritableError as error:
            _log.warning("a stop is not remembered", lease=lease_id, error=str(error))

    def _order(self, attempt: Attempt, name: str, grace_ms: int) -> None:
        """Send the first word, and set the moment of the last."""
        number = process.signal_number(name)
        kill_at_ms = self._clock.boot_ms() + grace_ms
        sent: tuple[str, ...] = ()
        if attempt.stop is not None:
            sent, kill_at_ms = attempt.stop.signals, min(kill_at_ms, attempt.stop.kill_at_boot_ms)
        attempt.stop = StopOrder(sent if name in sent else (*sent, name), kill_at_ms)
        attempt.state = RunState.STOPPING
        self._changed.set()
        attempt.wake.set()
        if name in sent:
            return
        for task in attempt.running:
            # While its pidfd is open and silent, the number is this shell's, and its group's.
            if task.pidfd >= 0:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(task.pid, number)

    async def _kill(self, attempt: Attempt) -> None:
        """SIGKILL to all but the shells, which record the end."""
        shells = {task.pid for task in attempt.running if task.pidfd >= 0}
        if attempt.cgroup is not None:
            attempt.cgroup.kill()
        else:
            await self._sweeper.sweep(attempt.mark, shells)
        for task in attempt.running:
            if task.pidfd >= 0:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(task.pid, signals.SIGCONT)

    async def _finish(self, attempt: Attempt) -> None:
        """All tasks have ended: nothing of them may be left when it is said."""
        if attempt.cgroup is not None:
            await _empty(attempt.cgroup)
        if attempt.cgroup is None or any(task.exit_code is None for task in attempt.tasks):
            await self._sweeper.sweep(attempt.mark)
        for task in attempt.tasks:
            await self._finish_log(task)
        attempt.gpu_energy_mj = self._energy_used(attempt)
        attempt.ended_ms = self._clock.wall_ms()
        attempt.state, attempt.exit_code = attempt.outcome()
        self._changed.set()

    async def _finish_log(self, task: Task) -> None:
        """Wait for the last output, and say so where some of it was lost."""
        if task.log_pid < 0:
            record = shim.read_rank(task.rank_file)
            pidfd = None if record is None or record.log is None else process.open_pidfd(record.log)
            if pidfd is not None:
                await _readable(pidfd, _LOG_WAIT_S)
            return
        pid, status = os.waitpid(task.log_pid, os.WNOHANG)
        if not pid:
            await _readable(os.pidfd_open(task.log_pid), _LOG_WAIT_S)
            pid, status = os.waitpid(task.log_pid, os.WNOHANG)
        task.log_pid = -1
        if pid and status:
            _log.warning("a log is cut", path=str(task.log_file), detail="no room on the disk, or longer than a log may be")
            with contextlib.suppress(OSError), task.log_file.open("a") as file:
                file.write(shim.CUT_NOTE)

    def _energy_used(self, attempt: Attempt) -> int:
        now: dict[str, int] = {}
        for part in attempt.launch.placements:
            now |= self._nodes.energy_mj(part.node, part.gpus)
        used = [now[uuid] - start for uuid, start in attempt.energy_start_mj.items() if uuid in now]
        return sum(used) if used else -1

    async def close(self) -> None:
        """Let go without stopping anything."""
        supervisors = list(self._supervisors.values())
        for supervisor in supervisors:
            supervisor.cancel()
        await asyncio.gather(*supervisors, return_exceptions=True)
        for attempt in self._attempts.values():
            for task in attempt.tasks:
                self._unwatch(task)
        await self._sweeper.close()
        await self._book.close()
        if self._cgroups is not None:
            self._cgroups.close()
        self._lock.close()


def lease_folder(state_dir: Path, lease_id: str) -> Path:
    """Of a lease, in the state of its executor."""
    return state_dir / "leases" / quote(lease_id, safe="").replace(".", "%2E")


def book_path(state_dir: Path) -> Path:
    """Of the book of the executor with this state."""
    return state_dir / "leases.sqlite"


def cgroup_name(state_dir: Path) -> str:
    """Of the folder of cgroups that the executor with this state has."""
    return f"dure-{sha256(str(state_dir.resolve()).encode()).hexdigest()[:12]}"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


async def _empty(group: cgroup.Cgroup) -> None:
    """End what is left in a cgroup and take it away."""
    pause_s = 0.001
    while group.is_populated() or not group.remove():
        group.kill()
        await asyncio.sleep(pause_s)
        pause_s = min(pause_s * 2, 0.5)


async def _readable(fd: int, timeout_s: float) -> None:
    """Wait until a descriptor is readable, then close it."""
    loop = asyncio.get_running_loop()
    is_readable = asyncio.Event()
    loop.add_reader(fd, is_readable.set)
    try:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(is_readable.wait(), timeout_s)
    finally:
        loop.remove_reader(fd)
        os.close(fd)
