"""Pages for what people ask by mistake."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest

from tests.unit.ingress.conftest import OPERATOR, Ingress
from tests.unit.ingress.test_dead_letters import letter

VOID = {"meta", "link", "input", "br", "img", "hr", "path", "line", "rect", "circle", "use"}
"""Elements without an end: HTML's, and SVG's that end themselves."""


class Structure(HTMLParser):
    """Fails where elements do not nest, or an id is there twice."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), (tag, attrs)
        if identity := dict(attrs).get("id"):
            assert identity not in self.ids
            self.ids.add(identity)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag, self.getpos()


@pytest.mark.parametrize("path", ["nowhere", "nowhere/at/all", "conversions/unknown", "dead-letters/unknown"])
async def test_a_page_that_is_none_is_told_on_a_page(ingress: Ingress, path: str) -> None:
    answer = await ingress.http.get(f"/console/{path}")
    assert answer.status_code == 404
    assert answer.headers["content-type"].startswith("text/html")
    assert 'href="' + "../" * path.count("/") in answer.text


async def test_what_is_beyond_the_last_page_is_the_last_page_and_not_good_news(ingress: Ingress) -> None:
    assert "No dead letters: every conversion" in (await ingress.http.get("/console/dead-letters")).text
    for number in range(51):
        await ingress.broker.dead_letters.add(letter(number))
    for offset, first in ((0, "letter-0"), (50, "letter-50"), (51, "letter-50"), (10**9, "letter-50")):
        page = (await ingress.http.get("/console/dead-letters", params={"offset": offset})).text
        assert f'value="{first}"' in page
    assert "No dead letter matches" in (await ingress.http.get("/console/dead-letters?code=odd&offset=50")).text


@pytest.mark.parametrize("filled", [False, True])
async def test_every_page_is_well_formed(ingress: Ingress, *, filled: bool) -> None:
    if filled:
        for number in range(60):
            await ingress.broker.dead_letters.add(letter(number, code='<b>"&amp;'))
    for path in (
        "",
        "conversions",
        "conversions?q=x",
        "dead-letters",
        "dead-letters?code=x",
        "queue",
        "backfill",
        "none",
    ):
        page = Structure()
        page.feed((await ingress.http.get(f"/console/{path}", auth=OPERATOR)).text)
        page.close()
        assert page.open == []
