"""What ``shared.broker.api.Claims`` promises, held against every implementation."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aio_pika
import pytest
from aiormq.exceptions import ChannelNotFoundEntity

from shared.broker import claims
from shared.broker.api import Broker
from shared.broker.jetstream import claims as jetstream_claims
from shared.broker.jetstream import link
from shared.broker.open import open_broker
from tests.integration.broker.conftest import Kind, settings_for
from tests.servers.nats import NatsServer
from tests.servers.ports import free_port
from tests.servers.rabbitmq import RabbitServer
from tests.waiting import PATIENCE

KEY = "harbor.example.com/library/ics-cache:" + "a" * 64
REAL = pytest.mark.parametrize("kind", ["nats", "rabbitmq"], indirect=True)
SOON = PATIENCE
"""Seconds: a limit, not an expectation."""


async def free(broker: Broker, key: str = KEY, patience: float = 0) -> bool:
    async with asyncio.timeout(SOON), broker.claim(key, patience) as ours:
        return ours


async def cancelled(task: asyncio.Future[Any]) -> None:
    task.cancel()
    await asyncio.wait((task,))
    assert task.cancelled()


async def test_a_claim_has_one_holder_until_it_is_left(kind: Kind) -> None:
    async with kind.connect() as one, kind.connect() as other:
        for broker in (one, other, one):
            async with broker.claim(KEY, 0) as ours:
                assert ours
                assert not await free(one)
                assert not await free(other)
                assert await free(other, "another key")
        assert await free(other)


async def test_who_waits_is_let_in_when_the_holder_leaves(kind: Kind) -> None:
    async with kind.connect() as one, kind.connect() as other:
        async with one.claim(KEY, 0):
            waiting = [asyncio.create_task(free(broker, patience=SOON)) for broker in (other, one, other)]
            await asyncio.sleep(0.7)
            assert not any(task.done() for task in waiting)
        assert await asyncio.gather(*waiting) == [True] * 3


async def test_patience_ends(kind: Kind) -> None:
    async with kind.connect() as one, kind.connect() as other, one.claim(KEY, 0):
        assert not await free(other, patience=0.2)
        assert not await free(other, patience=0.2)


async def test_of_many_who_come_at_once_one_gets_it(kind: Kind) -> None:
    async with kind.connect() as one, kind.connect() as other:
        go_home = asyncio.Event()
        answers: asyncio.Queue[bool] = asyncio.Queue()

        async def come(broker: Broker) -> None:
            async with broker.claim(KEY, 0) as ours:
                answers.put_nowait(ours)
                await go_home.wait()

        tasks = [asyncio.create_task(come(broker)) for broker in (one, other) * 4]
        async with asyncio.timeout(SOON):
            assert sorted([await answers.get() for _ in tasks]) == [False] * 7 + [True]
        go_home.set()
        await asyncio.gather(*tasks)
        assert await free(other)


async def test_who_is_cancelled_leaves_nothing_behind(kind: Kind) -> None:
    async def hold(broker: Broker, patience: float) -> None:
        async with broker.claim(KEY, patience):
            inside.set()
            await asyncio.Event().wait()

    async with kind.connect() as one, kind.connect() as other:
        inside = asyncio.Event()
        holder = asyncio.create_task(hold(one, 0))
        await inside.wait()
        waiting = asyncio.create_task(hold(other, SOON))
        await asyncio.sleep(0.3)
        await cancelled(waiting)
        assert not await free(other)
        await cancelled(holder)
        assert await free(other)


async def test_what_is_raised_inside_comes_out(kind: Kind) -> None:
    async with kind.connect() as broker:
        for error in (OSError, TimeoutError, RuntimeError, ConnectionError):
            with pytest.raises(error):
                async with broker.claim(KEY, 0):
                    raise error
        assert await free(broker)


@pytest.mark.parametrize("kind", ["memory", "rabbitmq"], indirect=True)
async def test_a_connection_that_ends_takes_its_claims_along(kind: Kind) -> None:
    async with kind.connect() as survivor, AsyncExitStack() as held:
        async with kind.connect() as ending:
            assert await held.enter_async_context(ending.claim(KEY, 0))
        assert await free(survivor, patience=SOON)


CHILD = """
import asyncio, os, sys
from drivers.api import DriverOptions
from shared.broker.open import open_broker
from shared.settings.load import load_settings

async def main():
    settings = load_settings(None, environ=dict(os.environ), option_models={"none": DriverOptions})
    async with open_broker(settings) as broker, broker.claim(sys.argv[1], 0) as ours:
        print(ours, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


@REAL
async def test_a_process_that_is_killed_takes_its_claims_along(kind: Kind) -> None:
    environment = {
        **os.environ,
        "ICS_BROKER__URL": kind.url,
        "ICS_BROKER__PREFIX": kind.prefix,
        "ICS_BROKER__DELIVERY_LIMIT": "1",
        "ICS_DRIVER": '{"type": "none"}',
    }
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", CHILD, KEY), env=environment, stdout=asyncio.subprocess.PIPE
    )
    assert child.stdout is not None
    async with asyncio.timeout(SOON), kind.connect() as broker:
        assert await child.stdout.readline() == b"True\n"
        assert not await free(broker)
        child.kill()
        await child.wait()
        assert await free(broker, patience=SOON)


@pytest.mark.parametrize("kind", ["nats"], indirect=True)
async def test_a_claim_lasts_longer_than_a_dead_holders(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.broker.jetstream.claims.CLAIM_AGE", 3.0)
    monkeypatch.setattr("shared.broker.jetstream.topology.CLAIM_AGE", 3.0)
    async with kind.connect() as one, kind.connect() as other, one.claim(KEY, 0):
        assert not await free(other, patience=7)


@REAL
async def test_without_a_broker_everybody_goes_on(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "ANSWER", 1.0)
    monkeypatch.setattr(claims, "REST", 0.0)
    monkeypatch.setattr(claims, "RELEASE", 0.5)
    assert kind.server is not None
    async with kind.connect() as one, kind.connect() as other:
        async with one.claim(KEY, 0):
            waiting = asyncio.create_task(free(other, patience=SOON))
            await asyncio.sleep(0.2)
            kind.server.kill()
            assert await free(other)
            assert await free(one, patience=0.5)
        kind.server.start()
        assert await waiting  # told of the loss, or let in afterwards
        async with asyncio.timeout(SOON):
            while True:  # until both are connected again
                async with one.claim(KEY, 0) as ours:
                    if ours and not await free(other):
                        break
                await asyncio.sleep(0.2)


@REAL
async def test_a_broker_that_hangs_holds_nobody_up(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "ANSWER", 0.5)
    monkeypatch.setattr(claims, "RELEASE", 0.5)
    process: Any = kind.server.process  # type: ignore[union-attr]
    async with kind.connect() as broker:
        assert await free(broker)
        group = os.getpgid(process.pid) if kind.name == "rabbitmq" else None
        pause, go_on = signal.SIGSTOP, signal.SIGCONT
        os.killpg(group, pause) if group else os.kill(process.pid, pause)
        try:
            async with asyncio.timeout(SOON):
                assert await free(broker)
                for _ in range(20):  # it is not asked again for every layer
                    assert await free(broker, patience=1000)
        finally:
            os.killpg(group, go_on) if group else os.kill(process.pid, go_on)


@pytest.mark.parametrize("kind", ["rabbitmq"], indirect=True)
async def test_no_queue_is_left(kind: Kind) -> None:
    async with kind.connect() as one, kind.connect() as other:
        async with one.claim(KEY, 0):
            assert not await free(other)
            assert not await free(other, patience=0.1)
        connection = await aio_pika.connect(kind.url)
        async with connection, asyncio.timeout(SOON):
            await gone(connection, f"{kind.prefix}.claim.{claims._name(KEY)}")


@pytest.mark.parametrize("kind", ["rabbitmq"], indirect=True)
async def test_hundreds_of_claims_leave_nothing_in_the_process(kind: Kind) -> None:
    async def some(count: int) -> int:
        for first in range(0, count, 20):
            await asyncio.gather(*(free(broker, f"{number}") for number in range(first, first + 20)))
        gc.collect()
        return len(gc.get_objects())

    async with kind.connect() as broker:
        before = await some(40)
        assert await some(200) - before < 200  # aio-pika's channels leave some thirty each


@pytest.mark.parametrize("kind", ["rabbitmq"], indirect=True)
async def test_whoever_is_cancelled_costs_nobody_else_the_claim(kind: Kind) -> None:
    """At any instant, twice: between any two calls to the broker, and in the middle of each."""

    async def passer_by(broker: Broker, number: int) -> None:
        asking = asyncio.ensure_future(free(broker, f"{number // 3}", number % 3))
        await asyncio.sleep(number / 1_000)
        asking.cancel()
        await asyncio.sleep(number / 10_000)
        asking.cancel()
        await asyncio.wait((asking,))

    async with kind.connect() as one, kind.connect() as other, one.claim(KEY, 0) as ours:
        assert ours
        for _ in range(5):
            await asyncio.gather(*(passer_by(one, number) for number in range(60)))
        assert not await free(other)
    connection = await aio_pika.connect(kind.url)
    async with connection, asyncio.timeout(SOON):
        for number in range(20):
            await gone(connection, f"{kind.prefix}.claim.{claims._name(str(number))}")


@pytest.mark.parametrize("kind", ["rabbitmq"], indirect=True)
async def test_a_user_who_may_not_claim_goes_on_and_is_told_once(
    kind: Kind, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(claims, "REST", 0.0)
    assert isinstance(kind.server, RabbitServer)
    await asyncio.to_thread(kind.server.control, "add_user", kind.prefix, "secret")
    allowed = f"{kind.prefix}\\.(conversions|dead|events|cancellations).*"
    await asyncio.to_thread(kind.server.control, "set_permissions", kind.prefix, allowed, ".*", ".*")
    url = kind.url.replace("guest:guest", f"{kind.prefix}:secret")
    async with open_broker(settings_for(url, kind.prefix, Path())) as broker:
        for _ in range(3):
            async with broker.claim(KEY, 0) as one, broker.claim(KEY, 60) as other:
                assert one
                assert other
        await broker.check_health()
    (record,) = (record for record in caplog.records if record.name == claims.__name__)
    assert record.levelname == "WARNING"
    assert f"does not let this user declare and use queues like {kind.prefix}.claim." in record.getMessage()


@pytest.mark.parametrize("denied", ["t.claims.>", "$JS.API.STREAM.CREATE.t-claims", "$JS.API.STREAM.PURGE.t-claims"])
async def test_a_user_of_nats_who_may_not_claim_goes_on_and_is_told_once(
    denied: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The server's refusal is heard: nobody waits for an answer, which would have come to an end by itself here."""
    for limit in ("ELECTION", "_TRY"):
        monkeypatch.setattr(jetstream_claims, limit, 10 * PATIENCE)
    monkeypatch.setattr(claims, "REST", 0.0)
    monkeypatch.setattr(claims, "RELEASE", 10 * PATIENCE)
    configuration = tmp_path / "nats.conf"
    permissions = f'{{publish: {{deny: "{denied}"}}}}'
    configuration.write_text(f"authorization {{users: [{{user: u, password: p, permissions: {permissions}}}]}}")
    server = NatsServer(tmp_path, free_port(), more=("-c", str(configuration)))
    server.start()
    try:
        url = server.url.replace("//", "//u:p@")
        async with asyncio.timeout(PATIENCE), open_broker(settings_for(url, "t", tmp_path)) as broker:
            for number in range(3):
                async with broker.claim(f"{number}", 60) as ours:
                    assert ours
            await broker.check_health()
    finally:
        server.kill()
    assert not [record for record in caplog.records if record.name == link.__name__ and "trying on" in record.msg]
    told = [record.getMessage() for record in caplog.records if record.name == claims.__name__]
    if "PURGE" in denied:  # what cannot be given back expires
        assert not told
    else:
        (message,) = told
        assert "NATS does not let this user use t-claims and t.claims." in message


async def test_a_server_without_room_for_claims_is_gone_on_without(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    configuration = tmp_path / "nats.conf"
    configuration.write_text("jetstream {max_memory_store: 0, max_file_store: 1G}")
    server = NatsServer(tmp_path, free_port(), more=("-c", str(configuration)))
    server.start()
    try:
        async with open_broker(settings_for(server.url, "t", tmp_path)) as broker:
            for _ in range(3):
                assert await free(broker, patience=SOON)
            await broker.check_health()
    finally:
        server.kill()
    (record,) = (record for record in caplog.records if record.name == claims.__name__)
    assert record.levelname == "WARNING"
    assert "insufficient memory" in record.getMessage()


async def gone(connection: aio_pika.abc.AbstractConnection, queue: str) -> None:
    while True:
        channel = await connection.channel()
        try:
            await channel.declare_queue(queue, passive=True)
        except ChannelNotFoundEntity:
            return
        await asyncio.sleep(0.1)
