"""The console as a person uses it: in a real browser, with its scripts, its keyboard and its screen reader's tree."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urljoin

import axe_playwright_python
import pytest
from playwright.sync_api import Browser, Page, expect

from shared.events import conversion_event
from tests.integration.console.conftest import watched
from tests.integration.console.site import CONSUMERS, DENIED, Site, digest, request, site, stages, succeeded

AXE = Path(axe_playwright_python.__file__).with_name("axe.min.js").read_text()
VIEWS = {
    "overview": "",
    "conversions": "conversions",
    "conversion": f"conversions/{digest(3)[7:39]}",
    "failed conversion": f"conversions/{digest(5002)[7:39]}",
    "dead letters": "dead-letters",
    "dead letter": "dead-letters/letter-0",
    "queue": "queue",
    "backfill": "backfill",
    "error": "conversions/unknown",
}


def test_a_conversion_is_followed_live_fails_is_found_replayed_and_seen_to_succeed(
    console: Site, operator: Page
) -> None:
    r = request(5000, "payments/ledger", "2026.0", age=30)
    operator.goto(f"{console.url}/console/")
    expect(operator.locator("#live-word")).to_have_text("Live")

    live = request(8000, "platform/api", "v9", age=1)
    console.publish(conversion_event("started", live, consumer=CONSUMERS[0], queue_seconds=0.1))
    row = operator.locator(f'#running [data-conversion="{live.id}"]')
    expect(row).to_contain_text("Converting")
    console.publish(conversion_event("progress", live, progress={"layer": "a", "done": 30, "total": 90}))
    expect(row.locator("progress")).to_have_js_property("value", 30)
    console.publish(
        conversion_event(
            "failed", live, consumer=CONSUMERS[0], failure=DENIED, duration_seconds=2.0, dead_letter_id="letter-0"
        )
    )
    expect(operator.locator("#announce")).to_have_text("harbor.example.com/platform/api:v9 failed")
    expect(operator.locator("#failures")).to_contain_text("platform/api:v9")

    operator.get_by_role("link", name="Dead letters").click()
    operator.get_by_role("link", name="denied 2").click()
    operator.get_by_label("Select harbor.example.com/payments/ledger:2026.0").check()
    operator.get_by_role("button", name="Replay selected").click()
    expect(operator.get_by_role("heading", level=1)).to_have_text("Replay 1 of 1 dead letter?")
    expect(operator.get_by_role("link", name="Cancel")).to_be_focused()
    operator.get_by_role("button", name="Replay 1").click()
    expect(operator.get_by_role("status").filter(has_text="1 replayed.")).to_be_visible()
    expect(operator.locator("main")).not_to_contain_text("ledger:2026.0")
    assert console.stats() == {"ready": 1, "dead": 2}

    operator.goto(f"{console.url}/console/conversions/{r.id}")
    expect(operator.locator("#detail .state")).to_contain_text("Queued")
    expect(operator.locator("#detail")).to_contain_text("by operator")
    started, done = succeeded(r, r.requested_at)
    console.publish(conversion_event("started", r, consumer=CONSUMERS[0], queue_seconds=0.2))
    expect(operator.locator("#detail .state")).to_contain_text("Converting")
    console.publish(done.model_copy(update={"time": conversion_event("started", r).time}))
    expect(operator.locator("#detail .state")).to_contain_text("Succeeded")
    expect(operator.locator("#detail")).to_contain_text("Replay 1, attempt 1")
    expect(operator.locator("table.waterfall tbody tr")).to_have_count(len(stages()))
    assert started.subject == r.id


def test_a_conversion_under_way_is_cancelled_and_seen_to_end(console: Site, operator: Page) -> None:
    r = request(8300, "platform/api", "v11", age=1)
    console.publish(conversion_event("started", r, consumer=CONSUMERS[0]))
    operator.goto(f"{console.url}/console/conversions/{r.id}")
    operator.get_by_role("button", name="Cancel…").click()
    expect(operator.get_by_role("heading", level=1)).to_contain_text("platform/api:v11")
    expect(operator.get_by_role("link", name="Let it go on")).to_be_focused()
    assert _violations(operator) == []
    operator.get_by_role("button", name="Cancel it").click()
    expect(operator.locator("#detail")).to_contain_text("by operator: it stops within seconds")
    expect(operator.get_by_role("button", name="Cancel…")).to_have_count(0)
    console.publish(
        conversion_event("cancelled", r, consumer=CONSUMERS[0], actor="operator", reason="cancelled by operator")
    )
    expect(operator.locator("#detail .state")).to_contain_text("Cancelled")
    assert _violations(operator) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_in_any_view(chromium: Browser, console: Site, operator: Page, scheme: str) -> None:
    operator.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    running = request(8100, "platform/api", "v10", age=1)
    console.publish(conversion_event("started", running, consumer=CONSUMERS[0]))
    found = {}
    for name, path in VIEWS.items():
        if name == "error":
            continue
        operator.goto(f"{console.url}/console/{path}")
        found[name] = _violations(operator)
    operator.goto(f"{console.url}/console/dead-letters")
    operator.get_by_role("button", name="Replay all").click()
    expect(operator.get_by_role("heading", level=1)).to_have_text("Replay 3 of 3 dead letters?")
    found["confirm"] = _violations(operator)
    operator.goto(f"{console.url}/console/conversions?status=retrying")
    found["filtered"] = _violations(operator)
    operator.get_by_role("button", name="Cancel all that match").click()
    expect(operator.get_by_role("heading", level=1)).to_have_text(re.compile(r"Cancel \d+ conversions?\?"))
    expect(operator.get_by_role("link", name="Let them go on")).to_be_focused()
    found["cancel"] = _violations(operator)
    assert found == {name: [] for name in found}


def _violations(page: Page) -> list[str]:
    page.evaluate(AXE)
    answer = page.evaluate(
        "axe.run(document, {runOnly: ['wcag2a', 'wcag2aa', 'wcag21aa', 'wcag22aa', 'best-practice']})"
    )
    return [f"{v['id']}: {[n['html'][:120] for n in v['nodes']]}" for v in answer["violations"]]


def test_the_keyboard_reaches_everything_and_the_theme_stays(console: Site, operator: Page) -> None:
    operator.goto(f"{console.url}/console/")
    operator.keyboard.press("Tab")
    expect(operator.get_by_role("link", name="Skip to content")).to_be_focused()
    operator.keyboard.press("Enter")
    expect(operator.locator("main")).to_be_focused()
    operator.locator("#theme").focus()
    operator.keyboard.press("Enter")
    theme = operator.evaluate("document.documentElement.dataset.theme")
    operator.get_by_role("link", name="Conversions", exact=True).click()
    operator.wait_for_url("**/conversions")
    assert operator.evaluate("document.documentElement.dataset.theme") == theme


def test_a_whole_page_is_selected_at_once(console: Site, operator: Page) -> None:
    operator.goto(f"{console.url}/console/dead-letters?code=denied")
    operator.get_by_role("checkbox", name="Select all on this page").check()
    operator.get_by_role("button", name="Discard selected").click()
    expect(operator.get_by_role("heading", level=1)).to_have_text("Discard 2 of 2 dead letters?")
    expect(operator.get_by_role("link", name="Cancel")).to_be_focused()


def test_focus_survives_a_live_update(console: Site, operator: Page) -> None:
    operator.goto(f"{console.url}/console/conversions")
    expect(operator.locator("#live-word")).to_have_text("Live")
    link = operator.locator("#list tbody a").nth(5)
    href = link.get_attribute("href")
    link.focus()
    new = request(8200, "web/shop", "live", age=0)
    console.publish(conversion_event("requested", new))
    expect(operator.locator(f'[data-conversion="{new.id}"]')).to_be_visible()
    assert operator.evaluate("document.activeElement.getAttribute('href')") == href


def test_the_apis_description_is_a_page_that_axe_finds_nothing_in_and_that_asks_no_other_host(
    console: Site, chromium: Browser, problems: list[str]
) -> None:
    context = chromium.new_context()
    page = watched(context, problems)
    asked: list[str] = []
    page.on("request", lambda r: asked.append(r.url))
    page.goto(f"{console.url}/docs")
    page.locator("summary").filter(has_text="GET /api/v1/status/conversions").first.click()
    page.get_by_role("link", name="ConversionPage", exact=True).click()
    expect(page.get_by_role("heading", name="ConversionPage", exact=True)).to_be_in_viewport()
    assert _violations(page) == []
    assert {url for url in asked if not url.startswith(console.url)} == set()
    assert problems == []
    context.close()


@pytest.mark.parametrize("name", VIEWS)
def test_every_view_is_readable_without_javascript_and_below_a_path_prefix(
    prefixed: Site, chromium: Browser, problems: list[str], name: str
) -> None:
    context = chromium.new_context(java_script_enabled=False)
    page = watched(context, problems)
    failed: list[str] = []
    page.on("requestfailed", lambda r: failed.append(r.url))
    page.on(
        "response",
        lambda r: failed.append(r.url) if r.status >= 400 and not r.request.is_navigation_request() else None,
    )
    page.goto(f"{prefixed.url}/console/{VIEWS[name]}")
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    for link in page.locator("header nav a").all():
        answer = page.request.get(urljoin(page.url, link.get_attribute("href")))
        assert answer.ok, answer.url
        assert "/console/ics/console" in answer.url
    assert failed == []
    context.close()


@pytest.fixture(scope="module")
def prefixed() -> Iterator[Site]:
    with site("/console/ics") as running:
        yield running


def test_what_a_webhook_wrote_is_text_and_never_markup(console: Site, operator: Page, problems: list[str]) -> None:
    operator.goto(f"{console.url}/console/dead-letters/letter-2")
    expect(operator.locator("main")).to_contain_text("<script>alert(1)</script>")
    assert operator.locator("main script").count() == 0
    assert problems == []
