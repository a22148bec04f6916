"""Signing in with a token."""

from __future__ import annotations

import json

from nicegui import ui

from dure.console import session
from dure.console.frame import Frame, page, refusal_words
from dure.console.words import N_
from dure.service.errors import Problem

#: Asked of the browser once: its time zone, and whether it prefers a dark theme.
_ASK = "return [Intl.DateTimeFormat().resolvedOptions().timeZone, matchMedia('(prefers-color-scheme: dark)').matches]"


@page("/sign-in", N_("Sign in"), is_open=True)
async def sign_in(frame: Frame, to: str = "/", code: str = "") -> None:
    """A way to the organisation's provider, where there is one, and a field for the token."""
    _ = frame.words.say
    if code and await _came_back(frame, code):
        return

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
        provider = session.begin_login()
        if provider:
            ui.button(
                _("Sign in with your organisation"), on_click=lambda: ui.run_javascript(f"location.href={json.dumps(provider)}")
            ).props("no-caps unelevated")
        ui.label(_("Paste a token of yours. The service prints the operator's at its first start.")).classes(
            "dure-faint"
        )
        field = ui.input(_("Token"), password=True).props("outlined autofocus autocomplete=off spellcheck=false")
        field.on("keydown.enter", enter)
        ui.button(_("Sign in"), on_click=enter).props("no-caps unelevated")


async def _came_back(frame: Frame, code: str) -> bool:
    """Whether who comes from the provider with a code is signed in now."""
    try:
        await session.end_login(code)
    except Problem as refusal:
        frame.refuse(refusal)
        return False
    await ui.context.client.connected()
    await _note_browser()
    ui.navigate.to("/")
    return True


async def _note_browser() -> None:
    try:
        zone, is_dark = await ui.run_javascript(_ASK, timeout=2.0)
    except (TimeoutError, TypeError):
        return
    session.remember("zone", str(zone))
    if session.is_dark() is None:
        session.remember("dark", bool(is_dark))
