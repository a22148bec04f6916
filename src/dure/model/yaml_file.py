"""YAML that a person wrote, as a tree that still knows its lines, and the step from it to a pydantic model.

Only the plain part of YAML 1.2 is read: ``yes`` and ``off`` are words, ``NO`` is Norway, 12:30 is no number.
The tree is built from the parser's events without recursion, so neither deep nesting nor a web of aliases can
exhaust anything.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from difflib import get_close_matches
from typing import Annotated, Any, TypeVar, get_args

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    PlainSerializer,
    ValidationError,
    WithJsonSchema,
)
from pydantic_core import ErrorDetails

from dure.model.errors import InputError

#: Bounds on a file: characters, nesting, and values once aliases are written out.
TEXT_CHARS_MAX, DEPTH_MAX, VALUES_MAX = 4_000_000, 32, 500_000

#: A path into a file: keys and list indices.
Loc = tuple[str | int, ...]

Scalar = str | int | float | bool | date | None

_INT = re.compile(r"[-+]?(?:0|[1-9][0-9]*(?:_[0-9]+)*)\Z")
_FLOAT = re.compile(r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]{1,3})?\Z")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}\Z")
_WORDS: dict[str, Scalar] = {"": None, "~": None, "null": None, "true": True, "false": False}
_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)(ms|s|m|h|d|w)")
_UNIT_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
_DURATION_MS_MAX = 100 * 366 * _UNIT_MS["d"]


@dataclass(frozen=True, slots=True)
class Node:
    """A value of the file.

    Attributes
    ----------
    line : int
        1-based.
    value : scalar, tuple of Node, or dict of key to (line of the key, Node)
    num_values : int
        Values in it with aliases written out, itself included.
    depth : int
        Nesting below it; a scalar has 0.
    """

    line: int
    value: Scalar | tuple[Node, ...] | dict[str, tuple[int, Node]]
    num_values: int = 1
    depth: int = 0


@dataclass(slots=True)
class _Open:
    """A list or mapping whose end has not been read yet."""

    line: int
    anchor: str | None
    is_mapping: bool
    items: list[Node] = field(default_factory=list)
    entries: dict[str, tuple[int, Node]] = field(default_factory=dict)
    merged: list[Node] = field(default_factory=list)
    key: str | None = None
    key_line: int = 0
    is_merging: bool = False  # the key is a plain <<


def parse_yaml(text: str, path: str = "") -> Node:
    """The one document of ``text`` as a tree.

    Raises
    ------
    InputError
        Not YAML (with line and column), a duplicate key, an unknown alias, a tag, more than one document, an
        empty file, or a file beyond the bounds above.
    """
    text = text.removeprefix("\ufeff")
    if len(text) > TEXT_CHARS_MAX:
        raise InputError(f"longer than {TEXT_CHARS_MAX} characters", path)
    if bad := _UNPRINTABLE.search(text):
        line, column = text.count("\n", 0, bad.start()) + 1, bad.start() - text.rfind("\n", 0, bad.start())
        message = f"column {column}: character U+{ord(bad.group()):04X} is not allowed in YAML"
        raise InputError(message, path, line)
    builder = _Builder(path)
    try:
        for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
            builder.take(event)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (0, 0)
        message = f"column {column}: not valid YAML: {error.problem or error.context}"
        raise InputError(message, path, line) from None
    except yaml.YAMLError as error:
        raise InputError(f"not valid YAML: {error}", path) from None
    if builder.root is None or builder.root.value is None:
        raise InputError("the file is empty", path)
    return builder.root


class _Builder:
    """Turns parser events into a Node."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.root: Node | None = None
        self.open: list[_Open] = []
        self.anchors: dict[str, Node | None] = {}  # None: still open

    def fail(self, message: str, line: int) -> InputError:
        return InputError(message, self.path, line)

    def take(self, event: Any) -> None:
        """One event of ``yaml.parse``."""
        line = event.start_mark.line + 1
        match event:
            case yaml.DocumentStartEvent() if self.root is not None:
                raise self.fail("a second document starts here; one file holds one", line)
            case yaml.ScalarEvent():
                self._scalar(event, line)
            case yaml.AliasEvent():
                self._alias(str(event.anchor), line)
            case yaml.SequenceStartEvent() | yaml.MappingStartEvent():
                self._start(event, line)
            case yaml.SequenceEndEvent() | yaml.MappingEndEvent():
                self._end()

    def _scalar(self, event: Any, line: int) -> None:
        if event.tag not in (None, "!", "tag:yaml.org,2002:str"):
            raise self.fail(f"tags such as {event.tag} are not allowed", line)
        is_plain = event.implicit[0]
        if self._wants_key():
            self._key(event.value, is_plain, line)
            return
        value = self._resolve(event.value, line) if is_plain else event.value
        self._add(Node(line, value), event.anchor)

    def _resolve(self, word: str, line: int) -> Scalar:
        if word in _WORDS:
            return _WORDS[word]
        if _INT.match(word) or _FLOAT.match(word):
            if len(word) > 40:
                raise self.fail("a number of more than 40 characters", line)
            return int(word) if _INT.match(word) else float(word)
        if _DATE.match(word):
            try:
                return date.fromisoformat(word)
            except ValueError:
                raise self.fail(f"there is no day {word}", line) from None
        return str(word)

    def _wants_key(self) -> bool:
        return bool(self.open) and self.open[-1].is_mapping and self.open[-1].key is None

    def _key(self, key: str, is_plain: bool, line: int) -> None:
        top = self.open[-1]
        top.is_merging = is_plain and key == "<<"
        if key in top.entries and not top.is_merging:
            raise self.fail(f"key {key!r} stands twice (first on line {top.entries[key][0]})", line)
        top.key, top.key_line = key, line

    def _alias(self, anchor: str, line: int) -> None:
        if anchor not in self.anchors:
            raise self.fail(f"no anchor &{anchor} stands before this alias", line)
        node = self.anchors[anchor]
        if node is None:
            raise self.fail(f"*{anchor} would contain itself", line)
        if self._wants_key():
            raise self.fail("an alias cannot be a key", line)
        self._add(node, None)

    def _start(self, event: Any, line: int) -> None:
        if event.tag not in (None, "!", "tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"):
            raise self.fail(f"tags such as {event.tag} are not allowed", line)
        if self._wants_key():
            raise self.fail("a list or mapping cannot be a key", line)
        if len(self.open) >= DEPTH_MAX:
            raise self.fail(f"nested more than {DEPTH_MAX} deep", line)
        if event.anchor:
            self.anchors[event.anchor] = None
        self.open.append(_Open(line, event.anchor, isinstance(event, yaml.MappingStartEvent)))

    def _end(self) -> None:
        done = self.open.pop()
        if done.is_mapping:
            for merged in done.merged:  # an own key wins over a merged one, an earlier merge over a later
                assert isinstance(merged.value, dict)
                for key, entry in merged.value.items():
                    done.entries.setdefault(key, entry)
            children = [node for _, node in done.entries.values()]
        else:
            children = done.items
        num_values = 1 + sum(child.num_values for child in children)
        depth = 1 + max((child.depth for child in children), default=0)
        if num_values > VALUES_MAX or depth + len(self.open) > DEPTH_MAX:
            raise self.fail(f"more than {VALUES_MAX} values or nested more than {DEPTH_MAX} deep", done.line)
        value = done.entries if done.is_mapping else tuple(done.items)
        self._add(Node(done.line, value, num_values, depth), done.anchor)

    def _add(self, node: Node, anchor: str | None) -> None:
        if anchor:
            self.anchors[anchor] = node
        if not self.open:
            self.root = node
            return
        top = self.open[-1]
        if not top.is_mapping:
            top.items.append(node)
        elif top.is_merging:
            for part in node.value if isinstance(node.value, tuple) else (node,):
                if not isinstance(part.value, dict):
                    raise self.fail("<< merges mappings only", top.key_line)
                top.merged.append(part)
        else:
            assert top.key is not None
            top.entries[top.key] = (top.key_line, node)
        top.key = None


def plain(node: Node) -> Any:
    """The tree as dicts, tuples and scalars."""
    match node.value:
        case dict():
            return {key: plain(child) for key, (_, child) in node.value.items()}
        case tuple():
            return tuple(plain(child) for child in node.value)
        case scalar:
            return scalar


def with_value(root: Node, keys: Sequence[str], value: Node) -> Node:
    """The tree with another value at a path of keys; mappings on the way to it are made where there are none.

    Raises
    ------
    InputError
        Something on the way is no mapping.
    """
    if not keys:
        return value
    if not isinstance(root.value, dict):
        raise InputError(f"is no mapping, so it has no key {keys[0]!r}", line=root.line)
    line, inner = root.value.get(keys[0], (0, Node(0, {})))
    return replace(root, value={**root.value, keys[0]: (line, with_value(inner, keys[1:], value))})


def locate(node: Node, loc: Loc) -> tuple[int, str]:
    """Line and dotted name of ``loc``.

    Parts that are not in the file (a missing key at the end; pydantic's own names of union members) are
    passed over: the line is that of the nearest thing that is there, the name ends with a missing key.
    """
    line, name = node.line, ""
    for idx, part in enumerate(loc):
        if isinstance(part, str) and isinstance(node.value, dict) and part in node.value:
            line, node = node.value[part]
            name += ("." if name else "") + _one_word(part)
        elif isinstance(part, int) and isinstance(node.value, tuple) and part < len(node.value):
            node = node.value[part]
            line = node.line
            name += f"[{part}]"
        elif isinstance(part, str) and isinstance(node.value, dict) and idx == len(loc) - 1:
            name += ("." if name else "") + _one_word(part)
    return line, name


def _one_word(key: str) -> str:
    """A key as it may stand in a one-line error."""
    return key if key.isprintable() and len(key) <= 60 else _shown(key)


class FileModel(BaseModel):
    """Base of what stands in a file: frozen, unknown keys refused, no silent conversions."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


ModelT = TypeVar("ModelT", bound=FileModel)

#: Finds what a schema cannot say: yields (where, what is wrong).
Check = Callable[[ModelT], Iterator[tuple[Loc, str]]]


def load_model(model: type[ModelT], text: str, path: str, check: Check[ModelT] | None = None) -> ModelT:
    """``text`` as a ``model``, checked.

    Raises
    ------
    InputError
        With path, line and dotted field of the first thing that is wrong.
    """
    return model_from(model, parse_yaml(text, path), path, check)


def model_from(model: type[ModelT], root: Node, path: str, check: Check[ModelT] | None = None) -> ModelT:
    """A tree as a ``model``, checked; raises as `load_model` does."""
    if not isinstance(root.value, dict):
        keys = ", ".join(sorted(model.model_fields))
        raise InputError(f"must be a mapping with the keys {keys}", path, root.line)
    try:
        loaded = model.model_validate(plain(root))
    except ValidationError as error:
        raise _input_error(model, root, path, error.errors(include_url=False)) from None
    for loc, message in check(loaded) if check else ():
        line, name = locate(root, loc)
        raise InputError(message, path, line, name)
    return loaded


def _input_error(model: type[FileModel], root: Node, path: str, errors: list[ErrorDetails]) -> InputError:
    """The first of pydantic's errors in the file's order, in a person's words."""
    # A list with a bad entry is also reported as too short: pydantic counts the good entries only.
    inner = {error["loc"][:depth] for error in errors for depth in range(len(error["loc"]))}
    errors = [error for error in errors if error["type"] != "too_short" or error["loc"] not in inner]
    first = min(range(len(errors)), key=lambda idx: (locate(root, errors[idx]["loc"])[0], idx))
    line, name = locate(root, errors[first]["loc"])
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return InputError(_words(model, errors[first]) + more, path, line, name)


_TYPE_WORDS = {
    "int": "a whole number",
    "float": "a number",
    "string": "text",
    "bool": "true or false",
    "date": "a date such as 2026-10-01",
    "tuple": "a list",
    "dict": "a mapping",
    "model": "a mapping",
}


def _words(model: type[FileModel], error: ErrorDetails) -> str:
    kind, got = error["type"], _shown(error.get("input"))
    if kind == "missing":
        return "this key is required"
    if kind == "extra_forbidden":
        known = sorted(_model_at(model, error["loc"][:-1]).model_fields)
        return f"unknown key{nearest(str(error['loc'][-1]), known)}"
    if kind.removesuffix("_type") in _TYPE_WORDS and kind.endswith("_type"):
        return f"must be {_TYPE_WORDS[kind.removesuffix('_type')]}, not {got}"
    if kind in ("too_short", "too_long"):
        least, most = error["ctx"].get("min_length"), error["ctx"].get("max_length")
        return f"must have at {f'least {least}' if kind == 'too_short' else f'most {most}'} entries"
    message = error["msg"].removeprefix("Value error, ")
    if kind == "value_error":
        return message
    return f"{message[0].lower()}{message[1:]}, not {got}".replace("input should", "must")


def _shown(value: object) -> str:
    match value:
        case dict():
            return "a mapping"
        case tuple() | list():
            return "a list"
        case None:
            return "nothing"
        case date():
            return value.isoformat()
        case _:
            text = repr(value)
            return text if len(text) <= 60 else text[:57] + "..."


def nearest(name: str, known: Collection[str]) -> str:
    """``; did you mean 'x'?``, or the known names where none is near."""
    close = get_close_matches(name.lower(), [k.lower() for k in known], 1, 0.6)
    if close:
        return f" {name!r}; did you mean {next(k for k in known if k.lower() == close[0])!r}?"
    listed = ", ".join(list(known)[:20]) + (", ..." if len(known) > 20 else "")
    return f" {name!r}; known: {listed}" if known else f" {name!r}"


def _model_at(model: type[FileModel], loc: Loc) -> type[FileModel]:
    """The model whose fields stand at ``loc``."""
    for part in loc:
        if isinstance(part, str) and part in model.model_fields:
            model = next(_models_in(model.model_fields[part].annotation), model)
    return model


def _models_in(annotation: Any) -> Iterator[type[FileModel]]:
    if isinstance(annotation, type) and issubclass(annotation, FileModel):
        yield annotation
    for arg in get_args(annotation):
        yield from _models_in(arg)


def parse_duration(value: object) -> int:
    """Milliseconds of ``120s``, ``5m``, ``1h30m``, ``2d``… (ms, s, m, h, d, w).

    Raises
    ------
    ValueError
        No text of that form, or more than a hundred years.
    """
    if isinstance(value, str) and value and not _DURATION.sub("", value.replace(" ", "")):
        parts = _DURATION.findall(value.replace(" ", ""))
        total_ms = round(sum(float(number) * _UNIT_MS[unit] for number, unit in parts))
        if total_ms <= _DURATION_MS_MAX:
            return total_ms
    raise ValueError(f"must be a duration with its unit, such as 120s, 5m, 1h30m or 30d, not {_shown(value)}")


def duration_text(duration_ms: int) -> str:
    """A duration as a file may say it; `parse_duration` reads it."""
    return f"{duration_ms}ms" if duration_ms % 1000 else f"{duration_ms // 1000}s"


def _check_scalar(value: object) -> object:
    if not isinstance(value, str | int | float | bool):
        raise ValueError(f"must be one text, number or true/false, not {_shown(value)}")
    return value


#: A duration: milliseconds in the program, text with its unit in the file and in JSON.
DurationMs = Annotated[
    int,
    BeforeValidator(parse_duration),
    PlainSerializer(duration_text, return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "pattern": r"^([0-9]+(\.[0-9]+)?(ms|s|m|h|d|w) *)+$",
                    "examples": ["120s", "5m", "1h30m", "30d"]}),
]

#: A setting of any one-word kind.
Setting = Annotated[
    Any, BeforeValidator(_check_scalar), WithJsonSchema({"type": ["string", "number", "boolean"]})
]


def in_form(pattern: str, words: str) -> AfterValidator:
    """A check that text matches ``pattern`` as a whole; ``words`` say what would, after "must be"."""
    compiled = re.compile(pattern)

    def check(value: str) -> str:
        if not compiled.fullmatch(value):
            raise ValueError(f"must be {words}, not {_shown(value)}")
        return value

    return AfterValidator(check)


def check_names(names: Iterable[tuple[Loc, str]], what: str) -> Iterator[tuple[Loc, str]]:
    """Each name that stands a second time."""
    seen: set[str] = set()
    for loc, name in names:
        if name in seen:
            yield loc, f"a second {what} is called {name!r}"
        seen.add(name)
