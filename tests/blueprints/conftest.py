"""What the tests of blueprints share."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.blueprints.modules import Load, ModulesOf

from dure.client.blueprints import catalogue_folder


@pytest.fixture
def modules_of(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModulesOf]:
    """Imports programs of a blueprint's folder as they import each other; forgotten again, as other folders have some of the same name."""

    def load_from(folder: Path) -> Load:
        monkeypatch.syspath_prepend(str(folder))
        # Other tests' helpers may have the name of a program (scenes): out of its way until the test has ended.
        for program in folder.glob("*.py"):
            monkeypatch.delitem(sys.modules, program.stem, raising=False)
        return importlib.import_module

    yield load_from
    for name, module in list(sys.modules.items()):
        if Path(getattr(module, "__file__", None) or "/").is_relative_to(catalogue_folder()):
            del sys.modules[name]
