"""Processes as /proc shows them: who is who, who belongs to which lease, and how to end all of them."""

from __future__ import annotations

import os
import signal
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

#: Every process of an attempt inherits this variable, wherever it has gone to: the attempt's own folder, because another
#: agent of this machine may well have a lease of the same name.
LEASE_MARK = "DURE_LEASE_MARK"
#: /proc is listed at most so often in one look: where processes start all the time, some are always new.
_LISTINGS_MAX = 10
_TICK_MS = 1000 // os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Identity:
    """A process, told apart from a later one of the same number by the moment it started (ticks since boot)."""

    pid: int
    start_ticks: int

    @property
    def started_boot_ms(self) -> int:
        """When it started, in milliseconds since boot."""
        return self.start_ticks * _TICK_MS


def boot_id() -> str:
    """Names this boot of the machine: processes of another one are gone."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def parse_stat(line: str) -> Identity:
    """Who a line of /proc/PID/stat speaks of.

    Raises
    ------
    ValueError
        Not such a line, or a torn one.
    """
    head, _, tail = line.rpartition(")")
    fields = tail.split()
    if len(fields) < 20:
        raise ValueError(f"not a line of /proc/PID/stat: {line!r}")
    return Identity(int(head.split(" ", 1)[0]), int(fields[19]))


def _stat(pid: int) -> str | None:
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None


def is_alive(who: Identity) -> bool:
    """Whether it still runs (a zombie does not)."""
    line = _stat(who.pid)
    return line is not None and parse_stat(line) == who and line.rpartition(")")[2].split()[0] != "Z"


def open_pidfd(who: Identity) -> int | None:
    """A descriptor that becomes readable when the process ends; None: it has ended already."""
    try:
        fd = os.pidfd_open(who.pid)
    except ProcessLookupError:
        return None
    if is_alive(who):
        return fd
    os.close(fd)
    return None


def mark_of(pid: int) -> str | None:
    """The mark of the attempt that a process was started for; None: none, or not ours to see."""
    try:
        environ = b"\0" + Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return None
    at = environ.find(b"\0" + LEASE_MARK.encode() + b"=")
    if at < 0:
        return None
    return environ[at + len(LEASE_MARK) + 2 :].split(b"\0", 1)[0].decode(errors="replace")


def _session_of(pid: int) -> int:
    try:
        return os.getsid(pid)
    except OSError:
        return 0


def _pids() -> Iterator[int]:
    """Every process.

    /proc is listed again until none is new: one that leaves a child in its place and ends is gone before it is looked at, and the
    child was not in the list.
    """
    seen: set[int] = set()
    for _ in range(_LISTINGS_MAX):
        new = {int(name) for name in os.listdir("/proc") if name.isdigit()} - seen  # noqa: PTH208 - a Path for each of thousands is slow
        if not new:
            return
        yield from new
        seen |= new


def members(marks: Collection[str], sessions: Collection[int] = ()) -> Iterator[int]:
    """Pids of all processes of some attempts or sessions: also those that left their group, session and parent."""
    for pid in _pids():
        if (sessions and _session_of(pid) in sessions) or mark_of(pid) in marks:
            yield pid


def by_mark(marks: Collection[str]) -> dict[str, list[int]]:
    """Pids of the processes of some attempts, by their marks; one look at /proc."""
    found: dict[str, list[int]] = {mark: [] for mark in marks}
    for pid in _pids():
        mark = mark_of(pid)
        if mark in found:
            found[mark].append(pid)
    return found


def threads_of(pid: int) -> list[int]:
    """Threads of a process; empty: it has ended."""
    try:
        return [int(name) for name in os.listdir(f"/proc/{pid}/task")]  # noqa: PTH208 - as in `_pids`
    except OSError:
        return []


def is_standing(pid: int) -> bool:
    """Whether no thread of a process runs or could: all are stopped by a signal, or have ended."""
    for tid in threads_of(pid):
        line = _stat(tid)
        if line is not None and line.rpartition(")")[2].split()[0] not in "TtZXx":
            return False
    return True


def cpu_ticks(pid: int) -> int:
    """CPU time of a process and of its children that it has waited for, clock ticks; 0: it has ended."""
    line = _stat(pid)
    return 0 if line is None else sum(int(ticks) for ticks in line.rpartition(")")[2].split()[11:15])


def kill_members(marks: Collection[str], sessions: Collection[int] = (), spared: Collection[int] = ()) -> int:
    """SIGKILL to every process of them but the spared; how many there were."""
    num_killed = 0
    for pid in members(marks, sessions):
        if pid in spared or pid == os.getpid():
            continue
        try:
            os.kill(pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            continue
        num_killed += 1
    return num_killed


def signal_number(name: str) -> int:
    """``TERM``, ``USR1``… as a number.

    Raises
    ------
    ValueError
        There is no such signal.
    """
    try:
        return signal.Signals[f"SIG{name}"].value
    except KeyError:
        raise ValueError(f"there is no signal {name!r}") from None
