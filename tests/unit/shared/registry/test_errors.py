"""Every answer and every exception below becomes one classified error."""

from __future__ import annotations

import email.utils
import json
import socket
import ssl
import time
from typing import Any, Final

import aiohttp
import pytest
from aiohttp.client_reqrep import ConnectionKey
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from shared.errors import IcsError, PermanentError, TransientError
from shared.registry.errors import (
    Operation,
    RefusedAddressError,
    from_exception,
    from_status,
    parse_error_body,
    redacted,
    retry_after,
    scrubbed,
)

OPERATION: Final = Operation("get_manifest", "h.io", "a/b", "latest")
KEY: Final = ConnectionKey("h.io", 443, True, True, None, None, None)


def _subclasses(kind: type[BaseException]) -> set[type[BaseException]]:
    found = {kind}
    for sub in kind.__subclasses__():
        found |= _subclasses(sub)
    return found


def _instance(kind: Any) -> Any:
    """Any exception of aiohttp's, made as aiohttp makes it."""
    request = aiohttp.RequestInfo(
        URL("http://h.io/?canary"), "GET", CIMultiDictProxy(CIMultiDict()), URL("http://h.io/")
    )
    os_error = OSError(111, "Connection refused")
    if issubclass(kind, aiohttp.ClientConnectorCertificateError):
        return kind(KEY, ssl.SSLCertVerificationError(1, "certificate verify failed"))
    if issubclass(kind, aiohttp.client_exceptions.UnixClientConnectorError):
        return kind("/socket", KEY, os_error)
    if issubclass(kind, aiohttp.ClientConnectorError):
        return kind(KEY, os_error)
    if issubclass(kind, aiohttp.ClientResponseError):
        return kind(request, ())
    if issubclass(kind, aiohttp.ServerFingerprintMismatch):
        return kind(b"expected", b"got", "h.io", 443)
    if issubclass(kind, aiohttp.InvalidURL):
        return kind("http://h.io/?canary")
    return kind()


@pytest.mark.parametrize("kind", sorted(_subclasses(aiohttp.ClientError), key=repr))
def test_every_client_error_of_aiohttp_is_classified(kind: type[BaseException]) -> None:
    error = from_exception(OPERATION, _instance(kind))
    assert isinstance(error, (TransientError, PermanentError))
    assert error.code in {"registry_unavailable", "registry_timeout", "tls_error", "invalid_url"}
    assert error.details == {"registry": "h.io", "repository": "a/b", "operation": "get_manifest"}
    assert "canary" not in str(error)
    assert "get_manifest h.io/a/b:latest" in str(error)


@pytest.mark.parametrize(
    ("error", "code", "kind"),
    [
        (TimeoutError(), "registry_timeout", "transient"),
        (aiohttp.SocketTimeoutError(), "registry_timeout", "transient"),
        (aiohttp.ConnectionTimeoutError(), "registry_timeout", "transient"),
        (ConnectionResetError(), "registry_unavailable", "transient"),
        (OSError(24, "Too many open files"), "local_resource", "transient"),
        (aiohttp.ClientConnectorError(KEY, OSError(24, "Too many open files")), "local_resource", "transient"),
        (socket.gaierror(-2, "Name or service not known"), "registry_unavailable", "transient"),
        (RefusedAddressError("no"), "host_not_allowed", "permanent"),
        (aiohttp.ClientConnectorDNSError(KEY, RefusedAddressError("no")), "host_not_allowed", "permanent"),
        (ssl.SSLEOFError(8, "EOF occurred"), "tls_error", "permanent"),
        (ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number"), "tls_error", "permanent"),
    ],
)
def test_what_the_system_raises_is_classified(error: Exception, code: str, kind: str) -> None:
    found = from_exception(OPERATION, error)
    assert (found.code, found.kind) == (code, kind)


def test_a_handshake_cut_short_is_transient() -> None:
    error = ssl.SSLEOFError(8, "EOF occurred in violation of protocol")
    error.reason = "UNEXPECTED_EOF_WHILE_READING"
    found = from_exception(OPERATION, aiohttp.ClientConnectorSSLError(KEY, error))
    assert (found.code, found.kind) == ("registry_unavailable", "transient")


def test_a_classified_error_stays_what_it_is() -> None:
    error = PermanentError("x", code="y")
    assert from_exception(OPERATION, error) is error


def test_causes_that_go_in_circles_end() -> None:
    first, second = OSError("a"), OSError("b")
    first.__cause__, second.__cause__ = second, first
    assert from_exception(OPERATION, first).code == "registry_unavailable"


@pytest.mark.parametrize(
    ("name", "status", "registry_code", "code", "kind"),
    [
        ("get_manifest", 400, "", "invalid_request", "permanent"),
        ("get_manifest", 400, "MANIFEST_INVALID", "manifest_refused", "permanent"),
        ("get_manifest", 401, "UNAUTHORIZED", "unauthorized", "permanent"),
        ("get_manifest", 403, "DENIED", "denied", "permanent"),
        ("get_manifest", 404, "", "manifest_unknown", "permanent"),
        ("get_manifest", 404, "NAME_UNKNOWN", "name_unknown", "permanent"),
        ("get_manifest", 404, "NOT_FOUND", "manifest_unknown", "permanent"),
        ("get_manifest", 410, "", "manifest_unknown", "permanent"),
        ("get_blob", 404, "", "blob_unknown", "permanent"),
        ("upload_blob", 404, "", "upload_unknown", "permanent"),
        ("start_upload", 404, "NOT_FOUND", "name_unknown", "permanent"),
        ("upload_blob", 404, "BLOB_UPLOAD_INVALID", "upload_invalid", "permanent"),
        ("list_tags", 404, "", "not_found", "permanent"),
        ("get_blob", 416, "", "range_refused", "permanent"),
        ("put_manifest", 412, "PRECONDITION", "immutable_tag", "permanent"),
        ("put_manifest", 412, "PROJECTPOLICYVIOLATION", "policy_violation", "transient"),
        ("get_manifest", 412, "PRECONDITION", "precondition_failed", "permanent"),
        ("put_manifest", 413, "", "manifest_too_large", "permanent"),
        ("upload_blob", 413, "", "too_large", "permanent"),
        ("get_blob", 408, "", "registry_timeout", "transient"),
        ("get_blob", 425, "", "registry_unavailable", "transient"),
        ("get_blob", 429, "", "rate_limited", "transient"),
        ("get_blob", 403, "TOOMANYREQUESTS", "rate_limited", "transient"),
        ("get_blob", 500, "", "registry_unavailable", "transient"),
        ("get_blob", 599, "", "registry_unavailable", "transient"),
        ("get_blob", 507, "", "registry_unavailable", "transient"),
        ("upload_blob", 501, "", "unsupported_by_registry", "permanent"),
        ("get_blob", 505, "", "unsupported_by_registry", "permanent"),
        ("get_blob", 204, "", "unexpected_answer", "permanent"),
    ],
)
def test_every_status_has_its_class(name: str, status: int, registry_code: str, code: str, kind: str) -> None:
    body = b'{"errors":[{"code":"%s","message":"said"}]}' % registry_code.encode() if registry_code else b"<html>"
    error = from_status(Operation(name, "h.io", "a/b"), status, {}, body)
    assert (error.code, error.kind) == (code, kind)
    assert error.details["status"] == status
    assert error.details.get("registry_code") == (registry_code or None)
    assert ("said" in error.message) is bool(registry_code)


@pytest.mark.parametrize(
    ("name", "status", "registry_code", "advice"),
    [
        ("put_manifest", 403, "DENIED", "target_repository"),
        ("start_upload", 403, "DENIED", "proxy cache"),
        ("start_upload", 404, "NOT_FOUND", "create the project"),
        ("put_manifest", 412, "PRECONDITION", "immutable"),
        ("upload_blob", 413, "", "client_max_body_size"),
    ],
)
def test_a_refused_push_says_what_to_do(name: str, status: int, registry_code: str, advice: str) -> None:
    body = b'{"errors":[{"code":"%s","message":"no"}]}' % registry_code.encode()
    assert advice in from_status(Operation(name, "h.io", "a/b"), status, {}, body).message
    assert advice not in from_status(Operation("get_blob", "h.io", "a/b"), status, {}, body).message


@pytest.mark.parametrize(
    ("status", "registry_code", "text", "code"),
    [
        (
            403,
            "DENIED",
            "adding 20 MiB of storage resource, which ... will exceed the configured upper limit",
            "quota_exceeded",
        ),
        (412, "PRECONDITION", "Quota exceeded when processing the request of adding 20 MiB", "quota_exceeded"),
        (413, "DENIED", "the quota of project library is spent", "quota_exceeded"),
        (403, "DENIED", "requested access to the resource is denied", "denied"),
        (
            412,
            "PRECONDITION",
            "Failed to process request due to 'app:1_esgz' configured as immutable.",
            "immutable_tag",
        ),
    ],
)
def test_a_spent_quota_is_told_from_other_refusals(status: int, registry_code: str, text: str, code: str) -> None:
    body = json.dumps({"errors": [{"code": registry_code, "message": text}]}).encode()
    error = from_status(Operation("put_manifest", "h.io", "a/b"), status, {}, body)
    assert (error.code, error.kind) == (code, "permanent")
    assert ("raise the project's quota" in error.message) is (code == "quota_exceeded")


@given(st.integers(100, 999), st.binary(max_size=100))
def test_no_answer_is_too_strange_to_classify(status: int, body: bytes) -> None:
    assert isinstance(from_status(OPERATION, status, {"Retry-After": "soon"}, body), IcsError)


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b'{"errors": {}}', b'{"errors": []}', b'{"errors": [1]}', b"[" * 100_000, b'{"errors":[{"code":1}]}'],
)
def test_an_error_body_that_is_none(body: bytes) -> None:
    assert parse_error_body(body) == (None, "")


def test_a_code_that_could_be_anything_is_left_out() -> None:
    assert parse_error_body(b'{"errors":[{"code":"a b\\nc","message":"m"}]}') == (None, "m")
    assert parse_error_body(b'{"errors":[{"code":"denied"}]}') == ("DENIED", "")


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("", None), ("7", 7.0), (" 0 ", 0.0), ("-1", None), ("soon", None), ("1e3", None), ("9" * 30, None)],
)
def test_retry_after_is_seconds(value: str, seconds: float | None) -> None:
    assert retry_after({"Retry-After": value}) == seconds
    assert retry_after({}) is None


def test_retry_after_is_a_date() -> None:
    later = retry_after({"Retry-After": email.utils.formatdate(time.time() + 100, usegmt=True)})
    assert later is not None
    assert 90 < later <= 100
    assert retry_after({"Retry-After": email.utils.formatdate(0, usegmt=True)}) == 0


def test_messages_hold_no_secrets() -> None:
    text = "Basic dXNlcjpw, bearer abc.def-_~+/= at https://u:p@h/?sig=1 and hunter2\r\n" + "x" * 300
    cleaned = scrubbed(text, ["hunter2", ""])
    for secret in ("dXNlcjpw", "abc.def", "u:p", "sig", "hunter2", "\r", "\n"):
        assert secret not in cleaned
    assert len(cleaned) <= 200


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://u:p@h.io:444/a/b?sig=x#f", "https://h.io:444/a/b"),
        ("http://[::1]:5000/x?y", "http://[::1]:5000/x"),
        ("file:///etc/passwd", "file:///etc/passwd"),
        (URL("http://h.io:99999/x", encoded=True), "http:"),
    ],
)
def test_urls_are_written_without_secrets(url: URL | str, expected: str) -> None:
    assert redacted(url) == expected


def test_an_operation_reads_well() -> None:
    assert str(Operation("check_credentials", "h.io")) == "check_credentials h.io"
    assert str(Operation("get_blob", "h.io", "a", "sha256:1")) == "get_blob h.io/a@sha256:1"
    details: dict[str, Any] = Operation("check_credentials", "h.io").details()
    assert details == {"registry": "h.io", "operation": "check_credentials"}
