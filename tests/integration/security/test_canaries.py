"""The search itself: a canary that nobody could find proves nothing."""

from __future__ import annotations

import base64
from collections.abc import Callable
from urllib.parse import quote

import orjson
import pytest
import yaml

from tests.integration.security.canaries import Canaries


@pytest.mark.parametrize(
    "written",
    [
        str,
        repr,
        lambda secret: quote(secret, safe=""),
        lambda secret: orjson.dumps({"password": secret}).decode(),
        lambda secret: yaml.safe_dump({"password": secret}),
        lambda secret: secret.encode().hex(),
        *(
            lambda secret, user=user: base64.b64encode(f"{user}:{secret}\n".encode()).decode()
            for user in ("robot", "a", "ab", "abc")
        ),
        lambda secret: base64.urlsafe_b64encode(f"user:{secret}".encode()).decode(),
    ],
)
def test_a_canary_is_found_in_whatever_form_it_was_written(written: Callable[[str], str]) -> None:
    canaries = Canaries()
    secret = canaries.plant("place")
    assert canaries.found({"log": f"before {written(secret)} after"})
    assert canaries.found({"log": "nothing of the kind"}) == []
