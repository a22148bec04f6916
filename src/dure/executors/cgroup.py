"""cgroup v2: limits of an attempt, and one word that ends all of its processes."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

_LIMITS = ("memory", "cpu")
_CPU_PERIOD_US = 100_000


@dataclass(frozen=True)
class Cgroup:
    """The cgroup of one attempt."""

    path: Path

    @property
    def procs(self) -> str:
        """The file through which a process joins it."""
        return str(self.path / "cgroup.procs")

    def is_populated(self) -> bool:
        """Whether a process is left in it."""
        try:
            return "populated 1" in (self.path / "cgroup.events").read_text()
        except (FileNotFoundError, OSError):
            return False

    def kill(self) -> None:
        """SIGKILL to every process in it."""
        try:
            (self.path / "cgroup.kill").write_text("1")
        except FileNotFoundError:
            return

    def freeze(self, is_frozen: bool) -> None:
        """Stop every process in it, and each that joins it, where it is; or let them go on. Nothing where it is gone."""
        with contextlib.suppress(FileNotFoundError):
            (self.path / "cgroup.freeze").write_text("1" if is_frozen else "0")

    def is_standing(self) -> bool:
        """Whether no process in it runs: all are frozen, or there is none."""
        try:
            events = (self.path / "cgroup.events").read_text()
        except OSError:
            return True
        return "frozen 1" in events or "populated 0" in events

    def cpu_us(self) -> int:
        """CPU time that its processes have used, microseconds; 0 where it is gone."""
        try:
            return int((self.path / "cpu.stat").read_text().split()[1])
        except OSError:
            return 0

    def threads(self) -> list[int]:
        """Threads in it."""
        try:
            return [int(tid) for tid in (self.path / "cgroup.threads").read_text().split()]
        except OSError:
            return []

    def remove(self) -> bool:
        """Take it away; False: something is still in it."""
        try:
            self.path.rmdir()
        except FileNotFoundError:
            return True
        except OSError as error:
            if error.errno == errno.EBUSY:
                return False
            raise
        return True


@dataclass(frozen=True)
class CgroupRoot:
    """A folder of cgroups that this agent may make some in. ``limits``: those of memory and cpu that hold there."""

    path: Path
    limits: frozenset[str]

    def make(self, name: str, cpu_milli: int, mem_mib: int) -> Cgroup:
        """The cgroup of an attempt; what is 0 has no limit.

        Raises
        ------
        OSError
            It cannot be made.
        """
        made = Cgroup(self.path / name)
        made.path.mkdir(exist_ok=True)
        if mem_mib and "memory" in self.limits:
            (made.path / "memory.max").write_text(str(mem_mib << 20))
            # Of a gang that has lost one process to the limit the rest is of no use.
            (made.path / "memory.oom.group").write_text("1")
        if cpu_milli and "cpu" in self.limits:
            (made.path / "cpu.max").write_text(f"{max(cpu_milli * _CPU_PERIOD_US // 1000, 1000)} {_CPU_PERIOD_US}")
        return made

    def remove_all_but(self, kept: Collection[str]) -> None:
        """Take away those that are empty and not kept."""
        for path in self.path.iterdir():
            if path.is_dir() and path.name not in kept:
                Cgroup(path).remove()

    def close(self) -> None:
        """Take the folder away, if none is left in it."""
        Cgroup(self.path).remove()


def open_root(name: str) -> CgroupRoot | None:
    """The folder for this agent's attempts, made if need be; None: this process may not make cgroups that it can kill."""
    own = _own_cgroup()
    if own is None or not os.access(own, os.W_OK):
        return None
    root = own / name
    try:
        root.mkdir(exist_ok=True)
        if not (root / "cgroup.kill").exists():
            root.rmdir()
            return None
        _delegate(own)
        _delegate(root)
        limits = frozenset((root / "cgroup.subtree_control").read_text().split()) & frozenset(_LIMITS)
    except OSError:
        return None
    return CgroupRoot(root, limits)


def _own_cgroup() -> Path | None:
    """Where this process is; beside the leaf that `_delegate` may have put it in."""
    mount = next(
        (line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines() if " - cgroup2 " in line), None
    )
    inside = next(
        (line[3:] for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::")), None
    )
    if mount is None or inside is None:
        return None
    own = Path(mount + inside)
    return own.parent if own.name == _LEAF else own


_LEAF = "dure-agent"


def _delegate(group: Path) -> None:
    """Let the children of a cgroup have limits, as far as that is possible there."""
    there = (group / "cgroup.controllers").read_text().split()
    wanted = " ".join(f"+{name}" for name in _LIMITS if name in there)
    if not wanted:
        return
    try:
        (group / "cgroup.subtree_control").write_text(wanted)
    except OSError:
        # A cgroup whose children have limits may hold no process itself: if only this one is in it, it moves to a leaf.
        if (group / "cgroup.procs").read_text().split() != [str(os.getpid())]:
            return
        (group / _LEAF).mkdir(exist_ok=True)
        (group / _LEAF / "cgroup.procs").write_text(str(os.getpid()))
        (group / "cgroup.subtree_control").write_text(wanted)
