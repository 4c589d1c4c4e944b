"""Every key of ``config.yml`` as data, read from the models: what ``ics config keys`` and ``docs/configuration.md`` show."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import yaml
from pydantic import BaseModel

from shared.settings.environment import PREFIX
from shared.settings.model import Settings


@dataclass(frozen=True, slots=True)
class Key:
    """One setting."""

    path: str
    """``broker.url``; ``[]`` stands for an item of a list, ``<host>`` for a name of one's own."""
    type: str
    """In words, with what is allowed."""
    default: str
    """As YAML; empty when the key must be given."""
    about: str
    variable: str
    """The environment variable that overrides it; empty below lists and own names, which a variable gives whole, as JSON."""


def keys(option_models: Mapping[str, type[BaseModel]]) -> list[Key]:
    """All of them in the model's order; a driver's options come under ``driver.config (type)``."""
    schema = Settings.model_json_schema()
    found = list(_of(schema, schema, ""))
    for name, model in option_models.items():
        found += [replace(key, path=f"driver.config.{key.path} ({name})") for key in options(model)]
    return found


def options(model: type[BaseModel]) -> list[Key]:
    """One driver's, under their own names; no variable overrides them one by one."""
    schema = model.model_json_schema()
    return [replace(key, variable="") for key in _of(schema, schema, "")]


_TITLE = """# Every key of config.yml

Made by `ics config keys --output markdown`; a test keeps it true. [Operations](operations.md) says which of them matter when.

- An environment variable overrides the file: `ICS_BROKER__URL` is `broker.url`. Lists and mappings are JSON.
- `_FILE` at the end of any variable names a file that holds the value: `ICS_BROKER__URL_FILE`.
- `<host>` is a registry's `host[:port]`; `[]` an item of a list. Keys below those are set in the file, or as part of the
  whole list's or mapping's variable.
- `ics config check` names everything that is wrong at once; `ics config show` prints what is in force, secrets masked.

"""


def markdown(found: list[Key]) -> str:
    """``docs/configuration.md``."""
    lines = ["| key | allowed | default | |", "|---|---|---|---|"]
    for key in found:
        path, _, driver = key.path.partition(" ")
        name = f"`{path}` {driver}".strip()
        default = (
            f"`{key.default}`" if key.default and not key.default.startswith("(") else key.default or "must be given"
        )
        cells = (name, key.type, default, key.about)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return _TITLE + "\n".join(lines) + "\n"


def _of(schema: Mapping[str, Any], root: Mapping[str, Any], prefix: str) -> Iterator[Key]:
    required = set(schema.get("required", ()))
    for name, field in schema.get("properties", {}).items():
        path = f"{prefix}{name}"
        below, step = _section(field, root)
        about = _plain(field.get("description", "") or (below or {}).get("description", ""))
        if below is None:
            default = "" if name in required else _default(field)
            yield Key(path, _type(field, root), default, about, _variable(path))
            continue
        if step or about:
            default = "" if name in required else _default(field) if step else "(see its keys)"
            kind = {"": "mapping", "[]": "list of mappings", ".<host>": "mapping of host[:port]"}[step]
            yield Key(path, kind, default, about, _variable(path))
        yield from _of(below, root, f"{path}{step}.")


def _section(field: Mapping[str, Any], root: Mapping[str, Any]) -> tuple[Mapping[str, Any] | None, str]:
    """The mapping's schema that a field holds, and how it is reached from the field; None for plain values."""
    for option in (field, *field.get("anyOf", ()), *field.get("allOf", ())):
        if "$ref" in option:
            return _resolved(option, root), ""
        if option.get("type") == "array" and "$ref" in option.get("items", {}):
            return _resolved(option["items"], root), "[]"
        more = option.get("additionalProperties")
        if isinstance(more, dict) and "$ref" in more:
            return _resolved(more, root), ".<host>"
    return None, ""


def _resolved(schema: Mapping[str, Any], root: Mapping[str, Any]) -> Mapping[str, Any]:
    below: Mapping[str, Any] = root["$defs"][schema["$ref"].rpartition("/")[2]]
    return below


def _type(field: Mapping[str, Any], root: Mapping[str, Any]) -> str:
    if "anyOf" in field:
        kinds = [_type(option, root) for option in field["anyOf"] if option.get("type") != "null"]
        return " or ".join(kinds)
    if "enum" in field:
        return ", ".join(dict.fromkeys(f"`{value}`" for value in field["enum"]))
    if "const" in field:
        return f"`{field['const']}`"
    kind = field.get("type", "any")
    if kind == "array":
        return f"list of {_type(field.get('items', {}), root)}"
    if kind == "object":
        more = field.get("additionalProperties")
        return f"mapping of text to {_type(more, root)}" if isinstance(more, dict) else "mapping"
    if kind == "string":
        return {"password": "text, secret", "path": "path"}.get(field.get("format", ""), "text")
    words = {"boolean": "true or false", "integer": "integer", "number": "number"}.get(kind, str(kind))
    return f"{words}{_bounds(field)}"


def _bounds(field: Mapping[str, Any]) -> str:
    low, high = field.get("minimum"), field.get("maximum")
    above = field.get("exclusiveMinimum")
    if low is not None and high is not None:
        return f", {low} to {high}"
    if above is not None and high is not None:
        return f", above {above}, at most {high}"
    if low is not None:
        return f", at least {low}"
    return f", above {above}" if above is not None else ""


def _default(field: Mapping[str, Any]) -> str:
    if "default" not in field:  # made anew for every file: an empty mapping or list
        return "[]" if field.get("type") == "array" else "{}"
    return _yaml(field["default"])


def _yaml(value: Any) -> str:
    """One line of it: text as it is, everything else as a file would hold it."""
    if isinstance(value, str):
        return value or '""'
    return yaml.safe_dump([_shown(value)], default_flow_style=True, sort_keys=False, width=1 << 16).strip()[1:-1]


def _shown(value: Any) -> Any:
    """Without what a mapping says by leaving it out."""
    if isinstance(value, list):
        return [_shown(item) for item in value]
    if isinstance(value, dict):
        return {name: _shown(item) for name, item in value.items() if item not in ("", None, {}, [])}
    return value


def _variable(path: str) -> str:
    return "" if "[]" in path or "<" in path else PREFIX + path.replace(".", "__").upper()


def _plain(text: str) -> str:
    """ReStructuredText's literals as Markdown's, on one line."""
    return re.sub(r"``([^`]+)``", r"`\1`", " ".join(text.split()))
