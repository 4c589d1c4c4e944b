"""``ics dead-letters ...``."""

from __future__ import annotations

import typer

from cli.dead_letters import acting, reading
from cli.dead_letters.summary import summary

app = typer.Typer(
    no_args_is_help=True,
    help=(
        "Count, list, inspect, replay, discard, export and import dead letters: conversions that failed for good.\n\n"
        "Filters combine: --code denied --repository 'payments/*' --older-than 2h. Nothing is removed by looking."
    ),
)
app.command()(summary)
app.command("list")(reading.list_)
app.command()(reading.show)
app.command()(acting.replay)
app.command()(acting.discard)
app.command()(acting.purge)
app.command()(reading.export)
app.command("import")(acting.import_)
