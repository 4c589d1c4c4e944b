"""``ics drivers``: which formats there are, and what can be set."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.table import Table

from cli.errors import told
from cli.options import Output, OutputOption, console, print_json
from drivers.catalogue import driver_types
from shared.errors import PermanentError


def drivers(
    name: Annotated[str, typer.Argument(metavar="DRIVER", help="Only this one.")] = "",
    output: OutputOption = Output.TEXT,
) -> None:
    """List the drivers (formats) with their options, which go under `driver.config`.

    Example: `ics drivers nydus`
    """
    with told():
        types = driver_types()
        if name and name not in types:
            raise PermanentError(f"no driver {name!r}; there are: {', '.join(types)}", code="unknown_driver")
        found = {
            kind: {"version": driver.version, "options": driver.options.model_json_schema().get("properties", {})}
            for kind, driver in types.items()
            if name in {"", kind}
        }
    if output is Output.JSON:
        print_json(found)
        return
    out = console()
    for kind, facts in found.items():
        table = Table("option", "default", "allowed", "", title=f"{kind} (version {facts['version']})", box=None)
        table.title_justify = "left"
        table.title_style = "bold"
        for option, schema in facts["options"].items():
            about = " ".join(str(schema.get("description", "")).split())
            table.add_row(option, str(schema.get("default", "")), _allowed(schema), about)
        out.print(table)


def _allowed(schema: dict[str, Any]) -> str:
    if "anyOf" in schema:
        return " or ".join(filter(None, (_allowed(each) for each in schema["anyOf"])))
    if "enum" in schema:
        return ", ".join(str(each) for each in schema["enum"])
    if "minimum" in schema and "maximum" in schema:
        return f"{schema['minimum']} to {schema['maximum']}"
    return str(schema.get("type", ""))
