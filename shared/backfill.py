"""Converting what exists already: walk a catalogue, plan each tag by the rules, enqueue behind live pushes.

The walk goes repository by repository, in order. A repository counts as done once all its requests are confirmed by the broker;
what is done is written to a journal, so that a walk which was interrupted goes on where it stopped. Request ids depend only on
the registry's content and the rules: a repository walked twice asks for the same conversions, and those that are up to date
already cost one request to the registry each.
"""

from __future__ import annotations

import asyncio
import fnmatch
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import orjson

from shared.messages import ConversionRequest
from shared.oci.digest import Digest
from shared.oci.reference import Reference
from shared.settings.model import Globs


class Catalogue(Protocol):
    """What exists in a registry: Harbor's API, or the distribution API's catalogue and tag lists."""

    def repositories(self) -> AsyncIterator[str]:
        """Names without the registry, in a stable order."""
        ...

    def tags(self, repository: str) -> AsyncIterator[tuple[str, Digest | None]]:
        """Tag and manifest digest; None where the catalogue does not tell."""
        ...


@dataclass(slots=True)
class BackfillReport:
    """What a walk has found and done so far."""

    repositories: int = 0
    tags: int = 0
    planned: int = 0
    published: int = 0
    resumed: int = 0
    """Repositories that an earlier walk had finished."""
    skipped: dict[str, int] = field(default_factory=dict)
    """Reason → tags."""


class Journal:
    """The finished repositories of one walk, one JSON string a line, appended and flushed as they finish."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._done: set[str] = set()
        if path is not None and path.exists():
            for line in path.read_bytes().splitlines():
                try:
                    name = orjson.loads(line)
                except orjson.JSONDecodeError:
                    continue  # the line that was being written when the walk died
                if isinstance(name, str):
                    self._done.add(name)

    def __contains__(self, repository: str) -> bool:
        return repository in self._done

    def finish(self, repository: str) -> None:
        self._done.add(repository)
        if self._path is not None:
            with self._path.open("ab") as file:
                file.write(orjson.dumps(repository) + b"\n")


Plan = Callable[[Reference], Sequence[ConversionRequest] | str]
"""The requests that the rules make of a source, or the reason why there is none."""
Publish = Callable[[ConversionRequest], Awaitable[None]]


async def backfill(
    registry: str,
    catalogue: Catalogue,
    plan: Plan,
    publish: Publish | None,
    *,
    repositories: Globs | None = None,
    tags: Globs | None = None,
    journal: Journal | None = None,
    limit: int | None = None,
    rate: float = 0,
    on_progress: Callable[[BackfillReport, Sequence[ConversionRequest]], None] = lambda _report, _requests: None,
) -> BackfillReport:
    """Walk ``catalogue`` and publish what the rules make of it, at low priority.

    Args:
        registry: host[:port] that references name.
        catalogue: what exists there.
        plan: the rules.
        publish: None for a dry run.
        repositories: globs over repository names, on top of the rules' own.
        tags: globs over tags, on top of the rules' own.
        journal: makes the walk resumable; a dry run reads it and does not write it.
        limit: stop after so many planned requests; the repository under way then counts as unfinished.
        rate: requests a second at most; 0 is as fast as the broker confirms.
        on_progress: told after each tag: the report so far, and the tag's requests.

    Raises:
        IcsError: what the catalogue or the broker raised; the journal keeps what was finished before.
    """
    report = BackfillReport()
    journal = journal or Journal(None)
    async for repository in catalogue.repositories():
        if not matches(repository, repositories):
            continue
        if repository in journal:
            report.resumed += 1
            continue
        report.repositories += 1
        async for tag, digest in catalogue.tags(repository):
            if not matches(tag, tags):
                continue
            report.tags += 1
            source = Reference(registry, repository, tag, digest)
            planned = plan(source)
            requests = () if isinstance(planned, str) else planned
            if isinstance(planned, str):
                report.skipped[planned] = report.skipped.get(planned, 0) + 1
            for request in requests:
                if limit is not None and report.planned >= limit:
                    return report
                report.planned += 1
                if publish is not None:
                    await publish(request.model_copy(update={"priority": "backfill"}))
                    report.published += 1
                    if rate:
                        await asyncio.sleep(1 / rate)
            on_progress(report, requests)
        if publish is not None:
            journal.finish(repository)
    return report


def matches(name: str, globs: Globs | None) -> bool:
    """Whether ``name`` is included and not excluded; ``*`` crosses slashes."""
    if globs is None:
        return True
    included = any(fnmatch.fnmatchcase(name, pattern) for pattern in globs.include)
    return included and not any(fnmatch.fnmatchcase(name, pattern) for pattern in globs.exclude)
