"""Looking at dead letters: a list, one, or copies of all."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from cli.dead_letters.work import with_letters
from cli.errors import Exit, told
from cli.filters import ConditionOptions
from cli.option_groups import grouped
from cli.options import ConfigOption, Output, OutputOption, ago, console, print_json
from shared.broker.api import DeadLetterFilter
from shared.errors import PermanentError
from shared.explanations import explain

Limit = Annotated[int, typer.Option("--limit", "-n", min=0, help="The oldest so many; 0 is all.")]


@grouped
def list_(
    *,
    which: ConditionOptions,
    limit: Limit = 100,
    config: ConfigOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """List dead letters, oldest first.

    Example: `ics dead-letters list --code denied --newer-than 1d`
    """
    where = DeadLetterFilter(**which.conditions())
    # One more than is shown tells whether there are more.
    found = with_letters(config, lambda work: work.operations.find(where, limit=limit + 1 if limit else None))
    more = 0 < limit < len(found)
    found = found[:limit] if more else found
    if output is Output.JSON:
        print_json([letter.model_dump(mode="json") for letter in found])
        return
    table = Table(box=None, pad_edge=False)
    table.add_column("id", no_wrap=True, min_width=max((len(letter.id) for letter in found), default=0))
    table.add_column("died")
    table.add_column("image", overflow="fold")
    table.add_column("error", no_wrap=True)
    table.add_column("attempts", justify="right")
    for letter in found:
        image = str(letter.request.source) if letter.request else "(not a request)"
        age = ago(letter.died_at)
        table.add_row(letter.id, age, image.partition("@")[0], letter.failure.code, str(len(letter.attempts)))
    out = console()
    out.print(table if found else "no dead letters" + (" match" if where != DeadLetterFilter() else ""))
    if more:
        out.print(f"the oldest {limit}, and there are more; --limit 0 lists all")


def show(
    dead_letter_id: Annotated[str, typer.Argument(metavar="ID")],
    config: ConfigOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Show one: the whole request, every attempt with its error and duration, the trace.

    Example: `ics dead-letters show 5f0c...`
    """
    letter = with_letters(config, lambda work: work.broker.dead_letters.get(dead_letter_id))
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
    table.add_row("died", f"{letter.died_at:%Y-%m-%d %H:%M:%S} UTC ({ago(letter.died_at)} ago) at {letter.consumer}")
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


@grouped
def export(
    *,
    to: Annotated[
        Path | None, typer.Option("--to", help="A file, written when it is whole; else standard output.")
    ] = None,
    which: ConditionOptions,
    config: ConfigOption = None,
) -> None:
    """Write dead letters as JSON lines; they stay in the queue.

    Example: `ics dead-letters export --to letters.jsonl`
    """
    where = DeadLetterFilter(**which.conditions())
    if to is not None and to.exists() and not to.is_file():  # a device, say, which the file would take the place of
        with told():
            raise PermanentError(f"cannot write {to}: it is no regular file", code="cannot_write")
    found = with_letters(config, lambda work: work.operations.find(where))
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
