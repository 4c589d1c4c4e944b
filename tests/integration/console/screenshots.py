"""The README's pictures: ``python -m tests.integration.console.screenshots docs/images`` shows every view, light and dark."""

from __future__ import annotations

import io
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, expect, sync_playwright

from shared.events import conversion_event
from tests.integration.console.conftest import FLAGS
from tests.integration.console.site import CONSUMERS, OPERATOR, Site, digest, request, site

VIEWS = {
    "overview": "",
    "conversions": "conversions",
    "conversion": f"conversions/{digest(3)[7:39]}",
    "dead-letters": "dead-letters",
    "dead-letter": "dead-letters/letter-0",
    "queue": "queue",
    "backfill": "backfill",
}


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with site() as running, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=list(FLAGS))
        for number, name in enumerate(("platform/api", "web/storefront")):
            live = request(7000 + number, name, "v2.0", age=20)
            running.publish(
                conversion_event("started", live, consumer=CONSUMERS[number], queue_seconds=0.3),
                conversion_event("progress", live, progress={"layer": "a", "done": 40 + number * 35, "total": 90}),
            )
        running.server.in_flight = 2
        running.look()
        for scheme in ("light", "dark"):
            context = browser.new_context(
                viewport={"width": 1280, "height": 860},
                color_scheme="dark" if scheme == "dark" else "light",
                http_credentials={"username": OPERATOR[0], "password": OPERATOR[1]},
            )
            page = context.new_page()
            page.goto(f"{running.url}/console/sign-in")
            for name, path in VIEWS.items():
                page.goto(f"{running.url}/console/{path}")
                save(page, folder / f"console-{name}-{scheme}.png")
            confirm(page, running)
            save(page, folder / f"console-confirm-{scheme}.png")
        browser.close()


def confirm(page: Page, running: Site) -> None:
    page.goto(f"{running.url}/console/dead-letters")
    page.get_by_role("button", name="Replay all").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("Replay 3 of 3")


def save(page: Page, path: Path) -> None:
    """A palette of 128 colours is enough for flat pages, and a quarter of the bytes."""
    if page.locator("#live:not([hidden])").count():
        expect(page.locator("#live-word")).to_have_text("Live")
    picture = Image.open(io.BytesIO(page.screenshot()))
    picture.convert("RGB").quantize(128).save(path, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
