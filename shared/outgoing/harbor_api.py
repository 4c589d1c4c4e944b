"""Harbor's REST API, as far as conversions need it: paged lists, and a label on the source artifact."""

from __future__ import annotations

import base64
import ssl
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import aiohttp
import orjson
from yarl import URL

from shared.errors import PermanentError
from shared.oci.reference import Reference
from shared.outgoing.http import call
from shared.settings.model import HarborSettings
from shared.telemetry.redaction import redact

PAGE = 100
"""Harbor's largest page."""
_CONFLICT = frozenset({409})
_REFUSALS = frozenset(range(400, 500)) - {408, 425, 429}
_COLOUR = "#0065AB"


class HarborApi:
    """One Harbor; its errors are those of :func:`shared.outgoing.http.call`, with Harbor's own words where it gave some.

    Raises:
        PermanentError: ``invalid_configuration``: ``ca`` or ``password_file`` cannot be read.
    """

    def __init__(self, settings: HarborSettings, session: aiohttp.ClientSession) -> None:
        self._base = settings.url.rstrip("/") + "/api/v2.0"
        self._session = session
        self._headers = {"Content-Type": "application/json", "Accept": "application/json"}
        self._username, self._password = settings.username, _password(settings)
        if self._username:
            pair = f"{self._username}:{self._password}"
            self._headers["Authorization"] = "Basic " + base64.b64encode(pair.encode()).decode()
        self._tls = _trust(settings)
        self._proxy = None if settings.proxy is None else settings.proxy.get_secret_value()
        self._labels: dict[tuple[str, str], int] = {}

    async def label_artifact(self, artifact: Reference, label: str) -> None:
        """Put ``label`` (of the artifact's project, made if it is missing) on ``artifact``; one that is there already is fine."""
        project, _, repository = artifact.repository.partition("/")
        if not repository:
            raise PermanentError(f"{artifact.repository} is in no project", code="peer_refused")
        label_id = await self._label(project, label)
        reference = str(artifact.digest or artifact.tag)
        path = f"/projects/{quote(project)}/repositories/{encoded(repository)}/artifacts/{quote(reference)}/labels"
        await self.request("POST", path, {"id": label_id}, expected=_CONFLICT)

    async def find_label(self, project_id: object, name: str) -> int | None:
        """A project's label by its exact name (Harbor's own search is a fuzzy one)."""
        async for each in self.pages(f"/labels?scope=p&project_id={project_id}&name={quote(name, safe='')}"):
            if each.get("name") == name:
                return int(each["id"])
        return None

    async def create_label(self, project_id: object, name: str) -> int:
        """Make a project's label; one that somebody made meanwhile is as good."""
        document = {"name": name, "scope": "p", "project_id": project_id, "color": _COLOUR}
        await self.request("POST", "/labels", document, expected=_CONFLICT)
        label_id = await self.find_label(project_id, name)
        if label_id is None:
            raise PermanentError(f"Harbor has no label {name!r} and made none", code="peer_refused")
        return label_id

    async def pages(self, path: str) -> AsyncIterator[dict[str, Any]]:
        """Every element of a list, page by page; a page that is not full is the last.

        Raises:
            PermanentError: ``peer_refused``: the answer is no list.
        """
        page = 1
        joint = "&" if "?" in path else "?"
        while True:
            _, found = await self.request("GET", f"{path}{joint}page={page}&page_size={PAGE}")
            if not isinstance(found, list):
                raise PermanentError("Harbor's answer is no list", code="peer_refused")
            for each in found:
                if isinstance(each, dict):
                    yield each
            if len(found) < PAGE:
                return
            page += 1

    async def request(
        self, method: str, path: str, document: Any = None, *, expected: frozenset[int] = frozenset()
    ) -> tuple[int, Any]:
        """Call ``path`` below ``/api/v2.0`` (encoded already); status and parsed answer."""
        body = None if document is None else orjson.dumps(document)
        url = URL(self._base + path, encoded=True)
        wanted = expected | _REFUSALS
        status, answer = await call(
            self._session,
            method,
            url,
            body=body,
            headers=self._headers,
            expected=wanted,
            tls=self._tls,
            proxy=self._proxy,
        )
        if status in _REFUSALS and status not in expected:
            raise PermanentError(
                f"{method} {url.origin()}: answered {status}{self._reason(status, answer)}",
                code="peer_refused",
                status=status,
            )
        return status, answer

    def _reason(self, status: int, answer: Any) -> str:
        """What to do about it, or what Harbor says: ``{"errors": [{"code", "message"}]}``, short and without our password."""
        if status == 401:
            return f": wrong user name or password (user {self._username or 'anonymous'})"
        errors = answer.get("errors") if isinstance(answer, dict) else None
        first = errors[0] if isinstance(errors, list) and errors else None
        said = str(first.get("message", "")) if isinstance(first, dict) else ""
        text = redact(said, [self._password])[:200].strip()
        return f": {text}" if text else ""

    async def _label(self, project: str, name: str) -> int:
        if (known := self._labels.get((project, name))) is not None:
            return known
        _, found = await self.request("GET", f"/projects/{quote(project)}")
        project_id = found["project_id"] if isinstance(found, dict) else None
        label_id = await self.find_label(project_id, name)
        if label_id is None:
            label_id = await self.create_label(project_id, name)
        self._labels[project, name] = label_id
        return label_id


def encoded(repository: str) -> str:
    """Slashes encoded twice, as Harbor's router wants it: ``a/b`` → ``a%252Fb``."""
    return quote(quote(repository, safe=""), safe="")


def _password(settings: HarborSettings) -> str:
    if settings.password is not None:
        return settings.password.get_secret_value()
    if settings.password_file is None:
        return ""
    try:
        return settings.password_file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise PermanentError(
            f"harbor: password_file {settings.password_file} cannot be read: {type(error).__name__}",
            code="invalid_configuration",
        ) from error


def _trust(settings: HarborSettings) -> ssl.SSLContext | None:
    if settings.ca is None:
        return None
    try:
        context = ssl.create_default_context(cafile=settings.ca)
    except (OSError, ssl.SSLError) as error:
        raise PermanentError(
            f"harbor: ca {settings.ca} cannot be loaded as PEM certificates: {type(error).__name__}",
            code="invalid_configuration",
        ) from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context
