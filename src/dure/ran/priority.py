"""How far the operating system puts a process before others."""

from __future__ import annotations

import os
from pathlib import Path

_AUTOGROUP = Path("/proc/self/autogroup")
#: Real-time priorities: the governor and its watchdog go before the radio, so that they can stop who keeps it waiting.
RADIO, ABOVE_RADIO = 10, 15


def prioritise(wanted: str, level: int = RADIO) -> str:
    """Put this thread before others as far as it is allowed and wanted; what it is then: ``fifo``, ``nice`` or ``plain``."""
    if wanted == "fifo":
        try:
            os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(level))
        except PermissionError:
            wanted = "nice"
        else:
            return "fifo"
    if wanted == "nice":
        try:
            os.setpriority(os.PRIO_PROCESS, 0, -level)
            # Between sessions niceness counts only as that of their groups, where the kernel makes such (sched_autogroup_enabled).
            if os.getsid(0) == os.getpid() and _AUTOGROUP.exists():
                _AUTOGROUP.write_text(str(-level))
        except PermissionError:
            return "plain"
        return "nice"
    return "plain"


def be_plain() -> None:
    """Take back a real-time priority."""
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
