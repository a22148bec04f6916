import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from dure.cli.main import main

sys.path.insert(0, str(Path(__file__).parent))

from stand_in import TOKEN, stand_in


@pytest.fixture
def service(monkeypatch, tmp_path):
    """A service behind real HTTP; DURE_URL and DURE_TOKEN point at it."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    with stand_in() as found:
        monkeypatch.setenv("DURE_URL", found.url)
        monkeypatch.setenv("DURE_TOKEN", TOKEN)
        yield found


@pytest.fixture
def dure(monkeypatch, capfd):
    """The command in this process: a start of Python for each call would take most of the tests' time."""

    def call(*args):
        monkeypatch.setattr(sys, "argv", ["dure", *args])
        capfd.readouterr()
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code
        said = capfd.readouterr()
        return SimpleNamespace(returncode=code, stdout=said.out, stderr=said.err)

    return call
