"""Which configuration a command runs with."""

from __future__ import annotations

import os
from pathlib import Path

from drivers.catalogue import option_models
from shared.settings.load import load_settings
from shared.settings.model import Settings

DEFAULT = Path("config.yml")


def config_path(given: Path | None) -> Path | None:
    """``--config``, else ``ICS_CONFIG``, else ``config.yml`` if there is one here, else None (defaults)."""
    if given is not None:
        return given
    if named := os.environ.get("ICS_CONFIG"):
        return Path(named)
    return DEFAULT if DEFAULT.exists() else None


def settings_for(given: Path | None) -> Settings:
    """Raises ConfigError with every problem."""
    return load_settings(config_path(given), environ=os.environ, option_models=option_models())
