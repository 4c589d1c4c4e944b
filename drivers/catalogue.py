"""Which drivers there are: the ``ics.drivers`` entry points of the installed distributions."""

from __future__ import annotations

from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import cast

from pydantic import ValidationError

from drivers.api import Driver, DriverOptions, OptionsModel
from drivers.limits import LayerLimits
from shared.errors import PermanentError
from shared.settings.model import Limits
from shared.settings.problems import from_validation

GROUP = "ics.drivers"


@cache
def driver_types() -> dict[str, type[Driver]]:
    """Driver type → class, in the order of the names.

    Raises:
        PermanentError: ``invalid_driver``; an installed distribution's entry point cannot be used.
    """
    found: dict[str, type[Driver]] = {}
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        if entry.name in found:
            raise _invalid(entry, "there is another one of this name")
        driver = found[entry.name] = _load(entry)
        if driver.type != entry.name:
            raise _invalid(entry, f"the driver's type is {driver.type!r}, and the entry point must have that name")
    return found


def _load(entry: EntryPoint) -> type[Driver]:
    try:
        return cast("type[Driver]", entry.load())
    except (ImportError, AttributeError) as error:
        raise _invalid(entry, str(error)) from error


def _invalid(entry: EntryPoint, why: str) -> PermanentError:
    source = f" of {entry.dist.name}" if entry.dist is not None else ""
    return PermanentError(
        f"entry point {GROUP}: {entry.name} = {entry.value}{source} cannot be used: {why}", code="invalid_driver"
    )


def option_models() -> dict[str, OptionsModel]:
    """Driver type → model of its options, as ``load_settings`` wants them."""
    return {name: driver.options for name, driver in driver_types().items()}


def driver_memory(limits: Limits) -> int:
    """Bytes of ``limits.memory`` that a driver shares out among its layers; the rest is the consumer's, for transfers."""
    return limits.memory // 2


def create_drivers(limits: Limits) -> dict[str, Driver]:
    """One instance of each; they share nothing but the machine."""
    return {name: driver(layer_limits(limits)) for name, driver in driver_types().items()}


def layer_limits(limits: Limits) -> LayerLimits:
    """What of the configuration's limits a driver has to keep to."""
    return LayerLimits(
        layer_size=limits.layer_size,
        layer_entries=limits.layer_entries,
        compression_ratio=limits.compression_ratio,
        pax_record=limits.pax_record,
        memory=driver_memory(limits),
    )


def parse_options(driver: Driver, config: bytes) -> DriverOptions:
    """Options out of a message's JSON.

    Raises:
        PermanentError: ``invalid_options``, naming the keys.
    """
    try:
        return driver.options.model_validate_json(config)
    except ValidationError as error:
        problems = "; ".join(map(str, from_validation(error, driver.options)))
        raise PermanentError(f"options of driver {driver.type}: {problems}", code="invalid_options") from None
