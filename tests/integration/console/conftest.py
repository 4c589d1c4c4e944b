"""Debian's Chromium, driven by Playwright; it is started once per file."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from tests.integration.console.site import OPERATOR, Site, site
from tests.waiting import PATIENCE

FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """One browser for a file, no longer: Playwright leaves its event loop running in this thread until it is stopped."""
    expect.set_options(timeout=PATIENCE * 1000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=list(FLAGS), timeout=PATIENCE * 1000
        )
        yield browser
        browser.close()


@pytest.fixture
def console() -> Iterator[Site]:
    with site() as running:
        yield running


@pytest.fixture
def problems() -> list[str]:
    """What the browser complained of: script errors and refusals of the content policy."""
    return []


@pytest.fixture
def operator(chromium: Browser, console: Site, problems: list[str]) -> Iterator[Page]:
    """A page of somebody who has signed in to act."""
    context = chromium.new_context(http_credentials={"username": OPERATOR[0], "password": OPERATOR[1]})
    page = watched(context, problems)
    page.goto(f"{console.url}/console/sign-in")
    yield page
    context.close()
    assert problems == []


def watched(context: BrowserContext, problems: list[str]) -> Page:
    page = context.new_page()
    page.set_default_timeout(PATIENCE * 1000)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    return page
