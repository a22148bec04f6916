"""`dure ran fence`: a cell site's forecast told to the alliance, round by round."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from dure.model.errors import InputError
from dure.ran.fence_words import ROUND_S, FenceTeller
from dure.ran.loads import CellLoads, deal_cells, read_known, read_load

if TYPE_CHECKING:
    from dure.client import Client


class Measured:
    """A site's loads in files that grow, as its network writes them; cells are planned by those of earlier days."""

    def __init__(self, calibrate: tuple[str, ...], load: tuple[str, ...], num_cells: int) -> None:
        self._paths, self._num_cells = load, num_cells
        self._plan, self.known = read_known(calibrate, num_cells)
        self._last = self._read()

    def _read(self) -> tuple[CellLoads, int]:
        found = [read_load(path) for path in self._paths]
        return deal_cells(found, self._plan, self._num_cells), found[0].start_window

    def read(self) -> tuple[CellLoads, int]:
        """All loads until now, and the window of the day of the first; as before, where a file cannot be read (half a row, say)."""
        try:
            self._last = self._read()
        except InputError as error:
            click.echo(f"not read: {error}", file=sys.stderr)
        return self._last


def released_now(dure: Client, site: str) -> float:
    """What part of a site is released.

    Raises
    ------
    InputError
        There is no such site, or it is no cell site with hours.
    """
    found = next((view for view in dure.sites() if view.name == site), None)
    if found is None or found.released is None:
        raise InputError(f"{site} is no site of the alliance" if found is None else f"{site} is no cell site with hours", field="--site")
    return found.released


def tell(
    dure: Client, site: str, measured: Measured, teller: FenceTeller, num_rounds: int, show: Callable[[dict[str, Any]], None],
    sleep: Callable[[float], None] = time.sleep,
) -> None:  # fmt: skip
    """Decide and say so, so many rounds (0: without an end).

    A service that cannot be reached, or cannot take it now, hears the next word: this one's time passes, and then the site's hours count.

    Raises
    ------
    ApiError
        It does not allow it.
    """
    from dure.client.errors import ApiError, UnreachableError

    done = 0
    while True:
        began = time.monotonic()
        decision = teller.decide(*measured.read())
        is_told = True
        for word in decision.words:
            sleep(max(began + word.after_s - time.monotonic(), 0.0))
            try:
                dure.release_site(site, word.part, word.for_s)
            except (UnreachableError, ApiError) as error:
                if isinstance(error, ApiError) and error.status < 500:
                    raise
                is_told = False
                click.echo(f"not told: {error}", file=sys.stderr)
        show({
            "site": site, "windows": decision.windows, "new_windows": decision.new_windows, "expected_load": decision.expected_load, "sms_kept": decision.sms_kept,
            "part": decision.part, "is_told": is_told,
        })  # fmt: skip
        done += 1
        if done == num_rounds:
            return
        sleep(max(began + ROUND_S - time.monotonic(), 0.0))
