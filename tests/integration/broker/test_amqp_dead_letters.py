"""Dead letters on RabbitMQ in numbers: more than one consumer's prefetch, and a queue that stops answering."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from shared.broker.amqp import dead_letters
from shared.broker.open import open_broker
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
