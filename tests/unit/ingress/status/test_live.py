"""Live updates over HTTP."""

from __future__ import annotations

from tests.unit.ingress.conftest import Ingress


async def test_one_client_too_many_is_told_to_come_again(ingress: Ingress) -> None:
    ingress.app.state.status.live._limit = 0
    answer = await ingress.http.get("/api/v1/status/events")
    assert answer.status_code == 503
    assert answer.headers["Retry-After"] == "10"
