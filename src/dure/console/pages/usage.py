"""What was used in a month, of whose GPUs."""

from __future__ import annotations

from datetime import UTC, datetime

from nicegui import ui

from dure.console.frame import Frame, page
from dure.console.parts import Table, column, section
from dure.console.session import running
from dure.console.terms import USAGE_BY
from dure.console.words import N_
from dure.service import routes_alliance
from dure.service.identity import Principal

#: Months that can be chosen, this one first.
MONTHS = 24


@page("/usage", N_("Usage"))
async def usage(frame: Frame) -> None:
    """GPU-hours by member, project or user, lent and borrowed beside each other."""
    _ = frame.words.say
    months = _months(datetime.fromtimestamp(running().service.writer.now_ms() / 1000, UTC))
    with ui.row().classes("dure-filters"):
        month = ui.select(months, value=months[0], label=_("Month (UTC)"), on_change=frame.refresh)
        by = ui.select(
            {key: _(text) for key, text in USAGE_BY.items()}, value="member", label=_("By"), on_change=frame.refresh
        )
        for field in (month, by):
            field.props("outlined dense options-dense")
    with section(_("GPU-hours")):
        table = Table(frame, _("GPU-hours"), [
            column("key", _("Of whom")), column("gpu_type", _("GPU type")), column("own", _("In its own share"), "number"),
            column("borrowed", _("Borrowed"), "number"), column("all", _("Used in all"), "number"),
            column("lent", _("Lent to others"), "number"), column("energy", _("Energy (kWh)"), "number"),
            column("attempts", _("Attempts"), "number"),
        ], "id", _("Nothing was used in this month."))  # fmt: skip
        ui.label(_("Attempts that still run count up to now. Energy is shown where the nodes measure it.")).classes("dure-faint")

    async def update(who: Principal) -> None:
        service, asked = running().service, (by.value, month.value)
        found = await running().feed.ask(("usage", who.grants, asked), lambda: routes_alliance.get_usage(service, who, *asked))
        table.show([
            {"id": f"{row.key} {row.gpu_type}", "key": row.key, "gpu_type": row.gpu_type, "own": row.own_gpu_seconds / 3600,
             "borrowed": row.borrowed_gpu_seconds / 3600, "all": row.gpu_seconds / 3600, "lent": row.lent_gpu_seconds / 3600,
             "energy": row.energy_kwh, "attempts": row.attempts}
            for row in found.rows
        ])  # fmt: skip

    await frame.live(update, every_s=5.0)


def _months(now: datetime) -> list[str]:
    count = now.year * 12 + now.month - 1
    return [f"{(count - back) // 12:04d}-{(count - back) % 12 + 1:02d}" for back in range(MONTHS)]
