"""What is published about the files that people write: JSON Schemas for editors, key tables for the docs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from dure.model.errors import InputError
from dure.model.yaml_file import FileModel


def schema_text(model: type[FileModel]) -> str:
    """The model's JSON Schema (2020-12), indented, ending with a newline."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **_schema(model)}
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"


def _schema(model: type[FileModel]) -> dict[str, Any]:
    tidied: dict[str, Any] = _tidy(model.model_json_schema())
    return tidied


def _tidy(schema: Any) -> Any:
    """Without pydantic's titles, which only repeat field names; defaults as the file would write them."""
    if isinstance(schema, list):
        return [_tidy(value) for value in schema]
    if not isinstance(schema, dict):
        return schema
    is_fields = all(isinstance(value, dict) for value in schema.values())
    tidied = {key: _tidy(value) for key, value in schema.items() if is_fields or key != "title"}
    default = tidied.get("default")
    if "examples" in tidied and isinstance(default, int):
        tidied["default"] = f"{default / 1000:g}s"
    if tidied.get("type") == "number" and isinstance(default, str):
        tidied["default"] = float(default)
    return tidied


def key_tables(model: type[FileModel]) -> str:
    """Markdown: a table of keys for the model and, in order of first use, for each model in it."""
    schema = _schema(model)
    parts = [_table("The file", schema)]
    done: set[str] = set()
    pending = list(_refs(schema["properties"]))
    while pending:
        name = pending.pop(0)
        if name in done:
            continue
        done.add(name)
        found = schema["$defs"][name]
        found = next((option for option in found.get("anyOf", ()) if "properties" in option), found)
        parts.append(_table(_where(model, name), found))
        pending = list(_refs(found["properties"])) + pending
    return "\n".join(parts)


def _refs(schema: Any) -> Iterator[str]:
    """Names of the models that a schema points at, in order."""
    if isinstance(schema, dict):
        if "$ref" in schema:
            yield schema["$ref"].rsplit("/", 1)[1]
        for value in schema.values():
            yield from _refs(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from _refs(value)


def _where(model: type[FileModel], name: str) -> str:
    """Dotted key under which the model called ``name`` stands, such as ``sites.clusters``."""
    schema = _schema(model)
    queue = [("", schema)]
    while queue:
        path, found = queue.pop(0)
        for key, value in found["properties"].items():
            for ref in _refs(value):
                inner = schema["$defs"][ref]
                inner = next((option for option in inner.get("anyOf", ()) if "properties" in option), inner)
                if ref == name:
                    return f"`{path}{key}`"
                queue.append((f"{path}{key}.", inner))
    raise KeyError(name)


def _table(title: str, schema: dict[str, Any]) -> str:
    lines = [f"### {title}", "", str(schema.get("description", "")), ""]
    lines += ["| key | form | default | meaning |", "|---|---|---|---|"]
    required = schema.get("required", [])
    for key, value in schema["properties"].items():
        default = "**required**" if key in required else _default(value)
        lines.append(f"| `{key}` | {_form(value)} | {default} | {value.get('description', '')} |")
    return "\n".join(lines) + "\n"


def _default(value: dict[str, Any]) -> str:
    default = value.get("default")
    if default in ("", None) or isinstance(default, list | dict):
        return ""
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    return f"`{default:g}`" if isinstance(default, float) else f"`{default}`"


def _form(value: dict[str, Any]) -> str:
    """What may stand there, in few words."""
    if "$ref" in value or "allOf" in value:
        return "mapping"
    if "enum" in value:
        return " \\| ".join(f"`{word}`" for word in value["enum"])
    if "anyOf" in value:
        forms = [_form(option) for option in value["anyOf"] if option.get("type") != "null"]
        return " or ".join(dict.fromkeys(forms))
    if isinstance(value.get("type"), list):
        return ", ".join(value["type"])
    match value.get("type"):
        case "array":
            return f"list of {_plural(value.get('items') or {})}"
        case "object":
            return "mapping"
        case "boolean":
            return "`true` \\| `false`"
        case "integer" | "number":
            return ("whole number" if value["type"] == "integer" else "number") + _range(value)
        case "string" if value.get("format") == "date":
            return "date"
        case "string" if "examples" in value:
            return "duration"
        case _:
            return "text"


def _plural(items: dict[str, Any]) -> str:
    form = _form(items)
    plurals = {"mapping": "mappings", "text": "names", "date": "dates"}
    return plurals.get(form, form.replace("whole number", "whole numbers", 1))


def _range(value: dict[str, Any]) -> str:
    low, high = value.get("minimum"), value.get("maximum")
    if "exclusiveMinimum" in value:
        return f" > {value['exclusiveMinimum']}" + (f", ≤ {high:,}" if high is not None else "")
    if low is not None and high is not None:
        return f", {low} to {high:,}"
    return ""


def with_part(page: str, begin: str, end: str, part: str) -> str:
    """A Markdown page with what stands between two markers replaced.

    Raises
    ------
    InputError
        A marker is missing.
    """
    before, found, rest = page.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise InputError(f"the page lacks the marker {end if found else begin}")
    return f"{before}{begin}\n\n{part}\n{end}{after}"
