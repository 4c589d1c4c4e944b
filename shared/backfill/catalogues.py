"""What exists in a registry, for the backfill: the distribution API's catalogue, or Harbor's own, which knows digests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from urllib.parse import quote

from shared.backfill.walk import Catalogue, Tagged
from shared.errors import PermanentError
from shared.oci.converted import ANNOTATION_DRIVER_NAME
from shared.oci.digest import Digest
from shared.oci.reference import Reference, normal_registry
from shared.outgoing.harbor_api import HarborApi, encoded
from shared.outgoing.http import create_session
from shared.registry.client import RegistryClient
from shared.settings.model import Settings


class RegistryCatalogue:
    """``/v2/_catalog`` and ``/v2/{name}/tags/list`` (distribution spec, Content Discovery); digests are resolved one by one.

    A manifest is read only where the caller has to know who made it: registries count and limit reading as pulls, and keep by it.
    """

    def __init__(self, client: RegistryClient, registry: str) -> None:
        self._client = client
        self._registry = registry

    async def repositories(self) -> AsyncIterator[str]:
        async for name in self._client.repositories(self._registry):
            yield name

    async def tags(self, repository: str, may_be_target: Callable[[str], bool]) -> AsyncIterator[Tagged]:
        where = Reference(self._registry, repository)
        async for tag in self._client.tags(where):
            found = await self._client.resolve(where.with_tag(tag))
            if found is not None:
                converted = may_be_target(tag) and await self._is_converted(where.with_tag(tag))
                yield Tagged(tag, found.digest, converted)

    async def _is_converted(self, reference: Reference) -> bool:
        try:
            manifest = await self._client.manifest(reference)
        except PermanentError:  # gone, or nothing that could be read: the conversion will say so
            return False
        return ANNOTATION_DRIVER_NAME in manifest.annotations


class HarborCatalogue:
    """One project, or all that the credential sees, by Harbor's API (v2.0): a page of artifacts a request.

    Proxy-cache projects are left out: nothing can be pushed there.
    """

    def __init__(self, api: HarborApi, project: str = "") -> None:
        self._api = api
        self._project = project

    async def repositories(self) -> AsyncIterator[str]:
        if self._project:
            _, found = await self._api.request("GET", f"/projects/{quote(self._project)}")
            projects = [found] if isinstance(found, dict) else []
        else:
            projects = [each async for each in self._api.pages("/projects?sort=name")]
        for project in projects:
            if project.get("registry_id"):
                continue
            path = f"/projects/{quote(str(project['name']))}/repositories?sort=name"
            async for repository in self._api.pages(path):
                yield str(repository["name"])

    async def tags(self, repository: str, may_be_target: Callable[[str], bool]) -> AsyncIterator[Tagged]:
        project, _, name = repository.partition("/")
        path = f"/projects/{quote(project)}/repositories/{encoded(name)}/artifacts?with_tag=true&sort=id"
        async for artifact in self._api.pages(path):
            marked = ANNOTATION_DRIVER_NAME in (artifact.get("annotations") or {})
            for tag in artifact.get("tags") or []:
                name = str(tag["name"])
                yield Tagged(name, Digest(str(artifact["digest"])), may_be_target(name) and marked)


@asynccontextmanager
async def open_catalogue(settings: Settings, registry: str, project: str = "") -> AsyncIterator[Catalogue]:
    """Harbor's API where ``settings.harbor`` has it for ``registry``, else the registry's own catalogue.

    Raises:
        PermanentError: ``invalid_request``: a project, but no Harbor API is configured for the registry.
    """
    async with AsyncExitStack() as stack:
        apis = {normal_registry(host): api for host, api in settings.harbor.items()}
        harbor = apis.get(normal_registry(registry))
        if harbor is not None:
            session = await stack.enter_async_context(create_session())
            yield HarborCatalogue(HarborApi(harbor, session), project)
        elif project:
            raise PermanentError(
                f"a project needs Harbor's API: configure harbor.{registry}.url, or name --repositories '{project}/*'",
                code="invalid_request",
            )
        else:
            client = await stack.enter_async_context(RegistryClient.from_settings(settings))
            yield RegistryCatalogue(client, registry)
