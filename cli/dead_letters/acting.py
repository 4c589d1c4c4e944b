"""What can be done about dead letters: replayed, discarded, or brought from elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from cli.actor import actor
from cli.dead_letters.reading import Limit
from cli.dead_letters.work import with_letters
from cli.errors import Exit, told
from cli.filters import ConditionOptions
from cli.option_groups import grouped
from cli.options import ConfigOption, DryRunOption, Output, OutputOption, YesOption, confirm, print_json
from shared.broker.api import DeadLetterFilter
from shared.dead_letter_operations import Operation, Result
from shared.errors import PermanentError
from shared.messages import DeadLetter

Ids = Annotated[list[str], typer.Argument(metavar="ID", help="Dead letters by id.")]
All = Annotated[bool, typer.Option("--all", help="Every dead letter there is.")]
Rate = Annotated[
    float, typer.Option("--rate", min=0, help="So many a second at most; 0 is as fast as the broker confirms.")
]


@grouped
def replay(
    *,
    ids: Ids = [],  # noqa: B006  typer reads it, nobody writes it
    which: ConditionOptions,
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
    where = _selection(ids, which, every=every)
    _act("replay", where, limit=limit, rate=rate, dry_run=dry_run, yes=True, config=config, output=output)


@grouped
def discard(
    *,
    ids: Ids = [],  # noqa: B006
    which: ConditionOptions,
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
    where = _selection(ids, which, every=every)
    _act("discard", where, limit=limit, rate=0, dry_run=dry_run, yes=yes, config=config, output=output)


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

    with_letters(config, lambda work: work.operations.import_letters(letters))
    print(f"{len(letters)} imported")


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
    letters = with_letters(config, lambda work: work.operations.find(where, limit=limit or None))
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
    result = with_letters(
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


def _selection(ids: list[str], which: ConditionOptions, *, every: bool) -> DeadLetterFilter:
    where = DeadLetterFilter(ids=frozenset(ids), **which.conditions())
    if where == DeadLetterFilter() and not every:
        raise typer.BadParameter("name dead letters by id or by filters, or say --all")
    return where
