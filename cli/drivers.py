"""``ics drivers``: which formats there are, and what can be set."""

from __future__ import annotations

from typing import Annotated

import typer

from cli.errors import told
from cli.options import Output, OutputOption, key_list, print_json
from drivers.catalogue import driver_types
from shared.errors import PermanentError
from shared.settings.reference import options


def drivers(
    name: Annotated[str, typer.Argument(metavar="DRIVER", help="Only this one.")] = "",
    output: OutputOption = Output.TEXT,
) -> None:
    """List the drivers (formats) with their options, which go under `driver.config`.

    Example: `ics drivers nydus`, or `ics drivers --output json` for programs
    """
    with told():
        types = driver_types()
        if name and name not in types:
            raise PermanentError(f"no driver {name!r}; there are: {', '.join(types)}", code="unknown_driver")
        found = {kind: driver for kind, driver in types.items() if name in {"", kind}}
    if output is Output.JSON:
        print_json({kind: {"version": each.version, "options": options(each.options)} for kind, each in found.items()})
        return
    for kind, driver in found.items():
        print(f"{kind} (version {driver.version})")
        print(key_list(options(driver.options)))
