"""Live updates over HTTP."""

from __future__ import annotations

import pytest

from ingress.status.live import Live
from tests.unit.ingress.conftest import Ingress


async def test_one_client_too_many_is_told_to_come_again(ingress: Ingress) -> None:
    ingress.app.state.status.live._limit = 0
    answer = await ingress.http.get("/api/v1/status/events")
    assert answer.status_code == 503
    assert answer.headers["Retry-After"] == "10"


async def test_whose_place_is_taken_between_head_and_body_is_not_let_in(
    ingress: Ingress, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = ingress.app.state.status.live
    full = iter((False, True))
    monkeypatch.setattr(Live, "full", property(lambda _: next(full)))
    answer = await ingress.http.get("/api/v1/status/events")
    assert (answer.status_code, answer.text) == (200, "retry: 3000\n\n")
    assert not live._clients
