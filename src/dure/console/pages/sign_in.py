"""Signing in with a token."""

from __future__ import annotations

from nicegui import ui

from dure.console import session
from dure.console.frame import Frame, page, refusal_words
from dure.console.words import N_
from dure.service.errors import Problem

#: Asked of the browser once: its time zone, and whether it prefers a dark theme.
_ASK = "return [Intl.DateTimeFormat().resolvedOptions().timeZone, matchMedia('(prefers-color-scheme: dark)').matches]"


@page("/sign-in", N_("Sign in"), is_open=True)
async def sign_in(frame: Frame, to: str = "/") -> None:
    """A field for the token."""
    _ = frame.words.say

    async def enter() -> None:
        token = field.value.strip()
        if not token:
            return
        try:
            session.sign_in(token)
        except Problem as refusal:
            is_agent = refusal.status == 403
            said = _("An agent's token opens no console.") if is_agent else refusal_words(frame.words, refusal)
            field.value = ""
            field.props["error"], field.props["error-message"] = True, said
            return
        await _note_browser()
        ui.navigate.to(to if to.startswith("/") and not to.startswith("//") else "/")

    with ui.column().classes("dure-signin"):
        ui.label(_("Paste a token of yours. The service prints the operator's at its first start.")).classes(
            "dure-faint"
        )
        field = ui.input(_("Token"), password=True).props("outlined autofocus autocomplete=off spellcheck=false")
        field.on("keydown.enter", enter)
        ui.button(_("Sign in"), on_click=enter).props("no-caps unelevated")


async def _note_browser() -> None:
    try:
        zone, is_dark = await ui.run_javascript(_ASK, timeout=2.0)
    except (TimeoutError, TypeError):
        return
    session.remember("zone", str(zone))
    if session.is_dark() is None:
        session.remember("dark", bool(is_dark))
