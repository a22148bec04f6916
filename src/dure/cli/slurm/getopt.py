"""Options as Slurm's commands take them (getopt_long): read from a table, refused by name where Dure does not honour them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from dure.model.errors import InputError


class Takes(Enum):
    """What follows an option."""

    NOTHING = "nothing"
    VALUE = "value"
    MAYBE = "maybe"  # only as --name=value


@dataclass(frozen=True)
class Option:
    """One row of a command's table.

    Attributes
    ----------
    name, short : str
        Without their dashes; ``short`` may be empty.
    meaning : str
        What Dure does with it, or, with ``is_refused``, why it does not.
    """

    name: str
    short: str = ""
    takes: Takes = Takes.VALUE
    meaning: str = ""
    is_refused: bool = False

    @property
    def shown(self) -> str:
        """As a person writes it."""
        return f"-{self.short}, --{self.name}" if self.short else f"--{self.name}"


@dataclass(frozen=True)
class Given:
    """An option's value (empty where it takes none) and the place where it stands."""

    value: str
    option: Option
    path: str = ""
    line: int = 0

    def wrong(self, message: str) -> InputError:
        """An error that names the option and its place."""
        return InputError(message, self.path, self.line, self.option.shown)


Values = dict[str, Given]


def read_options(
    table: Sequence[Option], words: Sequence[str], path: str = "", line: int = 0
) -> tuple[Values, tuple[str, ...]]:
    """Options at the head of ``words``, by name, and the words after them.

    A later one takes an earlier one's place; a long name may be shortened as far as it stays the only one.

    Raises
    ------
    InputError
        An option that is not in the table, is refused, lacks its value or has one that it does not take.
    """
    found: Values = {}
    left = list(words)
    while left:
        word = left.pop(0)
        if word == "--":
            break
        if word.startswith("--"):
            name, has_value, value = word[2:].partition("=")
            option = _by_name(table, name, path, line)
            if option.takes is Takes.VALUE and not has_value:
                value = _next(left, option, path, line)
            if option.takes is Takes.NOTHING and has_value:
                raise InputError("takes no value", path, line, option.shown)
            _add(found, option, value, path, line)
        elif word.startswith("-") and len(word) > 1:
            _read_short(table, word[1:], left, found, path, line)
        else:
            left.insert(0, word)
            break
    return found, tuple(left)


def _read_short(
    table: Sequence[Option], letters: str, left: list[str], found: Values, path: str, line: int
) -> None:
    """``-QN2`` is -Q and -N with the value 2."""
    while letters:
        option = next((option for option in table if option.short == letters[0]), None)
        if option is None:
            raise InputError("is no option of this command", path, line, f"-{_printable(letters[0])}")
        letters = letters[1:]
        if option.takes is Takes.NOTHING:
            _add(found, option, "", path, line)
            continue
        value = letters
        if not value and option.takes is Takes.VALUE:
            value = _next(left, option, path, line)
        _add(found, option, value, path, line)
        return


def _by_name(table: Sequence[Option], name: str, path: str, line: int) -> Option:
    near = [option for option in table if option.name.startswith(name)] if name else []
    for option in near:
        if option.name == name:
            return option
    if len(near) == 1:
        return near[0]
    if near:
        listed = ", ".join(f"--{option.name}" for option in near[:6])
        raise InputError(f"may mean {listed}", path, line, f"--{_printable(name)}")
    raise InputError("is no option of this command", path, line, f"--{_printable(name)}")


def _add(found: Values, option: Option, value: str, path: str, line: int) -> None:
    if option.is_refused:
        raise InputError(f"is not honoured: {option.meaning}", path, line, option.shown)
    found[option.name] = Given(value, option, path, line)


def _next(left: list[str], option: Option, path: str, line: int) -> str:
    if not left:
        raise InputError("needs a value", path, line, option.shown)
    return left.pop(0)


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in text[:60])


def help_text(usage: str, table: Sequence[Option]) -> str:
    """Usage, what is honoured and what is refused."""
    lines = [f"Usage: dure {usage}", ""]
    honoured = [option for option in table if not option.is_refused]
    columns = max(len(option.shown) for option in honoured) + 2
    lines += [f"  {option.shown:<{columns}}{option.meaning}" for option in honoured]
    refused = [f"--{option.name}" for option in table if option.is_refused]
    if refused:
        lines += ["", "Refused by name (docs/slurm.md says why):", "  " + " ".join(refused)]
    return "\n".join(lines)


def merged(*parts: Mapping[str, Given]) -> Values:
    """Later parts take the place of earlier ones."""
    return {name: given for part in parts for name, given in part.items()}
