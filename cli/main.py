"""``ics``: the command line."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Annotated

import typer

from cli import backfill, cancel, check, config, convert, drivers, services, version
from cli.dead_letters import commands as dead_letters
from cli.errors import Exit
from cli.harbor import commands as harbor

app = typer.Typer(
    name="ics",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help=(
        "Image conversion service: Harbor calls its webhook when an image is pushed; it converts the image into a lazy-pulling"
        " format and pushes the accelerated one back.\n\n"
        "Start with `ics demo`. Then write a config.yml, check it with `ics config check`, and run `ics up`.\n\n"
        "Exit codes: 0 done, 1 failed for good, 2 wrong usage, 3 failed but may succeed later, 4 a check found differences,"
        " 5 asked, and the answer was no; 130 interrupted."
    ),
)
app.command()(services.demo)
app.command()(services.up)
app.command()(services.ingress)
app.command()(services.consumer)
app.command()(convert.convert)
app.command()(check.check)
app.command()(drivers.drivers)
app.add_typer(check.nydus, name="nydus")
app.command("cancel")(cancel.cancel_command)
app.add_typer(dead_letters.app, name="dead-letters")
app.add_typer(config.app, name="config")
app.command("backfill")(backfill.backfill_command)
app.add_typer(harbor.app, name="harbor")
app.command()(version.version)


def _version(wanted: bool) -> None:
    if wanted:
        version.version()
        raise typer.Exit


@app.callback()
def _options(
    _: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_version, help="The same as `ics version`.")
    ] = False,
) -> None:
    pass


def main() -> None:
    try:
        try:
            app()
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except OSError as error:  # a full disk under standard output, say; a reader that went away is click's
        with contextlib.suppress(OSError, AttributeError):
            # What is left over must not fail again at the exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print(f"ics: {error.filename or 'the output'}: {error.strerror or error} [cannot_write]", file=sys.stderr)
        sys.exit(Exit.PERMANENT)


if __name__ == "__main__":
    main()
