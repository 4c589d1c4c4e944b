"""From a registry's answer, or from its silence, to one classified error (distribution spec, section Error Codes).

Every error carries ``registry``, ``repository``, ``operation`` and, where there was an answer, ``status`` and the
registry's own ``registry_code``. Messages never hold credentials, query strings or user information.
"""

from __future__ import annotations

import email.utils
import json
import re
import ssl
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
from yarl import URL

from shared.errors import IcsError, PermanentError, TransientError
from shared.exhausted import LOCAL_RESOURCE, exhausted, refusal
from shared.unreachable import why

MAXIMUM_ERROR_BODY = 64 * 1024
"""Bytes of an error's body that are looked at."""

_REGISTRY_CODE = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_AUTHORIZATION = re.compile(r"(?i)\b(basic|bearer)\s+[\w.~+/=-]+")
_QUERY = re.compile(r"\?[^\s\"']+")
_USER_INFORMATION = re.compile(r"//[^/\s@]*@")


@dataclass(frozen=True, slots=True)
class Operation:
    """What is being done, for errors, metrics and traces."""

    name: str
    """One of a fixed set, ``get_blob`` for example."""
    registry: str
    repository: str = ""
    subject: str = ""
    """Tag or digest."""

    def __str__(self) -> str:
        place = f"{self.registry}/{self.repository}" if self.repository else self.registry
        joint = "@" if ":" in self.subject else ":"
        return f"{self.name} {place}{joint + self.subject if self.subject else ''}"

    def transient(
        self, what: str, *, code: str, retry_after: float | None = None, **details: str | float | None
    ) -> TransientError:
        """An error of this operation that may pass."""
        return TransientError(f"{self}: {what}", code=code, retry_after=retry_after, **self.details(), **details)

    def permanent(self, what: str, *, code: str, **details: str | float | None) -> PermanentError:
        """An error of this operation that will stay."""
        return PermanentError(f"{self}: {what}", code=code, **self.details(), **details)

    def details(self) -> dict[str, str | float | None]:
        details: dict[str, str | float | None] = {"registry": self.registry, "operation": self.name}
        if self.repository:
            details["repository"] = self.repository
        return details


def redacted(url: URL | str) -> str:
    """``url`` without user information, query and fragment: signatures and upload states are secrets."""
    url = URL(url)
    try:
        port = "" if url.explicit_port is None else f":{url.explicit_port}"
        return f"{url.scheme}://{url.host_subcomponent or ''}{port}{url.raw_path}"[:300]
    except ValueError:  # a port out of range, which is only found when it is asked for
        return f"{url.scheme}:"


def scrubbed(text: str, secrets: Iterable[str] = ()) -> str:
    """Text that another server wrote, safe for logs: printable, at most 200 characters, nothing secret in it."""
    for secret in secrets:
        if secret:
            text = text.replace(secret, "***")
    text = _AUTHORIZATION.sub(r"\1 ***", text)
    text = _USER_INFORMATION.sub("//", text)
    text = _QUERY.sub("?***", text)
    return "".join(c if c.isprintable() else " " for c in text)[:200].strip()


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds of a ``Retry-After`` header, which is a number or an HTTP date (RFC 9110, section 10.2.3)."""
    value = headers.get("Retry-After", "").strip()
    if not value:
        return None
    if re.fullmatch(r"[0-9]{1,9}", value):
        return float(value)
    try:
        moment = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, moment.timestamp() - time.time())


def parse_error_body(body: bytes) -> tuple[str | None, str]:
    """The first error's code (upper case) and message; ``(None, "")`` of anything that is not the spec's JSON."""
    try:
        data: Any = json.loads(body)
    except (ValueError, RecursionError):
        return None, ""
    errors = data.get("errors") if isinstance(data, dict) else None
    if not isinstance(errors, list) or not errors or not isinstance(errors[0], dict):
        return None, ""
    code, message = errors[0].get("code"), errors[0].get("message")
    known = isinstance(code, str) and _REGISTRY_CODE.fullmatch(code)
    return (str(code).upper() if known else None), (message if isinstance(message, str) else "")


_PERMANENT_BY_STATUS = {
    400: "invalid_request",
    401: "unauthorized",
    403: "denied",
    404: "not_found",
    405: "unsupported_by_registry",
    407: "proxy_refused",
    409: "conflict",
    410: "not_found",
    411: "invalid_request",
    412: "immutable_tag",
    413: "too_large",
    414: "invalid_request",
    416: "range_refused",
    431: "invalid_request",
    501: "unsupported_by_registry",
    505: "unsupported_by_registry",
}
_BY_REGISTRY_CODE = {
    "MANIFEST_UNKNOWN": "manifest_unknown",
    "NAME_UNKNOWN": "name_unknown",
    "BLOB_UNKNOWN": "blob_unknown",
    "BLOB_UPLOAD_UNKNOWN": "upload_unknown",
    "BLOB_UPLOAD_INVALID": "upload_invalid",
    "NOT_FOUND": "not_found",
    "MANIFEST_INVALID": "manifest_refused",
    "MANIFEST_BLOB_UNKNOWN": "manifest_blob_unknown",
    "DIGEST_INVALID": "digest_refused",
    "DENIED": "denied",
    "UNAUTHORIZED": "unauthorized",
}
_NOT_FOUND_BY_OPERATION = {
    "manifest": "manifest_unknown",
    "start_upload": "name_unknown",
    "upload": "upload_unknown",
    "blob": "blob_unknown",
}
_PUSHES = frozenset({"start_upload", "upload_blob", "commit_upload", "put_manifest"})
_QUOTA = re.compile(r"(?i)\bquota|exceed the configured upper limit")
"""Harbor refuses for want of room with the code and status of other refusals (DENIED; 412 before 2.0): only its text tells."""
_ADVICE = {
    "denied": "the credentials may not push there, or the project takes no pushes (a proxy cache, read-only);"
    " see the robot's rights, or give the rule a target_repository elsewhere",
    "name_unknown": "create the project or the repository first",
    "immutable_tag": "the tag is immutable in this project",
    "quota_exceeded": "raise the project's quota, or delete from it and collect its garbage",
    "too_large": "the registry, or a proxy before it, limits bodies (nginx: client_max_body_size)",
}
"""What to do about a push that is refused."""


def from_status(
    operation: Operation,
    status: int,
    headers: Mapping[str, str],
    body: bytes = b"",
    *,
    secrets: Iterable[str] = (),
) -> IcsError:
    """Classify an answer that is not the one wanted."""
    registry_code, text = parse_error_body(body)
    text = scrubbed(text, secrets)
    said = (
        f"the registry answered {status}"
        + (f" {registry_code}" if registry_code else "")
        + (f" ({text})" if text else "")
    )
    wait = retry_after(headers)
    transient = _transient_code(status, registry_code)
    if transient is not None:
        if transient == "policy_violation":
            said += "; a policy of the project holds the image back (not scanned yet, or vulnerable)"
        return operation.transient(said, code=transient, retry_after=wait, status=status, registry_code=registry_code)
    code = _PERMANENT_BY_STATUS.get(status, "unexpected_answer")
    if status in {400, 404}:
        code = _BY_REGISTRY_CODE.get(registry_code or "", code)
    if code == "not_found":
        kind = next((kind for kind in _NOT_FOUND_BY_OPERATION if kind in operation.name), "")
        code = _NOT_FOUND_BY_OPERATION.get(kind, code)
    if code == "too_large" and "manifest" in operation.name:
        code = "manifest_too_large"
    if status in {403, 412, 413} and operation.name in _PUSHES and _QUOTA.search(text):
        code = "quota_exceeded"
    if code == "immutable_tag" and operation.name != "put_manifest":
        code = "precondition_failed"
    if code == "unauthorized":
        said += "; see its user and password under `auths`, or in Docker's configuration"
    if operation.name in _PUSHES and code in _ADVICE:
        said += f"; {_ADVICE[code]}"
    return operation.permanent(said, code=code, status=status, registry_code=registry_code)


def _transient_code(status: int, registry_code: str | None) -> str | None:
    if status == 429 or registry_code == "TOOMANYREQUESTS":
        return "rate_limited"
    if status == 412 and registry_code == "PROJECTPOLICYVIOLATION":
        return "policy_violation"
    if status == 408:
        return "registry_timeout"
    if status == 425 or (status >= 500 and status not in {501, 505}):
        return "registry_unavailable"
    return None


class RefusedAddressError(OSError):
    """A host name resolved to a link-local or cloud metadata address. An ``OSError`` because aiohttp's resolvers raise those."""


def from_exception(operation: Operation, error: BaseException) -> IcsError:
    """Classify what aiohttp, the operating system or a time-out raised instead of an answer."""
    if isinstance(error, IcsError):
        return error
    for cause in _causes(error):
        if isinstance(cause, RefusedAddressError):
            return operation.permanent(str(cause), code="host_not_allowed")
    if isinstance(error, TimeoutError):  # aiohttp's own are among them
        return operation.transient("the registry did not answer in time", code="registry_timeout")
    if isinstance(error, (aiohttp.ClientSSLError, ssl.SSLError)):
        return _from_tls(operation, error)
    if isinstance(error, aiohttp.InvalidURL):
        return operation.permanent("not a URL that can be requested", code="invalid_url")
    for cause in _causes(error):  # that is no fault of the registry's, which must not be left alone for it
        if (resource := exhausted(cause)) is not None:
            return operation.transient(
                f"this machine refused: {refusal(cause)}", code=LOCAL_RESOURCE, resource=resource
            )
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        what = "its name does not resolve"
    elif isinstance(error, aiohttp.ClientConnectorError):
        what = f"no connection ({why(error.os_error)})"
    elif isinstance(error, (aiohttp.ClientPayloadError, aiohttp.ServerDisconnectedError, ConnectionError)):
        what = "the connection was cut"
    elif isinstance(error, aiohttp.ClientResponseError):
        what = "its answer is not HTTP"
    else:
        what = f"the connection failed ({type(error).__name__})"
    return operation.transient(f"the registry cannot be reached, {what}", code="registry_unavailable")


def from_proxy(operation: Operation, error: aiohttp.ClientHttpProxyError | aiohttp.ClientConnectorError) -> IcsError:
    """Classify what a proxy answered instead of leading to the registry, or why it could not be asked."""
    if isinstance(error, aiohttp.ClientConnectorError):
        known = from_exception(operation, error)
        if known.code != "registry_unavailable":
            return known
        return operation.transient(f"its proxy cannot be reached, {why(error.os_error)}", code=known.code)
    if error.status >= 500 or error.status == 429:
        return operation.transient(
            f"its proxy answered {error.status}", code="registry_unavailable", status=error.status
        )
    return operation.permanent(
        f"its proxy leads nobody there (it answered {error.status}); see its user and password in `proxy`, and its own rules",
        code="proxy_refused",
        status=error.status,
    )


def _from_tls(operation: Operation, error: BaseException) -> IcsError:
    # aiohttp's certificate error is an ssl.CertificateError by inheritance, without the attributes of one.
    causes = [cause for cause in _causes(error) if isinstance(cause, ssl.SSLError)]
    reason = next((str(text) for cause in causes if (text := getattr(cause, "reason", None))), "")
    if "EOF" in reason:
        return operation.transient("the connection was cut during the TLS handshake", code="registry_unavailable")
    verify = next((str(text) for cause in causes if (text := getattr(cause, "verify_message", None))), "")
    return operation.permanent(
        f"TLS failed: {scrubbed(verify or reason or type(error).__name__)}. "
        "Check the certificate, `ca`, the client certificate, or `insecure`",
        code="tls_error",
    )


def _causes(error: BaseException) -> list[BaseException]:
    """The error and what lies under it; aiohttp keeps some causes in attributes."""
    seen: list[BaseException] = []
    waiting: list[object] = [error]
    while waiting:
        cause = waiting.pop()
        if not isinstance(cause, BaseException) or cause in seen:
            continue
        seen.append(cause)
        waiting += [
            cause.__cause__,
            cause.__context__,
            getattr(cause, "os_error", None),
            getattr(cause, "certificate_error", None),
        ]
    return seen
