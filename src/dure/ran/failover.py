"""Rule G8 of the lending guard: which cells go to a standby site when too little of this one's GPU is left.

It is the last step of degradation in order: before it uplink decodes are cut short and everything is taken back from tenants. There are
two kinds:

*Planned move.* The GPU works, but too few of its SMs are present. The standby is primed for `PREPARE_SLOTS`, then the cell goes on there with the next slot:
nobody is interrupted (Slingshot, Lazarev et al., SIGCOMM 2023, moves layer 1 between two slots without downtime; Atlas, Xing et al., MobiCom
2023, serves the cell from both places while devices are handed over). What is lost is uplink received and not yet decoded, of at most
`UPLINK_SLOTS` slots; it comes again with HARQ.

*Failure.* There are too few SMs for control of the cells that are here. As many go at once as it takes, and are interrupted: by less than 110 ms in Slingshot.

When to move: a slot is *strained* if work was held back although nothing was lent and uplink was cut, and is a soft miss. A move costs at most `UPLINK_SLOTS` soft
misses, and as many when the cell comes back. Nobody knows how long strain will last: who moves once it has cost as much as the moves will
(`BREAK_EVEN_SLOTS`) loses at most twice what he would have lost had he known (renting or buying: Karlin et al., "Competitive snoopy caching", Algorithmica 3, 1988),
and what is strained while the standby is primed. Strain is over after `PREPARE_SLOTS` without any; a move that was prepared until then is
dropped.

Which: those with the highest load in the long run, as few as free what lacked in the mean of the strained slots. If that was too little strain goes on, and with it the rule.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dure.policy.kernels.compile import kernel
from dure.ran.site import UPLINK_SLOTS

#: Slots in which a standby is primed for a cell: 100 ms.
PREPARE_SLOTS = 200
#: Strained slots that cost as much as a cell's move and its return.
BREAK_EVEN_SLOTS = 2 * UPLINK_SLOTS
#: Slots in which all peak cells that are away would have fitted as well, before they come back: 10 s.
CALM_SLOTS = 20_000

# Where a cell is, int64[cells].
HERE, PRIMED, AWAY = range(3)
# Memory, float64[8]: cells for which the standby has room; strained slots, those since without strain, SMs that lacked in all strained ones; slots until
# the standby is primed; calm slots; cells that this step has moved by plan (there or back), and by failure.
ROOM, STRAINED, UNSTRAINED, LACKING, PRIMING, CALM, MOVED, FAILED = range(8)


def new_failover(standby_cells: int) -> NDArray[np.float64]:
    """Memory of a site whose cells are all here, with a standby that has room for so many (0: there is none)."""
    memory = np.zeros(8)
    memory[ROOM] = standby_cells
    return memory


@kernel
def failover_step(
    memory: Any, place: Any, loads: Any, num_sms: float, floor_sms: float, vacate_slots: float, present: float,
    planned: float, held: float, is_all_kept: bool,
) -> bool:  # fmt: skip
    """One slot of G8; cells whose ``place`` it changes are there from this slot on.

    Parameters
    ----------
    memory, place : float64[8], int64[cells]
        Of the slot before; both are changed.
    loads : float64[cells]
        What each cell's downlink needs in the long run, SMs; of those that are away too.
    num_sms, floor_sms, vacate_slots : float
        The whole GPU's SMs, those that control of all cells needs, and v.
    present : float
        SMs of the GPU that work.
    planned : float
        What cells here need in this slot, SMs; infinite where that is not known.
    held : float
        Work that was held back in the slot before, SMs, beyond uplink that was cut short.
    is_all_kept : bool
        Whether nothing was lent then.

    Returns
    -------
    bool
        Whether everything is to be kept now: the load has changed by a move, or is to by a return within v.
    """
    memory[MOVED] = 0.0
    memory[FAILED] = 0.0
    if memory[ROOM] <= 0.0:
        return False
    num_away = (place == AWAY).sum()
    room = int(memory[ROOM]) - num_away
    failing = len(place) - num_away - int(present * len(place) / floor_sms)
    if failing > 0:
        _replace(place, PRIMED, HERE)
        memory[FAILED] = _mark(place, loads, min(failing, room), np.inf, -1.0, AWAY)
        memory[STRAINED:MOVED] = 0.0
        return memory[FAILED] > 0.0
    if held > 0.0 and is_all_kept:
        memory[STRAINED] += 1.0
        memory[UNSTRAINED] = 0.0
        memory[LACKING] += held
    else:
        memory[UNSTRAINED] += 1.0
        if memory[UNSTRAINED] >= PREPARE_SLOTS:
            memory[STRAINED] = 0.0
            memory[LACKING] = 0.0
    if memory[PRIMING] > 0.0:
        memory[PRIMING] -= 1.0
        if memory[PRIMING] == 0.0:
            if memory[STRAINED] > 0.0:
                memory[MOVED] = _replace(place, PRIMED, AWAY)
            else:
                _replace(place, PRIMED, HERE)
            memory[STRAINED] = 0.0
            memory[LACKING] = 0.0
    elif memory[STRAINED] >= BREAK_EVEN_SLOTS and room > 0:
        _mark(place, loads, room, memory[LACKING] / memory[STRAINED], 0.0, PRIMED)
        memory[PRIMING] = PREPARE_SLOTS
    # A peak cell needs an equal part of the whole GPU.
    is_calm = num_away > 0 and held <= 0.0 and planned + num_away * num_sms / len(place) <= present
    memory[CALM] = memory[CALM] + 1.0 if is_calm and memory[MOVED] == 0.0 else 0.0
    if memory[CALM] >= CALM_SLOTS:
        memory[MOVED] = _replace(place, AWAY, HERE)
        memory[CALM] = 0.0
    return memory[MOVED] > 0.0 or memory[CALM] >= CALM_SLOTS - vacate_slots


@kernel
def _mark(place: Any, loads: Any, num: int, sms: float, above: float, to: int) -> int:
    """Put cells that are here and whose load is ``above`` that, the highest first (of equal ones the first), elsewhere until they free so many SMs: ``num`` at most; how many."""
    freed = 0.0
    marked = 0
    while marked < num and freed < sms:
        best = -1
        for cell in range(len(place)):
            if place[cell] == HERE and loads[cell] > (above if best < 0 else loads[best]):
                best = cell
        if best < 0:
            break
        place[best] = to
        freed += loads[best]
        marked += 1
    return marked


@kernel
def _replace(place: Any, old: int, new: int) -> int:
    """Put all cells that are in one place in another; how many."""
    num = 0
    for cell in range(len(place)):
        if place[cell] == old:
            place[cell] = new
            num += 1
    return num
