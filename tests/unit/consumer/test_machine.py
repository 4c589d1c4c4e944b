"""When a consumer takes no work, for how long, and whose failure it is."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from consumer.machine import Machine
from shared.exhausted import Resource
from shared.telemetry.metrics import Metrics
from tests.unit.consumer.at_work import Given

FULL = "this machine refused: No space left on device"


class Clock:
    """Time that passes by itself, and what else happens meanwhile."""

    def __init__(self) -> None:
        self.slept: list[float] = []
        self.meanwhile: Callable[[], object] = lambda: None

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.meanwhile()


class Place:
    def __init__(self) -> None:
        self.supplies = Given()
        self.clock = Clock()
        self.metrics = Metrics(process_metrics=False)
        self.machine = Machine(self.supplies, self.metrics, sleep=self.clock.sleep)

    def mended_after(self, pauses: int) -> None:
        """There is enough of everything by then."""

        def mend() -> None:
            if len(self.clock.slept) == pauses:
                self.supplies.short.clear()

        self.clock.meanwhile = mend

    def gauge(self, resource: str) -> float | None:
        return self.metrics.registry.get_sample_value("ics_consumer_out_of_resources", {"resource": resource})


@pytest.fixture
def place() -> Place:
    return Place()


async def test_no_work_is_taken_from_the_first_failure_on_until_one_on_trial_succeeds(place: Place) -> None:
    machine = place.machine
    assert (machine.out, machine.on_trial, machine.reason) == (False, False, "")
    change = machine.change
    assert not await machine.ran_out("disk", FULL, again=False)
    assert change.is_set()
    assert (machine.out, machine.on_trial, machine.reason) == (True, False, f"out of disk: {FULL}")
    change = machine.change
    await machine.recovered()
    assert change.is_set()
    assert (machine.out, machine.on_trial, machine.reason) == (False, True, "")
    change = machine.change
    machine.succeeded()
    assert change.is_set()
    assert (machine.out, machine.on_trial) == (False, False)


async def test_the_machine_itself_is_asked_ever_more_rarely_and_nothing_need_wait_in_the_queue(place: Place) -> None:
    place.supplies.short.add("disk")
    await place.machine.ran_out("disk", FULL, again=False)
    assert place.gauge("disk") == 1

    place.mended_after(7)
    await place.machine.recovered()
    assert place.clock.slept == [5, 10, 20, 40, 60, 60, 60]
    assert place.gauge("disk") == 0


async def test_each_trial_that_fails_makes_the_next_pause_longer_and_a_success_the_shortest_again(place: Place) -> None:
    place.supplies.scarce = True
    await place.machine.ran_out("disk", FULL, again=False)
    for _ in range(5):
        await place.machine.recovered()
        assert not await place.machine.ran_out("disk", FULL, again=True)
    await place.machine.recovered()
    place.machine.succeeded()
    await place.machine.ran_out("disk", FULL, again=False)
    await place.machine.recovered()
    assert place.clock.slept == [5, 10, 20, 40, 60, 60, 5]


async def test_those_that_fail_together_make_it_no_longer(place: Place) -> None:
    for _ in range(8):
        await place.machine.ran_out("disk", FULL, again=False)
    await place.machine.recovered()
    assert place.clock.slept == [5]


async def test_an_image_that_fails_again_although_there_is_plenty_wants_too_much_itself(place: Place) -> None:
    assert await place.machine.ran_out("disk", FULL, again=True)
    assert not place.machine.out
    assert place.gauge("disk") == 0
    await place.machine.ran_out("disk", FULL, again=False)
    await place.machine.recovered()
    assert await place.machine.ran_out("disk", FULL, again=True)
    assert place.machine.on_trial, "the next delivery is the next trial, and there is no pause in between"


async def test_what_is_met_while_the_machine_is_asked_is_not_forgotten(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    lacking = place.supplies.lacking

    async def another_conversion_fails(resource: Resource) -> str:
        if len(place.clock.slept) == 1:
            place.supplies.short = {"files"}
            await place.machine.ran_out("files", "too many", again=False)
        return await lacking(resource)

    monkeypatch.setattr(place.supplies, "lacking", another_conversion_fails)
    place.mended_after(3)
    await place.machine.ran_out("disk", FULL, again=False)
    await place.machine.recovered()
    assert len(place.clock.slept) == 3
    assert [place.gauge(each) for each in ("disk", "files")] == [0, 0]


async def test_a_success_proves_nothing_before_the_machine_was_asked(place: Place) -> None:
    await place.machine.ran_out("disk", FULL, again=False)
    place.machine.succeeded()
    assert place.machine.out


async def test_the_log_says_once_what_is_missing_and_where_and_once_that_it_is_over(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "consumer.machine")
    for _ in range(3):
        await place.machine.ran_out("disk", FULL, again=False)
    place.supplies.short.add("disk")
    place.mended_after(3)
    await place.machine.recovered()
    place.machine.succeeded()
    assert [record.getMessage() for record in caplog.records] == [
        f"out of disk: {FULL}; /work: 0 bytes of disk: no work is taken until there is more",
        "there is enough disk again: a delivery is taken as a trial",
    ]
