"""Types of the fixture that imports a blueprint's programs."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

#: Imports a program of a folder by name.
Load = Callable[[str], ModuleType]
#: What `modules_of` is.
ModulesOf = Callable[[Path], Load]
