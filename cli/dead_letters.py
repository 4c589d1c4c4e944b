"""``ics dead-letters``: what failed for good, and what to do about it."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, TypeVar

import typer
from pydantic import ValidationError
from rich.table import Table

from cli.actor import actor
from cli.errors import Exit, told
from cli.options import (
    ConfigOption,
    DryRunOption,
    Output,
    OutputOption,
    RepositoryOption,
    TagOption,
    YesOption,
    age_seconds,
    confirm,
    console,
    print_json,
)
from cli.running import running
from cli.settings import settings_for
from shared.broker.api import Broker, DeadLetterFilter
from shared.broker.open import open_broker, require_existing
from shared.dead_letter_operations import DeadLetterOperations, Operation, Result
from shared.errors import PermanentError
from shared.explanations import explain
from shared.messages import DeadLetter
from shared.telemetry.metrics import Metrics
from shared.telemetry.tracing import Tracing

app = typer.Typer(
    no_args_is_help=True,
    help=(
        "List, inspect, replay, discard, export and import dead letters: conversions that failed for good.\n\n"
        "Filters combine: --code denied --repository 'payments/*' --older-than 2h. Nothing is removed by looking."
    ),
)
T = TypeVar("T")
Code = Annotated[
    str, typer.Option("--code", "-e", help="Error class, as `list` shows it: registry_timeout, denied ...")
]
Older = Annotated[str, typer.Option("--older-than", help="Died longer ago than this: 90s, 15m, 2h, 7d.")]
Newer = Annotated[str, typer.Option("--newer-than", help="Died since: 90s, 15m, 2h, 7d.")]
Limit = Annotated[int, typer.Option("--limit", "-n", min=0, help="The oldest so many; 0 is all.")]
Ids = Annotated[list[str], typer.Argument(metavar="ID", help="Dead letters by id.")]
All = Annotated[bool, typer.Option("--all", help="Every dead letter there is.")]
Rate = Annotated[
    float, typer.Option("--rate", min=0, help="So many a second at most; 0 is as fast as the broker confirms.")
]


@app.command("list")
def list_(  # noqa: PLR0917
    repository: RepositoryOption = "",
    tag: TagOption = "",
    code: Code = "",
    older_than: Older = "",
    newer_than: Newer = "",
    limit: Limit = 100,
    config: ConfigOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """List dead letters, oldest first.

    Example: `ics dead-letters list --code denied --newer-than 1d`
    """
    where = _filter([], repository, tag, code, older_than, newer_than)
    found = _run(config, lambda work: work.operations.find(where, limit=limit or None))
    if output is Output.JSON:
        print_json([letter.model_dump(mode="json") for letter in found])
        return
    table = Table("id", "died", box=None, pad_edge=False)
    table.add_column("image", overflow="fold")
    table.add_column("error", no_wrap=True)
    table.add_column("attempts", justify="right")
    for letter in found:
        image = str(letter.request.source) if letter.request else "(not a request)"
        age = _ago(letter.died_at)
        table.add_row(letter.id, age, image.partition("@")[0], letter.failure.code, str(len(letter.attempts)))
    out = console()
    out.print(table if found else "no dead letters" + (" match" if where != DeadLetterFilter() else ""))
    if limit and len(found) == limit:
        out.print(f"the oldest {limit}; --limit 0 lists all")


@app.command()
def show(
    dead_letter_id: Annotated[str, typer.Argument(metavar="ID")],
    config: ConfigOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Show one: the whole request, every attempt with its error and duration, the trace.

    Example: `ics dead-letters show 5f0c...`
    """
    letter = _run(config, lambda work: work.broker.dead_letters.get(dead_letter_id))
    if letter is None:
        print(f"ics: there is no dead letter {dead_letter_id} [no_such_dead_letter]", file=sys.stderr)
        raise typer.Exit(Exit.PERMANENT)
    if output is Output.JSON:
        print_json(letter.model_dump(mode="json"))
        return
    out = console()
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    if request := letter.request:
        table.add_row("source", str(request.source))
        table.add_row("target", str(request.target))
        table.add_row("driver", f"{request.driver.type} {request.driver.config or ''}".strip())
        table.add_row("requested", f"{request.requested_at:%Y-%m-%d %H:%M:%S} UTC by {request.operator or 'unknown'}")
        table.add_row("rule", request.rule)
    else:
        table.add_row("message", letter.raw[:2000])
    table.add_row("died", f"{letter.died_at:%Y-%m-%d %H:%M:%S} UTC ({_ago(letter.died_at)} ago) at {letter.consumer}")
    table.add_row("error", f"{letter.failure.code} ({letter.failure.kind}): {letter.failure.message}")
    for key, value in letter.failure.details.items():
        table.add_row("", f"{key}: {value}")
    explanation = explain(letter.failure.code)
    table.add_row("cause", explanation.cause)
    table.add_row("next", explanation.next_step)
    table.add_row("trace", letter.trace_id)
    for attempt in letter.attempts:
        failure = attempt.failure
        table.add_row(
            f"attempt {attempt.number}",
            f"{attempt.started_at:%H:%M:%S}, {attempt.duration_seconds:.1f} s, {attempt.consumer}:"
            f" {failure.code}: {failure.message}",
        )
    out.print(table)


@app.command()
def replay(  # noqa: PLR0917  one parameter an option
    ids: Ids = [],  # noqa: B006  typer reads it, nobody writes it
    repository: RepositoryOption = "",
    tag: TagOption = "",
    code: Code = "",
    older_than: Older = "",
    newer_than: Newer = "",
    every: All = False,
    limit: Limit = 0,
    rate: Rate = 0,
    dry_run: DryRunOption = False,
    config: ConfigOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Publish dead letters to the work queue again, with fresh attempts and a new trace that links to the old one.

    Replaying the same twice converts once.

    Examples:
    - `ics dead-letters replay 5f0c...`
    - `ics dead-letters replay --code registry_unavailable --rate 5`
    """
    where = _selection(ids, repository, tag, code, older_than, newer_than, every=every)
    _act("replay", where, limit=limit, rate=rate, dry_run=dry_run, yes=True, config=config, output=output)


@app.command()
def discard(  # noqa: PLR0917
    ids: Ids = [],  # noqa: B006
    repository: RepositoryOption = "",
    tag: TagOption = "",
    code: Code = "",
    older_than: Older = "",
    newer_than: Newer = "",
    every: All = False,
    limit: Limit = 0,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    config: ConfigOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Remove dead letters for good. `export` first keeps a copy.

    Example: `ics dead-letters discard --code manifest_unknown --older-than 7d`
    """
    where = _selection(ids, repository, tag, code, older_than, newer_than, every=every)
    _act("discard", where, limit=limit, rate=0, dry_run=dry_run, yes=yes, config=config, output=output)


@app.command()
def purge(
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    config: ConfigOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Remove every dead letter for good: `discard --all`.

    Example: `ics dead-letters export --to letters.jsonl && ics dead-letters purge --yes`
    """
    _act("discard", DeadLetterFilter(), limit=0, rate=0, dry_run=dry_run, yes=yes, config=config, output=output)


@app.command("export")
def export(  # noqa: PLR0917
    to: Annotated[
        Path | None, typer.Option("--to", help="A file, written when it is whole; else standard output.")
    ] = None,
    repository: RepositoryOption = "",
    tag: TagOption = "",
    code: Code = "",
    older_than: Older = "",
    newer_than: Newer = "",
    config: ConfigOption = None,
) -> None:
    """Write dead letters as JSON lines; they stay in the queue.

    Example: `ics dead-letters export --to letters.jsonl`
    """
    where = _filter([], repository, tag, code, older_than, newer_than)
    if to is not None and to.exists() and not to.is_file():  # a device, say, which the file would take the place of
        with told():
            raise PermanentError(f"cannot write {to}: it is no regular file", code="cannot_write")
    found = _run(config, lambda work: work.operations.find(where))
    text = "".join(letter.model_dump_json() + "\n" for letter in found)
    if to is None:
        sys.stdout.write(text)
        return
    to = to.resolve()  # a link stays one
    partial = to.with_name(f".{to.name}.part")
    with told():
        try:
            partial.write_text(text, encoding="utf-8")
            partial.replace(to)
        except OSError as error:
            raise PermanentError(f"cannot write {to}: {error.strerror}", code="cannot_write") from None
    print(f"{len(found)} exported to {to}", file=sys.stderr)


@app.command("import")
def import_(
    file: Annotated[
        typer.FileText, typer.Argument(metavar="FILE", help="JSON lines as `export` writes them; - is standard input.")
    ],
    config: ConfigOption = None,
) -> None:
    """Add exported dead letters; one that is there already stays one.

    Example: `ics dead-letters import letters.jsonl`
    """
    letters: list[DeadLetter] = []
    with told():
        try:
            lines = file.readlines()
        except UnicodeDecodeError:
            raise PermanentError(f"{file.name} is not text; nothing was imported", code="invalid_import") from None
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                letters.append(DeadLetter.model_validate_json(line))
            except ValidationError as error:
                problem = error.errors()[0]["msg"]
                raise PermanentError(
                    f"line {number} is no dead letter ({problem}); nothing was imported", code="invalid_import"
                ) from None

    _run(config, lambda work: work.operations.import_letters(letters))
    print(f"{len(letters)} imported")


@dataclass(frozen=True)
class _Work:
    broker: Broker
    operations: DeadLetterOperations


def _run(config: Path | None, use: Callable[[_Work], Awaitable[T]]) -> T:
    """Open the configured broker (the embedded one of a running `ics up`, too) for one operation."""

    async def body() -> T:
        settings = settings_for(config)
        require_existing(settings)
        tracing = Tracing.from_environment("ics-cli", enabled=settings.telemetry.enabled)
        try:
            async with open_broker(settings) as broker:
                await broker.check_health()
                operations = DeadLetterOperations(
                    settings, broker, tracing=tracing, metrics=Metrics(process_metrics=False)
                )
                return await use(_Work(broker, operations))
        finally:
            tracing.shutdown()

    with running() as runner:
        return runner.run(body())


def _act(
    operation: Operation,
    where: DeadLetterFilter,
    *,
    limit: int,
    rate: float,
    dry_run: bool,
    yes: bool,
    config: Path | None,
    output: Output,
) -> None:
    letters = _run(config, lambda work: work.operations.find(where, limit=limit or None))
    if dry_run:
        if output is Output.JSON:
            print_json({"would": operation, "count": len(letters), "ids": [letter.id for letter in letters]})
            return
        for letter in letters:
            print(letter.id, letter.request.source if letter.request else "(not a request)", letter.failure.code)
        print(f"would {operation} {len(letters)}")
        return
    if missing := where.ids - {letter.id for letter in letters}:
        print(f"ics: there is no dead letter {', '.join(sorted(missing))} [no_such_dead_letter]", file=sys.stderr)
        raise typer.Exit(Exit.PERMANENT)
    if letters and not yes:
        confirm(f"Discard {len(letters)} dead letter(s) for good?")
    result = _run(
        config,
        lambda work: work.operations.carry_out(
            operation, letters, actor=actor(), rate=rate, on_progress=_progress(len(letters))
        ),
    )
    _tell(operation, result, output)


def _progress(total: int) -> Callable[[Result], None]:
    """A counter on a terminal, silence elsewhere."""

    def report(result: Result) -> None:
        if sys.stderr.isatty():
            print(f"\r{result.done + result.gone + result.failed} of {total}", end="", file=sys.stderr, flush=True)

    return report


def _tell(operation: Operation, result: Result, output: Output) -> None:
    if sys.stderr.isatty():
        print(file=sys.stderr)
    if output is Output.JSON:
        print_json({"done": result.done, "gone": result.gone, "failed": result.failed, "errors": result.errors})
    else:
        done = "replayed" if operation == "replay" else "discarded"
        print(f"{result.done} {done}" + (f", {result.gone} were gone" if result.gone else ""))
        for line in result.errors:
            print(f"  {line}", file=sys.stderr)
    if result.failed:
        print(f"{result.failed} are still dead letters", file=sys.stderr)
        raise typer.Exit(Exit.TRANSIENT)


def _selection(  # noqa: PLR0917
    ids: list[str], repository: str, tag: str, code: str, older_than: str, newer_than: str, *, every: bool
) -> DeadLetterFilter:
    where = _filter(ids, repository, tag, code, older_than, newer_than)
    if where == DeadLetterFilter() and not every:
        raise typer.BadParameter("name dead letters by id or by filters, or say --all")
    return where


def _filter(  # noqa: PLR0917
    ids: list[str], repository: str, tag: str, code: str, older_than: str, newer_than: str
) -> DeadLetterFilter:
    return DeadLetterFilter(
        repository=repository,
        tag=tag,
        code=code,
        older_than_seconds=age_seconds(older_than),
        newer_than_seconds=age_seconds(newer_than),
        ids=frozenset(ids),
    )


def _ago(moment: datetime) -> str:
    seconds = max(0.0, (datetime.now(UTC) - moment).total_seconds())
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds:.0f}s"
