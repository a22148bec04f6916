"""A service without the console's packages runs, and says so once."""

from __future__ import annotations

import sys

import pytest
import structlog
from fastapi import FastAPI

from dure.cli.serve import _mount_console


@pytest.mark.parametrize("missing", ["nicegui", "babel"])
def test_no_console_without_its_packages(monkeypatch, missing):
    for name in [name for name in sys.modules if name.startswith(("dure.console", missing))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    app = FastAPI()
    routes = list(app.routes)
    with structlog.testing.capture_logs() as said:
        _mount_console(app, None)
    assert [(entry["event"], entry["missing"].partition(".")[0]) for entry in said] == [("no console", missing)]
    assert app.routes == routes


def test_another_missing_package_is_an_error(monkeypatch):
    monkeypatch.delitem(sys.modules, "dure.console.mount", raising=False)
    monkeypatch.setitem(sys.modules, "dure.service.up", None)
    with pytest.raises(ModuleNotFoundError, match=r"dure\.service\.up"):
        _mount_console(FastAPI(), None)
