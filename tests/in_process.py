"""The command in the tests' own process: a start of Python for each call would take most of their time."""

import sys
from types import SimpleNamespace

from dure.cli.main import main


def caller(monkeypatch, capfd, *before):
    """Calls `dure` with words after `before`; what it says and its exit code."""

    def call(*args):
        monkeypatch.setattr(sys, "argv", ["dure", *before, *map(str, args)])
        capfd.readouterr()
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code
        said = capfd.readouterr()
        return SimpleNamespace(returncode=code, stdout=said.out, stderr=said.err)

    return call
