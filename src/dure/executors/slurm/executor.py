"""The `slurm` executor: attempts as jobs of a Slurm cluster, which outlive their agent."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection, Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import assert_never
from urllib.parse import quote

import structlog

from dure.executors import far_folder
from dure.executors.clock import Clock
from dure.executors.far import KILL_AGAIN_MS, LEASES, TELL_AGAIN_MS, Now
from dure.executors.far_executor import FarExecutor, write_note
from dure.executors.lease_book import BookUnwritableError, LeaseBook
from dure.executors.process import signal_number
from dure.executors.slurm import folder as folders
from dure.executors.slurm import script
from dure.executors.slurm.attempt import SlurmAttempt, attempt_from
from dure.executors.slurm.engine import (
    Cluster,
    Engine,
    Phase,
    SlurmJob,
    SlurmNode,
    SlurmRefusalError,
    SlurmSilentError,
)
from dure.executors.slurm.nodes import cluster_from_json, cluster_to_json, nodes_of, offer, partition_of, shape_of
from dure.executors.state_lock import take_lock
from dure.model.accounts import is_unlike
from dure.ports.executor import Account, Launch, LaunchError, Run, RunState

#: Between two looks at the jobs: while some start or leave, otherwise; the looking itself rests as many times as long as it takes.
_LOOK_SOON_MS, _LOOK_MS, _LOOK_REST = 400, 1_000, 1
_SURVEY_MS = 5_000
_PAUSE_MIN_MS = 50
#: A job that Slurm does not start for so long, although its GPUs should be free, is given up, and its nodes take no new
#: work for a while; longer where Slurm has not said why.
_PATIENCE_MS, _PENDING_LONG_MS, _SHUNNED_MS = 60_000, 600_000, 300_000
_UNTOLD_REASONS = ("None", "Priority")
#: The exits of a job's ranks may come so long after Slurm says that it has ended: storage that is shared is slow to tell.
_ENDS_WAIT_MS = 5_000
#: Shells of nodes that do not heed the last word for so long are ended by Slurm.
_CANCEL_AFTER_MS = 10_000
#: Launches within this time are handed in together. Slurm tries to start a single job when it comes, the tasks of an array
#: in its next rounds, and takes an array for the price of one job: that is worth it where single ones would take many
#: seconds, from so many launches on. So many tasks has an array at most; so many go in at once.
_GATHER_S = 0.005
_ARRAYS_FROM = 1_001
_ARRAY_MAX = 500
_SUBMITS_AT_ONCE = 4
_RETRY_S = 2.0
#: Accounts are asked for so often, of so many jobs at once; later where the database is silent, and no longer than so long.
_ACCOUNTS_MS, _ACCOUNTS_MAX, _ACCOUNTS_LATER_MS, _ACCOUNTS_WAIT_MS = 2_000, 500, 30_000, 3_600_000

_log = structlog.get_logger(__name__)


class SlurmExecutor(FarExecutor[SlurmAttempt]):
    """See `dure.ports.executor.Executor`.

    Parameters
    ----------
    state_dir : Path
        What must outlive the agent, on a disk of this machine; for one executor at a time.
    shared_dir : Path
        On storage that this machine and every node see under the same path: scripts and ends of attempts.
    engine : Engine
        The cluster.
    partition : str
        Whose nodes are offered; empty: the default one.
    log_max_bytes : int
        A task's log is cut there.
    patience_ms : int
        How long Slurm may take to start what should have its GPUs at once, and to end what it has forgotten.
    arrays_from : int
        From so many launches at one moment on, those of one shape on one node go in as an array.
    """

    def __init__(
        self, state_dir: Path, shared_dir: Path, engine: Engine, *, partition: str = "", clock: Clock | None = None,
        log_max_bytes: int = 256 << 20, patience_ms: int = _PATIENCE_MS, arrays_from: int = _ARRAYS_FROM,
    ) -> None:  # fmt: skip
        super().__init__("slurm", state_dir, shared_dir, clock)
        self._engine = engine
        self._partition_name = partition
        self._log_max_bytes = log_max_bytes
        self._patience_ms = patience_ms
        self._arrays_from = arrays_from
        self._waiting: list[tuple[SlurmAttempt, asyncio.Future[None]]] = []
        self._has_waiting = asyncio.Event()
        self._submits = asyncio.Semaphore(_SUBMITS_AT_ONCE)
        self._nodes: dict[str, SlurmNode] = {}
        self._shunned: dict[str, int] = {}
        self._has_accounts: bool | None = None
        self._unaccounted: dict[str, SlurmAttempt] = {}
        self._accounts: dict[str, Account] = {}
        self._look_at_ms = self._survey_at_ms = self._accounts_at_ms = 0

    async def open(self) -> None:
        """Take up what an earlier process has left running.

        Raises
        ------
        StateInUseError
            That process still lives.
        InputError
            There is no such partition.
        SlurmSilentError, SlurmRefusalError
            The cluster does not answer, and never has.
        """
        self._dir.mkdir(parents=True, exist_ok=True)
        self._lock = await take_lock(self._dir / "lock")
        try:
            await self._survey_first()
        except BaseException:
            await self._engine.close()
            self._lock.close()
            raise
        self._book = LeaseBook(self._dir / "leases.sqlite")
        for name in (LEASES, script.CLAIMS, script.NODES):
            (self._root / name).mkdir(parents=True, exist_ok=True)
        now = self._now()
        for lease_id, intent, stop in self._book.live():
            self._attempts[lease_id] = attempt_from(intent, stop, self._folder(lease_id), now)
        await asyncio.to_thread(self._remove_strays)
        await self._try(self._look())
        self._start(self._hand_in_all())
        self._start(self._watch())

    @staticmethod
    def _remove(folder: Path) -> None:
        folders.remove(folder)

    # --- nodes

    async def _survey(self) -> None:
        before = set(self._living())
        if self._has_accounts is None:
            self._has_accounts = await self._engine.has_accounts()
        cluster = await self._engine.cluster()
        self._take_cluster(cluster, before)
        self._keep_cluster(cluster_to_json(cluster))

    def _take_kept(self, text: str) -> None:
        self._take_cluster(cluster_from_json(text), ())

    def _take_cluster(self, cluster: Cluster, before: Iterable[str]) -> None:
        now_ms = self._clock.boot_ms()
        self._partition = partition_of(cluster, self._partition_name)
        self._nodes = nodes_of(cluster, self._partition)
        ours: dict[str, int] = {}
        for lease_id in {*before, *self._living()}:
            if lease_id in self._attempts:
                for node, gpus in self._attempts[lease_id].shape.gpus_on.items():
                    ours[node] = ours.get(node, 0) + gpus
        self._shunned = {node: until for node, until in self._shunned.items() if until > now_ms}
        offered = offer(self._nodes, ours, self._shunned)
        self._offer_now(offered)

    # --- launching

    async def launch(self, launch: Launch) -> None:
        """Start an attempt, unless its lease was ever launched here; it is handed in as soon as it is written down."""
        if launch.lease_id in self._attempts:
            return
        shape = shape_of(launch, self._nodes, self._partition)
        attempt = SlurmAttempt(launch, self._folder(launch.lease_id), shape)
        self._attempts[launch.lease_id] = attempt
        addresses = {node: self._nodes[node].address for node in shape.gpus_on}
        try:
            await asyncio.to_thread(folders.write, attempt.folder, launch, addresses, self._log_max_bytes)
        except OSError as error:
            await self._drop(attempt)
            raise LaunchError(f"{launch.lease_id}: {error}") from error
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((attempt, written))
        self._has_waiting.set()
        await written

    async def _hand_in_all(self) -> None:
        """What was launched at one moment goes in together; where it is much, in arrays of one shape on one node."""
        while True:
            await self._has_waiting.wait()
            await asyncio.sleep(_GATHER_S)
            self._has_waiting.clear()
            waiting, self._waiting = self._waiting, []
            has_arrays = len(waiting) >= self._arrays_from
            for batch in _batches([attempt for attempt, _ in waiting], has_arrays):
                first = quote(batch[0].launch.lease_id, safe="")
                for idx, attempt in enumerate(batch):
                    attempt.name, attempt.task = f"dure-{first}-{self._tag()}", idx
            is_new = await asyncio.gather(*(self._intend(attempt, written) for attempt, written in waiting))
            new = [attempt for (attempt, _), is_so in zip(waiting, is_new, strict=True) if is_so]
            for batch in _batches(new, has_arrays):
                self._start(self._hand_in(batch))

    async def _intend(self, attempt: SlurmAttempt, written: asyncio.Future[None]) -> bool:
        launch = attempt.launch
        try:
            is_new = await self._book.intend(launch.lease_id, launch.fence, attempt.intent())
        except BookUnwritableError as error:
            await self._drop(attempt)
            if not written.done():
                written.set_exception(LaunchError(f"{launch.lease_id}: {error}"))
            return False
        if not is_new:
            await self._drop(attempt)
        if not written.done():
            written.set_result(None)
        return is_new

    async def _hand_in(self, batch: Sequence[SlurmAttempt]) -> None:
        """Submit some attempts as one job; whether that has worked where no answer came, the next look tells."""
        batch = [attempt for attempt in batch if not attempt.is_over]
        if not batch:
            return
        first = batch[0]
        tasks = max(attempt.task for attempt in batch) + 1
        names = {attempt.task: attempt.folder.name for attempt in batch}
        text = script.batch_script(self._root, names, first.shape, max(attempt.world for attempt in batch))
        until_ms = self._clock.boot_ms() + self._patience_ms
        async with self._submits:
            while True:
                try:
                    job = await self._engine.submit(
                        first.shape, text, name=first.name, comment=f"fence={first.launch.fence}", tasks=tasks
                    )
                except SlurmSilentError as error:
                    _log.warning("no answer to a job", lease=first.launch.lease_id, error=str(error))
                    if not error.is_sent and self._clock.boot_ms() < until_ms:
                        await asyncio.sleep(_RETRY_S)
                        continue
                except SlurmRefusalError as error:
                    self._on_refusal(batch, str(error))
                else:
                    for attempt in batch:
                        attempt.job = f"{job}_{attempt.task}" if tasks > 1 else str(job)
                break
        for attempt in batch:
            attempt.is_handed_in = True
        self._look_at_ms = min(self._look_at_ms, self._clock.boot_ms() + _LOOK_SOON_MS)
        self._wake.set()

    def _on_refusal(self, batch: Sequence[SlurmAttempt], why: str) -> None:
        _log.error("slurm refuses a job", lease=batch[0].launch.lease_id, num=len(batch), error=why)
        for attempt in batch:
            if not attempt.is_over and folders.revoke(attempt.folder):
                write_note(attempt.launch, f"Slurm refuses it: {why}")
                self._finish(attempt, RunState.LOST)

    # --- looking

    async def _watch(self) -> None:
        while True:
            now_ms = self._clock.boot_ms()
            if now_ms >= self._survey_at_ms:
                await self._try(self._survey())
                self._survey_at_ms = self._clock.boot_ms() + _SURVEY_MS
            if now_ms >= self._look_at_ms and self._living():
                await self._try(self._look())
                took_ms = self._clock.boot_ms() - now_ms
                self._look_at_ms = self._clock.boot_ms() + max(self._look_every_ms(), took_ms * _LOOK_REST)
            await self._try(self._act())
            if self._unaccounted and self._clock.boot_ms() >= self._accounts_at_ms:
                await self._read_accounts()
            await self._pause(self._pause_ms())

    def _look_every_ms(self) -> int:
        is_soon = any(attempt.state is not RunState.RUNNING for attempt in self._living().values())
        return _LOOK_SOON_MS if is_soon else _LOOK_MS

    def _pause_ms(self) -> int:
        dues = [self._survey_at_ms, *([self._accounts_at_ms] if self._unaccounted else [])]
        living = self._living().values()
        if living:
            dues += [self._look_at_ms, *(due for attempt in living if (due := attempt.due_at()) is not None)]
        return max(min(dues) - self._clock.boot_ms(), _PAUSE_MIN_MS)

    async def _look(self) -> None:
        """One list of jobs, and what it says of each attempt that was handed in before."""
        known = [attempt for attempt in self._living().values() if attempt.is_handed_in]
        if not known:
            return
        jobs: dict[tuple[str, int], list[SlurmJob]] = {}
        for job in sorted(await self._engine.jobs(), key=lambda job: job.job_id):
            jobs.setdefault((job.name, max(job.task, 0)), []).append(job)
        self._see_begun()
        self._see_gpus(known)
        strangers = []
        for attempt in known:
            if attempt.is_over:
                continue
            found = jobs.get((attempt.name, attempt.task))
            if found is None:
                self._on_absent(attempt)
            elif self._on_job(attempt, found):
                strangers.append(attempt.job)
        if strangers:
            await self._engine.cancel(strangers)

    def _see_begun(self) -> None:
        starting = {attempt.folder.name: attempt for attempt in self._living().values() if attempt.started_boot_ms is None}
        if not starting:
            return
        now = self._now()
        for name, started_ms in folders.begun(self._root, starting).items():
            starting[name].see_begun(started_ms, now)
            self._changed.set()

    def _see_gpus(self, attempts: Iterable[SlurmAttempt]) -> None:
        """Which GPUs Slurm has given, of those that have begun."""
        for attempt in attempts:
            if attempt.has_gpus and attempt.gpu_idxs is None and attempt.started_boot_ms is not None:
                attempt.gpu_idxs = far_folder.read_gpus(folders.gpus_files(attempt.folder, len(attempt.nodes)))
                if attempt.gpu_idxs is not None:
                    self._changed.set()

    def _on_absent(self, attempt: SlurmAttempt) -> None:
        """Slurm does not know of it: it never came there, or has ended so long ago that Slurm has forgotten it."""
        code = attempt.code_of(folders.read_ends(attempt.folder))
        if code is not None:
            self._finish(attempt, RunState.EXITED, code)
        elif folders.revoke(attempt.folder):
            self._finish_unbegun(attempt, "it did not reach Slurm")
        elif self._is_given_up(attempt):
            self._finish_traceless(attempt, "Slurm does not know of it any more")

    def _is_given_up(self, attempt: SlurmAttempt) -> bool:
        """Of one that has begun, and that Slurm does not know to run: whether Slurm has had the time to end it.

        A controller that has lost its state, or has come back with an older one, ends such jobs when their nodes have told
        it of them.
        """
        now_ms = self._clock.boot_ms()
        if attempt.absent_boot_ms is None:
            attempt.absent_boot_ms = now_ms
        return now_ms >= attempt.absent_boot_ms + self._patience_ms

    def _on_job(self, attempt: SlurmAttempt, components: Sequence[SlurmJob]) -> bool:
        """Take in what Slurm says of a job; True: it is not wanted any more.

        Of its components the first stands for all, as long as none was taken away.
        """
        now, job = self._now(), components[0]
        attempt.job = job.word
        taken = [component for component in components if component.phase is Phase.TAKEN]
        if taken and len(components) > 1:
            if any(component.phase in (Phase.PENDING, Phase.STARTING, Phase.RUNNING) for component in components):
                return True
            job = taken[0]
        if job.phase is Phase.PENDING and attempt.started_boot_ms is not None:
            if self._is_given_up(attempt):
                self._on_taken(attempt, job)
            return attempt.is_over
        attempt.absent_boot_ms = None
        match job.phase:
            case Phase.PENDING | Phase.STARTING | Phase.RUNNING:
                return attempt.started_boot_ms is None and self._on_not_begun(attempt, job, now)
            case Phase.ENDED:
                attempt.engine_gpu_ms = _gpu_ms(components)
                self._on_ended(attempt, job, now)
                return False
            case Phase.TAKEN:
                attempt.engine_gpu_ms = -1 if job.restarts else _gpu_ms(components)
                self._on_taken(attempt, job)
                return attempt.is_over and bool(job.restarts)
        assert_never(job.phase)

    def _on_not_begun(self, attempt: SlurmAttempt, job: SlurmJob, now: Now) -> bool:
        """Its GPUs should be free: who waits for long has lost them to somebody, or the node to its operator.

        One that runs without having begun cannot reach the shared folder.
        """
        if attempt.pending_boot_ms is None:
            attempt.pending_boot_ms = now.boot_ms
        waited_ms = now.boot_ms - attempt.pending_boot_ms
        is_untold = job.phase is Phase.STARTING or (job.phase is Phase.PENDING and job.reason in _UNTOLD_REASONS)
        if waited_ms < (_PENDING_LONG_MS if is_untold else self._patience_ms):
            return False
        if not folders.revoke(attempt.folder):
            return False
        self._shunned.update(dict.fromkeys(attempt.nodes, now.boot_ms + _SHUNNED_MS))
        self._survey_at_ms = 0
        self._finish_unbegun(attempt, f"Slurm has not started it: {job.state} {job.reason}")
        return True

    def _on_ended(self, attempt: SlurmAttempt, job: SlurmJob, now: Now) -> None:
        if folders.has_begun_again(attempt.folder):
            self._on_taken(attempt, job)
            return
        ends = folders.read_ends(attempt.folder)
        code = attempt.code_of(ends)
        if code is None:
            if attempt.ended_boot_ms is None:
                attempt.ended_boot_ms = now.boot_ms
            if now.boot_ms < attempt.ended_boot_ms + _ENDS_WAIT_MS and not attempt.is_kill_due(now.boot_ms):
                return
        if code is not None:
            attempt.ended_ms = max(end.at_ns for end in ends.values()) // 1_000_000
            self._finish(attempt, RunState.EXITED, code)
        elif attempt.stop is not None:
            self._finish(attempt, RunState.EXITED, attempt.code_of_stop(now.boot_ms))
        elif job.exit_code is None or job.exit_code == script.NOT_CLAIMED:
            self._finish_traceless(attempt, "its tasks have left no trace")
        else:
            self._finish(attempt, RunState.EXITED, job.exit_code)

    def _on_taken(self, attempt: SlurmAttempt, job: SlurmJob) -> None:
        """Slurm or its operator has ended it: that is no end of its own, whatever code its tasks have left."""
        if attempt.stop is not None or (job.state == "TIMEOUT" and attempt.launch.limit_ms >= 0):
            code = attempt.code_of(folders.read_ends(attempt.folder))
            stop_code = 128 + signal_number("KILL") if attempt.stop is None else attempt.code_of_stop(self._clock.boot_ms())
            self._finish(attempt, RunState.EXITED, stop_code if code is None else code)
            return
        folders.revoke(attempt.folder)
        _log.warning("lost", lease=attempt.launch.lease_id, job=attempt.job, why=f"{job.state} {job.reason}")
        write_note(attempt.launch, f"Slurm has ended it: {job.state}")
        self._finish(attempt, RunState.LOST)

    def _finish(self, attempt: SlurmAttempt, state: RunState, code: int = -1) -> None:
        super()._finish(attempt, state, code)
        attempt.over_boot_ms = self._clock.boot_ms()
        self._compare(attempt, attempt.engine_gpu_ms, "controller")
        if self._has_accounts and attempt.job and attempt.started_boot_ms is not None:
            self._unaccounted[attempt.launch.lease_id] = attempt

    # --- accounts

    @staticmethod
    def _compare(attempt: SlurmAttempt, engine_gpu_ms: int, by: str) -> None:
        """That Slurm counts otherwise than Dure is said, and changes nothing."""
        gpus = sum(attempt.shape.gpus_on.values())
        if engine_gpu_ms >= 0 and is_unlike(attempt.own_gpu_ms, engine_gpu_ms, gpus * 1000):
            _log.warning(
                "accounts differ", lease=attempt.launch.lease_id, job=attempt.job, by=by, gpus=gpus,
                gpu_s=attempt.own_gpu_ms / 1000, engine_gpu_s=engine_gpu_ms / 1000,
            )  # fmt: skip

    async def _read_accounts(self) -> None:
        """What the database says of attempts that are over; it hears of their ends a moment later, or much later."""
        now_ms = self._clock.boot_ms()
        due = list(self._unaccounted.items())[:_ACCOUNTS_MAX]
        try:
            found = await self._engine.accounts([attempt.job for _, attempt in due])
        except (SlurmSilentError, SlurmRefusalError) as error:
            _log.warning("slurm's accounts are silent", error=str(error))
            self._accounts_at_ms = now_ms + _ACCOUNTS_LATER_MS
            return
        self._accounts_at_ms = now_ms + _ACCOUNTS_MS
        for lease_id, attempt in due:
            if attempt.job in found:
                self._compare(attempt, found[attempt.job], "database")
                self._accounts[lease_id] = Account(lease_id, found[attempt.job])
                del self._unaccounted[lease_id]
                self._changed.set()
            elif now_ms >= (attempt.over_boot_ms or 0) + _ACCOUNTS_WAIT_MS:
                _log.warning("slurm's accounts do not have it", lease=lease_id, job=attempt.job)
                del self._unaccounted[lease_id]
            else:
                # Those behind it have their turn.
                self._unaccounted[lease_id] = self._unaccounted.pop(lease_id)

    async def accounts(self) -> list[Account]:
        """What the database says of attempts that are over, and was not settled yet."""
        return list(self._accounts.values())

    async def settle(self, leases: Collection[str]) -> None:
        """The service has taken them in."""
        for lease_id in leases:
            self._accounts.pop(lease_id, None)

    # --- acting

    async def _act(self) -> None:
        """Whatever is due: peers of ranks that have failed, limits, first and last words."""
        now = self._now()
        now_ms = now.boot_ms
        unwanted: list[str] = []
        killed: list[SlurmAttempt] = []
        told: dict[tuple[str, bool], list[SlurmAttempt]] = {}
        for attempt in self._living().values():
            await self._order_what_is_due(attempt, now)
            if attempt.stop is None:
                continue
            if folders.revoke(attempt.folder):
                unwanted.append(attempt.job)
                self._finish_unbegun(attempt, "")
            elif attempt.job and attempt.is_kill_due(now_ms):
                killed.append(attempt)
            elif attempt.job:
                for name in attempt.stop.signals:
                    told_ms = attempt.told_boot_ms.get(name)
                    is_due = told_ms is None or now_ms >= told_ms + TELL_AGAIN_MS
                    if not is_due or folders.has_heard(attempt.folder, name):
                        continue
                    folders.note_stop(attempt.folder, name)
                    told.setdefault((name, attempt.is_gang), []).append(attempt)
        for (name, is_gang), attempts in told.items():
            await self._engine.signal([attempt.job for attempt in attempts], name, is_gang=is_gang)
            for attempt in attempts:
                attempt.told_boot_ms[name] = now_ms
        await self._kill(killed)
        if any(unwanted):
            await self._engine.cancel([job for job in unwanted if job])

    async def _order_what_is_due(self, attempt: SlurmAttempt, now: Now) -> None:
        if attempt.world > 1 and attempt.failed_boot_ms is None and attempt.state is RunState.RUNNING:
            attempt.see_ends(folders.read_ends(attempt.folder), now)
        due = attempt.due_order(now.boot_ms)
        if due is not None:
            await self._order(attempt, *due)

    async def _kill(self, attempts: Sequence[SlurmAttempt]) -> None:
        now_ms = self._clock.boot_ms()
        for is_gang in (False, True):
            due = []
            for attempt in attempts:
                if attempt.is_gang is is_gang and now_ms >= (attempt.killed_boot_ms or 0) + KILL_AGAIN_MS:
                    folders.note_stop(attempt.folder, "KILL")
                    attempt.killed_boot_ms = now_ms
                    due.append(attempt)
            if due:
                await self._engine.signal([attempt.job for attempt in due], script.STOP_WORD, is_gang=is_gang)
            assert all(attempt.stop is not None for attempt in due)
            deaf = [
                attempt.job for attempt in due
                if attempt.stop is not None and now_ms >= attempt.stop.kill_at_boot_ms + _CANCEL_AFTER_MS
            ]  # fmt: skip
            if deaf:
                await self._engine.cancel(deaf)

    # --- the rest of the port

    async def runs(self) -> list[Run]:
        """Every attempt not yet forgotten."""
        with contextlib.suppress(OSError):
            self._see_begun()
        return await super().runs()

    async def close(self) -> None:
        """Let go without stopping anything."""
        await super().close()
        await self._engine.close()


def _gpu_ms(components: Sequence[SlurmJob]) -> int:
    """Of a job that has ended; -1: not known."""
    known = [job.gpu_ms for job in components]
    return -1 if -1 in known else sum(known)


def _batches(attempts: Sequence[SlurmAttempt], has_arrays: bool) -> list[list[SlurmAttempt]]:
    """What is handed in as one job: gangs alone, others by shape."""
    if not has_arrays:
        return [[attempt] for attempt in attempts]
    found = [[attempt] for attempt in attempts if attempt.is_gang]
    single = sorted((attempt for attempt in attempts if not attempt.is_gang), key=lambda attempt: repr(attempt.shape))
    for _, group in groupby(single, key=lambda attempt: attempt.shape):
        alike = list(group)
        found += [alike[idx : idx + _ARRAY_MAX] for idx in range(0, len(alike), _ARRAY_MAX)]
    return found
