"""``ics check`` and ``ics nydus check``: read a converted image back, validate it, compare it with its source."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import Annotated

import typer

from cli.errors import Exit
from cli.options import ConfigOption, InsecureOption, Output, OutputOption, print_json
from cli.registries import allowing, knows
from cli.running import running
from cli.settings import settings_for
from cli.stores.location import Location, parse_location
from cli.stores.opening import open_for_reading
from drivers.api import Driver
from drivers.catalogue import create_drivers
from drivers.checking import CheckReport, Original, image_manifests
from shared.errors import PermanentError
from shared.oci.converted import ANNOTATION_DRIVER_NAME
from shared.registry.api import ImageStore
from shared.registry.client import RegistryClient
from shared.settings.model import Settings

nydus = typer.Typer(no_args_is_help=True, help="Nydus images.")

ReferenceArgument = Annotated[
    str,
    typer.Argument(
        metavar="REFERENCE", help="A registry reference, oci: layout or docker-archive:, as for `ics convert`."
    ),
]
SourceOption = Annotated[
    str, typer.Option("--source", help="Where the source image is. Default: as the image says, or its own repository.")
]
SHOWN = 100
"""Findings that text output lists; JSON has all."""


def check(
    reference: ReferenceArgument,
    source: SourceOption = "",
    insecure: InsecureOption = False,
    config: ConfigOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Read a converted image back, validate every structure, and compare its files with the source's, entry by entry.

    The format is told by the image. Exit code 4 when anything differs.

    Example: `ics check harbor.example.com/library/app:1_esgz`
    """
    _check(reference, source, None, insecure=insecure, config=config, output=output)


@nydus.command("check")
def check_nydus(
    reference: ReferenceArgument,
    source: SourceOption = "",
    insecure: InsecureOption = False,
    config: ConfigOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Read a Nydus image back: bootstrap, blobs, every chunk; compare its tree with the source's, entry by entry.

    Exit code 4 when anything differs.

    Example: `ics nydus check harbor.example.com/library/app:1_nydus`
    """
    _check(reference, source, "nydus", insecure=insecure, config=config, output=output)


def _check(
    reference: str, source: str, driver: str | None, *, insecure: bool, config: ConfigOption, output: Output
) -> None:
    with running() as runner:
        settings = settings_for(config)
        place = parse_location(reference, knows(settings))
        origin = parse_location(source, knows(settings)) if source else None
        hosts = [each.reference.registry for each in (place, origin) if each and each.kind == "registry"]
        settings = allowing(settings, *hosts, insecure=insecure)
        report = runner.run(_run(settings, place, origin, driver))
    if output is Output.JSON:
        print_json({"reference": str(place), "ok": report.ok, **asdict(report)})
    else:
        _tell(place, report)
    if not report.ok:
        raise typer.Exit(Exit.DIFFERENT)


async def _run(settings: Settings, place: Location, origin: Location | None, driver: str | None) -> CheckReport:
    async with RegistryClient.from_settings(settings) as registry:
        store = await open_for_reading(place, registry)
        original = None
        if origin is not None:
            original = Original(await open_for_reading(origin, registry), origin.reference, str(origin))
        drivers = create_drivers(settings.limits)
        chosen = await _format(store, place, {driver: drivers[driver]} if driver else drivers)
        return await chosen.check(store, place.reference, original)


async def _format(store: ImageStore, place: Location, drivers: dict[str, Driver]) -> Driver:
    """The driver whose mark or format the image has; of an index, whichever knows one of its images."""
    images = await image_manifests(store, place.reference, await store.manifest(place.reference))
    for driver in drivers.values():
        if any(
            image.annotations.get(ANNOTATION_DRIVER_NAME) == driver.type or driver.recognises(image) for image in images
        ):
            return driver
    formats = " nor in ".join(sorted(drivers))
    raise PermanentError(f"{place} is not in {formats} format: another, or unconverted", code="not_converted")


def _tell(place: Location, report: CheckReport) -> None:
    for finding in report.findings[:SHOWN]:
        print(finding)
    if len(report.findings) > SHOWN:
        print(f"... and {len(report.findings) - SHOWN} more; --output json has all")
    against = "the same in the source" if report.compared else "NOT compared with the source"
    counts = f"{report.images} image(s), {report.blobs} layers, {report.chunks:,} chunks, {report.entries:,} entries"
    print(f"{place}: {'sound' if report.ok else f'{len(report.findings)} finding(s)'}; {counts}", end="")
    print(f", {against}" if report.ok else "")
    for reason in dict.fromkeys(report.not_compared):
        print(f"note: {reason}; --source says where it is", file=sys.stderr)
