"""``ics backfill``: convert what was pushed before ICS was there."""

from __future__ import annotations

import asyncio
import hashlib
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, TextIO

import orjson
import typer

from cli.options import ConfigOption, Output, OutputOption, confirm, print_json
from cli.running import running
from cli.settings import settings_for
from shared.backfill.catalogues import open_catalogue
from shared.backfill.walk import BackfillReport, Journal, backfill
from shared.broker.open import open_broker
from shared.enqueue import Enqueuer
from shared.event_reporter import EventReporter
from shared.messages import ConversionRequest
from shared.planning import Planner
from shared.settings.model import Globs, Settings
from shared.telemetry.metrics import Metrics
from shared.telemetry.tracing import Tracing


def backfill_command(
    *,
    registry: Annotated[
        str, typer.Argument(metavar="REGISTRY", help="host[:port] as the configuration's auths has it.")
    ],
    project: Annotated[str, typer.Option(help="One Harbor project; needs the configuration's harbor section.")] = "",
    repositories: Annotated[
        list[str], typer.Option("--repositories", "-r", help="Globs over repository names; repeatable.")
    ] = [],  # noqa: B006  typer reads it, nobody writes it
    tags: Annotated[list[str], typer.Option("--tags", "-t", help="Globs over tags; repeatable.")] = [],  # noqa: B006
    limit: Annotated[int, typer.Option("--limit", "-n", min=0, help="Stop after so many requests; 0 is no limit.")] = 0,
    rate: Annotated[float, typer.Option(min=0, help="Requests a second at most; 0 is no limit.")] = 0,
    journal: Annotated[
        Path | None,
        typer.Option(
            help="Remember finished repositories here; run again with the same file, registry, --tags and rules to go on."
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be enqueued.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not show the plan and ask first.")] = False,
    config: ConfigOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Walk a registry, plan every tag by the rules, and enqueue the conversions behind live pushes.

    What is up to date already costs one request to the registry and nothing else, so a walk can be repeated. What a converter
    made is left out, and counted.

    Exit code 0 when everything that was planned is enqueued (nothing, too), 2 when there is nobody to ask and no `--yes`,
    3 when registry or broker could not be reached, 5 when the answer is no.

    Examples:
    - `ics backfill harbor.example.com --project library --dry-run`
    - `ics backfill harbor.example.com -r 'payments/*' -t 'v*' --journal backfill.journal --yes`
    """
    wanted = (Globs(include=tuple(repositories) or ("*",)), Globs(include=tuple(tags) or ("*",)))
    with running() as runner:
        settings = settings_for(config)
        walk = _Walk(settings, registry, project, wanted, limit or None, rate, journal)
        if dry_run or not yes:
            report = runner.run(walk.go(publish=False, show=output is Output.TEXT))
            if dry_run:
                _tell(report, output, dry=True)
                return
            if not report.planned:
                _tell(report, output, dry=False)
                return
            _tell(report, Output.TEXT, dry=True, file=sys.stdout if output is Output.TEXT else sys.stderr)
            confirm(f"Enqueue {report.planned} conversion(s)?")
        _tell(runner.run(walk.go(publish=True, show=False)), output, dry=False)


@dataclass(frozen=True, slots=True)
class _Walk:
    """One command's walk; a plan first, then the same for real."""

    settings: Settings
    registry: str
    project: str
    wanted: tuple[Globs, Globs]
    """Repositories, tags."""
    limit: int | None
    rate: float
    journal: Path | None

    async def go(self, *, publish: bool, show: bool) -> BackfillReport:
        async with AsyncExitStack() as stack:
            catalogue = await stack.enter_async_context(open_catalogue(self.settings, self.registry, self.project))
            enqueue = await stack.enter_async_context(self._enqueuer()) if publish else None
            return await backfill(
                self.registry,
                catalogue,
                Planner(self.settings),
                enqueue,
                repositories=self.wanted[0],
                tags=self.wanted[1],
                journal=Journal(self.journal, self._identity()),
                limit=self.limit,
                rate=self.rate,
                on_progress=_show if show else _count,
            )

    @asynccontextmanager
    async def _enqueuer(self) -> AsyncIterator[Enqueuer]:
        tracing = Tracing.from_environment("ics-cli", enabled=self.settings.telemetry.enabled)
        try:
            async with (
                open_broker(self.settings) as broker,
                EventReporter(broker.events, Metrics(process_metrics=False), ()).running() as reporter,
            ):
                yield Enqueuer(self.settings, broker, tracing=tracing, tell=reporter.tell)
        finally:
            await asyncio.to_thread(tracing.shutdown)

    def _identity(self) -> dict[str, Any]:
        """What makes a repository finished: with other tags or rules there would be more to ask for."""
        decided = self.settings.model_dump(mode="json", include={"rules", "driver"})
        return {
            "registry": self.registry,
            "tags": self.wanted[1].model_dump(mode="json"),
            "rules": hashlib.sha256(orjson.dumps(decided, option=orjson.OPT_SORT_KEYS)).hexdigest(),
        }


def _show(_report: BackfillReport, requests: Sequence[ConversionRequest]) -> None:
    for request in requests:
        print(f"{request.source}  ->  {request.target}  ({request.driver.type})")


def _count(report: BackfillReport, _requests: Sequence[ConversionRequest]) -> None:
    if sys.stderr.isatty():
        line = f"\r{report.repositories} repositories, {report.tags} tags, {report.published} enqueued"
        print(line, end="", file=sys.stderr, flush=True)


def _tell(report: BackfillReport, output: Output, *, dry: bool, file: TextIO | None = None) -> None:
    if sys.stderr.isatty():
        print(file=sys.stderr)
    if output is Output.JSON:
        print_json({"dry_run": dry, **asdict(report)})
        return
    verb = f"{report.planned} would be enqueued" if dry else f"{report.published} enqueued"
    resumed = f", {report.resumed} repositories were finished before" if report.resumed else ""
    print(f"{report.repositories} repositories, {report.tags} tags: {verb}{resumed}", file=file)
    for reason, count in sorted(report.skipped.items(), key=lambda item: -item[1]):
        print(f"  {count} skipped: {reason}", file=file)
