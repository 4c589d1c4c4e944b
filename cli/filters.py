"""The vocabulary of everything that lists, or acts on all that match; the API's, with ages in the place of times."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from cli.options import age_seconds
from shared.messages import Priority


@dataclass(frozen=True)
class ConditionOptions:
    """All that are given must hold."""

    repository: Annotated[
        str, typer.Option("--repository", "-r", help="Glob over registry/repository or repository.")
    ] = ""
    tag: Annotated[str, typer.Option("--tag", "-t", help="Glob over the source's tag.")] = ""
    driver: Annotated[str, typer.Option("--driver", help="Of this format.")] = ""
    priority: Annotated[Priority | None, typer.Option("--priority", help="Pushes, or what a backfill asked for.")] = (
        None
    )
    code: Annotated[
        str,
        typer.Option(
            "--code", "-e", help="Glob over the last failed attempt's error code: registry_timeout, denied ..."
        ),
    ] = ""
    text: Annotated[str, typer.Option("--text", help="Part of an id, an image's reference or a digest.")] = ""
    older_than: Annotated[
        str,
        typer.Option("--older-than", help="Requested (a dead letter: died) longer ago than this: 90s, 15m, 2h, 7d."),
    ] = ""
    newer_than: Annotated[
        str, typer.Option("--newer-than", help="Requested (a dead letter: died) since: 90s, 15m, 2h, 7d.")
    ] = ""

    def conditions(self) -> dict[str, Any]:
        """For :class:`shared.request_filter.Conditions`. Raises ``BadParameter``."""
        now = time.time()
        older, newer = age_seconds(self.older_than), age_seconds(self.newer_than)
        return {
            "repository": self.repository,
            "tag": self.tag,
            "driver": self.driver,
            "priority": self.priority or "",
            "code": self.code,
            "text": self.text,
            "since": None if newer is None else now - newer,
            "until": None if older is None else now - older,
        }
