"""What is wrong with a configuration: every problem at once, each with its path in the file and what is allowed."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError

from shared.errors import PermanentError

_WORDS = {
    "missing": "is missing",
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "int_parsing": "must be a whole number",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "string_type": "must be text",
    "dict_type": "must be a mapping of keys",
    "model_type": "must be a mapping of keys",
    "model_attributes_type": "must be a mapping of keys",
    "tuple_type": "must be a list",
    "list_type": "must be a list",
}
"""Pydantic's types of findings in the words of somebody who writes YAML."""


@dataclass(frozen=True, slots=True)
class Problem:
    """``path`` as in the file: ``rules[1].driver.config.estargz_chunk_size``; empty for the file itself."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class ConfigError(PermanentError):
    """The configuration cannot be used (code ``invalid_configuration``)."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        count = f"{len(self.problems)} problem{'s' if len(self.problems) != 1 else ''} in the configuration"
        super().__init__("\n".join([count, *(f"  {problem}" for problem in problems)]), code="invalid_configuration")


def from_validation(error: ValidationError, model: type[BaseModel], prefix: str = "") -> list[Problem]:
    """Pydantic's findings in our words; values are never repeated, since they may be secrets."""
    return [_problem(finding, model, prefix) for finding in error.errors(include_url=False, include_input=False)]


def join(prefix: str, parts: Iterable[str | int]) -> str:
    """``("rules", 1, "match")`` → ``rules[1].match``; keys that hold dots are quoted, users in URLs are not told."""
    path = prefix
    for part in parts:
        if isinstance(part, int):
            path += f"[{part}]"
        else:
            told = f"[redacted]@{part.rpartition('@')[2]}" if "@" in part else part
            name = f'"{told}"' if "." in told or ":" in told else told
            path = f"{path}.{name}" if path else name
    return path


def unknown_key(name: str, allowed: Iterable[str]) -> str:
    """The message for a key that does not exist."""
    names = sorted(allowed)
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    return f"unknown key; {hint}allowed here: {', '.join(names) or 'nothing'}"


def _problem(finding: Mapping[str, Any], model: type[BaseModel], prefix: str) -> Problem:
    location = tuple(part for part in finding["loc"] if part != "[key]")
    path = join(prefix, location)
    if finding["type"] == "extra_forbidden":
        parent = _model_at(model, location[:-1])
        return Problem(path, unknown_key(str(location[-1]), parent.model_fields if parent else ()))
    if finding["type"] in _WORDS:
        return Problem(path, _WORDS[finding["type"]])
    if finding["type"] == "string_pattern_mismatch":
        return Problem(path, f"must match {finding['ctx']['pattern']}")
    message = str(finding["msg"]).removeprefix("Value error, ").replace("Input should be", "must be")
    return Problem(path, message)


def _model_at(model: type[BaseModel], location: Sequence[str | int]) -> type[BaseModel] | None:
    """The model that validated the mapping at ``location``."""
    current: Any = model
    for part in location:
        if isinstance(current, type) and issubclass(current, BaseModel):
            field = current.model_fields.get(str(part))
            current = field.annotation if field else None
        else:
            current = _argument(current)
        current = _unwrap(current)
    return current if isinstance(current, type) and issubclass(current, BaseModel) else None


def _unwrap(annotation: Any) -> Any:
    """``X | None`` → ``X``."""
    arguments = [argument for argument in getattr(annotation, "__args__", ()) if argument is not type(None)]
    if type(None) in getattr(annotation, "__args__", ()) and len(arguments) == 1:
        return arguments[0]
    return annotation


def _argument(annotation: Any) -> Any:
    """``tuple[X, ...]`` → ``X``; ``dict[str, X]`` → ``X``."""
    arguments = [argument for argument in getattr(annotation, "__args__", ()) if argument is not Ellipsis]
    return arguments[-1] if arguments else None
