"""Dead letters over HTTP: found, shown, replayed, discarded, exported and imported; only the operator may act."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime

import httpx
import orjson
import pytest

import ingress.dead_letters as ingress_dead_letters
from shared.messages import Attempt, ConversionRequest, DeadLetter, DriverChoice, Failure
from shared.oci.reference import parse_reference
from tests.dead_letters import dead
from tests.unit.ingress.conftest import OPERATOR, Ingress, running, settings_for

URL = "/api/v1/dead-letters"


def letter(number: int, code: str = "denied", repository: str = "library/app") -> DeadLetter:
    failure = Failure(code=code, kind="permanent", message="no")
    source = parse_reference(f"harbor.dev/{repository}:v{number}@sha256:{number:064x}")
    request = ConversionRequest(
        id=f"{number:032x}",
        source=source,
        target=source.with_tag(f"v{number}_esgz"),
        driver=DriverChoice(type="estargz"),
    )
    now = datetime.now(UTC)
    return DeadLetter(
        id=f"letter-{number}",
        request=request,
        failure=failure,
        attempts=(Attempt(number=1, started_at=now, duration_seconds=1, consumer="h/1", failure=failure),),
        died_at=now,
        traceparent="00-" + f"{number + 1:032x}" + "-" + "b" * 16 + "-01",
    )


@pytest.fixture
async def filled() -> AsyncIterator[Ingress]:
    async with running(settings_for(ICS_CONSOLE__CREDENTIAL="viewer:word")) as ingress:
        for number in range(5):
            await ingress.broker.dead_letters.add(letter(number, "denied" if number % 2 else "corrupt_layer"))
        await ingress.broker.dead_letters.add(letter(9, repository="team/other"))
        yield ingress


VIEWER = httpx.BasicAuth("viewer", "word")


async def ids(ingress: Ingress, **where: str) -> list[str]:
    answer = await ingress.http.get(URL, params=where, auth=VIEWER)
    assert answer.status_code == 200
    return [item["id"] for item in answer.json()["items"]]


async def test_the_list_is_filtered_and_paged_oldest_first(filled: Ingress) -> None:
    assert await ids(filled) == ["letter-0", "letter-1", "letter-2", "letter-3", "letter-4", "letter-9"]
    assert await ids(filled, code="denied", repository="library/*") == ["letter-1", "letter-3"]
    assert await ids(filled, tag="v9") == ["letter-9"]
    assert await ids(filled, offset="2", limit="2") == ["letter-2", "letter-3"]
    assert await ids(filled, older_than_seconds="3600") == []
    assert await ids(filled, q="TEAM/other") == ["letter-9"]
    assert await ids(filled, code="corrupt_*", until="2999-01-01T00:00:00Z") == ["letter-0", "letter-2", "letter-4"]
    assert await ids(filled, priority="backfill") == []
    assert (await filled.http.get(URL, params={"older_than": "1h"}, auth=VIEWER)).status_code == 422


async def test_an_export_asks_whatever_a_list_does(filled: Ingress) -> None:
    for where, count in (
        ({"older_than_seconds": "3600"}, 0),
        ({"newer_than_seconds": "3600"}, 6),
        ({"newer_than_seconds": "3600", "code": "denied", "q": "library/app"}, 2),
    ):
        answer = await filled.http.get(f"{URL}/export", params=where, auth=VIEWER)
        assert len(answer.content.splitlines()) == count


async def test_reading_needs_a_credential_and_acting_the_operators(filled: Ingress) -> None:
    assert (await filled.http.get(URL)).status_code == 401
    assert (await filled.http.post(f"{URL}/letter-1/replay", auth=VIEWER)).status_code == 401
    assert (await filled.http.delete(f"{URL}/letter-1")).status_code == 401
    forged = {"Origin": "https://evil.example.com", "Sec-Fetch-Site": "cross-site"}
    assert (await filled.http.post(f"{URL}/letter-1/replay", auth=OPERATOR, headers=forged)).status_code == 403
    assert await dead(filled.broker) == 6


async def test_without_an_operator_credential_nobody_may_act() -> None:
    settings = settings_for()
    settings = settings.model_copy(
        update={"console": settings.console.model_copy(update={"operator_credential": None})}
    )
    async with running(settings) as ingress:
        answer = await ingress.http.delete(f"{URL}/x", auth=OPERATOR)
        assert answer.status_code == 403


async def test_one_letter_is_shown_whole(filled: Ingress) -> None:
    shown = DeadLetter.model_validate_json((await filled.http.get(f"{URL}/letter-3", auth=VIEWER)).content)
    assert shown.failure.code == "denied"
    assert shown.attempts[0].consumer == "h/1"
    assert (await filled.http.get(f"{URL}/nothing", auth=VIEWER)).status_code == 404


async def test_a_replay_puts_the_request_back_linked_to_its_old_trace(filled: Ingress) -> None:
    answer = await filled.http.post(f"{URL}/letter-1/replay", auth=OPERATOR)
    assert answer.json() == {"done": 1, "gone": 0, "failed": 0, "errors": []}
    ((request, headers),) = await filled.queued(1)
    assert request.replay_of == "letter-1"
    assert request.replayed_trace == letter(1).traceparent
    assert headers["traceparent"] != letter(1).traceparent
    assert await dead(filled.broker) == 5
    again = await filled.http.post(f"{URL}/letter-1/replay", auth=OPERATOR)
    assert again.status_code == 404


async def test_a_dry_run_counts_and_changes_nothing(filled: Ingress) -> None:
    answer = await filled.http.post(f"{URL}/replay", json={"code": "denied", "dry_run": True}, auth=OPERATOR)
    assert answer.json()["count"] == 3
    assert await dead(filled.broker) == 6


async def test_letters_that_are_not_there_are_counted_as_gone(filled: Ingress) -> None:
    named = {"ids": ["letter-1", "unheard", "of"]}
    answer = await filled.http.post(f"{URL}/discard", json=named, auth=OPERATOR)
    assert answer.json() == {"done": 1, "gone": 2, "failed": 0, "errors": []}
    answer = await filled.http.post(f"{URL}/discard", json=named | {"code": "denied"}, auth=OPERATOR)
    assert answer.json()["gone"] == 0


async def test_a_canary_replays_the_oldest_first(filled: Ingress) -> None:
    answer = await filled.http.post(f"{URL}/replay", json={"all": True, "limit": 2, "rate": 1000}, auth=OPERATOR)
    assert answer.json()["done"] == 2
    assert await ids(filled) == ["letter-2", "letter-3", "letter-4", "letter-9"]


async def test_everything_needs_to_be_said_aloud(filled: Ingress) -> None:
    assert (await filled.http.post(f"{URL}/discard", json={}, auth=OPERATOR)).status_code == 400
    assert (await filled.http.post(f"{URL}/discard", json={"al": True}, auth=OPERATOR)).status_code == 422
    answer = await filled.http.post(f"{URL}/discard", json={"all": True}, auth=OPERATOR)
    assert answer.json()["done"] == 6
    assert await dead(filled.broker) == 0


async def test_a_form_of_another_site_cannot_act(filled: Ingress) -> None:
    answer = await filled.http.post(
        f"{URL}/discard", content=b'{"all": true}', headers={"Content-Type": "text/plain"}, auth=OPERATOR
    )
    assert answer.status_code == 415


async def test_an_export_can_be_imported_elsewhere_and_twice_is_once(filled: Ingress) -> None:
    export = (await filled.http.get(f"{URL}/export", auth=VIEWER)).content
    assert len(export.splitlines()) == 6
    async with running(settings_for()) as other:
        for _ in range(2):
            answer = await other.http.post(f"{URL}/import", content=export, auth=OPERATOR)
            assert answer.json()["imported"] == 6
        assert await dead(other.broker) == 6
        bad = await other.http.post(f"{URL}/import", content=export + orjson.dumps({"id": 1}), auth=OPERATOR)
        assert bad.status_code == 400
        assert "line 7" in bad.json()["detail"]


async def test_an_import_is_bounded_by_no_setting(ingress: Ingress, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingress_dead_letters, "IMPORT_LIMIT", 10)
    answer = await ingress.http.post(f"{URL}/import", content=b"{}" * 20, auth=OPERATOR)
    assert (answer.status_code, answer.json()["detail"]) == (413, "at most 10 bytes")


async def test_a_broker_that_goes_away_loses_no_letter(filled: Ingress) -> None:
    letters = (await filled.http.get(URL, auth=VIEWER)).json()["total"]
    filled.server.available = False
    answer = await filled.http.post(f"{URL}/replay", json={"all": True}, auth=OPERATOR)
    assert answer.status_code in {200, 503}
    filled.server.available = True
    assert await dead(filled.broker) == letters
