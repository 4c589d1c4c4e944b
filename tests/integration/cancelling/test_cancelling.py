"""Conversions are cancelled as operators do it, in the middle of an upload and in the queue of a real broker."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp import ClientSession, ClientTimeout, encode_basic_auth
from typer.testing import CliRunner

from cli.main import app
from shared.messages import DeadLetter, Failure
from tests.e2e.system import BrokerKind
from tests.faults.proxy import Fault
from tests.integration.resources.test_consumer_process import MIDDLE_OF_AN_UPLOAD, Place, place, until_async

OPERATOR = "operator:word"


async def status_api(here: Place, method: str, path: str) -> tuple[int, Any]:
    headers = {"Authorization": encode_basic_auth(*OPERATOR.split(":"))}
    base = f"http://127.0.0.1:{here.system.settings.http.port}/api/v1/status/conversions/"
    async with (
        ClientSession(timeout=ClientTimeout(total=20), headers=headers) as session,
        session.request(method, base + path) as answer,
    ):
        return answer.status, orjson.loads(await answer.read())


async def shown(here: Place, identity: str, status: str) -> Any:
    """The conversion, once the status API shows it so."""
    found: Any = None

    async def so() -> bool:
        nonlocal found
        code, found = await status_api(here, "GET", identity)
        return code == 200 and found["status"] == status

    await until_async(so)
    return found


def ics_cancel(here: Place, *ids: str) -> tuple[int, list[Any]]:
    result = CliRunner().invoke(
        app, ["cancel", *ids, "--config", str(here.system.folder / "config.yml"), "--output", "json"]
    )
    return result.exit_code, orjson.loads(result.stdout)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("broker", ["rabbitmq", "embedded"])
async def test_what_is_cancelled_ends_and_what_is_asked_for_later_converts(tmp_path: Path, broker: BrokerKind) -> None:
    async with place(
        tmp_path, broker, maximum_concurrency=1, console={"operator_credential": OPERATOR}, timeouts={"drain": 0.5}
    ) as here:
        here.proxy.arm(Fault(*MIDDLE_OF_AN_UPLOAD))
        running = await here.announced("v1", 1)
        await here.struck()
        waiting = await here.announced("v2", 2)
        assert here.system.registry.upload_sessions()
        await shown(here, waiting, "queued")

        code, answers = await asyncio.to_thread(ics_cancel, here, waiting, "unknown")
        assert (code, [each.get("code", each.get("status")) for each in answers]) == (
            1,
            ["queued", "no_such_conversion"],
        )
        status, answer = await status_api(here, "POST", f"{running}/cancel")
        assert (status, answer["status"], answer["actor"]) == (202, "converting", "operator")

        ended = await shown(here, running, "cancelled")
        assert (ended["cancelled_by"], [each["outcome"] for each in ended["attempts"]]) == ("operator", ["cancelled"])
        ended = await shown(here, waiting, "cancelled")
        assert (ended["cancelled_by"][:4], ended["attempts"]) == ("cli:", [])
        assert (await status_api(here, "POST", f"{running}/cancel"))[0] == 409
        await here.system.idle()
        assert here.system.registry.upload_sessions() == []
        assert await here.metric("ics_conversion_attempts_total") == 2  # by any outcome: there was no other yet
        for tag in ("v1_esgz", "v2_esgz"):
            assert await here.system.client.resolve(here.direct(tag)) is None

        here.proxy.calm()
        # A consumer that begins after the cancellation knows of it.
        await here.system.consumer.stop()
        later = await here.announced("v3", 3)
        await shown(here, later, "queued")
        assert (await status_api(here, "POST", f"{later}/cancel"))[0] == 202
        await here.system.consumer.start()
        assert (await shown(here, later, "cancelled"))["attempts"] == []

        # The same image pushed anew, and the same request replayed: both were published after the cancellation.
        assert await here.announced("v1", 1) != running
        await here.converted("v1")
        request = (await here.told(waiting, "requested")).data.request
        failure = Failure(code="denied", kind="permanent", message="no")
        letter = DeadLetter(id="again", request=request, failure=failure, died_at=datetime.now(UTC))
        await here.system.broker.dead_letters.add(letter)
        assert await here.system.broker.dead_letters.replay("again") is not None
        await here.converted("v2")
        assert (await shown(here, waiting, "succeeded"))["run"] == 2
