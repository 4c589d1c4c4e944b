"""Converting what exists already: walk a catalogue, plan each tag by the rules, enqueue behind live pushes.

The walk goes repository by repository, in order. A repository counts as done once all its requests are confirmed by the broker;
what is done is written to a journal, so that a walk which was interrupted goes on where it stopped. Request ids depend only on
the registry's content and the rules: a repository walked twice asks for the same conversions, and those that are up to date
already cost one request to the registry each.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import orjson

from shared.errors import PermanentError
from shared.messages import ConversionRequest
from shared.oci.digest import Digest
from shared.oci.reference import Reference
from shared.planning import CONVERTED
from shared.settings.model import Globs


class Tagged(NamedTuple):
    """What a tag points at."""

    name: str
    digest: Digest | None
    """None where the catalogue does not tell."""
    converted: bool = False
    """A converter made it."""


class Catalogue(Protocol):
    """What exists in a registry: Harbor's API, or the distribution API's catalogue and tag lists."""

    def repositories(self) -> AsyncIterator[str]:
        """Names without the registry, in a stable order."""
        ...

    def tags(self, repository: str, may_be_target: Callable[[str], bool]) -> AsyncIterator[Tagged]:
        """``may_be_target``: of which tags the caller wants to know whether a converter made them."""
        ...


WRONG_JOURNAL = "journal_of_another_walk"


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
    """The finished repositories of walks that ask for the same, one JSON string a line, appended and flushed as they finish.

    The first line says of what: a repository that is finished for some tags and rules is not for others. Which repositories a
    walk goes through does not matter.

    Args:
        path: None remembers nothing.
        identity: whatever makes "finished" mean the same (registry, tag globs, rules).

    Raises:
        PermanentError: ``journal_of_another_walk``, ``cannot_read``.
    """

    def __init__(self, path: Path | None, identity: Mapping[str, Any] | None = None) -> None:
        self._path = path
        self._identity = dict(identity or {})
        self._done: set[str] = set()
        self._begun = False
        lines = self._lines()
        try:
            whole = [orjson.loads(line) for line in lines if line.endswith(b"\n")]  # not the one that a walk died over
        except orjson.JSONDecodeError:
            whole = [None]
        if not whole:
            return
        if whole[0] != self._identity:
            raise PermanentError(f"{path} {self._difference(whole[0])}: name another journal", code=WRONG_JOURNAL)
        self._begun = True
        self._done.update(filter(lambda line: isinstance(line, str), whole[1:]))
        if len(whole) < len(lines):
            self._write("wb", whole)

    def _lines(self) -> list[bytes]:
        try:
            return [] if self._path is None else self._path.read_bytes().splitlines(keepends=True)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise PermanentError(f"cannot read {self._path}: {error.strerror}", code="cannot_read") from None

    def __contains__(self, repository: str) -> bool:
        return repository in self._done

    def finish(self, repository: str) -> None:
        self._done.add(repository)
        if self._begun:
            self._write("ab", [repository])
        else:
            self._write("wb", [self._identity, repository])
            self._begun = True

    def _write(self, mode: Literal["ab", "wb"], lines: Sequence[object]) -> None:
        if self._path is not None:
            with self._path.open(mode) as file:
                file.write(b"".join(orjson.dumps(line) + b"\n" for line in lines))

    def _difference(self, found: object) -> str:
        if not isinstance(found, dict):
            return "is no journal of a backfill"
        names = [name for name, value in self._identity.items() if found.get(name) != value]
        return f"is the journal of a walk with another {' and other '.join(names) or 'purpose'}"


class BackfillPlanner(Protocol):
    """The rules; :class:`shared.planning.Planner` is one."""

    def plan_source(self, source: Reference) -> Sequence[ConversionRequest] | str:
        """The requests that the rules make of a source, or the reason why there is none."""
        ...

    def may_be_target(self, source: Reference) -> bool: ...


Publish = Callable[[ConversionRequest], Awaitable[None]]
_EVERYTHING = Globs()


async def backfill(
    registry: str,
    catalogue: Catalogue,
    planner: BackfillPlanner,
    publish: Publish | None,
    *,
    repositories: Globs = _EVERYTHING,
    tags: Globs = _EVERYTHING,
    journal: Journal | None = None,
    limit: int | None = None,
    rate: float = 0,
    on_progress: Callable[[BackfillReport, Sequence[ConversionRequest]], None] = lambda _report, _requests: None,
) -> BackfillReport:
    """Walk ``catalogue`` and publish what the rules make of it, at low priority.

    Args:
        registry: host[:port] that references name.
        catalogue: what exists there.
        planner: the rules.
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
        if not repositories.matches(repository):
            continue
        if repository in journal:
            report.resumed += 1
            continue
        report.repositories += 1
        async for tag in catalogue.tags(repository, _target_names(planner, Reference(registry, repository))):
            if not tags.matches(tag.name):
                continue
            report.tags += 1
            source = Reference(registry, repository, tag.name, tag.digest)
            planned = CONVERTED if tag.converted else planner.plan_source(source)
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


def _target_names(planner: BackfillPlanner, where: Reference) -> Callable[[str], bool]:
    return lambda name: planner.may_be_target(where.with_tag(name))
