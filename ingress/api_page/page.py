"""The page: the framework's own loads its scripts from a public host, which clusters without a way out cannot reach, and which
would then run beside the console. This one is made on the server and needs no script.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fastapi import APIRouter
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from ingress.console.assets import HEADERS, create_asset_router

_REFERENCE = "#/components/schemas/"
_LIMITS = {
    "minimum": "at least {}",
    "maximum": "at most {}",
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
    "minItems": "at least {} items",
    "maxItems": "at most {} items",
    "default": "default {!r}",
}


def create_api_page(describe: Callable[[], dict[str, Any]]) -> APIRouter:
    """A router with ``/docs``; ``describe`` gives the OpenAPI document."""
    router = APIRouter(include_in_schema=False)
    router.include_router(create_asset_router("/docs"))
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {"type": type_markup, "limits": limits_text}

    @router.get("/docs")
    async def page() -> HTMLResponse:
        document = describe()
        body = templates.get_template("page.html").render(document=document, groups=_by_tag(document))
        return HTMLResponse(body, headers=HEADERS)

    return router


def _by_tag(document: Mapping[str, Any]) -> dict[str, list[tuple[str, str, Mapping[str, Any]]]]:
    """Method, path and operation, under their first tag, as they come."""
    groups: dict[str, list[tuple[str, str, Mapping[str, Any]]]] = {}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            tag = next(iter(operation.get("tags", ())), "other")
            groups.setdefault(tag, []).append((method.upper(), path, operation))
    return groups


def type_markup(schema: Mapping[str, Any]) -> Markup:
    """A JSON schema in a few words; schemas with a name are links to where they stand on the page."""
    name = schema.get("$ref", "").removeprefix(_REFERENCE)
    if name:
        return Markup('<a href="#{0}">{0}</a>').format(name)
    choices = schema.get("anyOf") or schema.get("oneOf")
    if choices:
        return Markup(" or ").join(map(type_markup, choices))
    if "const" in schema:
        return escape(repr(schema["const"]))
    if "enum" in schema:
        return escape(" or ".join(map(repr, schema["enum"])))
    kind = schema.get("type", "any")
    if kind == "array":
        return Markup("array of {}").format(type_markup(schema.get("items", {})))
    values = schema.get("additionalProperties")
    if kind == "object" and isinstance(values, dict):
        return Markup("object of {}").format(type_markup(values))
    return escape(f"{kind} ({schema['format']})" if "format" in schema else kind)


def limits_text(schema: Mapping[str, Any]) -> str:
    """Default and bounds."""
    return ", ".join(words.format(schema[key]) for key, words in _LIMITS.items() if schema.get(key) is not None)
