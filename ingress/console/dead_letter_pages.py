"""Dead letters in the console: found, understood, replayed or discarded. Every change is confirmed on a page with its counts."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, HTTPException, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse
from fastapi.routing import APIRoute

from ingress.console.assets import HEADERS
from ingress.console.form import SELECTION, read_form
from ingress.console.pages import Renderer
from ingress.status.service import Status
from shared.broker.api import DeadLetterFilter
from shared.dead_letter_operations import Operation
from shared.messages import DeadLetter

PAGE = 50


def create_dead_letter_router(status: Status, renderer: Renderer, route_class: type[APIRoute]) -> APIRouter:
    """Reading is behind ``console.credential``, acting behind ``console.operator_credential`` and the form's token."""
    router = APIRouter(prefix="/console/dead-letters", route_class=route_class, include_in_schema=False)
    access, letters = status.access, status.broker.dead_letters
    operations = status.operations
    reader, operator = [Depends(access.read)], Depends(access.operate)

    @router.get("", dependencies=reader)
    async def listing(
        request: Request, offset: Annotated[int, Query(ge=0)] = 0, done: Annotated[str, Query(max_length=60)] = ""
    ) -> HTMLResponse:
        where = _filter(request.query_params)
        found = [letter async for letter in letters.list(where)]
        offset = min(offset, max(0, len(found) - 1) // PAGE * PAGE)  # what was on the last page may be gone
        given = {"repository": where.repository, "tag": where.tag, "code": where.code, "q": where.text}
        query = {key: value for key, value in given.items() if value}
        return renderer.page(
            request,
            "dead_letters.html",
            letters=found[offset : offset + PAGE],
            total=len(found),
            where=where,
            filtered=bool(query),
            codes=dict(Counter(status.monitor.snapshot.dead_by_code).most_common(12)),
            done=_done(done),
            previous_query=urlencode(query | {"offset": max(0, offset - PAGE)}) if offset else None,
            next_query=urlencode(query | {"offset": offset + PAGE}) if offset + PAGE < len(found) else None,
        )

    @router.post("/confirm")
    async def confirm(request: Request, _actor: str = operator) -> HTMLResponse:
        form = await read_form(request)
        action = form.get("action", [""])[0]
        verb: Operation = "discard" if action == "discard-selected" else "replay"
        if action.endswith("-selected"):
            where = DeadLetterFilter(ids=frozenset(form.get("id", [])))
        else:
            where = _filter({key: values[0] for key, values in form.items()})
        chosen = [] if action.endswith("-selected") and not where.ids else [x async for x in letters.list(where)]
        usable = [letter for letter in chosen if verb == "discard" or letter.request is not None]
        limit = _canary(form) if action == "replay-canary" else SELECTION
        picked = usable[:limit]
        ids = [letter.id for letter in picked]
        return renderer.page(
            request,
            "confirm.html",
            verb=verb,
            count=len(picked),
            total=len(chosen),
            unreadable=len(chosen) - len(usable),
            codes=dict(Counter(letter.failure.code for letter in picked)),
            ids=ids,
            token=access.form_token(f"{verb} {' '.join(ids)}"),
        )

    @router.post("/apply")
    async def apply(request: Request, actor: str = operator) -> RedirectResponse:
        form = await read_form(request)
        verb: Operation = "discard" if form.get("verb") == ["discard"] else "replay"
        ids = form.get("id", [])
        access.check_form_token(f"{verb} {' '.join(ids)}", form.get("token", [""])[0])
        chosen = await operations.find(DeadLetterFilter(ids=frozenset(ids))) if ids else []
        result = await operations.carry_out(verb, chosen, actor=actor)
        await status.monitor.look()
        done = f"{verb} {result.done} {len(set(ids)) - result.done - result.failed} {result.failed}"
        return RedirectResponse(f"../dead-letters?{urlencode({'done': done})}", 303, HEADERS)

    @router.get("/{letter_id}", dependencies=reader)
    async def detail(request: Request, letter_id: str) -> HTMLResponse:
        letter = await letters.get(letter_id)
        if letter is None:
            raise HTTPException(404, "This dead letter is gone: it was replayed or discarded.")
        return renderer.page(
            request,
            "dead_letter.html",
            d=letter,
            trace_url=status.views.trace_link(letter.trace_id),
            document=_document(letter),
        )

    return router


def _filter(given: Mapping[str, str]) -> DeadLetterFilter:
    def field(name: str, length: int) -> str:
        return given.get(name, "").strip()[:length]

    return DeadLetterFilter(
        repository=field("repository", 300), tag=field("tag", 150), code=field("code", 100), text=field("q", 300)
    )


def _canary(form: Mapping[str, list[str]]) -> int:
    text = form.get("canary", ["3"])[0]
    return min(max(int(text), 1), 1000) if text.isdecimal() else 3


def _done(text: str) -> str:
    """The result in words; only numbers come out of the address, nothing that somebody else could phrase."""
    parts = text.split()
    if len(parts) != 4 or not all(part.isdecimal() for part in parts[1:]):
        return ""
    verb = "discarded" if parts[0] == "discard" else "replayed"
    done, gone, failed = (int(part) for part in itertools.islice(parts, 1, None))
    words = [f"{done} {verb}."]
    if gone:
        words.append(f"{gone} had been dealt with already.")
    if failed:
        words.append(f"{failed} could not be {verb}: they are still here.")
    return " ".join(words)


def _document(letter: DeadLetter) -> str:
    return letter.request.model_dump_json(indent=2) if letter.request else letter.raw
