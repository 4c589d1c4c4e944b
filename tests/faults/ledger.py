"""The account of one run: what was accepted, and what became of each."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from shared.events import ConversionEvent
from tests.faults.broken_images import Breakage

FINAL = frozenset({"succeeded", "skipped", "failed"})


@dataclass
class Accepted:
    """One webhook that was answered with 202, and the conversion it asked for."""

    id: str
    tag: str
    digest: str
    target: str
    breakage: Breakage | None = None
    """What is wrong with the image until it is mended."""


@dataclass
class Ledger:
    """Filled while the run goes on; judged at its end."""

    accepted: dict[str, Accepted] = field(default_factory=dict)
    broken: dict[str, Breakage] = field(default_factory=dict)
    """Source digest → what is wrong with it; also of events whose answer was lost, which are not accepted and may come through."""
    broken_under: dict[str, set[Breakage]] = field(default_factory=lambda: defaultdict(set))
    """Source tag → what is wrong with images that it points or pointed at: a conversion whose tag moves goes on with the newest."""
    posts: int = 0
    refused: Counter[int] = field(default_factory=Counter)
    """Answers other than 202, by status (0: no answer)."""
    outcomes: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    """Request id → final events in order, ``skipped: reason`` spelled out."""
    retries: Counter[str] = field(default_factory=Counter)
    """Error code → retries."""
    succeeded: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(target, source digest) → conversions that ran to their end."""
    failures: Counter[str] = field(default_factory=Counter)
    replayed: int = 0

    def observe(self, event: ConversionEvent) -> None:
        """Take in one event of the stream."""
        kind, data = event.kind, event.data
        if kind == "retrying" and data.failure:
            self.retries[data.failure.code] += 1
        if kind not in FINAL:
            return
        label = kind
        if kind == "skipped":
            label = f"skipped: {data.reason}"
        if kind == "failed" and data.failure:
            self.failures[data.failure.code] += 1
        if kind == "succeeded" and data.request and data.request.source.digest:
            self.succeeded[str(data.request.target), str(data.request.source.digest)] += 1
        self.outcomes[event.subject].append(label)

    @property
    def open(self) -> set[str]:
        """Accepted, without a final event yet."""
        return {identity for identity in self.accepted if not self.outcomes.get(identity)}

    @property
    def converted_twice(self) -> int:
        return sum(count - 1 for count in self.succeeded.values())

    def lost(self, dead: set[str], current: Mapping[str, str]) -> list[Accepted]:
        """Accepted events that nothing accounts for: no final event, no dead letter, and no up-to-date target.

        ``current`` maps a target to the source digest that its manifest names. A consumer that is killed between its
        acknowledgement and its event leaves a conversion that only the registry can tell of.
        """
        return [
            event
            for identity, event in self.accepted.items()
            if identity in self.open and identity not in dead and current.get(event.target) != event.digest
        ]

    def broken_unnoticed(self, dead: set[str]) -> list[str]:
        """Events of broken images that are not dead letters and were not skipped: somebody called them done."""
        return [
            f"{event.tag}: {event.breakage}"
            for identity, event in self.accepted.items()
            if event.breakage and identity not in dead and "succeeded" in self.outcomes.get(identity, [])
        ]

    def summary(self) -> Counter[str]:
        """Last outcome of each accepted event → how many."""
        return Counter(
            self.outcomes[identity][-1] if self.outcomes.get(identity) else "no event" for identity in self.accepted
        )


def table(rows: Sequence[tuple[str, object]], title: str) -> str:
    """A two-column Markdown table."""
    lines = [
        f"### {title}",
        "",
        "| what | count |",
        "| --- | ---: |",
        *(f"| {name} | {value} |" for name, value in rows),
        "",
    ]
    return "\n".join(lines)
