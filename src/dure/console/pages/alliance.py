"""The alliance: who owns, uses, lends and borrows how much now."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nicegui import ui

from dure.console.frame import Frame, page
from dure.console.parts import Chart, Figures, Table, column, section
from dure.console.session import running
from dure.console.terms import AGENT_STATES, MEMBER_KINDS, term
from dure.console.words import N_, Words
from dure.service import routes_alliance
from dure.service.identity import Principal
from dure.service.schemas import MemberView, SiteView

_BLUE, _TEAL, _ORANGE, _GREY = "#2f7ed8", "#16a394", "#e08a1e", "#9aa5b1"


@page("/", N_("Alliance"))
async def alliance(frame: Frame) -> None:
    """Figures, a chart and a table of the members; the sites."""
    _ = frame.words.say
    figures = Figures({
        "online": _("GPUs online"), "used": _("GPUs in use"), "lent": _("GPUs lent"), "waiting": _("Jobs waiting"),
        "members": _("Members"), "sites": _("Sites connected"),
    })  # fmt: skip
    with section(_("Use, lending and borrowing")):
        views = {"now": _("GPUs online now"), "shares": _("Agreed shares")}
        choice = ui.toggle(views, value="now").props(f'no-caps unelevated aria-label="{_("Shown in the chart")}"')
        chart = Chart(frame, _("Use, lending and borrowing"), 300)
    with section(_("Members")):
        members_table = Table(frame, _("Members"), [
            column("name", _("Member")), column("kind", _("Kind")), column("guarantee", _("Share (GPUs)"), "number"),
            column("online", _("Online"), "number"), column("used", _("In use"), "number"),
            column("borrowed", _("Borrowed"), "number"), column("lent", _("Lent"), "number"),
            column("waiting", _("Waiting jobs"), "number"), column("credits", _("Credits (GPU-hours)"), "number"),
        ], "name", _("There are no members."))  # fmt: skip
    with section(_("Sites")):
        sites_table = Table(frame, _("Sites"), [
            column("name", _("Site")), column("agent", _("Agent"), "state"), column("gpus", _("GPUs"), "number"),
            column("online", _("Online"), "number"), column("used", _("In use"), "number"),
            column("nodes", _("Nodes"), "number"), column("up", _("Nodes up"), "number"), column("power", _("Power (kW)"), "number"),
            column("cap", _("Cap (kW)"), "number"),
        ], "name", _("There are no sites."))  # fmt: skip

    async def update(who: Principal) -> None:
        now, feed = running().service, running().feed
        members = await feed.ask("members", lambda: routes_alliance.list_members(now, who))
        sites = await feed.ask("sites", lambda: routes_alliance.list_sites(now, who))
        figures.show(_totals(frame.words, members, sites))
        if choice.value == "now":
            _draw_now(frame.words, chart, members)
        else:
            _draw_shares(frame.words, chart, members)
        members_table.show([_member_row(frame.words, m) for m in members])
        sites_table.show([_site_row(frame.words, s) for s in sorted(sites, key=lambda s: (-s.online_gpus, s.name))])

    choice.on_value_change(frame.refresh)
    await frame.live(update)


def _totals(words: Words, members: Sequence[MemberView], sites: Sequence[SiteView]) -> dict[str, str]:
    return {
        "online": words.number(sum(s.online_gpus for s in sites)), "used": words.number(sum(s.used_gpus for s in sites)),
        "lent": words.number(sum(m.lent_gpus for m in members)), "waiting": words.number(sum(m.waiting_jobs for m in members)),
        "members": words.number(len(members)), "sites": words.number(sum(s.agent == "connected" for s in sites)),
    }  # fmt: skip


def _draw_now(words: Words, chart: Chart, members: Sequence[MemberView]) -> None:
    """To the right what becomes of a member's own GPUs that are online, to the left what it borrows."""
    _ = words.say
    shown = [m for m in members if m.online_gpus or m.used_gpus or m.lent_gpus] or list(members)
    own = [max(m.used_gpus - m.borrowed_gpus, 0) for m in shown]
    idle = [max(m.online_gpus - used - m.lent_gpus, 0) for m, used in zip(shown, own, strict=True)]
    _draw_bars(chart, shown, [
        (_("borrowed from others"), [-m.borrowed_gpus for m in shown], _ORANGE), (_("used by itself"), own, _BLUE),
        (_("lent to others"), [m.lent_gpus for m in shown], _TEAL), (_("idle"), idle, _GREY),
    ], "all")  # fmt: skip


def _draw_shares(words: Words, chart: Chart, members: Sequence[MemberView]) -> None:
    _ = words.say
    shown = sorted(members, key=lambda m: (-m.guarantee_gpus, m.name))
    _draw_bars(chart, shown, [
        (_("share agreed"), [m.guarantee_gpus for m in shown], _GREY), (_("online"), [m.online_gpus for m in shown], _TEAL),
        (_("in use"), [m.used_gpus for m in shown], _BLUE),
    ], None)  # fmt: skip


def _draw_bars(
    chart: Chart, members: Sequence[MemberView], series: Sequence[tuple[str, list[float], str]], stack: str | None
) -> None:
    per_member = 26 if stack else 40
    chart.show({
        "grid": {"left": 8, "right": 24, "top": 36, "bottom": 8, "containLabel": True},
        "legend": {"top": 0, "left": 0, "textStyle": {"color": chart.ink}, "itemGap": 18},
        "tooltip": {"trigger": "axis", "axisPointer": {"type": "shadow"}, ":valueFormatter": "value => Math.abs(value)"},
        "xAxis": chart.axis("value", {":formatter": "value => Math.abs(value)"}, minInterval=1),
        "yAxis": chart.axis("category", data=[m.name for m in members], inverse=True, axisTick={"show": False}),
        "series": [
            {"type": "bar", "name": name, "data": data, "itemStyle": {"color": colour}, "barMaxWidth": 20,
             **({"stack": stack} if stack else {})}
            for name, data, colour in series
        ],
    }, max(len(members) * per_member + 90, 150))  # fmt: skip


def _member_row(words: Words, m: MemberView) -> dict[str, Any]:
    return {
        "name": m.name, "kind": term(words, MEMBER_KINDS, m.kind), "guarantee": m.guarantee_gpus, "online": m.online_gpus,
        "used": m.used_gpus, "borrowed": m.borrowed_gpus, "lent": m.lent_gpus, "waiting": m.waiting_jobs,
        "credits": m.credits,
    }  # fmt: skip


def _site_row(words: Words, s: SiteView) -> dict[str, Any]:
    return {
        "name": s.name, "agent": term(words, AGENT_STATES, s.agent),
        "agent_tone": {"connected": "good", "silent": "bad"}.get(s.agent, "calm"), "gpus": s.gpus,
        "online": s.online_gpus, "used": s.used_gpus, "nodes": s.nodes, "up": s.nodes_up, "power": s.power_w / 1000,
        "cap": s.cap_w / 1000 if s.cap_w else None,
    }  # fmt: skip
