"""The `ray` executor: attempts as placement groups of actors of a Ray cluster, which outlive their agent."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote

import structlog

from dure.executors import far_folder
from dure.executors.clock import Clock
from dure.executors.far import KILL_AGAIN_MS, LEASES, TELL_AGAIN_MS
from dure.executors.far_executor import FarExecutor
from dure.executors.lease_book import BookUnwritableError, LeaseBook
from dure.executors.ray import folder as folders
from dure.executors.ray.attempt import RayAttempt, attempt_from
from dure.executors.ray.cluster import (
    RayNode,
    Survey,
    is_taken,
    nodes_of,
    offer,
    shape_of,
    survey_from,
    taken_elsewhere,
)
from dure.executors.ray.link import RayLink, RayRefusalError, RaySilentError
from dure.executors.ray.runner import KILL
from dure.executors.ray.spec import specs_of
from dure.executors.state_lock import take_lock
from dure.model.errors import DureError
from dure.ports.executor import Launch, LaunchError, RunState

#: Between two surveys of the cluster: while something is amiss, and otherwise.
_SURVEY_SOON_MS, _SURVEY_MS = 500, 2_000
_PAUSE_MIN_MS = 50
#: An attempt that Ray does not start for so long is given up, and its nodes take no new work for a while. So long too one that
#: a cluster does not know is taken to have an actor that lives, because its raylet may not have seen yet that its head is gone.
_PATIENCE_MS, _SHUNNED_MS = 60_000, 300_000
#: The keeper of an actor that has died says within so long that nothing is left; where it does not, its machine is gone.
_GONE_WAIT_MS = 10_000
#: Ray may take so long to see that a machine is gone; one on which an actor has died takes no new work meanwhile.
_DOUBTED_MS = 20_000
#: An attempt that has not ended so long after it was first killed is taken away with its actors.
_DROP_AFTER_MS = 10_000
#: Questions about attempts that are asked at one time.
_ASKED_AT_ONCE = 16
_RETRY_S = 1.0
_REFUSED_CHARS = 500

_log = structlog.get_logger(__name__)


class RayExecutor(FarExecutor[RayAttempt]):
    """See `dure.ports.executor.Executor`.

    Parameters
    ----------
    state_dir : Path
        What must outlive the agent, on a disk of this machine; for one executor at a time.
    shared_dir : Path
        On storage that this machine and every node see under the same path: claims and ends of attempts.
    address : str
        HOST:PORT of the cluster, which this machine belongs to.
    gpu_type : str
        Of all GPUs; empty: as Ray has it.
    name_label : str
        The label that names the nodes; empty: Ray's own name of each.
    log_max_bytes : int
        A task's log is cut there.
    patience_ms : int
        How long Ray may take to start what should have its GPUs at once, and to end what it has forgotten.
    """

    def __init__(
        self, state_dir: Path, shared_dir: Path, address: str, *, gpu_type: str = "", name_label: str = "",
        clock: Clock | None = None, log_max_bytes: int = 256 << 20, patience_ms: int = _PATIENCE_MS,
    ) -> None:  # fmt: skip
        super().__init__("ray", state_dir, shared_dir, clock)
        self._gpu_type = gpu_type
        self._name_label = name_label
        self._log_max_bytes = log_max_bytes
        self._patience_ms = patience_ms
        self._link = RayLink(address, self._dir, self._on_event)
        self._asking = asyncio.Semaphore(_ASKED_AT_ONCE)
        self._followed_by = 0
        self._nodes: dict[str, RayNode] = {}
        self._shunned: dict[str, int] = {}
        self._taken: set[str] = set()
        self._suspected: set[str] = set()
        self._survey_at_ms = 0
        self._is_odd = False

    async def open(self) -> None:
        """Take up what an earlier process has left running.

        Raises
        ------
        StateInUseError
            That process still lives.
        RaySilentError
            The cluster does not answer, and never has.
        """
        self._dir.mkdir(parents=True, exist_ok=True)
        self._lock = await take_lock(self._dir / "lock")
        self._book = LeaseBook(self._dir / "leases.sqlite")
        try:
            (self._root / LEASES).mkdir(parents=True, exist_ok=True)
            now = self._now()
            for lease_id, intent, stop in self._book.live():
                self._attempts[lease_id] = attempt_from(intent, stop, self._folder(lease_id), now)
            await self._survey_first()
        except BaseException:
            await self.close()
            raise
        await asyncio.to_thread(self._remove_strays)
        self._start(self._watch())

    async def close(self) -> None:
        """Let go without stopping anything."""
        await super().close()
        await self._link.close()

    @staticmethod
    def _remove(folder: Path) -> None:
        folders.remove(folder)

    @property
    def _prefix(self) -> str:
        return f"dure-{self._tag()}-"

    # --- nodes

    async def _survey(self) -> None:
        """Look at the cluster, and at each attempt that was handed in before."""
        for attempt in list(self._living().values()):
            self._look(attempt)
        asked_ms = self._clock.boot_ms()
        form = await self._link.ask("survey", prefix=self._prefix)
        survey = survey_from(form)
        self._take_nodes(survey)
        self._is_odd = bool(self._suspected)
        for attempt in list(self._living().values()):
            if attempt.handed_in_boot_ms is not None and attempt.handed_in_boot_ms <= asked_ms:
                self._compare(attempt, survey)
        self._drop_strangers(survey)
        await self._follow_all()
        self._keep_cluster(json.dumps({**form, "groups": [], "actors": []}))

    def _take_kept(self, text: str) -> None:
        self._take_nodes(survey_from(json.loads(text)))

    def _take_nodes(self, survey: Survey) -> None:
        self._nodes = nodes_of(survey, self._name_label)
        others = taken_elsewhere(survey)
        # What Ray says of groups and of what is free are not of the very same moment: it must say it twice.
        suspected = {name for name, node in self._nodes.items() if is_taken(node, others[node.node_id])}
        self._taken, self._suspected = suspected & self._suspected, suspected
        self._offer()

    def _offer(self) -> None:
        now_ms = self._clock.boot_ms()
        self._shunned = {node_id: until for node_id, until in self._shunned.items() if until > now_ms}
        shunned = {name for name, node in self._nodes.items() if node.node_id in self._shunned}
        offered = offer(self._nodes, self._taken | shunned, self._gpu_type)
        self._offer_now(offered)

    def _shun(self, node_ids: Iterable[str], for_ms: int) -> None:
        until_ms = self._clock.boot_ms() + for_ms
        self._shunned |= {node_id: max(until_ms, self._shunned.get(node_id, 0)) for node_id in node_ids}
        self._offer()

    def _drop_strangers(self, survey: Survey) -> None:
        """What has our name and is none of what should be there: left by an agent that was killed, or by a late start."""
        known = {attempt.name for attempt in self._living().values()}
        names = {group.name for group in survey.groups} | {actor.rpartition(".")[0] for actor in survey.actors}
        for name in names - known:
            actors = [actor for actor in survey.actors if actor.rpartition(".")[0] == name]
            self._start(self._drop_from_ray(name, actors))

    async def _drop_from_ray(self, name: str, actors: list[str]) -> None:
        # What is not taken away now, the next survey finds.
        with contextlib.suppress(DureError):
            async with self._asking:
                await self._link.ask("drop", name=name, actors=actors)

    async def _follow_all(self) -> None:
        """Have a new process tell what becomes of what an earlier one was to follow."""
        if self._followed_by == self._link.generation:
            return
        generation = self._link.generation
        actors = [
            actor for attempt in self._living().values() if attempt.handed_in_boot_ms is not None for actor in attempt.actors
        ]
        await self._link.ask("follow", actors=actors)
        self._followed_by = generation

    # --- launching

    async def launch(self, launch: Launch) -> None:
        """Start an attempt, unless its lease was ever launched here; it is handed in as soon as it is written down."""
        if launch.lease_id in self._attempts:
            return
        shape = shape_of(launch, self._nodes)
        name = f"{self._prefix}{quote(launch.lease_id, safe='')}"
        attempt = RayAttempt(launch, self._folder(launch.lease_id), shape, name)
        self._attempts[launch.lease_id] = attempt
        try:
            await asyncio.to_thread(far_folder.make, attempt.folder, launch)
            is_new = await self._book.intend(launch.lease_id, launch.fence, attempt.intent())
        except (OSError, BookUnwritableError) as error:
            await self._drop(attempt)
            raise LaunchError(f"{launch.lease_id}: {error}") from error
        if not is_new:
            await self._drop(attempt)
            return
        self._start(self._hand_in(attempt, self._nodes[shape.nodes[0]].address))

    async def _hand_in(self, attempt: RayAttempt, address: str) -> None:
        """Have Ray make the group and its actors; whether it has where no answer came, the next survey tells."""
        specs = specs_of(attempt.launch, attempt.folder, attempt.name, address, self._log_max_bytes)
        shape = attempt.shape
        until_ms = self._clock.boot_ms() + self._patience_ms
        async with self._asking:
            while not attempt.is_over:
                try:
                    await self._link.ask(
                        "start", name=attempt.name, bundles=shape.bundles, node_ids=shape.node_ids, specs=specs
                    )
                except RaySilentError as error:
                    _log.warning("no answer to a job", lease=attempt.launch.lease_id, error=str(error))
                    if not error.is_sent and self._clock.boot_ms() < until_ms:
                        await asyncio.sleep(_RETRY_S)
                        continue
                except RayRefusalError as error:
                    self._give_up(attempt, f"Ray refuses it: {error}")
                break
        attempt.handed_in_boot_ms = self._clock.boot_ms()
        self._survey_soon()

    def _survey_soon(self) -> None:
        self._survey_at_ms = min(self._survey_at_ms, self._clock.boot_ms() + _SURVEY_SOON_MS)
        self._wake.set()

    # --- looking

    def _on_event(self, actor: str, what: str, why: str) -> None:
        """An actor has begun, ended or died: its folder tells the rest."""
        name = actor.rpartition(".")[0]
        attempt = next((attempt for attempt in self._living().values() if attempt.name == name), None)
        if attempt is None:
            return
        with contextlib.suppress(OSError):
            if what == "failed" and folders.begun_ms(attempt.folder) is None:
                self._give_up(attempt, f"it did not start on its node: {why}")
                return
            self._look(attempt)
        if what in ("unavailable", "failed", "dead"):
            self._survey_at_ms = 0
        self._wake.set()

    def _look(self, attempt: RayAttempt) -> None:
        """Take in what its folder says."""
        now = self._now()
        if attempt.started_boot_ms is None:
            started_ms = folders.begun_ms(attempt.folder)
            if started_ms is None:
                return
            attempt.see_begun(started_ms, now)
            self._changed.set()
        num_nodes = len(attempt.shape.nodes)
        if attempt.gpu_idxs is None:
            attempt.gpu_idxs = far_folder.read_gpus(folders.gpus_files(attempt.folder, num_nodes))
            if attempt.gpu_idxs is not None:
                self._changed.set()
        gone = folders.gone(attempt.folder, num_nodes)
        ends = folders.read_ends(attempt.folder, attempt.world)
        attempt.see_ends(ends, now)
        broken = attempt.see_gone(gone, ends, now.boot_ms)
        self._shun((attempt.shape.node_ids[place] for place in broken), _DOUBTED_MS)
        lost = {place for place, at in attempt.missing_boot_ms.items() if now.boot_ms >= at + self._wait_ms(attempt, place)}
        if len(gone | lost) < num_nodes:
            return
        code = attempt.code_of(ends)
        if code is not None:
            attempt.ended_ms = max(end.at_ns for end in ends.values()) // 1_000_000
            self._finish(attempt, RunState.EXITED, code)
        else:
            folders.revoke_ranks(attempt.folder, attempt.world)
            self._finish_traceless(attempt, "some of its tasks have left no trace")

    def _wait_ms(self, attempt: RayAttempt, place: int) -> int:
        """How long a node whose actor is gone may take to say that nothing is left there."""
        is_known = any(node.node_id == attempt.shape.node_ids[place] for node in self._nodes.values())
        return _GONE_WAIT_MS if is_known else self._patience_ms

    def _finish(self, attempt: RayAttempt, state: RunState, code: int = -1) -> None:
        super()._finish(attempt, state, code)
        self._start(self._drop_from_ray(attempt.name, attempt.actors))

    def _give_up(self, attempt: RayAttempt, why: str) -> None:
        """It was not started, unless it has begun after all; the service tries it again later."""
        if not attempt.is_over and folders.revoke(attempt.folder):
            attempt.refused = why[:_REFUSED_CHARS] if attempt.stop is None else ""
            self._finish_unbegun(attempt, why)

    def _compare(self, attempt: RayAttempt, survey: Survey) -> None:
        """What Ray knows of an attempt: one that waits in vain is given up, one whose actors are gone has ended."""
        now_ms = self._clock.boot_ms()
        gone = folders.gone(attempt.folder, len(attempt.shape.nodes))
        missing = {place for place, actor in enumerate(attempt.actors) if actor not in survey.actors} - gone
        self._is_odd |= bool(missing)
        if attempt.started_boot_ms is None:
            assert attempt.handed_in_boot_ms is not None
            if len(missing) == len(attempt.actors):
                self._give_up(attempt, "it did not reach Ray, or Ray has lost it")
            elif now_ms >= attempt.handed_in_boot_ms + self._patience_ms:
                state = next((group.state for group in survey.groups if group.name == attempt.name), "gone")
                self._shun(attempt.shape.node_ids, _SHUNNED_MS)
                self._give_up(attempt, f"Ray has not started it: its placement group is {state}")
            return
        attempt.see_missing(missing, now_ms)

    # --- acting

    async def _watch(self) -> None:
        while True:
            if self._clock.boot_ms() >= self._survey_at_ms:
                self._survey_at_ms = self._clock.boot_ms() + _SURVEY_MS
                await self._try(self._survey())
                if self._is_odd or self._is_silent:
                    self._survey_at_ms = self._clock.boot_ms() + _SURVEY_SOON_MS
            try:
                await self._act()
            except (DureError, OSError) as error:
                _log.warning("what is due could not be done", error=str(error))
            dues = [self._survey_at_ms]
            dues += [due for attempt in self._living().values() if (due := attempt.due_at()) is not None]
            await self._pause(max(min(dues) - self._clock.boot_ms(), _PAUSE_MIN_MS))

    async def _act(self) -> None:
        """Whatever is due: peers of ranks that have failed, limits, first and last words."""
        now_ms = self._clock.boot_ms()
        for attempt in list(self._living().values()):
            due = attempt.due_order(now_ms)
            if due is not None:
                await self._order(attempt, *due)
            if attempt.stop is None:
                continue
            if folders.revoke(attempt.folder):
                self._finish_unbegun(attempt, "")
            elif attempt.is_kill_due(now_ms):
                if now_ms >= attempt.stop.kill_at_boot_ms + _DROP_AFTER_MS:
                    self._start(self._drop_from_ray(attempt.name, attempt.actors))
                if attempt.killed_boot_ms is None or now_ms >= attempt.killed_boot_ms + KILL_AGAIN_MS:
                    attempt.killed_boot_ms = now_ms
                    self._tell(attempt, KILL)
                self._look(attempt)
            else:
                for name in attempt.stop.signals:
                    told_ms = attempt.told_boot_ms.get(name)
                    if told_ms is None or now_ms >= told_ms + TELL_AGAIN_MS:
                        attempt.told_boot_ms[name] = now_ms
                        self._tell(attempt, name)

    def _tell(self, attempt: RayAttempt, signal: str) -> None:
        for actor in attempt.actors:
            if (actor, signal) not in attempt.heard:
                self._start(self._tell_one(attempt, actor, signal))

    async def _tell_one(self, attempt: RayAttempt, actor: str, signal: str) -> None:
        """A signal to the ranks of one node; what has not come there is sent again."""
        with contextlib.suppress(DureError):
            async with self._asking:
                await self._link.ask("tell", actor=actor, signal=signal)
            attempt.heard.add((actor, signal))
