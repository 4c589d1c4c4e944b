"""What became of every accepted event: dead letters and their classes, the replay, and targets read back."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from shared.oci.digest import Digest
from shared.oci.reference import parse_reference
from tests.faults.broken_images import DAMAGED_ON_THE_WAY, EXPECTED
from tests.faults.fleet import Fleet, patiently, source_of, target_of
from tests.faults.ledger import Accepted, Ledger
from tests.faults.scale import BrokerName, Scale
from tests.images.comparing import differences, source_digest_of


@dataclass
class Report:
    """What one run showed."""

    broker: BrokerName
    scale: Scale
    faults: Counter[str] = field(default_factory=Counter)
    torn_links: int = 0
    """Links that a killed registry left empty, and the harness took away."""
    webhooks: Counter[str] = field(default_factory=Counter)
    """What is special about some of them."""
    ledger: Ledger = field(default_factory=Ledger)
    late: list[Accepted] = field(default_factory=list)
    """Accepted events that nothing accounted for yet when the time to settle was over."""
    lost: list[Accepted] = field(default_factory=list)
    """Those that nothing accounts for at the end, after the replay."""
    stale: list[str] = field(default_factory=list)
    """Targets that are not made of what their source tag points at."""
    damaged: list[str] = field(default_factory=list)
    """Targets that do not give their source back."""
    dead: Counter[str] = field(default_factory=Counter)
    misclassified: list[str] = field(default_factory=list)
    """Dead letters of broken images under another class than what is wrong with them, and permanent ones of sound images."""
    broken_unnoticed: list[str] = field(default_factory=list)
    """Events of broken images that ended neither dead nor superseded."""
    dead_after_replay: Counter[str] = field(default_factory=Counter)
    unreplayed: list[str] = field(default_factory=list)
    """Source tags without a current target after all dead letters were replayed with the faults off."""
    verified: int = 0
    """Targets that were read back, entry by entry, and are their source."""
    sessions_left: int = 0
    seconds: float = 0


class Accountant:
    """Fills the report once the faults are over."""

    def __init__(self, fleet: Fleet, report: Report) -> None:
        self._fleet = fleet
        self._report = report

    async def watch(self) -> None:
        """Take in the event stream; runs beside everything else."""
        async for event in self._fleet.broker.events.read():
            self._report.ledger.observe(event)

    async def settle(self) -> None:
        """Until every accepted event has ended, or nothing waits any more, or time is up."""
        await self._until(lambda: not self._report.ledger.open)

    async def _until(self, is_over: Callable[[], bool]) -> None:
        """Until it is over and nothing waits, or time is up; what is open then is judged by what is left."""
        deadline = asyncio.get_running_loop().time() + self._report.scale.settle
        quiet = 0
        while asyncio.get_running_loop().time() < deadline:
            stats = await patiently(self._fleet.broker.stats)
            waiting = (stats.ready or 0) + (stats.in_flight or 0) + (stats.retrying or 0)
            quiet = quiet + 1 if waiting == 0 else 0
            if quiet >= 3 and is_over():
                return
            if quiet >= 40:  # nothing waits, so no further event will come
                return
            await asyncio.sleep(0.5)

    async def judge_dead_letters(self) -> None:
        """Each under the class of what is wrong with its image; and which accepted events are not accounted for yet."""
        report, ledger = self._report, self._report.ledger
        dead: set[str] = set()
        async for letter in self._fleet.broker.dead_letters.list():
            report.dead[letter.failure.code] += 1
            if letter.request is None:
                report.misclassified.append(f"a dead letter without a request: {letter.failure.code}")
                continue
            dead.add(letter.request.id)
            source = letter.request.source
            breakage = ledger.broken.get(str(source.digest))
            wanted = {EXPECTED[breakage] if breakage else DAMAGED_ON_THE_WAY}
            wanted |= {EXPECTED[other] for other in ledger.broken_under.get(source.tag or "", ())}
            if letter.failure.kind == "permanent" and letter.failure.code not in wanted:
                report.misclassified.append(
                    f"{letter.id}: {letter.failure.code} instead of {' or '.join(sorted(wanted))}"
                )
        report.broken_unnoticed = ledger.broken_unnoticed(dead)
        report.late = ledger.lost(dead, await self._current())

    async def replay(self) -> None:
        """Every dead letter, and wait for what becomes of it; then the final account."""
        report, ledger = self._report, self._report.ledger
        letters = self._fleet.broker.dead_letters
        before: dict[str, int] = {}
        for letter in [letter async for letter in letters.list()]:
            ended = {identity: len(labels) for identity, labels in ledger.outcomes.items()}
            if request := await letters.replay(letter.id):
                ledger.replayed += 1
                before[request.id] = ended.get(request.id, 0)
        await self._until(
            lambda: (
                not ledger.open and all(len(ledger.outcomes[identity]) > count for identity, count in before.items())
            )
        )
        dead: set[str] = set()
        async for letter in letters.list():
            report.dead_after_replay[letter.failure.code] += 1
            if letter.request is not None:
                dead.add(letter.request.id)
        report.lost = ledger.lost(dead, await self._current())

    async def read_back(self) -> None:
        """Every target of an accepted event: current, and its source entry by entry."""
        accepted = {(event.tag, event.digest) for event in self._report.ledger.accepted.values()}
        for tag in sorted({tag for tag, _ in accepted}):
            await self._read_back(tag, accepted)
        self._report.sessions_left = len(self._fleet.registry.upload_sessions())

    async def _read_back(self, tag: str, accepted: set[tuple[str, str]]) -> None:
        report, store = self._report, self._fleet.store
        source = await store.resolve(source_of(tag))
        assert source is not None, f"the harness itself pushed {tag}"
        made_of = await source_digest_of(store, target_of(tag))
        if (tag, str(source.digest)) in accepted:
            if made_of is None:
                report.unreplayed.append(tag)
                return
            if made_of != source.digest:
                report.stale.append(tag)
                return
        elif made_of is None:
            return  # the tag moved, and the webhook of its newest image was never accepted
        found = await differences(store, source_of(tag).with_digest(Digest(made_of)), target_of(tag))
        report.damaged.extend(f"{tag}: {difference}" for difference in found)
        report.verified += not found

    async def _current(self) -> dict[str, str]:
        """Target → the digest that its image names as its source."""
        current: dict[str, str] = {}
        for target in {event.target for event in self._report.ledger.accepted.values()}:
            if digest := await source_digest_of(self._fleet.store, parse_reference(target)):
                current[target] = digest
        return current
