"""Reading ``config.yml`` and the environment into checked :class:`Settings`."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, SecretStr, ValidationError

from shared.settings.broker_url import without_credentials
from shared.settings.check import check
from shared.settings.environment import PREFIX, overrides
from shared.settings.model import Log, Settings
from shared.settings.problems import ConfigError, Problem, from_validation, join


def load_settings(
    path: Path | None, *, environ: Mapping[str, str], option_models: Mapping[str, type[BaseModel]]
) -> Settings:
    """The settings of ``path`` (None: defaults), overridden by ``ICS_*`` variables of ``environ``.

    Args:
        path: a YAML file.
        environ: usually ``os.environ``.
        option_models: driver type → model of its options.

    Raises:
        ConfigError: with every problem found.
    """
    data = _read(path) if path is not None else {}
    from_environment, problems = overrides(environ)
    merged = _merged(data, from_environment)
    single_rule = isinstance(merged.get("rules"), dict)
    settings, invalid = _validated(merged)
    problems += invalid
    if settings is not None:
        settings = _named(settings)
        problems += check(settings, option_models)
    if settings is None or problems:
        problems = [_with_variable(problem, from_environment) for problem in problems]
        raise ConfigError(_without_index(problems, single_rule=single_rule))
    return _with_secret_files(settings)


def log_settings(path: Path | None, *, environ: Mapping[str, str]) -> Log:
    """How to log, of a configuration that may be wrong in any other place; the default where it cannot be told."""
    try:
        data = _read(path) if path is not None else {}
    except ConfigError:
        data = {}
    from_environment, _ = overrides(environ)
    settings, _ = _validated({"log": _merged(data, from_environment).get("log", {})})
    return Log() if settings is None else settings.log


def render_settings(settings: Settings) -> str:
    """YAML of what is in force, defaults included, secrets masked; of the broker's URL only what is secret in it."""
    document = settings.model_dump(mode="json")
    document["broker"]["url"] = without_credentials(settings.broker.url.get_secret_value())
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True)


def _validated(data: dict[str, Any]) -> tuple[Settings | None, list[Problem]]:
    """The settings and what is wrong with single values.

    Values that are wrong are left out and the rest is validated again, so that what spans several keys is still checked and
    all problems come at once; a mapping that lacks a key is left out as a whole.
    """
    try:
        return Settings.model_validate(data), []
    except ValidationError as error:
        problems = from_validation(error, Settings)
        remaining = copy.deepcopy(data)
        for finding in error.errors(include_url=False, include_input=False):
            location = finding["loc"]
            _remove(remaining, location[:-1] if finding["type"] == "missing" else location)
    try:
        return Settings.model_validate(remaining), problems
    except ValidationError:
        return None, problems


def _remove(root: Any, location: tuple[int | str, ...]) -> None:
    """Take the value at ``location`` out, if it is there; with an item its list goes, since the others keep their numbers.

    A rule given without a list counts as its first.
    """
    value, holder, name = root, root, ""
    for part in location:
        if isinstance(value, dict):
            holder, name = value, str(part)
            value = value.get(part)
        elif isinstance(value, list) and isinstance(part, int):
            value = value[part] if part < len(value) else None
        elif part != 0:
            break
    holder.pop(name, None)


def _read(path: Path) -> dict[str, Any]:
    loader = None
    try:
        loader = yaml.SafeLoader(path.read_bytes())
        root = loader.get_single_node()
        if twice := list(_given_twice(root, set())):
            raise ConfigError([Problem("", f"{path} line {line}: {key} was given before") for line, key in twice])
        data = loader.construct_document(root) if root is not None else None
    except OSError as error:
        raise ConfigError([Problem("", f"cannot read {path}: {error.strerror}")]) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigError([Problem("", f"{path} is not YAML{where}")]) from None
    finally:
        if loader is not None:
            loader.dispose()
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError([Problem("", f"{path} does not hold a mapping of keys")])
    return {str(key): value for key, value in data.items()}


def _given_twice(node: yaml.Node | None, seen: set[int]) -> Iterator[tuple[int, str]]:
    """Line and name of every key that its mapping has already: YAML forbids it, PyYAML would let the last one win silently."""
    if id(node) in seen:  # an alias
        return
    seen.add(id(node))
    if isinstance(node, yaml.MappingNode):
        keys: set[str] = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in keys:
                    yield key.start_mark.line + 1, join("", [key.value])
                keys.add(key.value)
            yield from _given_twice(value, seen)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _given_twice(item, seen)


def _merged(base: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``over`` wins; mappings are merged, everything else is replaced."""
    result = dict(base)
    for key, value in over.items():
        below = result.get(key)
        result[key] = _merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return result


def _named(settings: Settings) -> Settings:
    """Every rule gets its name: it is part of each request's identity."""
    several = len(settings.rules) > 1
    rules = tuple(
        rule if rule.name else rule.model_copy(update={"name": f"rule-{number}" if several else "default"})
        for number, rule in enumerate(settings.rules, 1)
    )
    return settings.model_copy(update={"rules": rules})


def _with_secret_files(settings: Settings) -> Settings:
    if settings.broker.url_file is not None:
        url = SecretStr(settings.broker.url_file.read_text(encoding="utf-8").strip())
        settings = settings.model_copy(update={"broker": settings.broker.model_copy(update={"url": url})})
    if settings.auth_header_file is None:
        return settings
    lines = [line.strip() for line in settings.auth_header_file.read_text(encoding="utf-8").splitlines()]
    values = (*settings.auth_header, *(SecretStr(line) for line in lines if line))
    return settings.model_copy(update={"auth_header": values})


def _with_variable(problem: Problem, from_environment: Mapping[str, Any]) -> Problem:
    """A value that is not in the file is told with the variable that it came from."""
    value: Any = from_environment
    names: list[str] = []
    for name in re.split(r"[.\[]", problem.path):
        if not isinstance(value, dict) or name not in value:
            break
        names.append(name)
        value = value[name]
    if not names or isinstance(value, dict):
        return problem
    return Problem(problem.path, f"{problem.message} (from {PREFIX}{'__'.join(names).upper()})")


def _without_index(problems: list[Problem], *, single_rule: bool) -> list[Problem]:
    """``rules`` may be one mapping: then the file has no index to point at."""
    if not single_rule:
        return problems
    return [Problem(problem.path.replace("rules[0]", "rules", 1), problem.message) for problem in problems]
