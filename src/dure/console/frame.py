"""What all pages have in common: who may open them, header and navigation, and updates once a second."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fastapi import Request
from fastapi.responses import RedirectResponse
from nicegui import ui

from dure.console import session
from dure.console.session import MOUNT
from dure.console.words import LANGUAGES, N_, Words
from dure.service.errors import Problem
from dure.service.identity import Principal

_ASSETS = Path(__file__).parent / "assets"

#: The navigation: where, what it is called, its icon. A new page is one more line.
PAGES = (
    ("/", N_("Alliance"), "hub"),
    ("/queue", N_("Queue"), "format_list_bulleted"),
    ("/nodes", N_("Nodes and agents"), "dns"),
    ("/usage", N_("Usage"), "receipt_long"),
)

_LOCALES: dict[str, Any] = {"en": "en-US", "ko": "ko-KR"}

Update = Callable[[Principal], Awaitable[None]]


class Frame:
    """One open page.

    Attributes
    ----------
    words : Words
        The reader's language.
    who : Principal or None
        Who opened it; updates ask again each time.
    is_dark : bool
        The theme that charts are drawn for.
    """

    def __init__(self, words: Words, who: Principal | None, path: str) -> None:
        self.words, self.who, self.path = words, who, path
        self.is_dark = session.is_dark() is True
        self._banner: ui.label | None = None
        self._heading: ui.label | None = None
        self._tick: Callable[[], Awaitable[None]] | None = None

    def build(self, title: str) -> ui.column:
        """Header, navigation and the page's heading; the column for what the page shows."""
        say = self.words.say
        ui.page_title(f"{say(title)} · Dure")
        ui.add_css((_ASSETS / "console.css").read_text(encoding="utf-8"))
        drawer = None
        if self.who is not None:
            with ui.left_drawer(bordered=True).props(f'width=204 breakpoint=900 aria-label="{say("Pages")}"') as drawer:
                self._navigation()
        with ui.header(bordered=True).classes("items-center dure-header"):
            if drawer is not None:
                ui.button(icon="menu", on_click=drawer.toggle).props(f'flat dense aria-label="{say("Menu")}"').classes("lt-md")
            ui.label("Dure 두레").classes("dure-brand")
            ui.space()
            self._switches()
        with ui.element("div").classes("dure-main"):
            self._banner = ui.label().classes("dure-banner").props("role=status")
            self._banner.visible = False
            with ui.element("h1"):
                self._heading = ui.label(say(title))
            return ui.column().classes("dure-content")

    def retitle(self, name: str) -> None:
        """Another heading, where the page is of one thing with a name."""
        if self._heading is not None:
            self._heading.text = name
        ui.page_title(f"{name} · Dure")

    def _navigation(self) -> None:
        with ui.element("nav").props(f'aria-label="{self.words.say("Pages")}"').classes("dure-nav"):
            for path, title, icon in PAGES:
                is_here = self.path == path
                with ui.element("a").props(f'href="{MOUNT}{path}"' + (" aria-current=page" if is_here else "")):
                    ui.icon(icon).props("aria-hidden=true")
                    ui.label(self.words.say(title))

    def _switches(self) -> None:
        say = self.words.say
        for code, name in LANGUAGES.items():
            if code != self.words.language:
                ui.button(name, on_click=functools.partial(self._choose, "language", code)).props(
                    f'flat dense no-caps lang="{code}"'
                )
        icon, label = ("light_mode", say("Light theme")) if self.is_dark else ("dark_mode", say("Dark theme"))
        ui.button(icon=icon, on_click=functools.partial(self._choose, "dark", not self.is_dark)).props(
            f'flat dense round aria-label="{label}"'
        ).tooltip(label)
        if self.who is not None:
            ui.label(self.who.user).classes("dure-user")
            ui.button(icon="logout", on_click=self._leave).props(
                f'flat dense round aria-label="{say("Sign out")}"'
            ).tooltip(say("Sign out"))

    def _choose(self, setting: Any, value: Any) -> None:
        session.remember(setting, value)
        ui.navigate.reload()

    def _leave(self) -> None:
        session.sign_out()
        ui.navigate.to("/sign-in")

    async def live(self, update: Update, every_s: float = 1.0) -> None:
        """Show now, and again each second; a reader whose token is no longer good is led to the sign-in."""

        async def tick() -> None:
            who = await session.caller()
            if who is None:
                timer.cancel()
                ui.navigate.to("/sign-in")
                return
            await self._once(update, who)

        assert self.who is not None
        await self._once(update, self.who)
        self._tick = tick
        timer = ui.timer(every_s, tick, immediate=False)

    async def refresh(self) -> None:
        """Show now, as a reader's choice has changed."""
        if self._tick is not None:
            await self._tick()

    async def act(self, deed: Update) -> None:
        """Do what the reader asked for, with the rights that the reader has now."""
        who = await session.caller()
        if who is None:
            ui.navigate.to("/sign-in")
            return
        try:
            await deed(who)
        except Problem as refusal:
            ui.notify(refusal_words(self.words, refusal), type="negative")
        await self.refresh()

    async def _once(self, update: Update, who: Principal) -> None:
        try:
            await update(who)
        except Problem as refusal:
            self.refuse(refusal)
        else:
            self.refuse(None)

    def refuse(self, refusal: Problem | None) -> None:
        """Say above the page why something was not done or cannot be shown; None: all is well again."""
        if self._banner is None:
            return
        text = "" if refusal is None else refusal_words(self.words, refusal)
        if self._banner.text != text:
            self._banner.text = text
            self._banner.visible = bool(text)


def refusal_words(words: Words, refusal: Problem) -> str:
    """A refusal in the reader's language, with what the service says of it."""
    said = {
        401: N_("This token is unknown, expired or revoked."), 403: N_("You may not do or see this."),
        404: N_("There is none that you may see."), 503: N_("The service cannot answer now; it is tried again."),
    }.get(refusal.status)  # fmt: skip
    return words.say(said) if said else refusal.detail


def page(path: str, title: str, *, is_open: bool = False) -> Callable[[Callable[..., Awaitable[None]]], Any]:
    """Make a function the builder of a page: it is called with the `Frame`, inside the page's column.

    Parameters
    ----------
    is_open : bool
        Whether who has not signed in may see it.
    """

    def decorate(build: Callable[..., Awaitable[None]]) -> Any:
        async def show(**given: Any) -> RedirectResponse | None:
            request: Request = ui.context.client.request
            words = session.words(request.headers.get("accept-language", ""))
            _localise(words)
            who = await session.caller()
            if who is None and not is_open:
                return RedirectResponse(f"{MOUNT}/sign-in?to={quote(request.url.path.removeprefix(MOUNT) or '/')}")
            frame = Frame(words, who if not is_open else None, path)
            with frame.build(title):
                try:
                    await build(frame, **given)
                except Problem as refusal:
                    frame.refuse(refusal)
            return None

        signature = inspect.signature(build)
        show.__signature__ = signature.replace(  # type: ignore[attr-defined]
            parameters=list(signature.parameters.values())[1:], return_annotation=inspect.Signature.empty
        )
        ui.page(path, response_timeout=30.0)(show)
        return build

    return decorate


def _localise(words: Words) -> None:
    """Language and theme of this page alone."""
    client = ui.context.client
    client.page = copy.copy(client.page)
    client.page.language = _LOCALES[words.language]
    client.page.dark = session.is_dark()
    ui.colors(primary="#1565c0", positive="#1b7f3b", negative="#b3261e", warning="#9a6200", dark="#1d2126", dark_page="#14171a")
