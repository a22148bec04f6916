"""Leases of a local executor as another process of its machine sees them: stopped where they are, continued, ended.

The executor knows nothing of it: what is stopped goes on holding its lease, and a stop order takes its usual course (a process hears
a signal once it is continued; SIGKILL needs no continuing).
"""

from __future__ import annotations

import contextlib
import os
import signal
from abc import ABC, abstractmethod
from collections.abc import Collection
from pathlib import Path

from dure.executors import process, shim
from dure.executors.attempt import Attempt, attempt_from
from dure.executors.cgroup import Cgroup
from dure.executors.lease_book import read_live
from dure.executors.local import book_path, lease_folder

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


class Tenant(ABC):
    """The processes of one lease but its shells, which wait and record its end."""

    def __init__(self, attempt: Attempt) -> None:
        self._attempt = attempt
        self.lease_id = attempt.launch.lease_id
        self.fence = attempt.launch.fence
        #: What it has of the node's GPUs, thousandths of one.
        self.gpu_milli = sum(len(part.gpus) * part.gpu_milli for part in attempt.launch.placements)

    @property
    def mark(self) -> str:
        """What its processes bear (`process.LEASE_MARK`)."""
        return self._attempt.mark

    def is_over(self) -> bool:
        """Whether all its tasks have ended, as their shells have recorded or by their death, and nothing that they started is left."""
        return self.is_empty() and all(self._is_ended(shim.read_rank(task.rank_file)) for task in self._attempt.tasks)

    @staticmethod
    def _is_ended(record: shim.RankRecord | None) -> bool:
        if record is None:
            return False
        return record.is_revoked or record.exit_code is not None or (record.shim is not None and not process.is_alive(record.shim))

    def shells(self) -> set[int]:
        """Pids of its tasks' shells."""
        records = (shim.read_rank(task.rank_file) for task in self._attempt.tasks)
        return {record.shim.pid for record in records if record is not None and record.shim is not None}

    @abstractmethod
    def is_empty(self) -> bool:
        """Whether no process is left but its shells."""

    @abstractmethod
    def stop(self) -> None:
        """Stop all of it; may be said again."""

    @abstractmethod
    def resume(self) -> None:
        """Let it go on."""

    @abstractmethod
    def is_standing(self) -> bool:
        """Whether none of it runs, nor will before `resume`."""

    @abstractmethod
    def evict(self) -> None:
        """SIGKILL to all of it; the executor reports it as ended by that."""

    @abstractmethod
    def cpu_s(self) -> float:
        """CPU time that it has used, seconds."""

    @abstractmethod
    def threads(self) -> list[int]:
        """All its threads."""

    def pin(self, cores: Collection[int]) -> None:
        """Hold it to some cores; what it starts later inherits them."""
        wanted = set(cores)
        for tid in self.threads():
            with contextlib.suppress(OSError):
                if os.sched_getaffinity(tid) != wanted:
                    os.sched_setaffinity(tid, wanted)


class FrozenTenant(Tenant):
    """Through its cgroup: one word stops all of it, and what it starts meanwhile too."""

    def __init__(self, attempt: Attempt, group: Cgroup) -> None:
        super().__init__(attempt)
        self._group = group

    def is_empty(self) -> bool:
        """See `Tenant`."""
        return not self._group.is_populated()

    def stop(self) -> None:
        """See `Tenant`."""
        self._group.freeze(True)

    def resume(self) -> None:
        """See `Tenant`."""
        self._group.freeze(False)

    def is_standing(self) -> bool:
        """See `Tenant`."""
        return self._group.is_standing()

    def evict(self) -> None:
        """See `Tenant`."""
        self._group.kill()

    def cpu_s(self) -> float:
        """See `Tenant`."""
        return self._group.cpu_us() / 1e6

    def threads(self) -> list[int]:
        """See `Tenant`."""
        return self._group.threads()


class SignalledTenant(Tenant):
    """Without a cgroup: SIGSTOP to each process that bears its mark, until a look finds none that runs."""

    def __init__(self, attempt: Attempt) -> None:
        super().__init__(attempt)
        self._all: set[int] = set()
        self._pids: set[int] = set()
        self._ticks: dict[int, int] = {}

    def meet(self, pids: Collection[int]) -> None:
        """Those that bear its mark now."""
        self._all = set(pids)
        self._pids = self._all - self.shells()

    def is_empty(self) -> bool:
        """See `Tenant`; as of the last look."""
        return not self._pids

    @staticmethod
    def _signal(pids: Collection[int], number: int) -> None:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, number)

    def stop(self) -> None:
        """See `Tenant`."""
        self._signal(self._pids, signal.SIGSTOP)

    def resume(self) -> None:
        """See `Tenant`; a shell too, which may have been stopped before it had said that it is one."""
        self._signal(self._all, signal.SIGCONT)

    def is_standing(self) -> bool:
        """See `Tenant`; what it has started since the last look is found, and told with the next `stop`."""
        if not all(process.is_standing(pid) for pid in self._pids):
            return False
        self.meet(process.by_mark((self.mark,))[self.mark])
        return all(process.is_standing(pid) for pid in self._pids)

    def evict(self) -> None:
        """See `Tenant`; each as it is found, before it can be elsewhere."""
        process.kill_members({self.mark}, spared=self.shells())

    def cpu_s(self) -> float:
        """See `Tenant`; to a clock tick, and without what children used whom nobody waited for."""
        for pid in self._pids:
            self._ticks[pid] = max(self._ticks.get(pid, 0), process.cpu_ticks(pid))
        return sum(self._ticks.values()) * _TICK_S

    def threads(self) -> list[int]:
        """See `Tenant`."""
        return [tid for pid in self._pids for tid in process.threads_of(pid)]


class Tenants:
    """All leases that run from an executor's state, the oldest first.

    Parameters
    ----------
    state_dir : Path
        Of a `dure.executors.local.LocalExecutor` on this machine, which may run meanwhile, or not.
    """

    def __init__(self, state_dir: Path) -> None:
        self._dir = state_dir.resolve()
        self._known: dict[str, Tenant] = {}
        self._over: set[str] = set()

    def look(self) -> list[Tenant]:
        """Those that run now, stopped or not, by fence."""
        try:
            folders = set(os.listdir(self._dir / "leases"))  # noqa: PTH208 - every slot
        except FileNotFoundError:
            folders = set()
        self._over &= folders
        if folders - self._over != self._known.keys():
            self._read(folders)
        signalled = [tenant for tenant in self._known.values() if isinstance(tenant, SignalledTenant)]
        if signalled:
            pids = process.by_mark({tenant.mark for tenant in signalled})
            for tenant in signalled:
                tenant.meet(pids[tenant.mark])
        for name in [name for name, tenant in self._known.items() if tenant.is_over()]:
            del self._known[name]
            self._over.add(name)
        return sorted(self._known.values(), key=lambda tenant: (tenant.fence, tenant.lease_id))

    def _read(self, folders: set[str]) -> None:
        known: dict[str, Tenant] = {}
        for lease_id, intent, stop in read_live(book_path(self._dir)):
            folder = lease_folder(self._dir, lease_id)
            if folder.name in folders - self._over:
                known[folder.name] = self._known.get(folder.name) or _tenant_of(attempt_from(intent, stop, folder))
        self._known = known


def _tenant_of(attempt: Attempt) -> Tenant:
    return SignalledTenant(attempt) if attempt.cgroup is None else FrozenTenant(attempt, attempt.cgroup)
