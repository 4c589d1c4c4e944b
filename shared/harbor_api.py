"""Harbor's REST API, as far as conversions need it: a label on the source artifact (harbor.md, "Credentials and API")."""

from __future__ import annotations

import base64
from typing import Any
from urllib.parse import quote

import aiohttp
import orjson
from yarl import URL

from shared.errors import PermanentError
from shared.oci.reference import Reference
from shared.outgoing_http import call
from shared.settings.model import HarborApi as HarborSettings

_CONFLICT = frozenset({409})
_COLOUR = "#0065AB"


class HarborApi:
    """One Harbor; its errors are those of :func:`shared.outgoing_http.call`."""

    def __init__(self, settings: HarborSettings, session: aiohttp.ClientSession) -> None:
        self._base = settings.url.rstrip("/") + "/api/v2.0"
        self._session = session
        self._headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if settings.username:
            pair = f"{settings.username}:{_password(settings)}"
            self._headers["Authorization"] = "Basic " + base64.b64encode(pair.encode()).decode()
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

    async def request(
        self, method: str, path: str, document: Any = None, *, expected: frozenset[int] = frozenset()
    ) -> tuple[int, Any]:
        """Call ``path`` below ``/api/v2.0`` (encoded already); status and parsed answer."""
        body = None if document is None else orjson.dumps(document)
        url = URL(self._base + path, encoded=True)
        return await call(self._session, method, url, body=body, headers=self._headers, expected=expected)

    async def _label(self, project: str, name: str) -> int:
        if (known := self._labels.get((project, name))) is not None:
            return known
        _, found = await self.request("GET", f"/projects/{quote(project)}")
        project_id = found["project_id"] if isinstance(found, dict) else None
        label_id = await self._find_label(project_id, name)
        if label_id is None:
            document = {"name": name, "scope": "p", "project_id": project_id, "color": _COLOUR}
            await self.request("POST", "/labels", document, expected=_CONFLICT)
            label_id = await self._find_label(project_id, name)
        if label_id is None:
            raise PermanentError(f"Harbor has no label {name!r} and made none", code="peer_refused")
        self._labels[project, name] = label_id
        return label_id

    async def _find_label(self, project_id: object, name: str) -> int | None:
        _, found = await self.request("GET", f"/labels?scope=p&project_id={project_id}&name={quote(name, safe='')}")
        labels = found if isinstance(found, list) else []
        return next((int(each["id"]) for each in labels if each.get("name") == name), None)


def encoded(repository: str) -> str:
    """Slashes encoded twice, as Harbor's router wants it: ``a/b`` → ``a%252Fb``."""
    return quote(quote(repository, safe=""), safe="")


def _password(settings: HarborSettings) -> str:
    if settings.password is not None:
        return settings.password.get_secret_value()
    return settings.password_file.read_text().strip() if settings.password_file else ""
