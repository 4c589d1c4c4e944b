"""Options that several commands take, and how a result is printed."""

from __future__ import annotations

import re
import shutil
import sys
import textwrap
from collections.abc import Sequence
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from rich.console import Console

from cli.errors import Exit
from shared.errors import PermanentError
from shared.settings.reference import Key


class Output(StrEnum):
    TEXT = "text"
    JSON = "json"


ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config", "-c", help="config.yml; else $ICS_CONFIG, else ./config.yml, else the defaults.", show_default=False
    ),
]
OutputOption = Annotated[Output, typer.Option("--output", "-o", help="For people, or one JSON document for programs.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Only say which.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask first.")]
InsecureOption = Annotated[
    bool, typer.Option("--insecure", help="Speak plain HTTP to the registries named on this command line.")
]
_LINE = 100
"""Columns of text that is read, on wider terminals and in pipes too."""
_AGE = re.compile(r"([0-9]+(?:\.[0-9]+)?)([smhd]?)")
_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def console(*, markup: bool = False) -> Console:
    """Standard output for people: no guessing what a number, ``[x]`` or ``:o:`` means, and room in files and pipes."""
    width = None if sys.stdout.isatty() else 200
    return Console(highlight=False, soft_wrap=True, width=width, markup=markup, emoji=False)


def print_json(document: Any) -> None:
    print(orjson.dumps(document, option=orjson.OPT_INDENT_2).decode())


def age_seconds(age: str) -> float | None:
    """``90s``, ``15m``, ``2h``, ``7d``; None for nothing. Raises ``BadParameter``."""
    if not age:
        return None
    found = _AGE.fullmatch(age.strip())
    if found is None:
        raise typer.BadParameter(f"not an age like 90s, 15m, 2h or 7d: {age!r}")
    return float(found[1]) * _UNITS[found[2]]


def confirm(question: str) -> None:
    """Ask a person; whoever is none says so with ``--yes``.

    Raises:
        typer.Exit: unless the answer is yes.
    """
    if not sys.stdin.isatty():
        print(f"{question} Say so with --yes.", file=sys.stderr)
        raise typer.Exit(Exit.USAGE)
    print(f"{question} [y/N]: ", end="", file=sys.stderr, flush=True)
    try:
        answer = sys.stdin.readline()
    except KeyboardInterrupt:
        print("\nics: interrupted; nothing was done", file=sys.stderr)
        raise typer.Exit(Exit.INTERRUPTED) from None
    if answer.strip().lower() not in {"y", "yes"}:
        print("Nothing was done.", file=sys.stderr)
        raise typer.Exit(Exit.DECLINED)


def key_list(keys: Sequence[Key]) -> str:
    """Keys of the configuration, or options of a driver, for people: a line each, and what it is about folded below it."""
    width = min(_LINE, shutil.get_terminal_size((_LINE, 0)).columns)
    lines: list[str] = []
    for key in keys:
        kind, about = (text.replace("`", "").replace("**", "") for text in (key.type, key.about))
        default = f"default {key.default}" if key.default else "must be given"
        lines.append("; ".join(filter(None, (f"  {key.path}: {kind}", default, key.variable))))
        lines += textwrap.wrap(about, width, initial_indent="      ", subsequent_indent="      ")
    return "\n".join(lines)


def key_values(pairs: list[str]) -> dict[str, Any]:
    """``key=value`` with JSON values where they are JSON: ``estargz_chunk_size=1048576``, ``compressor=lz4_block``.

    Raises:
        PermanentError: ``invalid_options``.
    """
    found: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise PermanentError(f"--option wants key=value, not {pair!r}", code="invalid_options")
        try:
            found[key] = orjson.loads(value)
        except orjson.JSONDecodeError:
            found[key] = value
    return found


def megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"


def ago(moment: datetime) -> str:
    """How long it is past, in the largest unit of which there are two: ``3h``."""
    seconds = max(0.0, (datetime.now(UTC) - moment).total_seconds())
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds:.0f}s"
