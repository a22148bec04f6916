"""The queue: jobs that wait and run, why they wait and when they are expected to start."""

from __future__ import annotations

from typing import Any, cast

from nicegui import ui

from dure.console.frame import Frame, page
from dure.console.parts import Table, column, job_href, section, state_of
from dure.console.session import running
from dure.console.terms import REASONS, STATES, term
from dure.console.words import N_, Words
from dure.service import routes_admin, routes_alliance, routes_jobs
from dure.service.identity import Principal
from dure.service.schemas import JobList, JobView
from dure.service.views import iso

PAGE_ROWS = 50
#: What the filter of states offers: waiting and running ones, all that is not over, and single states.
_OPEN = ("PENDING", "ADMITTED", "RUNNING", "SUSPENDED", "COMPLETING")
_GROUPS: dict[str, tuple[str, ...]] = {"open": _OPEN, **{state: (state,) for state in STATES}, "any": tuple(STATES)}


@page("/queue", N_("Queue"))
async def queue(frame: Frame) -> None:
    """Filters, the table, paging."""
    _ = frame.words.say
    assert frame.who is not None
    service, feed = running().service, running().feed
    members = [m.name for m in await feed.ask("members", lambda: routes_alliance.list_members(service, cast(Principal, frame.who)))]
    projects = [p.name for p in routes_admin.list_projects(service, frame.who)]
    groups = {"open": _("not over"), **{state: _(text) for state, text in STATES.items()}, "any": _("all")}
    before: list[str | None] = [None]
    following: list[str | None] = [None]

    async def again() -> None:
        del before[1:]
        await frame.refresh()

    with ui.row().classes("dure-filters"):
        state = ui.select(groups, value="open", label=_("State"), on_change=again).props("outlined dense options-dense")
        member = ui.select({"": _("all"), **{m: m for m in members}}, value="", label=_("Member"), on_change=again)
        project = ui.select({"": _("all"), **{p: p for p in projects}}, value="", label=_("Project"), on_change=again)
        text = ui.input(_("Name, id or user"), on_change=again).props("outlined dense clearable debounce=300")
        for field in (member, project):
            field.props("outlined dense options-dense")
    with section(_("Jobs")):
        table = Table(frame, _("Jobs"), [
            column("name", _("Name"), "link"), column("job_id", _("Id")), column("project", _("Project")),
            column("user", _("User")), column("state", _("State"), "state"), column("gpus", _("GPUs"), "number"),
            column("reason", _("Why it waits")), column("expected", _("Expected start")), column("site", _("Site")),
            column("submitted", _("Submitted")),
        ], "job_id", _("No job fits the filters."))  # fmt: skip
        with ui.row().classes("dure-paging"):
            newer = ui.button(_("Newer"), icon="chevron_left", on_click=lambda: turn(-1)).props("flat dense no-caps")
            where = ui.label()
            older = ui.button(_("Older"), icon="chevron_right", on_click=lambda: turn(1)).props("flat dense no-caps")

    async def turn(pages: int) -> None:
        if pages > 0 and following[0] is not None:
            before.append(following[0])
        elif pages < 0 and len(before) > 1:
            before.pop()
        await frame.refresh()

    async def update(who: Principal) -> None:
        asked = (state.value, member.value or None, project.value or None, (text.value or "").strip() or None, before[-1])
        shown = await feed.ask(("queue", who.grants, asked), lambda: _jobs(who, *asked))
        following[0] = shown.next
        newer.set_enabled(len(before) > 1)
        older.set_enabled(shown.next is not None)
        where.text = _("Page {number}").format(number=len(before))
        table.show([_row(frame.words, job) for job in shown.jobs])

    await frame.live(update)


def _jobs(who: Principal, group: str, member: str | None, project: str | None, text: str | None, after: str | None) -> JobList:
    """A page of jobs; those that wait with the start that the twin expects."""
    service = running().service
    found = routes_jobs.list_jobs(
        service, who, cast(Any, list(_GROUPS[group])), member, project, text=text, limit=PAGE_ROWS, after=after
    )
    foresight = service.views.foresight
    jobs = [
        job.model_copy(update={"expected_start": iso(foresight.expected_start_ms(job.job_id))})
        if job.state == "PENDING" and job.expected_start is None else job
        for job in found.jobs
    ]  # fmt: skip
    return found.model_copy(update={"jobs": jobs})


def _row(words: Words, job: JobView) -> dict[str, Any]:
    state, tone = state_of(words, job)
    return {
        "name": job.name, "name_href": job_href(job.job_id), "job_id": job.job_id, "project": job.project, "user": job.user,
        "state": state, "state_tone": tone, "gpus": job.gpus, "reason": term(words, REASONS, job.reason),
        "expected": words.short_moment(job.expected_start), "site": job.site or "", "submitted": words.short_moment(job.submitted_at),
    }  # fmt: skip
