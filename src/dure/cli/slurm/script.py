"""The batch script: its #SBATCH lines."""

from __future__ import annotations

from collections.abc import Iterator

from dure.cli.slurm.getopt import Values, merged, read_options
from dure.cli.slurm.options import SBATCH
from dure.model.errors import InputError

#: Longest script, in characters.
SCRIPT_CHARS_MAX = 1_000_000


def script_options(text: str, path: str) -> Values:
    """Options of a script's #SBATCH lines, which stand before its first command; a later line wins.

    Raises
    ------
    InputError
        With file, line and option of what is wrong.
    """
    _check(text, path)
    found: Values = {}
    for number, line in enumerate(text.split("\n"), 1):
        if line.startswith("#SBATCH"):
            rest = line.removeprefix("#SBATCH")
            if rest and not rest[0].isspace():
                continue
            words = list(_words(rest, path, number))
            given, left = read_options(SBATCH, words, path, number)
            if left:
                raise InputError(f"{left[0][:60]!r} is no option", path, number, "#SBATCH")
            found = merged(found, given)
        elif line.strip() and not line.startswith("#"):
            break
    return found


def _check(text: str, path: str) -> None:
    if not text.startswith("#!"):
        raise InputError("is no batch script: its first line must name what runs it, such as #!/bin/bash", path, 1)
    if "\0" in text:
        raise InputError("has a NUL character", path, text.count("\n", 0, text.index("\0")) + 1)
    if "\r\n" in text:
        line = text.count("\n", 0, text.index("\r\n")) + 1
        raise InputError("has DOS line ends (CR LF); write it with plain LF", path, line)
    if len(text) > SCRIPT_CHARS_MAX:
        raise InputError(f"is longer than {SCRIPT_CHARS_MAX:,} characters", path)


def _words(text: str, path: str, line: int) -> Iterator[str]:
    """Words with quotes and backslashes taken off; a # at a word's start begins a comment."""
    word: list[str] = []
    is_word, quote = False, ""
    chars = iter(text)
    for char in chars:
        if quote:
            if char == quote:
                quote = ""
            else:
                word.append(next(chars, char) if char == "\\" and quote == '"' else char)
        elif char.isspace():
            if is_word:
                yield "".join(word)
            word, is_word = [], False
        elif char == "#" and not is_word:
            return
        else:
            is_word = True
            if char in "'\"":
                quote = char
            else:
                word.append(next(chars, char) if char == "\\" else char)
    if quote:
        raise InputError(f"a {quote} is not closed", path, line, "#SBATCH")
    if is_word:
        yield "".join(word)
