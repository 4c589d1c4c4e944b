"""``ics convert``: one image, here and now, without a broker."""

from __future__ import annotations

import dataclasses
import hashlib
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from time import monotonic
from typing import Annotated, Any, Self

import orjson
import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn
from rich.table import Table

from cli.options import (
    ConfigOption,
    InsecureOption,
    Output,
    OutputOption,
    console,
    key_values,
    megabytes,
    print_json,
)
from cli.registries import allowing, knows
from cli.running import running
from cli.settings import settings_for
from cli.stores.location import Location, parse_location
from cli.stores.opening import open_for_reading, open_for_writing
from consumer.conversion import Converted, Converter
from consumer.progress import ConversionProgress
from drivers.catalogue import create_drivers, parse_options
from shared.errors import PermanentError, SkippedError
from shared.messages import ConversionRequest, DriverChoice
from shared.oci.descriptor import Platform
from shared.oci.digest import Digest
from shared.planning import target_tag
from shared.registry.client import RegistryClient
from shared.settings.model import Cache, Rule, Settings
from shared.telemetry.metrics import Metrics
from shared.telemetry.tracing import Tracing


@dataclass
class _Order:
    """What the command line asks for."""

    source: Location
    target: Location
    driver: DriverChoice
    platforms: tuple[str, ...]
    oci: bool
    replace: bool


def convert(
    *,
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="The image to convert.")],
    target: Annotated[
        str, typer.Argument(metavar="TARGET", help="Where the result goes; default: beside the source.")
    ] = "",
    driver: Annotated[
        str, typer.Option(help="estargz, nydus, zstdchunked ... (`ics drivers` lists them). Default: as configured.")
    ] = "",
    option: Annotated[
        list[str], typer.Option("--option", "-O", help="key=value of the driver's options; a list is JSON; repeatable.")
    ] = [],  # noqa: B006  typer reads it, nobody writes it
    platform: Annotated[
        list[str],
        typer.Option("--platform", "-p", help="os/architecture, or with a /variant; repeatable. Default: all."),
    ] = [],  # noqa: B006
    replace: Annotated[
        bool,
        typer.Option(
            "--replace", help="Replace a target tag even if no converter made what it points at; the source's, too."
        ),
    ] = False,
    insecure: InsecureOption = False,
    config: ConfigOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Convert one image, here and now, without a broker.

    SOURCE and TARGET are registry references (`harbor.example.com/library/app:1`), OCI layouts (`oci:PATH[:TAG]`), or docker
    archives (`docker-archive:FILE[:NAME:TAG]`), in any combination. Without TARGET the result goes beside the source, under
    the tag that the configured rule names (`app:1_esgz`).

    `team/app:1` is an image of Docker Hub, as everywhere, unless the configuration (`auths`, `endpoints`) or Docker's own knows a
    registry by the name `team`; then it is that registry's `app`. `docker.io/team/app:1` is always Docker Hub's.

    A docker archive stays lazy for readers of the OCI layout inside it (ICS, Docker with its containerd store). skopeo reads the
    older tables beside it and compresses the layers anew: give it an `oci:` layout instead.

    Credentials come from the configuration's `auths`, else from Docker's own configuration.

    Examples:
    - `ics convert harbor.example.com/library/app:1`
    - `ics convert --driver nydus -O compressor=lz4_block harbor.example.com/library/app:1 harbor.example.com/lazy/app:1`
    - `ics convert docker-archive:app.tar oci:converted:app-esgz`
    """
    with running() as runner:
        settings = settings_for(config)
        order = _order(settings, source, target, driver=driver, options=option, platforms=platform, replace=replace)
        hosts = [each.reference.registry for each in (order.source, order.target) if each.kind == "registry"]
        settings = allowing(settings, *hosts, insecure=insecure)
        out = console()
        try:
            runner.run(_convert(settings, order, out, output))
        except SkippedError as skipped:
            if output is Output.JSON:
                print_json({"source": str(order.source), "target": str(order.target), "skipped": skipped.reason})
                return
            raise


def _order(
    settings: Settings,
    source: str,
    target: str,
    *,
    driver: str,
    options: list[str],
    platforms: list[str],
    replace: bool,
) -> _Order:
    rule = _rule(settings, driver)
    chosen = settings.driver_of(rule)
    kind = driver or chosen.type
    config = {**(chosen.config if chosen.type == kind else {}), **key_values(options)}
    drivers = create_drivers(settings.limits)
    if kind not in drivers:
        raise PermanentError(f"no driver {kind!r}; there are: {', '.join(sorted(drivers))}", code="unknown_driver")
    parse_options(drivers[kind], orjson.dumps(config))
    for text in platforms:
        try:
            Platform.parse(text)
        except ValueError as error:
            raise PermanentError(str(error), code="invalid_options") from None
    origin = parse_location(source, knows(settings))
    goal = parse_location(target, knows(settings)) if target else _beside(origin, rule, kind)
    if _same_place(origin, goal) and not replace:
        raise PermanentError(f"{goal} is the source: --replace says that it may go", code="target_not_ours")
    return _Order(
        source=origin,
        target=goal,
        driver=DriverChoice(type=kind, config=config),
        platforms=tuple(platforms),
        oci=rule.oci,
        replace=replace,
    )


def _same_place(source: Location, target: Location) -> bool:
    return dataclasses.replace(source, reference=dataclasses.replace(source.reference, digest=None)) == target


def _rule(settings: Settings, driver: str) -> Rule:
    """The first rule, of this driver if there is one."""
    rules = [rule for rule in settings.rules if not driver or settings.driver_of(rule).type == driver]
    return rules[0] if rules else Rule(target_suffix=driver)


def _beside(source: Location, rule: Rule, driver: str) -> Location:
    if source.kind != "registry":
        raise PermanentError(f"say where the result of {source} goes: a second argument", code="invalid_reference")
    if source.reference.tag is None:
        raise PermanentError(f"{source} has no tag to derive a target from: name the target", code="invalid_reference")
    tag = target_tag(source.reference.tag, rule.target_suffix or driver)
    return Location("registry", source.reference.with_tag(tag))


async def _convert(settings: Settings, order: _Order, out: Console, output: Output) -> None:
    began = monotonic()
    metrics = Metrics(process_metrics=False)
    tracing = Tracing.from_environment("ics-convert", enabled=settings.telemetry.enabled)
    async with AsyncExitStack() as stack:
        stack.callback(tracing.shutdown)
        registry = await stack.enter_async_context(RegistryClient.from_settings(settings, observer=metrics))
        from_store = await open_for_reading(order.source, registry)
        if order.source.kind != "registry":
            await from_store.manifest(order.source.reference)  # raises with the names that are there
        quiet = output is Output.JSON
        progress = stack.enter_context(_Bars(tracing, metrics, out=out, quiet=quiet))
        async with open_for_writing(order.target, registry) as to_store:
            converter = Converter(
                create_drivers(settings.limits),
                from_store,
                to_store,
                limits=settings.limits,
                cache=settings.cache if order.target.kind == "registry" else Cache(enabled=False),
                metrics=metrics,
                replace_foreign=order.replace,
            )
            converted = await converter.convert(_request(order), progress)
    document = _document(order, converted, progress, monotonic() - began)
    if output is Output.JSON:
        print_json(document)
    else:
        _summary(out, document)


def _request(order: _Order) -> ConversionRequest:
    text = f"{order.source}\n{order.target}"
    return ConversionRequest(
        id=hashlib.sha256(text.encode()).hexdigest()[:32],
        source=order.source.reference,
        target=order.target.reference,
        rule="convert",
        driver=order.driver,
        oci=order.oci,
        platforms=order.platforms,
    )


@dataclass
class _Bars(ConversionProgress):
    """A bar for each layer on a terminal, a line for each finished one elsewhere."""

    out: Console = field(kw_only=True)
    quiet: bool = field(kw_only=True)

    def __post_init__(self) -> None:
        self._tasks: dict[Digest, TaskID] = {}
        self._finished: set[Digest] = set()
        self._live = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            console=self.out,
            disable=self.quiet or not self.out.is_terminal,
        )

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def layer(self, digest: Digest, done: int, total: int) -> None:
        if self.quiet or total < 64 << 10:
            return
        if self.out.is_terminal:
            if digest not in self._tasks:
                self._tasks[digest] = self._live.add_task(f"layer {digest.short}", total=total)
            self._live.update(self._tasks[digest], completed=done)
        elif done >= total and digest not in self._finished:
            self._finished.add(digest)
            self.out.print(f"layer {digest.short}: {megabytes(total)} read")


def _document(order: _Order, converted: Converted, progress: ConversionProgress, seconds: float) -> dict[str, Any]:
    result = converted.result
    return {
        "source": str(order.source),
        "source_digest": str(converted.request.source.digest),
        "target": str(order.target),
        "target_digest": str(converted.descriptor.digest),
        "driver": order.driver.type,
        "platforms": list(result.platforms),
        "layers_total": result.layers_total,
        "layers_reused": result.layers_reused,
        "source_size": result.source_size,
        "target_size": result.target_size,
        "left_out": list(result.left_out),
        "duration_seconds": round(seconds, 3),
        "stages": [stage.model_dump(mode="json") for stage in progress.stages],
    }


def _summary(out: Console, document: dict[str, Any]) -> None:
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_row("source", document["source"], megabytes(document["source_size"]))
    table.add_row("target", document["target"], megabytes(document["target_size"]))
    table.add_row("digest", document["target_digest"])
    if document["platforms"]:
        table.add_row("platforms", ", ".join(document["platforms"]))
    table.add_row("layers", f"{document['layers_total']}, {document['layers_reused']} of them reused")
    for line in document["left_out"]:
        table.add_row("left out", line)
    table.add_row("time", f"{document['duration_seconds']:.2f} s")
    out.print(table)
