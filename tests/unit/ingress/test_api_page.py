"""The page of the API's description: all of it, without anything from elsewhere."""

from __future__ import annotations

import re
from typing import Any

import pytest

from ingress.api_page.page import limits_text, type_markup
from tests.unit.ingress.conftest import Ingress
from tests.unit.ingress.console.test_pages import Structure


async def test_every_operation_and_shape_is_there_and_every_link_leads_somewhere(ingress: Ingress) -> None:
    document = (await ingress.http.get("/openapi.json")).json()
    page = await ingress.http.get("/docs")
    structure = Structure()
    structure.feed(page.text)
    operations = {it["operationId"] for methods in document["paths"].values() for it in methods.values()}
    assert operations | set(document["components"]["schemas"]) <= structure.ids
    links = set(re.findall(r'(?:href|src)="([^"]*)"', page.text))
    assert {link[1:] for link in links if link.startswith("#")} <= structure.ids
    others = {link for link in links if not link.startswith("#")}
    assert not [link for link in others if "//" in link]
    for link in others:
        assert (await ingress.http.get(f"/{link}")).status_code == 200, link
    assert "default-src 'none'" in page.headers["content-security-policy"]


@pytest.mark.parametrize(
    ("schema", "told"),
    [
        ({"$ref": "#/components/schemas/Task"}, '<a href="#Task">Task</a>'),
        ({"type": "array", "items": {"$ref": "#/components/schemas/Task"}}, 'array of <a href="#Task">Task</a>'),
        ({"anyOf": [{"type": "string", "format": "date-time"}, {"type": "null"}]}, "string (date-time) or null"),
        ({"type": "object", "additionalProperties": {"type": "integer"}}, "object of integer"),
        ({"enum": ["push", "<b>"]}, "&#39;push&#39; or &#39;&lt;b&gt;&#39;"),
        ({"const": 3}, "3"),
        ({}, "any"),
    ],
)
def test_a_schema_is_told_in_a_few_words(schema: dict[str, Any], told: str) -> None:
    assert str(type_markup(schema)) == told


def test_bounds_and_defaults_are_told() -> None:
    schema = {"type": "integer", "minimum": 1, "maximum": 500, "default": 50}
    assert limits_text(schema) == "at least 1, at most 500, default 50"
    assert limits_text({"type": "string", "default": None}) == ""
