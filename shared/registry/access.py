"""Which hosts may be contacted, how, and with whose credentials: the settings' ``auths`` and ``endpoints`` resolved.

``auths`` is the allow-list. It holds for redirects, upload locations and token realms too: those may also go to the
registry's ``token_hosts``, but credentials are only ever sent to the registry itself and, for a token, to its realm.
"""

from __future__ import annotations

import base64
import binascii
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from yarl import URL

from shared.errors import PermanentError
from shared.oci.reference import DOCKER_HUB, is_registry, normal_registry
from shared.registry.addresses import refused
from shared.registry.errors import redacted
from shared.settings.model import Auth, Settings

_DOCKER_HUB_ENDPOINT = "registry-1.docker.io"
_DOCKER_HUB_HOSTS = ("auth.docker.io", "production.cloudflare.docker.com", "*.r2.cloudflarestorage.com")


@dataclass(frozen=True, slots=True)
class Credential:
    """A user and a secret; the secret never shows in ``repr``."""

    user: str
    secret: str = field(repr=False)
    identity_token: bool = field(default=False)
    """The secret is a refresh token of an OAuth2 token endpoint (user ``<token>`` in Docker's terms)."""

    @property
    def basic(self) -> str:
        return "Basic " + base64.b64encode(f"{self.user}:{self.secret}".encode()).decode()


def decode_basic(text: str, where: str) -> Credential:
    """base64 of ``user:password``, as Docker's config and ``auths.*.auth`` hold it.

    Raises:
        PermanentError: code ``invalid_credential``; the message names ``where``, never the value.
    """
    try:
        user, colon, secret = base64.b64decode(text.strip(), validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        user, colon, secret = "", "", ""
    if not colon or not user:
        raise PermanentError(f"{where} is not base64 of user:password", code="invalid_credential")
    return Credential(user, secret.rstrip("\x00"))


@dataclass(frozen=True, slots=True)
class RegistryAccess:
    """How one registry is reached."""

    registry: str
    """As references name it."""
    base: URL
    """Scheme, host and port to contact."""
    token_hosts: tuple[str, ...] = ()
    credential: Credential | None = None
    tls: ssl.SSLContext | None = None
    """For the registry itself: with its client certificate."""
    foreign_tls: ssl.SSLContext | None = None
    """For its ``token_hosts``: the system's authorities beside ``ca``, no client certificate."""
    proxy: str | None = field(default=None, repr=False)
    """URL of the proxy that leads to it and to its ``token_hosts``; may hold a password."""

    @property
    def insecure(self) -> bool:
        return self.base.scheme == "http"

    def is_own(self, url: URL) -> bool:
        """Whether ``url`` is at the registry itself, where its credentials belong."""
        return url.origin() == self.base


@dataclass(frozen=True, slots=True)
class Destination:
    """A URL that may be requested, and with what."""

    url: URL
    tls: ssl.SSLContext | None
    trusted: bool
    """The registry's credentials belong there."""
    proxy: str | None = field(default=None, repr=False)


class AccessList:
    """All registries that the settings allow."""

    def __init__(self, accesses: Mapping[str, RegistryAccess]) -> None:
        self._accesses = dict(accesses)

    @classmethod
    def from_settings(cls, settings: Settings) -> AccessList:
        """Read credentials and certificates.

        Raises:
            PermanentError: ``invalid_credential``, ``invalid_certificate``.
        """
        endpoints = {normal_host(external): internal for external, internal in settings.endpoints.items()}
        auths = {normal_host(registry): auth for registry, auth in settings.auths.items()}
        accesses = {registry: _access(registry, auth, endpoints.get(registry)) for registry, auth in auths.items()}
        for external, internal in endpoints.items():
            if external not in accesses and (auth := auths.get(normal_host(internal))) is not None:
                accesses[external] = _access(external, auth, internal)
        return cls(accesses)

    def of(self, registry: str) -> RegistryAccess:
        """The access of a registry as a reference names it.

        Raises:
            PermanentError: ``host_not_allowed``.
        """
        access = self._accesses.get(normal_host(registry))
        if access is None:
            raise PermanentError(
                f"{registry} is not among the registries that may be contacted; add it to `auths`",
                code="host_not_allowed",
                registry=registry,
            )
        _refuse_address(access.base, access.registry)
        return access

    def destination(self, access: RegistryAccess, url: URL, *, token: bool = False) -> Destination:
        """Judge a URL that ``access``'s registry sent us to (``token``: as its token realm).

        A URL at the registry's own external name is taken to its endpoint. A token realm gets the credential, so it must be the
        registry itself or one of its ``token_hosts``; a redirect may also go to another registry of the settings.

        Raises:
            PermanentError: ``host_not_allowed``, ``plain_http_refused``.
        """
        if url.scheme not in {"http", "https"} or not _has_place(url) or url.user is not None:
            raise PermanentError(
                f"{access.registry} sent us to a URL that may not be requested: {redacted(url)}",
                code="host_not_allowed",
                registry=access.registry,
            )
        if access.is_own(url) or _names(url, access.registry):
            own = URL.build(
                scheme=access.base.scheme,
                host=access.base.host or "",
                port=access.base.explicit_port,
                path=url.raw_path,
                query_string=url.raw_query_string,
                encoded=True,
            )
            _refuse_address(own, access.registry)
            return Destination(own, access.tls, trusted=True, proxy=access.proxy)
        _refuse_address(url, access.registry)
        if any(_matches(url, pattern) for pattern in access.token_hosts):
            if url.scheme == "http" and not access.insecure:
                raise _plain_http(access.registry, url)
            return Destination(url, access.foreign_tls, trusted=token, proxy=access.proxy)
        if not token:
            for other in self._accesses.values():
                if url.origin() == other.base:
                    return Destination(url, other.tls, trusted=False, proxy=other.proxy)
                if _names(url, other.registry):
                    raise _plain_http(access.registry, url)
        raise PermanentError(
            f"{access.registry} sent us to {url.host}, which may not be contacted for it; add it to its `token_hosts`",
            code="host_not_allowed",
            registry=access.registry,
            host=url.host,
        )


def _has_place(url: URL) -> bool:
    try:
        return bool(url.host) and url.port is not None
    except ValueError:  # a port out of range, which is only found when it is asked for
        return False


def _plain_http(registry: str, url: URL) -> PermanentError:
    return PermanentError(
        f"{registry} sent us to {url.scheme}://{url.host}, and the settings want another scheme there; see `insecure`",
        code="plain_http_refused",
        registry=registry,
        host=url.host,
    )


def _refuse_address(url: URL, registry: str) -> None:
    if refused(url.host or ""):
        raise PermanentError(
            f"{url.host} is a link-local or metadata address, which is never contacted",
            code="host_not_allowed",
            registry=registry,
            host=url.host,
        )


def normal_host(registry: str) -> str:
    """Lower case, without scheme or path (Docker's config has ``https://index.docker.io/v1/``), Docker Hub by one name."""
    return normal_registry(registry.lower().removeprefix("https://").removeprefix("http://").partition("/")[0])


def _names(url: URL, registry: str) -> bool:
    name = normal_host(registry)
    return name in {url.host_port_subcomponent, f"{url.host_subcomponent}:{url.port}"}


def _matches(url: URL, pattern: str) -> bool:
    pattern = pattern.lower()
    return fnmatchcase(url.host or "", pattern) or fnmatchcase(f"{url.host}:{url.port}", pattern)


def _access(registry: str, auth: Auth, endpoint: str | None) -> RegistryAccess:
    hub = registry == DOCKER_HUB and endpoint is None
    host = endpoint or (_DOCKER_HUB_ENDPOINT if registry == DOCKER_HUB else registry)
    base = _origin("http" if auth.insecure else "https", host, registry)
    credential = None
    if auth.auth is not None:
        credential = decode_basic(auth.auth.get_secret_value(), f"auths.{registry}.auth")
    elif auth.auth_file is not None:
        credential = decode_basic(_read(auth.auth_file, registry), f"auths.{registry}.auth_file")
    return RegistryAccess(
        registry=registry,
        base=base,
        token_hosts=(*auth.token_hosts, *(_DOCKER_HUB_HOSTS if hub else ())),
        credential=credential,
        tls=None if auth.insecure else _context(registry, auth, own=True),
        foreign_tls=_context(registry, auth, own=False),
        proxy=None if auth.proxy is None else auth.proxy.get_secret_value(),
    )


def _origin(scheme: str, host: str, registry: str) -> URL:
    try:
        if is_registry(host):
            return URL(f"{scheme}://{host}").origin()
    except ValueError:  # a port out of range
        pass
    raise PermanentError(f"not a host[:port]: {host[:150]!r}", code="invalid_host", registry=registry[:150])


def _read(path: Path, registry: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PermanentError(
            f"auths.{registry}.auth_file: {path} cannot be read ({type(error).__name__})", code="invalid_credential"
        ) from error


def _context(registry: str, auth: Auth, *, own: bool) -> ssl.SSLContext:
    """A registry with a ``ca`` is trusted by that alone; its storage or realm may be a public cloud's."""
    try:
        context = ssl.create_default_context(cafile=auth.ca)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if not own and auth.ca is not None:
            context.load_default_certs()
        if own and auth.client_certificate is not None:
            context.load_cert_chain(auth.client_certificate, auth.client_key)
    except OSError as error:  # ssl.SSLError is one
        raise PermanentError(
            f"auths.{registry}: a certificate or key cannot be loaded ({type(error).__name__})",
            code="invalid_certificate",
        ) from error
    return context
