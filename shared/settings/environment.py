"""``ICS_*`` environment variables over the file: ``ICS_BROKER__URL`` is ``broker.url``; lists and mappings are JSON.

``..._FILE`` in place of any variable names a file that holds its value.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsConfigDict

from shared.settings.model import Settings
from shared.settings.problems import Problem, unknown_key

PREFIX = "ICS_"
OWN = frozenset({"ICS_CONFIG"})
"""Variables that are not settings."""


class _EnvironmentSettings(Settings, BaseSettings):
    """The fields of the settings as pydantic-settings wants to see them; never instantiated."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True)


class _Source(EnvSettingsSource):
    """Reads a given mapping instead of the process's environment, and takes a plain string where JSON is not needed."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        super().__init__(_EnvironmentSettings)
        self.env_vars = {name.lower(): value for name, value in environ.items()}

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:  # noqa: ARG002  the base's signature
        try:
            return orjson.loads(value)
        except orjson.JSONDecodeError:
            return value  # "Bearer token", "linux/amd64,linux/arm64": the model takes them, or says what it wants


def overrides(environ: Mapping[str, str]) -> tuple[dict[str, Any], list[Problem]]:
    """What the environment says, shaped like the file, and what is wrong with it."""
    problems: list[Problem] = []
    own = {name: value for name, value in environ.items() if name.startswith(PREFIX) and name not in OWN}
    variables: dict[str, str] = {}
    for name, value in sorted(own.items()):
        plain = name.removesuffix("_FILE")
        if plain != name and not _is_key(name):
            try:
                variables[plain] = Path(value).read_text().strip()
            except OSError as error:
                problems.append(Problem(name, f"cannot read {value}: {error.strerror}"))
            except UnicodeDecodeError:
                problems.append(Problem(name, f"{value} is not text"))
        else:
            variables[name] = value
    for name in sorted(variables):
        key = name.removeprefix(PREFIX).split("__")[0].lower()
        if key not in Settings.model_fields:
            problems.append(Problem(name, unknown_key(key, Settings.model_fields)))
    return _Source(variables)(), problems


def _is_key(name: str) -> bool:
    """Whether a ``..._FILE`` variable is a key of its own, such as ``auth_header_file``."""
    current: Any = Settings
    for part in name.removeprefix(PREFIX).lower().split("__"):
        fields = getattr(current, "model_fields", {})
        if part not in fields:
            return False
        current = fields[part].annotation
    return True
