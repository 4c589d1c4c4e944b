"""``ics version``."""

from __future__ import annotations

import platform

from cli.options import Output, OutputOption, print_json
from drivers.catalogue import driver_types
from shared.version import service_version


def version(output: OutputOption = Output.TEXT) -> None:
    """Print the version of ICS, of Python, and of each driver (which is part of what identifies its output)."""
    drivers = {name: driver.version for name, driver in driver_types().items()}
    facts = {"version": service_version(), "python": platform.python_version(), "drivers": drivers}
    if output is Output.JSON:
        print_json(facts)
        return
    formats = ", ".join(f"{name} {number}" for name, number in drivers.items())
    print(f"ics {facts['version']} (Python {facts['python']}; {formats})")
