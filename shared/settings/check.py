"""What spans several keys, or needs a look outside the file: certificates, driver options, conflicts between rules."""

from __future__ import annotations

import base64
import binascii
import contextlib
import re
import ssl
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

import orjson
from pydantic import BaseModel, SecretStr, ValidationError

from shared.errors import PermanentError
from shared.oci.descriptor import Platform
from shared.oci.reference import Reference, normal_registry
from shared.planning import allowed_registries, expand_repository
from shared.settings.broker_url import server_urls
from shared.settings.model import Auth, DriverSettings, Rule, Settings
from shared.settings.problems import Problem, from_validation, join

BROKER_SCHEMES = ("embedded", "memory", "nats", "tls", "amqp", "amqps")
PROXY = "http://[user:password@]HOST[:PORT]"
_SUFFIX = re.compile(r"[A-Za-z0-9_.-]{1,100}")
_TEMPLATE = (
    "must be [registry/]path in lower case, with {registry}, {repository}, {project}, {name} where they are wanted"
)
_HOST = re.compile(r"(?:[a-zA-Z0-9](?:[a-zA-Z0-9.-]*[a-zA-Z0-9])?|\[[0-9a-fA-F:.]+\])(?::([0-9]{1,5}))?")
_OWN_PATH = re.compile(
    r"/(?:health|openapi\.json|docs|redoc)$|/console(?:/|$)|/api/v1/(?:status|dead-letters|backfills)(?:/|$)"
)


def check(settings: Settings, option_models: Mapping[str, type[BaseModel]]) -> list[Problem]:
    """Every problem of settings whose single values are fine."""
    return [
        *_server(settings),
        *_registries(settings),
        *_rules(settings, option_models),
        *_broker(settings),
        *_peers(settings),
        *_secret_files(settings),
    ]


def _server(settings: Settings) -> Iterator[Problem]:
    for path, value in (("endpoint", settings.endpoint), ("metric.path", settings.metric.path)):
        if not re.fullmatch(r"/[A-Za-z0-9/_.-]*", value):
            yield Problem(path, "must be a path: / and then letters, digits, / _ . -")
    if settings.endpoint == settings.metric.path or _OWN_PATH.match(settings.endpoint):
        yield Problem("endpoint", "is the address of something else of this service: choose another, as /conversion")
    if _OWN_PATH.match(settings.metric.path):
        yield Problem("metric.path", "is the address of something else of this service: choose another, as /metrics")
    for number, header in enumerate(settings.auth_header):
        value = header.get_secret_value()
        if not value.strip() or not value.isascii() or any(ord(character) < 32 for character in value):
            yield Problem(f"auth_header[{number}]", "must be printable ASCII, and not empty")
    if settings.https is not None:
        yield from _key_pair("https.certificate", settings.https.certificate, settings.https.private_key)
        if settings.https.port == settings.http.port != 0:
            yield Problem("https.port", "must differ from http.port, which answers with a redirect to it")
    for path, credential in (
        ("console.credential", settings.console.credential),
        ("console.operator_credential", settings.console.operator_credential),
    ):
        if credential is not None and not re.fullmatch(r"[^:]+:.+", credential.get_secret_value()):
            yield Problem(path, "must be user:password")
    if not re.fullmatch(r"(/[A-Za-z0-9_.-]+)*", settings.console.path_prefix):
        yield Problem("console.path_prefix", "must be empty or a path without a slash at its end: /ics")


def _registries(settings: Settings) -> Iterator[Problem]:
    for host, auth in settings.auths.items():
        path = join("auths", (host,))
        if not _is_host(host):
            yield Problem(path, "must be host or host:port, without a scheme or a path")
        yield from _auth(path, auth)
    for host, target in settings.endpoints.items():
        for name in (host, target):
            if not _is_host(name):
                yield Problem(
                    join("endpoints", (host,)), "must map host[:port] to host[:port], without a scheme or a path"
                )
                break


def _auth(path: str, auth: Auth) -> Iterator[Problem]:
    if auth.auth is not None and auth.auth_file is not None:
        yield Problem(path, "auth and auth_file conflict: set one")
    if auth.auth is not None and not _is_basic(auth.auth.get_secret_value()):
        yield Problem(f"{path}.auth", "must be base64 of user:password")
    if auth.auth_file is not None:
        with contextlib.suppress(OSError):  # told below
            if not _is_basic(auth.auth_file.read_text(errors="replace").strip()):
                yield Problem(f"{path}.auth_file", f"{auth.auth_file} must hold base64 of user:password")
    yield from _authorities(f"{path}.ca", auth.ca)
    yield from _proxy(path, auth.proxy)
    if (auth.client_certificate is None) != (auth.client_key is None):
        yield Problem(path, "client_certificate and client_key belong together")
    elif auth.client_certificate is not None and auth.client_key is not None:
        yield from _key_pair(f"{path}.client_certificate", auth.client_certificate, auth.client_key)


def _rules(settings: Settings, option_models: Mapping[str, type[BaseModel]]) -> Iterator[Problem]:
    if not settings.rules:
        yield Problem("rules", "must name at least one rule")
    names: dict[str, int] = {}
    targets: dict[tuple[object, ...], int] = {}
    for number, rule in enumerate(settings.rules):
        path = f"rules[{number}]"
        yield from _rule(path, rule)
        registry = _registry_of(rule.target_repository)
        if settings.auths and registry and normal_registry(registry) not in allowed_registries(settings):
            yield Problem(f"{path}.target_repository", f"nothing may be pushed to {registry}: add it to auths")
        if rule.driver is not None:
            yield from _driver(f"{path}.driver", rule.driver, option_models)
        if rule.name in names:
            yield Problem(f"{path}.name", f"{rule.name!r} is the name of rules[{names[rule.name]}] too")
        names.setdefault(rule.name, number)
        target = (rule.match, rule.overwrite, rule.target_suffix, rule.target_repository)
        if target in targets:
            yield Problem(path, f"pushes the same images to the same targets as rules[{targets[target]}]")
        targets.setdefault(target, number)
    if any(rule.driver is None for rule in settings.rules):
        yield from _driver("driver", settings.driver, option_models)


def _rule(path: str, rule: Rule) -> Iterator[Problem]:
    if rule.overwrite and rule.target_suffix:
        yield Problem(path, "overwrite and target_suffix conflict: set one")
    if rule.overwrite and rule.target_repository:
        yield Problem(path, "overwrite and target_repository conflict: overwriting means the source's own tag")
    if not (rule.overwrite or rule.target_suffix or rule.target_repository):
        yield Problem(path, "says not where the result goes: set target_suffix, target_repository, or overwrite: true")
    if rule.target_repository and not _is_template(rule.target_repository):
        yield Problem(f"{path}.target_repository", _TEMPLATE)
    if rule.target_suffix and not _SUFFIX.fullmatch(rule.target_suffix):
        yield Problem(f"{path}.target_suffix", "must be 1 to 100 of A-Z a-z 0-9 _ . -")
    for text in filter(None, (part.strip() for part in rule.platform.split(","))):
        try:
            Platform.parse(text)
        except ValueError as error:
            yield Problem(f"{path}.platform", str(error))


def _driver(path: str, driver: DriverSettings, option_models: Mapping[str, type[BaseModel]]) -> Iterator[Problem]:
    model = option_models.get(driver.type)
    if model is None:
        yield Problem(f"{path}.type", f"no driver {driver.type!r}; there are: {', '.join(sorted(option_models))}")
        return
    try:
        # By way of JSON: options are strict, and only there a list is as good as a tuple.
        model.model_validate_json(orjson.dumps(driver.config))
    except ValidationError as error:
        yield from from_validation(error, model, f"{path}.config")
    except orjson.JSONEncodeError:
        yield Problem(f"{path}.config", "must hold plain values: text, numbers, booleans, lists, mappings")


def _broker(settings: Settings) -> Iterator[Problem]:
    url, path = settings.broker.url.get_secret_value(), "broker.url"
    if settings.broker.url_file is not None:
        with contextlib.suppress(OSError):  # told below
            url, path = settings.broker.url_file.read_text(errors="replace").strip(), "broker.url_file"
    yield from _authorities("broker.ca", settings.broker.ca)
    servers = [_split(server) for server in server_urls(url)]
    schemes = {parts.scheme for parts in servers if parts is not None}
    for parts in servers:
        if parts is None:
            yield Problem(path, "is no URL; / ? # [ ] @ : in user and password are written %2F %3F %23 %5B %5D %40 %3A")
        elif parts.scheme not in BROKER_SCHEMES:
            yield Problem(path, f"must begin with one of {', '.join(f'{scheme}:' for scheme in BROKER_SCHEMES)}")
        elif parts.scheme not in {"embedded", "memory"} and not parts.hostname:
            yield Problem(path, f"must name a host: {parts.scheme}://HOST")
    if len(schemes) > 1:
        yield Problem(path, "must name servers of one cluster: all with the same scheme")


def _peers(settings: Settings) -> Iterator[Problem]:
    for host, harbor in settings.harbor.items():
        path = join("harbor", (host,))
        if not _is_host(host):
            yield Problem(path, "must be host or host:port, without a scheme or a path")
        if not _is_http(harbor.url) or "@" in harbor.url:
            yield Problem(f"{path}.url", "must be http://HOST or https://HOST, without a user")
        if harbor.password is not None and harbor.password_file is not None:
            yield Problem(path, "password and password_file conflict: set one")
        yield from _authorities(f"{path}.ca", harbor.ca)
        yield from _proxy(path, harbor.proxy)
    for number, notification in enumerate(settings.notifications):
        if not _is_http(notification.url.get_secret_value()):
            yield Problem(f"notifications[{number}].url", "must be an http:// or https:// URL")
        secret = notification.secret.get_secret_value() if notification.secret else ""
        if secret.startswith("whsec_") and not _is_base64(secret.removeprefix("whsec_")):
            yield Problem(f"notifications[{number}].secret", "must be base64 after whsec_")
        yield from _proxy(f"notifications[{number}]", notification.proxy)
    if settings.cache.repository and not _is_template(settings.cache.repository):
        yield Problem("cache.repository", _TEMPLATE)


def _proxy(path: str, proxy: SecretStr | None) -> Iterator[Problem]:
    if proxy is not None and not is_proxy(proxy.get_secret_value()):
        yield Problem(f"{path}.proxy", f"must be {PROXY}")


def is_proxy(text: str) -> bool:
    """Whether a proxy's URL is one that outgoing requests can go through."""
    parts = _split(text)
    return (
        parts is not None
        and parts.scheme == "http"
        and bool(parts.hostname)
        and not parts.path.strip("/")
        and not parts.query
    )


def _is_base64(text: str) -> bool:
    try:
        base64.b64decode(text, validate=True)
    except ValueError:
        return False
    return True


def _secret_files(settings: Settings) -> Iterator[Problem]:
    named: list[tuple[str, Path | None]] = [
        ("auth_header_file", settings.auth_header_file),
        ("broker.url_file", settings.broker.url_file),
    ]
    named += [(f"{join('auths', (host,))}.auth_file", auth.auth_file) for host, auth in settings.auths.items()]
    named += [
        (f"{join('harbor', (host,))}.password_file", harbor.password_file) for host, harbor in settings.harbor.items()
    ]
    for path, file in named:
        if file is not None:
            try:
                file.read_text(encoding="utf-8")
            except OSError as error:
                yield Problem(path, f"cannot read {file}: {_reason(error)}")
            except UnicodeDecodeError:
                yield Problem(path, f"{file} is not text")


def _authorities(path: str, bundle: Path | None) -> Iterator[Problem]:
    if bundle is None:
        return
    try:
        ssl.create_default_context(cafile=bundle)
    except (OSError, ssl.SSLError) as error:
        yield Problem(path, f"cannot load {bundle} as PEM certificates: {_reason(error)}")


def _key_pair(path: str, certificate: Path, key: Path) -> Iterator[Problem]:
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        yield Problem(path, f"cannot load {certificate} with key {key}: {_reason(error)}")


def _is_host(text: str) -> bool:
    found = _HOST.fullmatch(text)
    return found is not None and (found[1] is None or 0 < int(found[1]) < 65536)


def _is_basic(text: str) -> bool:
    try:
        return b":" in base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return False


_ANY_SOURCE = Reference("any.registry", "project/name")


def _is_template(text: str) -> bool:
    try:
        expand_repository(text, _ANY_SOURCE)
    except PermanentError:
        return False
    return True


def _registry_of(template: str) -> str:
    """The one that a template names whatever the source; empty where the source's has a part in it."""
    if "{" in template.partition("/")[0] or not _is_template(template):
        return ""
    registry = expand_repository(template, _ANY_SOURCE).registry
    return "" if registry == _ANY_SOURCE.registry else registry


def _is_http(text: str) -> bool:
    parts = _split(text)
    return parts is not None and parts.scheme in {"http", "https"} and bool(parts.hostname)


def _split(url: str) -> SplitResult | None:
    try:
        parts = urlsplit(url)
        _ = parts.port  # refuses what is no port number
    except ValueError:
        return None
    return parts


def _reason(error: OSError) -> str:
    return error.strerror or str(getattr(error, "reason", "") or "not readable")
