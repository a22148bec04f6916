"""What stands between the executor and a task: a shell of a few lines that outlives the agent and records the end.

The shell claims its *rank file* by making it (no second process can), and only then runs the task; when the task has
ended it adds the exit code to the same file, in the block that the claim has already taken, so that a full disk does
not lose it. An agent that comes back makes the file itself where there is none: a shell that comes late then finds it
taken and runs nothing. So a task either has a claim, or has never run and never will.

Output goes through `tee`: on a full disk, or beyond the size allowed, it drops what it cannot write and the task goes on.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dure.executors.process import Identity, members, parse_stat

#: Ends a log that was cut.
CUT_NOTE = "\ndure: the rest of this output was dropped: no room on the disk, or longer than a log may be\n"
#: Exit code of a shell that found its rank file taken or could not write it: the task has not run.
NOT_CLAIMED = 125

# The traps keep the shell alive when its whole group is signalled; the subshell has the default actions again.
_SHIM = """\
trap : HUP INT QUIT TERM USR1 USR2
read -r dure_me < /proc/$$/stat
read -r dure_log < "/proc/$2/stat"
set -C
echo "$dure_me
$dure_log" > "$1" || exit 125
set +C
dure_file=$1
(
[ -z "$3" ] || echo 0 > "$3" || exit 125
cd "$4" || exit 126
dure_setup=$5
shift 5
if [ -n "$dure_setup" ]; then
    . "$dure_setup"
    dure_code=$?
    [ $dure_code = 0 ] || exit $dure_code
fi
exec "$@"
) 2>&1
dure_code=$?
echo "exit $dure_code" >> "$dure_file"
exit $dure_code
"""

_REVOKED = "revoked\n"
_DEFAULTS = (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


@dataclass(frozen=True)
class RankRecord:
    """What a rank file says. Nothing known: the claim was cut short. ``is_revoked``: the task never ran."""

    shim: Identity | None = None
    log: Identity | None = None
    exit_code: int | None = None
    is_revoked: bool = False


@dataclass(frozen=True)
class Started:
    """Two children: the shell in a session of its own, and the writer of its log."""

    shim_pid: int
    log_pid: int


def read_rank(path: Path) -> RankRecord | None:
    """The record of a task; None: nobody has claimed it."""
    try:
        text = path.read_text()
    except FileNotFoundError:
        return None
    if text == _REVOKED:
        return RankRecord(is_revoked=True)
    lines = text.split("\n")[:-1]
    try:
        shim, log = parse_stat(lines[0]), parse_stat(lines[1])
    except (IndexError, ValueError):
        return RankRecord()
    ends = [int(line[5:]) for line in lines[2:] if line.startswith("exit ")]
    return RankRecord(shim, log, ends[0] if ends else None)


def revoke(path: Path) -> bool:
    """Make sure that a task which nobody has claimed will never run; False: it has been claimed."""
    try:
        with path.open("x") as file:
            file.write(_REVOKED)
    except FileExistsError:
        return False
    return True


def is_shell_alive(mark: str, rank_file: Path) -> bool:
    """Whether a task's shell lives, and so may still complete a claim that is cut short."""
    argument = b"\0" + os.fsencode(rank_file) + b"\0"
    for pid in members({mark}):
        with contextlib.suppress(OSError):
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
            if command.startswith(b"sh\0-c\0") and argument in command:
                return True
    return False


def spawn(
    rank_file: Path, log_file: Path, argv: Sequence[str], env: Mapping[str, str], *, cwd: str, cgroup_procs: str,
    setup: str, log_max_bytes: int,
) -> Started:  # fmt: skip
    """Start a task.

    Parameters
    ----------
    cgroup_procs : str
        File through which the task (not its shell) joins a cgroup; empty: none.
    setup : str
        Path of a script to run before it in the same shell; empty: none.

    Raises
    ------
    OSError
        No process could be started.
    """
    read_end, write_end = os.pipe()
    try:
        log_pid = _spawn_log(log_file, read_end, log_max_bytes)
        try:
            shim_pid = os.posix_spawn(
                "/bin/sh",
                ["sh", "-c", _SHIM, "dure", str(rank_file), str(log_pid), cgroup_procs, cwd, setup, *argv],
                env,
                setsid=True, setsigdef=_DEFAULTS, setsigmask=(),
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_DUP2, write_end, 1),
                    (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
                ],
            )  # fmt: skip
        except OSError:
            os.kill(log_pid, signal.SIGKILL)
            os.waitpid(log_pid, 0)
            raise
    finally:
        os.close(read_end)
        os.close(write_end)
    return Started(shim_pid, log_pid)


def _spawn_log(log_file: Path, read_end: int, max_bytes: int) -> int:
    pid = os.posix_spawnp(
        "tee", ["tee", "-a", str(log_file)], {"PATH": os.defpath}, setsid=True, setsigdef=(signal.SIGPIPE,), setsigmask=(),
        file_actions=[
            (os.POSIX_SPAWN_DUP2, read_end, 0),
            (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
            (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
        ],
    )  # fmt: skip
    # Beyond it a write fails (Python ignores SIGXFSZ, and so does what it starts), and `tee` drops the rest.
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (max_bytes, max_bytes))
    return pid
