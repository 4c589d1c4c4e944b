"""The list of every key, and the document that is made of it."""

from __future__ import annotations

from pathlib import Path

from drivers.catalogue import option_models
from shared.settings.load import load_settings
from shared.settings.reference import keys, markdown

DOCUMENT = Path(__file__).parents[4] / "docs" / "configuration.md"


def test_the_document_is_what_the_models_say() -> None:
    made = markdown(keys(option_models()))
    assert DOCUMENT.read_text() == made, "run: ics config keys --output markdown > docs/configuration.md"


def test_every_key_is_explained() -> None:
    sections = {"(see its keys)"}
    assert [key.path for key in keys(option_models()) if not key.about and key.default not in sections] == []


def test_a_secrets_default_is_not_masked() -> None:
    assert next(key.default for key in keys({}) if key.path == "broker.url") == "embedded:"


def test_every_variable_overrides_its_key_with_its_own_default(tmp_path: Path) -> None:
    given = {key.variable: key.default for key in keys({}) if key.variable and _plain(key.default)}
    settings = load_settings(None, environ=given, option_models=option_models())
    assert settings == load_settings(None, environ={}, option_models=option_models())
    assert len(given) > 30


def _plain(default: str) -> bool:
    """Neither absent, nor a mapping whose own keys have defaults, nor one that only its section's presence gives a meaning."""
    return bool(default) and default not in {"null", "443", '""', "(see its keys)"} and default[0] not in "[{"
