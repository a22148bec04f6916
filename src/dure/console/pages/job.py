"""One job: its state, why it waits, what happened, on whose GPUs it ran, what it says."""

from __future__ import annotations

import asyncio
import shlex
from datetime import datetime
from typing import Any

from nicegui import ui

from dure.console.frame import Frame, page
from dure.console.logs import LogText, progress_in
from dure.console.parts import Chart, Table, column, heading, section, state_of
from dure.console.session import running
from dure.console.terms import ATTEMPTS, HAPPENED, OUTCOMES, REASONS, change_sentence, reason_sentence, term
from dure.console.words import N_, Words
from dure.service import routes_jobs
from dure.service.identity import Principal
from dure.service.projection import lease_id_of
from dure.service.schemas import AttemptView, ExplanationForm, JobDetail

#: Bytes of a log with which a page begins, and lines that it keeps.
TAIL_BYTES, LINES_MAX = 64 << 10, 1_000
#: Keys by which jobs count their steps, and by which they say of how many.
STEP_KEYS, TOTAL_KEYS = ("step", "iteration", "epoch"), ("steps", "of", "total", "total_steps", "max_steps", "epochs")
#: Points of a curve.
POINTS_MAX = 2_000
#: Pools whose reasons are told.
POOLS_MAX = 8
_COLOURS = ("#2f7ed8", "#e08a1e", "#16a394", "#a05bd0")


@page("/jobs/{job_id}", N_("Job"))
async def job(frame: Frame, job_id: str) -> None:
    """All parts of the page; each knows how to show a newer picture of the job."""
    assert frame.who is not None
    service, feed = running().service, running().feed
    first = await asyncio.to_thread(routes_jobs.get_job, service, frame.who, job_id)
    head = _Head(frame, first)
    with ui.element("div").classes("dure-columns"):
        with ui.column().classes("dure-section"):
            facts = _Facts(frame)
        with ui.column().classes("dure-section"):
            reasons = _Reasons(frame)
            progress = _Progress(frame)
            timeline = _Timeline(frame)
    attempts = _attempts_table(frame)
    logs = _Logs(frame, job_id, progress)

    async def update(who: Principal) -> None:
        now = await feed.ask(("job", who.grants, job_id), lambda: routes_jobs.get_job(service, who, job_id))
        head.show(now, who)
        facts.show(now)
        waits = now.state == "PENDING"
        explanation = None
        if waits:
            explanation = await feed.ask(
                ("explain", who.grants, job_id), lambda: routes_jobs.explain_job(service, who, job_id)
            )
        reasons.show(explanation)
        timeline.show(now)
        attempts.show([_attempt_row(frame.words, a) for a in now.attempts])
        await logs.follow(now, who)
        progress.note(now.progress)

    await frame.live(update)


class _Head:
    """Name, state and what may be done."""

    def __init__(self, frame: Frame, first: JobDetail) -> None:
        self._frame, self._job_id = frame, first.job_id
        frame.retitle(first.name)
        _ = frame.words.say
        with ui.row().classes("dure-head"):
            self._state = ui.label().classes("dure-state")
            ui.space()
            self._cancel = ui.button(_("Cancel job"), icon="cancel", on_click=self._ask).props("no-caps outline color=negative")

    def show(self, job: JobDetail, who: Principal) -> None:
        text, tone = state_of(self._frame.words, job)
        self._state.text = text
        self._state.props(f"data-tone={tone}")
        self._cancel.visible = job.state != "ENDED" and who.may_change(job.project, job.member, job.user)

    async def _ask(self) -> None:
        _ = self._frame.words.say
        with ui.dialog() as dialog, ui.card():
            ui.label(_("Cancel this job? What it has not saved is lost."))
            with ui.row().classes("w-full justify-end"):
                ui.button(_("Keep it"), on_click=lambda: dialog.submit(False)).props("flat no-caps")
                ui.button(_("Cancel job"), on_click=lambda: dialog.submit(True)).props("no-caps unelevated color=negative")
        is_sure = await dialog
        dialog.delete()
        if is_sure:
            await self._frame.act(self._carry_out)

    async def _carry_out(self, who: Principal) -> None:
        await routes_jobs.cancel_job(running().service, who, self._job_id)


class _Facts:
    """What the job is and asks for."""

    def __init__(self, frame: Frame) -> None:
        self._words = frame.words
        heading(frame.words.say("Facts"))
        self._box = ui.element("dl").classes("dure-facts")
        self._shown: list[tuple[str, str]] = []

    def show(self, job: JobDetail) -> None:
        pairs = [(what, said) for what, said in _facts(self._words, job) if said]
        if pairs == self._shown:
            return
        self._shown = pairs
        self._box.clear()
        with self._box:
            for what, said in pairs:
                with ui.element("dt"):
                    ui.label(what)
                with ui.element("dd"):
                    ui.label(said)


def _facts(words: Words, job: JobDetail) -> list[tuple[str, str]]:
    _ = words.say
    command = job.spec.get("command", [])
    return [
        (_("Id"), job.job_id), (_("Project"), job.project), (_("Member"), job.member), (_("User"), job.user),
        (_("GPUs"), words.number(job.gpus)), (_("GPU type"), job.gpu_type or ""), (_("Site"), job.site or ""),
        (_("Nodes"), ", ".join(job.nodes)), (_("Submitted"), words.moment(job.submitted_at)),
        (_("Started"), words.moment(job.started_at)), (_("Ended"), words.moment(job.ended_at)),
        (_("Time limit"), words.span(job.limit_s)), (_("Exit code"), "" if job.exit_code is None else str(job.exit_code)),
        (_("Array"), job.array_id or ""), (_("Pipeline"), job.pipeline_id or ""),
        (_("Command"), command if isinstance(command, str) else shlex.join(command)),
    ]  # fmt: skip


class _Reasons:
    """Why the job waits (rule 11)."""

    def __init__(self, frame: Frame) -> None:
        self._words = frame.words
        self._box = ui.column().classes("dure-explain")
        self._shown: ExplanationForm | None = None
        self._box.visible = False

    def show(self, found: ExplanationForm | None) -> None:
        self._box.visible = found is not None
        if found is None or found == self._shown:
            return
        self._shown = found
        self._box.clear()
        _, words = self._words.say, self._words
        with self._box:
            heading(_("Why it waits"))
            ui.label(term(words, REASONS, found.reason)).classes("dure-strong")
            with ui.element("ul").classes("dure-sentences"):
                for sentence in _sentences(words, found):
                    with ui.element("li"):
                        ui.label(sentence)
            if found.rule is not None:
                ui.label(_("Rule {number} of the policy").format(number=found.rule)).classes("dure-faint")
            start = words.moment(found.expected_start)
            away = words.distance(found.expected_start)
            ui.label(_("Expected start: {moment} ({distance})").format(moment=start, distance=away) if start
                     else _("Expected start: not foreseen"))  # fmt: skip
            if found.would_start_if:
                ui.label(_("What would make it start sooner"))
                with ui.element("ul").classes("dure-sentences"):
                    for change in found.would_start_if:
                        with ui.element("li"):
                            ui.label(change_sentence(words, change))


def _sentences(words: Words, found: ExplanationForm) -> list[str]:
    """What holds the job back, pool by pool; of a job that no pool has seen, the one reason."""
    if found.pools:
        return [_of_pool(words, pool) for pool in found.pools[:POOLS_MAX]]
    return [reason_sentence(words, found.reason, {})] if found.reason else []


def _of_pool(words: Words, pool: dict[str, Any]) -> str:
    said = f"{pool['pool']}: {reason_sentence(words, pool['reason'], pool['facts'])}"
    if not pool["holders"]:
        return said
    holders = ", ".join(f"{h['member']} {words.number(h['gpus'])}" for h in pool["holders"])
    return f"{said} " + words.say("In use by: {holders}.").format(holders=holders)


class _Progress:
    """What the job says of its progress: the last word, and curves over its steps."""

    def __init__(self, frame: Frame) -> None:
        self._words = frame.words
        self._box = ui.column().classes("dure-section")
        with self._box:
            heading(frame.words.say("Progress"))
            self._bar = ui.linear_progress(0, show_value=False, size="10px").props(
                f'rounded instant-feedback aria-label="{frame.words.say("Progress")}"'
            )
            self._last = ui.label()
            self._chart = Chart(frame, frame.words.say("Progress"), 190)
        self._box.visible = False
        self._curves: dict[str, dict[float, float]] = {}

    def note(self, said: dict[str, Any] | None) -> None:
        """The job's latest word."""
        if not said:
            return
        self.add([said])
        self._box.visible = True
        step, total = _number_of(said, STEP_KEYS), _number_of(said, TOTAL_KEYS)
        self._bar.visible = step is not None and bool(total)
        if step is not None and total:
            self._bar.value = min(max(step / total, 0.0), 1.0)
        self._last.text = ", ".join(
            f"{key} {self._words.number(value, 4) if _is_number(value) else value}" for key, value in said.items()
        )
        self._draw()

    def add(self, words: list[dict[str, Any]]) -> None:
        """Words that the job said, in the order of its steps or before that known."""
        for said in words:
            step = _number_of(said, STEP_KEYS)
            for key, value in said.items():
                if step is not None and _is_number(value) and key not in (*STEP_KEYS, *TOTAL_KEYS):
                    curve = self._curves.setdefault(key, {})
                    curve[step] = value
                    if len(curve) > POINTS_MAX:
                        del curve[min(curve)]

    def _draw(self) -> None:
        shown = dict(sorted(self._curves.items())[: len(_COLOURS)])
        self._chart.show_if(bool(shown))
        if not shown:
            return
        axes = [self._chart.axis("value", scale=True, name=key, position="left" if i == 0 else "right",
                                 offset=max(i - 1, 0) * 48, show=i < 2) for i, key in enumerate(shown)]  # fmt: skip
        self._chart.show({
            "grid": {"left": 8, "right": 16, "top": 34, "bottom": 8, "containLabel": True},
            "tooltip": {"trigger": "axis"}, "xAxis": self._chart.axis("value", scale=True, minInterval=1), "yAxis": axes,
            "series": [
                {"type": "line", "name": key, "showSymbol": len(curve) == 1, "yAxisIndex": i, "itemStyle": {"color": _COLOURS[i]},
                 "data": [[x, y] for x, y in sorted(curve.items())]}
                for i, (key, curve) in enumerate(shown.items())
            ],
        })  # fmt: skip


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _number_of(said: dict[str, Any], keys: tuple[str, ...]) -> float | None:
    return next((said[key] for key in keys if _is_number(said.get(key))), None)


class _Timeline:
    """What happened, oldest first."""

    def __init__(self, frame: Frame) -> None:
        self._words = frame.words
        heading(frame.words.say("Timeline"))
        self._list = ui.element("ol").classes("dure-timeline")
        self._count = 0

    def show(self, job: JobDetail) -> None:
        if len(job.timeline) == self._count:
            return
        self._count = len(job.timeline)
        self._list.clear()
        _, words = self._words.say, self._words
        with self._list:
            for entry in job.timeline:
                said = term(words, HAPPENED, entry.what)
                if entry.attempt is not None:
                    said = _("attempt {number}: {what}").format(number=entry.attempt, what=said)
                if entry.what == "ended":
                    said = f"{said}: {term(words, OUTCOMES, job.outcome)}"
                if entry.what == "submitted":
                    said = _("submitted by {user}").format(user=job.user)
                with ui.element("li"):
                    with ui.element("time"):
                        ui.label(words.moment_ms(entry.at_ms))
                    ui.label(said)


def _attempts_table(frame: Frame) -> Table:
    _ = frame.words.say
    with section(_("Attempts")):
        return Table(frame, _("Attempts"), [
            column("attempt", _("Attempt"), "number"), column("state", _("State"), "state"), column("owner", _("Whose GPUs")),
            column("agreement", _("Agreement")), column("gpus", _("GPUs")),
            column("site", _("Site")), column("leased", _("Leased")), column("ran", _("Ran for")),
            column("borrowed", _("Of this borrowed")), column("exit", _("Exit code")),
        ], "attempt", _("It has not been started yet."))  # fmt: skip


def _attempt_row(words: Words, a: AttemptView) -> dict[str, Any]:
    is_open = a.ended_at is None
    return {
        "attempt": a.attempt, "state": term(words, ATTEMPTS, a.state), "state_tone": "go" if is_open else "calm",
        "owner": a.owner, "agreement": a.agreement or words.say("own share"), "gpus": f"{words.number(a.gpus)} × {a.gpu_type}",
        "site": a.site, "leased": words.short_moment(a.leased_at), "ran": words.span(_ran_s(a)),
        "borrowed": words.span(a.borrowed_s), "exit": "" if a.exit_code is None else str(a.exit_code),
    }  # fmt: skip


def _ran_s(a: AttemptView) -> float | None:
    """How long an attempt has run, by the service's clock while it is open."""
    if a.ended_at is not None or a.started_at is None:
        return a.run_s
    return running().service.writer.now_ms() / 1000 - datetime.fromisoformat(a.started_at).timestamp()


class _Logs:
    """The output of one rank of one attempt; follows the latest attempt unless another was chosen."""

    def __init__(self, frame: Frame, job_id: str, progress: _Progress) -> None:
        self._frame, self._job_id, self._progress = frame, job_id, progress
        _ = frame.words.say
        with section(_("Output")):
            with ui.row().classes("dure-filters"):
                self._attempt = ui.select({}, label=_("Attempt")).props("outlined dense options-dense")
                self._rank = ui.select({0: "0"}, value=0, label=_("Rank")).props("outlined dense options-dense")
            self._none = ui.label(_("There is no output yet.")).classes("dure-faint")
            self._log = ui.log(max_lines=LINES_MAX).classes("dure-log")
            self._log.props(f'role=log tabindex=0 aria-label="{_("Output")}"')
        self._shown: tuple[int, int] | None = None
        self._offset, self._text, self._is_over = 0, LogText(), False

    async def follow(self, job: JobDetail, who: Principal) -> None:
        """Append what has come since."""
        self._offer(job)
        attempt, rank = self._attempt.value, self._rank.value
        if attempt is None:
            return
        if self._shown != (attempt, rank):
            await self._begin(attempt, rank)
        if self._is_over:
            return
        service, offset = running().service, self._offset
        data, is_over = await asyncio.to_thread(
            routes_jobs.log_part, service, who, self._job_id, attempt, rank, offset
        )
        self._offset, self._is_over = offset + len(data), is_over
        lines = self._text.add(data, is_last=is_over or not data)
        if lines:
            self._none.visible, self._log.visible = False, True
            self._log.push("\n".join(line or " " for line in lines[-LINES_MAX:]))
            self._progress.add(progress_in(lines))

    def _offer(self, job: JobDetail) -> None:
        known = {a.attempt: str(a.attempt) for a in job.attempts}
        if list(known) != list(self._attempt.options):
            was_last = self._attempt.value in (None, max(self._attempt.options, default=None))
            self._attempt.set_options(known, value=max(known) if was_last and known else self._attempt.value)

    async def _begin(self, attempt: int, rank: int) -> None:
        service = running().service
        lease = lease_id_of(self._job_id, attempt)
        size = await asyncio.to_thread(service.logs.size, lease, rank)
        ranks = await asyncio.to_thread(service.logs.ranks, lease)
        self._rank.set_options({r: str(r) for r in ranks or [0]}, value=rank if rank in ranks else 0)
        self._log.clear()
        self._none.visible, self._log.visible = True, False
        self._shown = (attempt, self._rank.value)
        self._offset, self._text, self._is_over = max(size - TAIL_BYTES, 0), LogText(), False
