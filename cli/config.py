"""``ics config``: is it right, and what is in force."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from cli.errors import Exit, told
from cli.options import ConfigOption, key_list, print_json
from cli.running import running
from cli.settings import config_path, settings_for
from drivers.catalogue import option_models
from shared.errors import IcsError, PermanentError, TransientError
from shared.oci.reference import normal_registry
from shared.planning import allowed_registries
from shared.registry.client import RegistryClient
from shared.settings.load import render_settings
from shared.settings.model import Settings
from shared.settings.reference import keys as all_keys
from shared.settings.reference import markdown

app = typer.Typer(no_args_is_help=True, help="Check the configuration, show what is in force, or every key there is.")


class Shape(StrEnum):
    TEXT = "text"
    JSON = "json"
    MARKDOWN = "markdown"


@app.command()
def check(
    config: ConfigOption = None,
    contact: Annotated[
        bool, typer.Option("--contact", help="Show each registry of auths its credentials, too.")
    ] = False,
) -> None:
    """Say everything that is wrong with the configuration, each with its path in the file; nothing is contacted unless asked for.

    Example: `ics config check --config /etc/ics/config.yml --contact`
    """
    with told():
        settings = settings_for(config)
    where = config_path(config) or "the defaults (there is no config.yml here)"
    print(f"{where}: fine. {len(settings.rules)} rule(s), {len(settings.auths)} allowed registry host(s).")
    if not settings.auth_header:
        print("Note: no auth_header is set, so every webhook is accepted.")
    if settings.metric.enabled and settings.metric.port == settings.http.port != 0:
        print(
            f"Note: http.port and metric.port are both {settings.http.port}: fine for `ics up`, which serves metrics on"
            " http.port, and on machines of their own; `ics ingress` and `ics consumer` cannot both run on one."
        )
    if not settings.auths:
        print("Note: auths is empty, so no registry may be contacted and every webhook is skipped.")
    allowed = allowed_registries(settings)
    for host in settings.harbor:
        if allowed and normal_registry(host) not in allowed:
            print(f"Note: {host} is under harbor and not under auths, so none of its images is converted.")
    if contact:
        with running() as runner:
            outcome = runner.run(_contact(settings))
        raise typer.Exit(outcome)


async def _contact(settings: Settings) -> Exit:
    outcome = Exit.OK
    async with RegistryClient.from_settings(settings) as client:
        for host in settings.auths:
            try:
                proof = await client.check_credentials(host)
            except TransientError as error:
                outcome = outcome or Exit.TRANSIENT
                print(f"{host}: {error.message}")
            except IcsError as error:
                outcome = Exit.PERMANENT
                print(f"{host}: {error.message}")
            else:
                print(f"{host}: {'credentials accepted' if proof == 'accepted' else 'no credentials shown'}.")
    return outcome


@app.command()
def show(config: ConfigOption = None) -> None:
    """Print the settings in force as YAML: file, environment and defaults together, secrets masked."""
    with told():
        print(render_settings(settings_for(config)), end="")


@app.command()
def keys(
    prefix: Annotated[str, typer.Argument(metavar="KEY", help="Only this key and what is below it.")] = "",
    output: Annotated[
        Shape, typer.Option("--output", "-o", help="For people, for programs, or docs/configuration.md.")
    ] = (Shape.TEXT),
) -> None:
    """List every key of config.yml: what is allowed, its default, and the environment variable that overrides it.

    Example: `ics config keys timeouts`
    """
    with told():
        found = [key for key in all_keys(option_models()) if not prefix or _below(key.path, prefix)]
        if not found:
            raise PermanentError(
                f"no key {prefix!r}; `ics config keys` lists all of them", code="invalid_configuration"
            )
    if output is Shape.MARKDOWN:
        print(markdown(found), end="")
    elif output is Shape.JSON:
        print_json(found)
    else:
        print(key_list(found))


def _below(path: str, prefix: str) -> bool:
    return path == prefix or path.startswith((f"{prefix}.", f"{prefix}["))
