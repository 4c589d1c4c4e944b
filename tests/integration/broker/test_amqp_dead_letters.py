"""Dead letters on RabbitMQ in numbers: more than one consumer's prefetch, and a queue that stops answering."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest
from aio_pika.exceptions import AMQPConnectionError

from shared.broker.amqp import dead_letters
from shared.broker.amqp.link import AmqpLink
from shared.broker.open import open_broker
from shared.broker.queue import QueueBroker
from shared.broker.wire import DEAD_LETTER_ID, WireMessage
from shared.errors import TransientError
from tests.dead_letters import dead
from tests.integration.broker.conftest import Server, settings_for
from tests.unit.ingress.test_dead_letters import letter


async def test_a_look_sees_all_in_their_order_however_many_there_are(
    servers: Callable[[str], Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead_letters, "PREFETCH", 2)
    async with open_broker(settings_for(servers("rabbitmq").url, "many", tmp_path)) as broker:
        letters = [letter(number) for number in range(7)]
        for each in letters:
            await broker.dead_letters.add(each)
        for _ in range(3):
            assert [each.id async for each in broker.dead_letters.list()] == [each.id for each in letters]
        assert await broker.dead_letters.discard(letters[5].id)
        assert await broker.dead_letters.replay(letters[0].id)
        left = [each.id for each in letters if each not in (letters[0], letters[5])]
        assert [each.id async for each in broker.dead_letters.list()] == left


async def test_a_look_that_is_cut_off_hides_nothing_from_the_next(
    servers: Callable[[str], Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_for(servers("rabbitmq").url, "cut", tmp_path)
    async with open_broker(settings) as broker, open_broker(settings) as other:
        await broker.dead_letters.add(letter(1))
        fill, filled = dead_letters.AmqpDeadLetters._fill, asyncio.Event()

        async def held(store: dead_letters.AmqpDeadLetters, look: dead_letters._Look) -> None:
            await fill(store, look)
            filled.set()
            await asyncio.Event().wait()

        with monkeypatch.context() as patched:
            patched.setattr(dead_letters.AmqpDeadLetters, "_fill", held)
            looking = asyncio.create_task(dead(broker))
            await filled.wait()
            looking.cancel()
            await asyncio.wait((looking,))
        assert (await dead(broker), await dead(other)) == (1, 1)


async def test_a_broker_that_goes_away_before_a_look_is_told_as_such(
    servers: Callable[[str], Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_broker(settings_for(servers("rabbitmq").url, "away", tmp_path)) as broker:
        await broker.check_health()

        async def refused(_self: AmqpLink) -> None:
            raise AMQPConnectionError(ConnectionRefusedError(111, "refused"))

        monkeypatch.setattr(AmqpLink, "_connect", refused)
        with pytest.raises(TransientError) as told:
            await dead(broker)
        assert told.value.code == "broker_unavailable"


async def test_a_letter_that_is_there_twice_is_one_and_goes_as_one(
    servers: Callable[[str], Server], tmp_path: Path
) -> None:
    async with open_broker(settings_for(servers("rabbitmq").url, "twice", tmp_path)) as broker:
        for number in (1, 2, 1):
            await broker.dead_letters.add(letter(number))
        assert [each.id async for each in broker.dead_letters.list()] == ["letter-1", "letter-2"]
        assert await broker.dead_letters.discard("letter-1")
        assert [each.id async for each in broker.dead_letters.list()] == ["letter-2"]


async def test_a_letter_that_cannot_be_read_is_shown_whole_and_goes_by_the_id_that_is_shown(
    servers: Callable[[str], Server], tmp_path: Path
) -> None:
    async with open_broker(settings_for(servers("rabbitmq").url, "unreadable", tmp_path)) as broker:
        made = letter(1)
        headers = {DEAD_LETTER_ID: made.id, "traceparent": made.traceparent}
        await cast("QueueBroker", broker)._transport.dead.put(made, WireMessage(b"{", headers))
        (shown,) = [each async for each in broker.dead_letters.list()]
        assert (shown.request, shown.raw, shown.traceparent) == (None, "{", made.traceparent)
        assert await broker.dead_letters.discard(shown.id)
        assert await dead(broker) == 0


async def test_a_look_keeps_nothing_of_what_is_not_wanted(servers: Callable[[str], Server], tmp_path: Path) -> None:
    async with open_broker(settings_for(servers("rabbitmq").url, "wanted", tmp_path)) as broker:
        for number in range(3):
            await broker.dead_letters.add(letter(number))
        store = cast("dead_letters.AmqpDeadLetters", cast("QueueBroker", broker)._transport.dead)
        look = await store._open_look(lambda each: each.id == "letter-1")
        assert (list(look.tags), list(look.kept)) == (["letter-0", "letter-1", "letter-2"], ["letter-1"])
