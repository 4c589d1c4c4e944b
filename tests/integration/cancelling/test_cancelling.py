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
from tests.integration.resources.test_consumer_process import MIDDLE_OF_AN_UPLOAD, REGISTRY, Place, place
from tests.waiting import PATIENCE, until

OPERATOR = "operator:word"


async def status_api(here: Place, method: str, path: str) -> tuple[int, Any]:
    headers = {"Authorization": encode_basic_auth(*OPERATOR.split(":"))}
    base = f"http://127.0.0.1:{here.system.settings.http.port}/api/v1/status/conversions/"
    async with (
        ClientSession(timeout=ClientTimeout(total=PATIENCE), headers=headers) as session,
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

    await until(so)
    return found


def ics_cancel(here: Place, *arguments: str) -> tuple[int, Any]:
    result = CliRunner().invoke(
        app, ["cancel", *arguments, "--config", str(here.system.folder / "config.yml"), "--output", "json"]
    )
    return result.exit_code, orjson.loads(result.stdout or b"null")


@pytest.mark.parametrize("broker", ["rabbitmq", "embedded"])
async def test_what_is_cancelled_ends_and_what_is_asked_for_later_converts(tmp_path: Path, broker: BrokerKind) -> None:
    async with place(
        tmp_path, broker, maximum_concurrency=1, console={"operator_credential": OPERATOR}, timeouts={"drain": 0.5}
    ) as here:
        here.proxy.arm(Fault(*MIDDLE_OF_AN_UPLOAD))
        running = await here.announced("v1", 1)
        await here.struck()
        await shown(here, running, "converting")
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
        await until(lambda: here.shows("ics_conversion_attempts_total", 2))  # by any outcome: there was no other yet
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


@pytest.mark.parametrize("broker", ["rabbitmq", "embedded"])
async def test_hundreds_that_match_end_at_a_consumer_that_begins_later(tmp_path: Path, broker: BrokerKind) -> None:
    async with place(tmp_path, broker, maximum_concurrency=4, console={"operator_credential": OPERATOR}) as here:
        here.proxy.arm(Fault(*MIDDLE_OF_AN_UPLOAD))
        running = await here.announced("v1", 1)
        await here.struck()
        await shown(here, running, "converting")
        here.system.consumer.kill()
        for number in range(300):  # images that are not there: converted, they would be skipped
            await here.system.accepted(f"{REGISTRY}/library/app:w{number}", f"sha256:{number:064x}")
        other = await here.system.accepted(f"{REGISTRY}/team/app:v1", f"sha256:{1:064x}")
        await shown(here, other, "queued")

        which = ("--repository", "library/*", "--newer-than", "1h")
        code, found = await asyncio.to_thread(ics_cancel, here, *which, "--dry-run")
        assert (code, found["count"], found["by_status"]) == (0, 301, {"queued": 300, "converting": 1})
        assert running in found["ids"]
        assert await asyncio.to_thread(ics_cancel, here, *which) == (2, None)  # nobody to be asked
        code, done = await asyncio.to_thread(ics_cancel, here, *which, "--yes")
        assert (code, done["count"]) == (0, 301)
        later = await here.announced("v2", 2)

        here.proxy.calm()
        await here.system.consumer.restart()
        await here.converted("v2")
        await shown(here, later, "succeeded")
        ended = await shown(here, running, "cancelled")
        assert (ended["cancelled_by"][:4], ended["attempts"][0]["outcome"]) == ("cli:", "interrupted")
        assert (await shown(here, other, "skipped"))["reason"] == "superseded"  # it was looked at, and is not there
        await here.system.idle()

        async def all_cancelled() -> bool:
            _, page = await status_api(here, "GET", "../conversions?status=cancelled&limit=500")
            return len(page["items"]) == 301

        await until(all_cancelled)
        assert await here.system.client.resolve(here.direct("v1_esgz")) is None
        code, found = await asyncio.to_thread(ics_cancel, here, "--all", "--yes")
        assert (code, found["count"]) == (0, 0)
