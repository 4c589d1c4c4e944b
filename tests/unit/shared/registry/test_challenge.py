from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.registry.challenge import Challenge, parse_challenges


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("", []),
        ("Basic", [Challenge("basic")]),
        ('Basic realm="a b"', [Challenge("basic", {"realm": "a b"})]),
        (
            'Bearer realm="https://h/t",service="s",scope="repository:a:pull,push"',
            [Challenge("bearer", {"realm": "https://h/t", "service": "s", "scope": "repository:a:pull,push"})],
        ),
        ("bearer REALM=x , service=y", [Challenge("bearer", {"realm": "x", "service": "y"})]),
        (
            'Negotiate, Basic realm="x", Bearer realm="y"',
            [Challenge("negotiate"), Challenge("basic", {"realm": "x"}), Challenge("bearer", {"realm": "y"})],
        ),
        (r'Basic realm="say \"x\""', [Challenge("basic", {"realm": 'say "x"'})]),
        ('Bearer realm="unfinished', [Challenge("bearer")]),
        ('Bearer realm="a",realm="b"', [Challenge("bearer", {"realm": "a"})]),
        ("=", []),
    ],
)
def test_challenges_are_read(header: str, expected: list[Challenge]) -> None:
    assert parse_challenges([header]) == expected


def test_several_headers_add_up() -> None:
    assert [c.scheme for c in parse_challenges(["Basic", "Bearer realm=x"])] == ["basic", "bearer"]


@given(st.lists(st.text(max_size=80) | st.text('Bearer realm="\\,= \t', max_size=80), max_size=3))
def test_any_header_is_read_without_an_error(headers: list[str]) -> None:
    for challenge in parse_challenges(headers):
        assert challenge.scheme == challenge.scheme.lower()


def test_a_long_header_costs_no_more_than_a_short_one() -> None:
    assert len(parse_challenges(["Basic " * 1_000_000])) < 2000
