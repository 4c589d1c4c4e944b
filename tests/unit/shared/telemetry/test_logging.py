"""Log lines: one line each, with trace ids, without credentials, and never in the way."""

from __future__ import annotations

import io
import logging

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace import TracerProvider

from shared.settings.model import Log
from shared.telemetry.logging import configure_logging
from shared.telemetry.redaction import MASK, redact
from shared.telemetry.tracing import Tracing, span_id, trace_id


def test_json_lines_carry_the_current_spans_ids_and_fields() -> None:
    stream = io.StringIO()
    with (
        configure_logging(Log(), "ingress", stream=stream),
        Tracing(TracerProvider()).span("x"),
    ):
        logging.getLogger("a.b").warning("took %d s", 3, extra={"code": "denied", "attempt": 2})
        ids = (trace_id(), span_id())
    line = orjson.loads(stream.getvalue())
    assert (line["message"], line["level"], line["logger"], line["service"]) == (
        "took 3 s",
        "warning",
        "a.b",
        "ingress",
    )
    assert (line["trace_id"], line["span_id"]) == ids
    assert (line["code"], line["attempt"]) == ("denied", 2)


def test_exceptions_are_told_with_their_secrets_masked() -> None:
    stream = io.StringIO()
    with configure_logging(Log(), "consumer", secrets=["hunter2hunter2"], stream=stream):
        try:
            int("amqp://user:pa55word@broker/ and hunter2hunter2")
        except ValueError:
            logging.getLogger("x").exception("failed with Authorization: Bearer abcdefgh12345")
    line = orjson.loads(stream.getvalue())
    assert "ValueError" in line["exception"]
    for secret in ("pa55word", "hunter2hunter2", "abcdefgh12345"):
        assert secret not in stream.getvalue()


def test_text_lines_cannot_be_forged() -> None:
    stream = io.StringIO()
    with configure_logging(Log(format="text", level="debug"), "consumer", stream=stream):
        logging.getLogger("x").info("tag %s", "a\n2026-01-01 ERROR forged\x1b[31m", extra={"ref": "b\nc"})
    lines = stream.getvalue().splitlines()
    assert len(lines) == 1
    assert "\\n2026-01-01 ERROR forged\\x1b[31m" in lines[0]
    assert "ref=b\\nc" in lines[0]


def test_the_level_holds_and_the_handlers_return() -> None:
    stream = io.StringIO()
    before = logging.getLogger().handlers[:]
    with configure_logging(Log(level="error"), "x", stream=stream):
        logging.getLogger("x").warning("quiet")
    assert stream.getvalue() == ""
    assert logging.getLogger().handlers == before


def test_a_full_queue_drops_lines_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.telemetry.logging._QUEUE", 1)

    class Stuck(io.StringIO):
        def write(self, text: str) -> int:
            for _ in range(50):
                if len(text) > 1 and not self.getvalue():
                    logging.getLogger("y").info("while it is stuck")
            return super().write(text)

    stream = Stuck()
    with configure_logging(Log(), "x", stream=stream):
        logging.getLogger("x").info("first")
        while "stuck" not in stream.getvalue():
            pass
        logging.getLogger("x").info("later")
    assert any("dropped_lines" in orjson.loads(line) for line in stream.getvalue().splitlines())


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("GET https://user:s3cr3t@host/v2/", "s3cr3t"),
        ("Authorization: Basic dXNlcjpwYXNz", "dXNlcjpwYXNz"),
        ("bearer eyJhbGciOi.JIUzI1", "eyJhbGciOi.JIUzI1"),
        ('{"password": "s3cr3t"}', "s3cr3t"),
        ("?access_token=s3cr3t&x=1", "s3cr3t"),
        ("nats://:s3cr3t@host", "s3cr3t"),
    ],
)
def test_credentials_are_masked(text: str, secret: str) -> None:
    assert secret not in redact(text)
    assert MASK in redact(text)


@pytest.mark.parametrize("text", ["basic setup", "library/redis:7@sha256:ab", "the token is missing", "http://h:80/x"])
def test_ordinary_words_stay(text: str) -> None:
    assert redact(text) == text


@given(st.text())
def test_redaction_never_fails_and_repeats(text: str) -> None:
    once = redact(text)
    assert redact(once) == once


def test_what_the_link_says_of_a_lost_connection_is_not_said_by_the_library_too() -> None:
    stream = io.StringIO()
    with configure_logging(Log(level="debug"), "consumer", stream=stream):
        connection = logging.getLogger("aiormq.connection")
        connection.error("error when creating transport")
        connection.warning("Connection %r was blocked by: %r", "amqp://mq", "low on disk")
        logging.getLogger("aiormq.channel").error("another matter")
    assert "transport" not in stream.getvalue()
    assert "another matter" in stream.getvalue()
    assert "was blocked by: 'low on disk'" in stream.getvalue()
