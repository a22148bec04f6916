"""Serving the console on the service's application."""

from __future__ import annotations

import secrets
from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import RedirectResponse
from nicegui import app as pages_app
from nicegui import ui

from dure.console.feed import Feed
from dure.console.session import MOUNT, Running
from dure.service.app import Service
from dure.service.up import keep_secret

_SECRET_FILE = "console.secret"


def mount(app: FastAPI, service: Service) -> None:
    """Serve the console's pages at `MOUNT`, and lead there from the root."""
    from dure.console.pages import alliance, job, nodes, queue, sign_in, usage  # noqa: F401  # their routes

    folder = service.settings.data_dir
    pages_app.state.dure = Running(service, Feed())
    type(pages_app.storage).path = folder / "console"
    pages_app.add_static_files("/assets", Path(__file__).parent / "assets")

    @app.get("/", include_in_schema=False)
    def root() -> RedirectResponse:
        return RedirectResponse(f"{MOUNT}/")

    ui.run_with(
        app, title="Dure", mount_path=MOUNT, storage_secret=_signing_secret(folder / _SECRET_FILE), tailwind=False,
        show_welcome_message=False, reconnect_timeout=10.0, favicon=Path(__file__).parent / "assets" / "dure.svg",
        session_middleware_kwargs={"session_cookie": "dure_console", "same_site": "lax"},
    )  # fmt: skip


def _signing_secret(path: Path) -> str:
    """What session ids are signed with: made once, kept beside the data."""
    if not path.is_file():
        keep_secret(path, secrets.token_urlsafe(48))
    return path.read_text(encoding="utf-8")
