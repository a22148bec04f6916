"""The loop of an agent."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import random
import ssl
import sys
import time
import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, assert_never

import structlog

from dure.agent import reconcile, wire
from dure.agent.checkpoint_store import CheckpointStore
from dure.agent.checkpoints import Checkpoints
from dure.agent.contact import Backoff, Contact
from dure.agent.folders import Folders, MissingInputError
from dure.agent.keys import KeyFile, Keyring
from dure.agent.logs import LogShipper
from dure.agent.progress import ProgressReader
from dure.agent.service import NoAnswerError, Service
from dure.agent.state import AgentState, StateUnwritableError
from dure.client import cached, roles
from dure.client.settings import Settings
from dure.executors.clock import Clock
from dure.executors.process import boot_id
from dure.model.errors import DureError
from dure.model.events import Placement
from dure.ports.executor import Account, Executor, KeepsAccounts, Launch, LaunchError, Run, RunState

#: An agent's own key, below its folder of data.
KEY_FILE = "agent.key"
#: The longest that the service may hold a report back.
WAIT_S = 25.0
#: So often within the time to live, however short it is.
_ASKED_IN_TTL = 4
#: Two reports of one picture are at least so far apart.
_IDLE_S = 0.02
#: Exit code of a shell whose command may not be run.
_NOT_RUNNABLE = 126
#: Ends within this time go into one report.
_GATHER_S = 0.01
_PROGRESS_EVERY_S = 1.0
_NOTE_CONTACT_EVERY_MS = 1_000
_REFUSED_CHARS = 500
_TIDY_EVERY_S = 3600.0

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class AgentConfig:
    """Who the agent is, and where the service is.

    Attributes
    ----------
    url : str
        Several addresses, of which one leads: parted by commas.
    token : str
        Of role agent; empty: the agent's own key, which `enrol_token` is given for where there is none yet.
    key_file : Path or None
        Where that is kept; None: below ``data_dir``.
    ca_file, trust : str, ssl.SSLContext or None
        For jobs, the certificate authorities that the agent was told of; and whose certificates it takes itself.
    data_dir : Path
        What the agent itself must remember, on a disk of this machine.
    shared_dir : Path or None
        Logs, checkpoints, outputs and working folders, which every node sees under the same path; None: all in ``data_dir``.
    checkpoints : str
        Storage that several sites share: a path where jobs keep them themselves, or an address that this agent copies them
        from and to; empty: what a job has saved stays at this site.
    keep_days : int
        So long the working folder of a job that has no lease here is kept after it was used last.
    """

    site: str
    url: str
    token: str
    data_dir: Path
    keep_days: int = 30
    enrol_token: str = ""
    key_file: Path | None = None
    ca_file: str = ""
    trust: ssl.SSLContext | None = None
    shared_dir: Path | None = None
    checkpoints: str = ""


class Agent:
    """Keeps what runs equal to what the service says should run, whatever dies in between.

    Parameters
    ----------
    executor : Executor
        Not yet open; with its logs below `Folders.logs`.
    clock : Clock
        Nothing is decided by its wall clock.
    """

    def __init__(self, config: AgentConfig, executor: Executor, *, clock: Clock | None = None) -> None:
        self._config = config
        self._executor = executor
        self._clock = clock or Clock()
        is_path = bool(config.checkpoints) and "://" not in config.checkpoints
        self._folders = Folders(
            (config.shared_dir or config.data_dir).resolve(), Path(config.checkpoints).resolve() if is_path else None
        )
        self._chance = random.Random()
        self._boot = str(uuid.uuid4())
        self._machine_boot = boot_id()
        self._seq = 0
        self._refused: dict[str, Run] = {}
        self._progress: dict[str, ProgressReader] = {}
        self._log_bytes: dict[str, list[int] | None] = {}
        self._told: dict[str, tuple[str, str]] = {}
        self._orders: dict[str, wire.LeaseOrder] = {}
        self._runs: list[Run] = []
        self._accounts: list[Account] = []
        self._reported: object = None
        self._is_stopping = asyncio.Event()
        self._has_progress = asyncio.Event()
        self._checkpoints: Checkpoints | None = None
        if config.checkpoints and not is_path:
            store = CheckpointStore(config.checkpoints)
            self._checkpoints = Checkpoints(store, self._folders, lambda: Backoff(self._chance), self._has_progress.set)

    def stop(self) -> None:
        """End `run` soon; what runs goes on."""
        self._is_stopping.set()

    async def run(self) -> None:
        """Until `stop`.

        Raises
        ------
        DureError
            The state cannot be opened, or the service does not take this agent's enrolment.
        """
        for folder in (self._config.data_dir, self._folders.logs):
            folder.mkdir(parents=True, exist_ok=True)
        await self._executor.open()
        self._state = AgentState(self._config.data_dir.resolve() / "agent.sqlite")
        self._service = Service(Settings(self._config.url).urls, self._config.token, self._config.site, self._config.trust)
        keyring = None if self._config.token else self._keyring()
        self._shipper = LogShipper(self._folders, self._service.post_log, self._clock, Backoff(self._chance))
        now_ms = self._clock.boot_ms()
        self._contact = Contact(*(self._state.last_contact(self._machine_boot) or (now_ms,)))
        self._noted_ms: int | None = None
        self._runs = await self._take_up()
        _log.info("agent up", site=self._config.site, agent=self._state.agent_id, runs=len(self._runs))
        refusal: DureError | None = None
        try:
            async with asyncio.TaskGroup() as group:
                beside = [group.create_task(work) for work in (self._guard(), self._follow_progress(), self._tidy())]
                refusal = await self._take_key(keyring)
                if refusal is None and not self._is_stopping.is_set():
                    beside.append(group.create_task(self._shipper.run()))
                    if keyring is not None:
                        beside.append(group.create_task(keyring.keep_good()))
                    await self._loop()
                for task in beside:
                    task.cancel()
        finally:
            if self._checkpoints is not None:
                await self._checkpoints.close()
            await self._service.close()
            self._state.close()
            await self._executor.close()
            _log.info("agent down", site=self._config.site)
        if refusal is not None:
            raise refusal

    def _keyring(self) -> Keyring:
        file = KeyFile(self._config.key_file or self._folders.root / KEY_FILE)
        return Keyring(file, self._service, self._state.agent_id, self._config.enrol_token, self._clock, Backoff(self._chance))

    async def _take_key(self, keyring: Keyring | None) -> DureError | None:
        """Enrol where that is needed, until it is done or `stop`; why it cannot be done."""
        if keyring is None:
            return None
        taking, stopping = asyncio.create_task(keyring.take()), asyncio.create_task(self._is_stopping.wait())
        await asyncio.wait([taking, stopping], return_when=asyncio.FIRST_COMPLETED)
        for task in (taking, stopping):
            task.cancel()
        (found, _) = await asyncio.gather(taking, stopping, return_exceptions=True)
        if isinstance(found, asyncio.CancelledError | None):
            return None
        if isinstance(found, DureError):
            return found
        raise found

    async def _take_up(self) -> list[Run]:
        """Follow what an earlier process has left: runs, and logs that were not sent whole."""
        runs = await self._executor.runs()
        for run in runs:
            self._follow(run.lease_id, is_fresh=False)
        for lease_id in set(self._folders.leases_with_logs()) - {run.lease_id for run in runs}:
            self._shipper.follow(lease_id, is_fresh=False)
            self._shipper.end(lease_id)
        return runs

    def _follow(self, lease_id: str, *, is_fresh: bool) -> None:
        self._shipper.follow(lease_id, is_fresh=is_fresh)
        self._progress.setdefault(lease_id, ProgressReader(self._folders.log(lease_id) / "0.log"))

    async def _loop(self) -> None:
        backoff = Backoff(self._chance)
        is_out = False
        while not self._is_stopping.is_set():
            began_s = time.monotonic()
            try:
                answer = await self._ask()
            except NoAnswerError as error:
                pause_s = max(backoff.pause_s(), error.retry_s)
                log = _log.debug if is_out else _log.warning
                log("no contact", error=str(error), pause_s=round(pause_s, 2), left_ms=self._contact.left_ms(self._clock.boot_ms()))
                is_out = True
                await self._pause(pause_s)
                continue
            if answer is None:
                continue
            if is_out:
                _log.info("contact again")
            is_out = False
            backoff.reset()
            await self._apply(answer)
            if not self._is_news:
                # A service that is not content with a picture it has seen before is not asked in a hurry.
                await self._pause(_IDLE_S - (time.monotonic() - began_s))

    async def _pause(self, pause_s: float) -> None:
        if pause_s <= 0:
            return
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._is_stopping.wait(), pause_s)

    async def _ask(self) -> wire.Answer | None:
        """One report and its answer; None: something has changed meanwhile, so that another report is due."""
        runs = await self._picture()
        body = self._report(runs)
        self._is_news = is_news = self._key(body) != self._reported
        body["wait_s"] = 0.0 if is_news else min(WAIT_S, self._contact.ttl_ms / 1000 / _ASKED_IN_TTL)
        sent_ms = self._clock.boot_ms()
        asking = asyncio.create_task(self._service.sync(body))
        # A report of news is answered at once and never given up: however fast things change, contact is kept.
        reasons = [self._is_stopping.wait()] if is_news else [self._is_stopping.wait(), self._has_progress.wait(), self._change()]
        others = [asyncio.create_task(reason) for reason in reasons]
        try:
            await asyncio.wait([asking, *others], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in others:
                task.cancel()
            if not asking.done():
                asking.cancel()
            await asyncio.gather(asking, *others, return_exceptions=True)
        if asking.cancelled():
            return None
        answer = asking.result()
        self._reported = self._key(body)
        self._note_contact(sent_ms, answer.ttl_ms)
        if isinstance(self._executor, KeepsAccounts):
            await self._executor.settle([account["lease_id"] for account in body["accounts"]])
        if self._contact.left_ms(self._clock.boot_ms()) == 0:
            raise NoAnswerError("an answer that came too late")
        return answer

    async def _change(self) -> Literal[True]:
        await self._executor.changed()
        await asyncio.sleep(_GATHER_S)
        return True

    async def _picture(self) -> list[Run]:
        """All runs; the ends among them with their last progress and the sizes of their logs."""
        self._has_progress.clear()
        self._nodes = await self._executor.nodes()
        if isinstance(self._executor, KeepsAccounts):
            self._accounts = await self._executor.accounts()
        self._runs = [self._as_told(run) for run in await self._executor.runs()]
        for run in self._runs:
            if run.state in (RunState.EXITED, RunState.LOST) and run.lease_id not in self._log_bytes:
                self._progress[run.lease_id].look()
                self._log_bytes[run.lease_id] = self._folders.log_bytes(run.lease_id)
                self._shipper.end(run.lease_id)
        return [*self._runs, *self._refused.values(), *self._coming()]

    def _coming(self) -> list[Run]:
        """Attempts that begin as soon as their checkpoints are here."""
        if self._checkpoints is None:
            return []
        return [Run(lease_id, self._orders[lease_id].fence, RunState.STARTING) for lease_id in self._checkpoints.coming()]

    def _as_told(self, run: Run) -> Run:
        """An end is told when the checkpoint is where the next attempt finds it. What the agent has stopped of its own accord
        is lost to the service, even if it saved and ended with 0.
        """
        is_over = run.state in (RunState.EXITED, RunState.LOST)
        if is_over and self._checkpoints is not None and not self._checkpoints.is_kept(run.lease_id, run.fence):
            return dataclasses.replace(run, state=RunState.STOPPING, exit_code=-1, ended_ms=-1)
        is_lost = run.state is RunState.EXITED and run.lease_id in self._state.abandoned
        return dataclasses.replace(run, state=RunState.LOST, exit_code=-1) if is_lost else run

    def _report(self, runs: Sequence[Run]) -> dict[str, Any]:
        self._seq += 1
        progress = {lease: reader.last for lease, reader in self._progress.items() if reader.last is not None}
        return wire.report(self._state.agent_id, self._boot, self._seq, self._nodes, runs, progress, self._log_bytes, self._accounts)

    @staticmethod
    def _key(body: dict[str, Any]) -> object:
        return body["nodes"], body["runs"], body["accounts"]

    def _note_contact(self, sent_ms: int, ttl_ms: int) -> None:
        self._contact.answered(sent_ms, ttl_ms)
        if self._noted_ms is not None and sent_ms - self._noted_ms < _NOTE_CONTACT_EVERY_MS:
            return
        self._noted_ms = sent_ms
        try:
            self._state.note_contact(self._machine_boot, sent_ms, ttl_ms)
        except StateUnwritableError as error:
            _log.warning("contact is not noted", error=str(error))

    async def _apply(self, answer: wire.Answer) -> None:
        """Make it so."""
        runs = [*await self._executor.runs(), *self._refused.values()]
        wanted = {lease.lease_id for lease in answer.leases}
        self._refused = {lease: run for lease, run in self._refused.items() if lease in wanted}
        actions = reconcile.reconcile(answer.leases, runs, self._state.seen, answer.now_ms)
        launches: list[wire.LeaseOrder] = []
        stops: list[reconcile.Stop] = []
        ends: list[str] = []
        for action in actions:
            match action:
                case reconcile.Launch():
                    launches.append(action.lease)
                case reconcile.Refuse():
                    self._give_up(action.lease, action.why)
                case reconcile.Stop():
                    stops.append(action)
                case reconcile.Forget():
                    ends.append(action.lease_id)
                case _:
                    assert_never(action)
        await self._stop(stops)
        await self._forget(ends, wanted)
        await self._launch(self._with_checkpoints(launches))

    def _with_checkpoints(self, leases: Sequence[wire.LeaseOrder]) -> Sequence[wire.LeaseOrder]:
        """Those whose checkpoints are here; the others are asked for again when that has changed."""
        if self._checkpoints is None:
            return leases
        self._checkpoints.fetch_only_for([lease.lease_id for lease in leases])
        # An answer says how to launch until a report has named the lease.
        self._orders = {lease.lease_id: self._orders.get(lease.lease_id, lease) for lease in leases}
        ready: list[wire.LeaseOrder] = []
        for lease in self._orders.values():
            try:
                if self._checkpoints.is_here(lease.lease_id, lease.fence):
                    ready.append(lease)
            except LaunchError as error:
                self._refuse(lease, str(error))
        return ready

    def _fenced(self, leases: Sequence[wire.LeaseOrder]) -> Sequence[wire.LeaseOrder]:
        """Those that may be launched now that their fences are noted."""
        try:
            self._state.note_fences(leases)
        except StateUnwritableError as error:
            for lease in leases:
                self._refuse(lease, str(error))
            return ()
        return leases

    def _refuse(self, lease: wire.LeaseOrder, why: str) -> None:
        """It cannot be started here now."""
        self._give_up(lease, why, refused=why[:_REFUSED_CHARS])

    def _give_up(self, lease: wire.LeaseOrder, why: str, refused: str = "") -> None:
        """It will never run here."""
        _log.warning("lease refused", lease=lease.lease_id, fence=lease.fence, why=why)
        now_ms = self._clock.wall_ms()
        self._refused[lease.lease_id] = Run(lease.lease_id, lease.fence, RunState.LOST, ended_ms=now_ms, refused=refused)

    def _fail(self, lease: wire.LeaseOrder, why: str) -> None:
        """It ends before it starts, by its own fault; the user finds the reason in its log."""
        _log.warning("lease failed", lease=lease.lease_id, fence=lease.fence, why=why)
        now_ms = self._clock.wall_ms()
        self._refused[lease.lease_id] = Run(
            lease.lease_id, lease.fence, RunState.EXITED, _NOT_RUNNABLE, started_ms=now_ms, ended_ms=now_ms
        )
        with contextlib.suppress(OSError):
            self._folders.explain(lease.lease_id, why)
            self._shipper.follow(lease.lease_id, is_fresh=True)
            self._shipper.end(lease.lease_id)

    async def _launch(self, leases: Sequence[wire.LeaseOrder]) -> None:
        if not leases:
            return
        leases = self._fenced(leases)
        await asyncio.gather(*(self._launch_one(lease) for lease in leases))
        there = {run.lease_id for run in await self._executor.runs()}
        for lease in leases:
            if lease.lease_id in there:
                _log.info("launched", lease=lease.lease_id, fence=lease.fence)
                self._follow(lease.lease_id, is_fresh=True)
            elif lease.lease_id not in self._refused:
                self._give_up(lease, "it was launched and forgotten before")

    async def _launch_one(self, lease: wire.LeaseOrder) -> None:
        try:
            self._folders.prepare(lease)
            await self._executor.launch(self._launch_of(lease))
        except LaunchError as error:
            self._refuse(lease, str(error))
        except MissingInputError as error:
            self._fail(lease, str(error))

    def _launch_of(self, lease: wire.LeaseOrder) -> Launch:
        given = lease.launch
        if given is None:
            raise LaunchError(f"{lease.lease_id}: the service has not said how to launch it")
        argv, own_env = given.argv, dict[str, str]()
        # -P: what lies in its folder is not what we import.
        if given.roles:
            argv = (sys.executable, "-P", "-m", "dure.client.roles", *argv)
            own_env |= {roles.ROLES: json.dumps([role.model_dump() for role in given.roles])}
        if given.cache:
            argv = (sys.executable, "-P", "-m", "dure.client.cached", *argv)
            hangs_on = {
                "project": given.project, "env": given.env, "setup": given.setup, "array_index": given.array_index, "files": given.cache,
                "inputs": [f"{each.name}/{each.path}" for each in given.inputs], "outputs": given.outputs,
            }  # fmt: skip
            own_env |= {cached.CACHE_DIR: str(self._folders.cache), cached.CACHE_KEY: json.dumps(hangs_on)}
        env = {
            **given.env,
            **own_env,
            "DURE_PROJECT": given.project,
            "DURE_OUTPUT_DIR": str(self._folders.outputs(lease.job_id)),
            "DURE_INPUT_DIR": str(self._folders.inputs(lease.job_id)),
            "DURE_ARRAY_INDEX": "" if given.array_index is None else str(given.array_index),
            "DURE_URL": self._config.url,
            "DURE_BIN": str(Path(sys.executable).parent),
            **({"DURE_CA_FILE": self._config.ca_file} if self._config.ca_file else {}),
        }
        return Launch(
            lease_id=lease.lease_id, fence=lease.fence, job_id=lease.job_id, attempt=lease.attempt, argv=argv,
            placements=tuple(Placement(part.node, part.gpus, part.gpu_milli) for part in lease.placements),
            log_dir=str(self._folders.log(lease.lease_id)),
            checkpoint_dir=str(self._folders.checkpoint(lease.job_id)),
            cwd=given.cwd or str(self._folders.work(lease.job_id)), env=env, setup=given.setup, stop_signal=lease.signal,
            grace_ms=lease.grace_ms, limit_ms=given.limit_ms, cpu_milli=given.cpu_milli, mem_mib=given.mem_mib,
            tasks_per_node=given.tasks_per_node,
        )  # fmt: skip

    async def _stop(self, stops: Sequence[reconcile.Stop]) -> None:
        # An answer that came late may not name what the service has: it must not take the end of that for the job's own.
        self._note_abandoned({stop.lease_id for stop in stops if stop.why == reconcile.GIVEN_UP} - self._state.abandoned)
        if stops:
            await asyncio.gather(*(self._stop_one(stop) for stop in stops))

    async def _stop_one(self, stop: reconcile.Stop) -> None:
        if self._told.get(stop.lease_id) == (stop.signal, stop.why):
            return
        self._told[stop.lease_id] = (stop.signal, stop.why)
        _log.info("stop", lease=stop.lease_id, signal=stop.signal, grace_ms=stop.grace_ms, why=stop.why)
        await self._executor.stop(stop.lease_id, signal=stop.signal, grace_ms=stop.grace_ms)

    async def _forget(self, leases: Sequence[str], wanted: Collection[str]) -> None:
        if not leases:
            return
        await asyncio.gather(*(self._executor.forget(lease_id) for lease_id in leases))
        there = {run.lease_id for run in await self._executor.runs()}
        try:
            self._state.forget(set(leases) - there)
        except StateUnwritableError as error:
            _log.warning("what was abandoned is not forgotten", error=str(error))
        if self._checkpoints is not None:
            self._checkpoints.forget(leases)
        in_use = {reconcile.job_of(lease_id) for lease_id in {*there, *wanted}}
        gone = set(leases) - there
        for lease_id in gone:
            self._progress.pop(lease_id, None)
            self._log_bytes.pop(lease_id, None)
            self._told.pop(lease_id, None)
        await asyncio.to_thread(self._folders.leave, {reconcile.job_of(lease_id) for lease_id in gone} - in_use)

    async def _tidy(self) -> None:
        """Remove working folders that nobody has used for long; jobs' checkpoints and outputs stay."""
        while True:
            in_use = {reconcile.job_of(run.lease_id) for run in self._runs}
            before_s = self._clock.wall_ms() / 1000 - self._config.keep_days * 86_400
            num = self._folders.put_away(in_use, before_s)
            if num:
                _log.info("working folders removed", num=num)
            await asyncio.to_thread(self._folders.empty_bin)
            await asyncio.sleep(_TIDY_EVERY_S)

    async def _guard(self) -> None:
        """Stop what runs when the service has not been heard of for too long: it may restart it elsewhere."""
        while True:
            left_ms = self._contact.left_ms(self._clock.boot_ms())
            if left_ms == 0:
                await self._abandon()
            await asyncio.sleep(min(max(left_ms / 1000, 0.05), 1.0))

    async def _abandon(self) -> None:
        living = [run.lease_id for run in self._runs if run.state not in (RunState.EXITED, RunState.LOST)]
        if not set(living) - self._state.abandoned:
            return
        self._note_abandoned(living)
        await self._stop([reconcile.Stop(lease_id, "TERM", reconcile.STOP_GRACE_MS, "no contact") for lease_id in living])

    def _note_abandoned(self, leases: Collection[str]) -> None:
        if not leases:
            return
        try:
            self._state.note_abandoned(leases)
        except StateUnwritableError as error:
            _log.warning("what is abandoned is not noted", error=str(error))

    async def _follow_progress(self) -> None:
        while True:
            await asyncio.sleep(_PROGRESS_EVERY_S)
            news = [reader.look() for reader in list(self._progress.values())]
            if any(news):
                self._has_progress.set()
