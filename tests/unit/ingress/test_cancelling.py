"""Cancelling over HTTP: who may, what can be, what every consumer is told, and the console's pages for it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from ingress.status import cancelling as module
from ingress.status.history import History
from shared.broker.transport import unavailable
from shared.events import ConversionEvent, conversion_event
from shared.messages import ConversionRequest, DriverChoice, Failure
from shared.oci.reference import parse_reference
from shared.request_filter import RequestFilter
from tests.unit.ingress.conftest import OPERATOR, Ingress, running, settings_for
from tests.waiting import PATIENCE, until

URL = "/api/v1/status/conversions"
VIEWER = httpx.BasicAuth("viewer", "word")
ENDS = ("succeeded", "skipped", "failed", "cancelled")


def request(number: int = 1) -> ConversionRequest:
    source = parse_reference(f"harbor.dev/library/app:v{number}@sha256:{number:064x}")
    return ConversionRequest(
        id=f"{number:032x}",
        source=source,
        target=source.with_tag(f"v{number}_esgz"),
        driver=DriverChoice(type="estargz"),
    )


@pytest.fixture
async def ingress() -> AsyncIterator[Ingress]:
    async with running(settings_for(ICS_CONSOLE__CREDENTIAL="viewer:word")) as found:
        yield found


async def tell(ingress: Ingress, *events: ConversionEvent) -> History:
    """Until the ingress knows."""
    await ingress.broker.events.publish(*events)
    history: History = ingress.app.state.status.history
    await until(lambda: (history.last_event or 0) >= events[-1].time.timestamp())
    return history


async def shown(ingress: Ingress, number: int = 1) -> dict[str, object]:
    answer = await ingress.http.get(f"{URL}/{number:032x}", auth=VIEWER)
    assert answer.status_code == 200
    found: dict[str, object] = answer.json()
    return found


async def is_being_cancelled(ingress: Ingress, number: int = 1) -> bool:
    return (await shown(ingress, number))["cancelling"] is not None


async def told(ingress: Ingress) -> list[ConversionEvent]:
    return [event async for event in ingress.broker.cancellations.read(follow=False)]


async def test_one_that_waits_is_cancelled_by_the_operator(ingress: Ingress) -> None:
    await tell(ingress, conversion_event("requested", request()))
    answer = await ingress.http.post(f"{URL}/{request().id}/cancel", auth=OPERATOR)
    assert answer.status_code == 202
    assert answer.json() == {
        "id": request().id,
        "status": "queued",
        "actor": "operator",
        "prospect": "it ends unconverted when its message comes to a consumer",
    }
    (event,) = await told(ingress)
    assert (event.kind, event.subject, event.data.actor) == ("cancelling", request().id, "operator")
    await until(lambda: is_being_cancelled(ingress))
    cancelled = conversion_event("cancelled", request(), actor="operator", reason="cancelled by operator")
    await tell(ingress, cancelled)
    found = await shown(ingress)
    assert (found["status"], found["cancelled_by"], found["cancelling"]) == ("cancelled", "operator", None)
    listed = await ingress.http.get(URL, params={"status": "cancelled"}, auth=VIEWER)
    assert [each["reason"] for each in listed.json()["items"]] == ["cancelled by operator"]
    tasks = await ingress.http.get("/api/v1/conversions", auth=VIEWER)
    assert [(each["status"], each["reason"]) for each in tasks.json()] == [("FAILED", "cancelled by operator")]


async def test_only_the_operator_cancels_and_no_other_site_does(ingress: Ingress) -> None:
    await tell(ingress, conversion_event("requested", request()))
    url = f"{URL}/{request().id}/cancel"
    assert (await ingress.http.post(url)).status_code == 401
    assert (await ingress.http.post(url, auth=VIEWER)).status_code == 401
    forged = {"Origin": "https://evil.example.com", "Sec-Fetch-Site": "cross-site"}
    assert (await ingress.http.post(url, auth=OPERATOR, headers=forged)).status_code == 403
    assert await told(ingress) == []


async def test_what_is_not_known_and_what_has_ended_cannot_be(ingress: Ingress) -> None:
    for number, end in enumerate(ENDS, 1):
        r = request(number)
        await tell(ingress, conversion_event("requested", r), conversion_event(end, r))  # type: ignore[arg-type]
        answer = await ingress.http.post(f"{URL}/{r.id}/cancel", auth=OPERATOR)
        assert answer.status_code == 409
        assert answer.json()["detail"] == f"conversion {r.id} has ended: {end}"
    answer = await ingress.http.post(f"{URL}/unknown/cancel", auth=OPERATOR)
    assert (answer.status_code, answer.json()["type"]) == (404, "urn:ics:problem:no_such_conversion")
    assert await told(ingress) == []


async def test_a_history_that_is_still_read_says_so(ingress: Ingress) -> None:
    answer = await ingress.http.post(f"{URL}/{request().id}/cancel", auth=OPERATOR)
    assert (answer.status_code, answer.json()["title"]) == (503, "the history is still being read")


async def test_what_the_broker_does_not_keep_is_not_promised(ingress: Ingress, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(*_events: ConversionEvent) -> None:
        raise unavailable("it is away")

    await tell(ingress, conversion_event("requested", request()))
    monkeypatch.setattr(ingress.broker.events, "publish", away)
    url = f"{URL}/{request().id}/cancel"
    assert (await ingress.http.post(url, auth=OPERATOR)).status_code == 202  # the history alone is late
    monkeypatch.setattr(ingress.broker.cancellations, "publish", away)
    assert (await ingress.http.post(url, auth=OPERATOR)).status_code == 503


@pytest.mark.parametrize(("ahead", "counted"), [(60.0, 60.0), (86400.0, 300.0)])
async def test_a_clock_that_is_behind_cancels_all_the_same(ingress: Ingress, ahead: float, counted: float) -> None:
    """Whose message it is has a clock that is ahead; one that is wrong by a day does not count in full."""
    now = datetime.now(UTC)
    requested = conversion_event("requested", request()).model_copy(update={"time": now + timedelta(seconds=ahead)})
    history = await tell(ingress, requested)
    await module.cancel(ingress.broker, history, request().id, "boss")
    (event,) = await told(ingress)
    assert (event.time - now).total_seconds() == pytest.approx(counted, abs=5)


async def test_the_console_asks_before_it_cancels(ingress: Ingress) -> None:
    page = f"/console/conversions/{request().id}"
    await tell(ingress, conversion_event("requested", request()), conversion_event("started", request()))
    watched = (await ingress.http.get(page, auth=VIEWER)).text
    assert f'action="../conversions/{request().id}/cancel"><fieldset class="actions" disabled>' in watched
    asked = await ingress.http.post(f"{page}/cancel", auth=OPERATOR)
    assert asked.status_code == 200
    (token,) = re.findall(r'name="token" value="([0-9a-f]+)"', asked.text)
    wrong = await ingress.http.post(f"{page}/cancel/apply", auth=OPERATOR, data={"token": "0" * 64})
    assert (wrong.status_code, await told(ingress)) == (403, [])
    applied = await ingress.http.post(f"{page}/cancel/apply", auth=OPERATOR, data={"token": token})
    assert applied.status_code == 303
    assert str(applied.url.join(applied.headers["location"]).path) == page
    (event,) = await told(ingress)
    assert (event.subject, event.data.actor) == (request().id, "operator")
    await tell(ingress, conversion_event("cancelled", request(), actor="operator", reason="cancelled by operator"))
    after = (await ingress.http.get(f"{page}?asked=1", auth=VIEWER)).text
    assert "Cancelled by" in after
    assert "being cancelled" not in after
    assert (await ingress.http.post(f"{page}/cancel", auth=OPERATOR)).status_code == 409
    assert (await ingress.http.post("/console/conversions/unknown/cancel", auth=OPERATOR)).status_code == 404


async def test_live_updates_tell_of_a_cancellation(ingress: Ingress) -> None:
    status = ingress.app.state.status
    await tell(ingress, conversion_event("requested", request()))
    with status.live.subscribe() as client:
        await tell(ingress, conversion_event("cancelled", request(), actor="boss"))
        async with asyncio.timeout(PATIENCE), aclosing(status.live.updates(client, 60)) as updates:
            (update,) = await anext(updates)
        assert status.history.get(update.conversion).status == "cancelled"


async def three(ingress: Ingress) -> None:
    """One runs, two wait, of which one is another's; one has ended."""
    other = parse_reference(f"harbor.dev/team/api:v3@sha256:{3:064x}")
    await tell(
        ingress,
        conversion_event("requested", request(1)),
        conversion_event("started", request(1)),
        conversion_event("requested", request(2)),
        conversion_event("requested", request(3).model_copy(update={"source": other})),
        conversion_event("requested", request(4)),
        conversion_event("succeeded", request(4)),
    )
    status = ingress.app.state.status
    await until(lambda: not status.follower.rebuilding)


async def test_all_that_match_are_counted_first_and_then_cancelled_by_one_message(ingress: Ingress) -> None:
    await three(ingress)
    url, which = f"{URL}/cancel", {"repository": "library/*", "dry_run": True}
    asked = await ingress.http.post(url, auth=OPERATOR, json=which)
    found = asked.json()
    assert (asked.status_code, found["count"], found["by_status"]) == (200, 2, {"queued": 1, "converting": 1})
    assert found["ids"] == [request(2).id, request(1).id]
    assert await told(ingress) == []
    which |= {"dry_run": False, "status": ["queued"], "accepted_until": found["accepted_until"]}
    answer = await ingress.http.post(url, auth=OPERATOR, json=which)
    assert (answer.status_code, answer.json()["count"], answer.json()["actor"]) == (202, 1, "operator")
    (event,) = await told(ingress)
    where = RequestFilter(repository="library/*", statuses=frozenset({"queued"}))
    assert b'"where":{"repository":"library/*","statuses":["queued"]}' in event.model_dump_json().encode()
    assert (event.data.where, event.data.actor) == (where, "operator")
    assert event.time == datetime.fromisoformat(found["accepted_until"])
    await until(lambda: is_being_cancelled(ingress, 2))
    assert [(await shown(ingress, number))["cancelling"] for number in (1, 3, 4)] == [None] * 3
    # What the history shows as accepted later is neither counted nor told to end.
    which |= {"accepted_until": "2020-01-01T00:00:00Z"}
    answer = await ingress.http.post(url, auth=OPERATOR, json=which)
    assert (answer.json()["count"], len(await told(ingress))) == (0, 1)


@pytest.mark.parametrize(
    ("which", "code"),
    [
        ({}, 400),
        ({"dry_run": True}, 400),
        ({"status": ["succeeded"]}, 422),
        ({"colour": "blue"}, 422),
        ({"since": "2020-01-01T00:00:00"}, 422),
    ],
)
async def test_a_selection_says_what_it_wants(ingress: Ingress, which: dict[str, object], code: int) -> None:
    await three(ingress)
    answer = await ingress.http.post(f"{URL}/cancel", auth=OPERATOR, json=which)
    assert (answer.status_code, await told(ingress)) == (code, [])


async def test_only_the_operator_cancels_all_that_match(ingress: Ingress) -> None:
    url = f"{URL}/cancel"
    early = await ingress.http.post(url, auth=OPERATOR, json={"all": True})
    assert (early.status_code, early.json()["title"]) == (503, "the history is still being read")
    await three(ingress)
    assert (await ingress.http.post(url, json={"all": True})).status_code == 401
    assert (await ingress.http.post(url, auth=VIEWER, json={"all": True})).status_code == 401
    forged = {"Origin": "https://evil.example.com", "Sec-Fetch-Site": "cross-site"}
    assert (await ingress.http.post(url, auth=OPERATOR, json={"all": True}, headers=forged)).status_code == 403
    assert (await ingress.http.post(url, auth=OPERATOR, data={"all": "true"})).status_code == 415
    assert await told(ingress) == []
    answer = await ingress.http.post(url, auth=OPERATOR, json={"all": True})
    assert (answer.json()["count"], len(await told(ingress))) == (3, 1)


async def test_the_console_counts_before_it_cancels_all_that_match(ingress: Ingress) -> None:
    lists = {"repository": "library/*", "priority": "live"}
    early = await ingress.http.post("/console/conversions/cancel", auth=OPERATOR, data=lists)
    assert early.status_code == 503  # a count of half the history would be taken for all
    await three(ingress)
    for query, offered in (
        ({}, 0),
        (lists, 1),
        ({"status": "succeeded"}, 0),
        (lists | {"q": "app"}, 1),
        ({"code": "denied"}, 1),
    ):
        page = (await ingress.http.get("/console/conversions", params=query, auth=OPERATOR)).text
        assert page.count('action="conversions/cancel"') == offered
    assert (await ingress.http.post("/console/conversions/cancel", auth=OPERATOR, data={})).status_code == 422
    assert (await ingress.http.post("/console/conversions/cancel", auth=VIEWER, data=lists)).status_code == 401
    asked = await ingress.http.post("/console/conversions/cancel", auth=OPERATOR, data=lists)
    assert "<h1>Cancel 2 conversions?</h1>" in asked.text
    form = dict(re.findall(r'name="(\w+)" value="([^"]+)"', asked.text.partition("<form")[2]))
    url = "/console/conversions/cancel/apply"
    wider = await ingress.http.post(url, auth=OPERATOR, data=form | {"repository": "*"})
    later = await ingress.http.post(url, auth=OPERATOR, data=form | {"until": "2999-01-01T00:00:00+00:00"})
    assert (wider.status_code, later.status_code, await told(ingress)) == (403, 403, [])
    await tell(ingress, conversion_event("requested", request(5)))  # while somebody reads the question
    applied = await ingress.http.post(url, auth=OPERATOR, data=form)
    assert applied.status_code == 303
    (event,) = await told(ingress)
    assert event.data.where == RequestFilter(repository="library/*", priority="live")
    assert event.time == datetime.fromisoformat(form["until"])
    shown_again = await ingress.http.get(str(applied.url.join(applied.headers["location"])), auth=OPERATOR)
    assert "2 cancelled: what runs stops within seconds" in shown_again.text


@pytest.mark.parametrize(
    ("which", "count"),
    [
        ({"code": "registry_*"}, 1),
        ({"code": "denied"}, 0),
        ({"q": "LIBRARY/APP"}, 1),
        ({"q": request(1).id}, 1),
        ({"q": "nowhere"}, 0),
        ({"driver": "nydus"}, 0),
        ({"newer_than_seconds": 3600}, 1),
        ({"older_than_seconds": 3600}, 0),
        ({"since": "2999-01-01T00:00:00Z"}, 0),
    ],
)
async def test_a_cancellation_asks_whatever_a_list_does(ingress: Ingress, which: dict[str, object], count: int) -> None:
    r = request(1)
    failure = Failure(code="registry_timeout", kind="transient", message="no answer")
    await tell(
        ingress,
        conversion_event("requested", r),
        conversion_event("started", r, consumer="c/1", attempt=1),
        conversion_event("retrying", r, consumer="c/1", attempt=1, failure=failure, retry_in_seconds=60.0),
    )
    await until(lambda: not ingress.app.state.status.follower.rebuilding)
    answer = await ingress.http.post(f"{URL}/cancel", auth=OPERATOR, json=which | {"dry_run": True})
    assert (answer.status_code, answer.json()["count"]) == (200, count)
    query = {name: str(value) for name, value in which.items()}
    listed = await ingress.http.get(URL, auth=VIEWER, params=query)
    assert len(listed.json()["items"]) == count
    assert (await ingress.http.get(URL, auth=VIEWER, params={"colour": "blue"})).status_code == 422
