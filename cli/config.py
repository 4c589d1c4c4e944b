"""``ics config``: is it right, and what is in force."""

from __future__ import annotations

import typer

from cli.errors import told
from cli.options import ConfigOption
from cli.settings import config_path, settings_for
from shared.settings.load import render_settings

app = typer.Typer(no_args_is_help=True, help="Check the configuration, or show what is in force.")


@app.command()
def check(config: ConfigOption = None) -> None:
    """Say everything that is wrong with the configuration, each with its path in the file; nothing is contacted.

    Example: ics config check --config /etc/ics/config.yml
    """
    with told():
        settings = settings_for(config)
    where = config_path(config) or "the defaults (there is no config.yml here)"
    print(f"{where}: fine. {len(settings.rules)} rule(s), {len(settings.auths)} registries allowed.")
    if not settings.auth_header:
        print("Note: no auth_header is set, so every webhook is accepted.")
    if not settings.auths:
        print("Note: auths is empty, so no registry may be contacted and every webhook is skipped.")


@app.command()
def show(config: ConfigOption = None) -> None:
    """Print the settings in force as YAML: file, environment and defaults together, secrets masked."""
    with told():
        print(render_settings(settings_for(config)), end="")
