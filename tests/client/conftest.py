import sys
from pathlib import Path

import pytest
from tests.in_process import caller

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
    return caller(monkeypatch, capfd)
