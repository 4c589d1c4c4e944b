"""``config.yml`` as typed models: every key of the Harbor proposal under its name, and what goes beyond it.

Validation of single values lives here; what spans several keys, and driver options (whose models the caller passes in, since
``shared`` knows no driver), in :mod:`shared.settings.check`; loading in :mod:`shared.settings.load`.
"""

from __future__ import annotations

import re
from fnmatch import translate
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr


def _as_list(value: Any) -> Any:
    """One value where a list may stand."""
    return [value] if isinstance(value, str | dict) else value


def _as_commas(value: Any) -> Any:
    """A list where comma-separated text may stand."""
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return ",".join(value)
    return value


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


class Http(Section):
    port: int = Field(default=8081, ge=0, le=65535)
    """Where the ingress listens; 0 takes a free one."""


class Https(Section):
    """When set, the http port answers 308 to https."""

    port: int = Field(default=443, ge=0, le=65535)
    """Where the ingress speaks TLS (1.2 and newer)."""
    certificate: Path
    """PEM file with the chain."""
    private_key: Path
    """PEM file, not encrypted."""


class Metric(Section):
    enabled: bool = True
    """Serve metrics at all."""
    port: int = Field(default=9091, ge=0, le=65535)
    """Where a consumer serves its metrics; the ingress serves them on its own port too."""
    path: str = "/metrics"
    """Of both."""


class Auth(Section):
    """One registry that may be contacted. Credentials are optional: without them, Docker's config is asked."""

    auth: SecretStr | None = None
    """base64 of ``user:password``."""
    auth_file: Path | None = None
    """A file that holds the same."""
    insecure: bool = False
    """Plain HTTP, for this host only."""
    ca: Path | None = None
    """PEM bundle that this host is trusted by instead of the system's; ``token_hosts`` are trusted by either."""
    client_certificate: Path | None = None
    """PEM file, for registries that want mutual TLS; with ``client_key``."""
    client_key: Path | None = None
    """PEM file, not encrypted."""
    token_hosts: tuple[str, ...] = ()
    """More hosts that may issue tokens for, or serve redirected blobs of, this registry (globs)."""
    proxy: SecretStr | None = None
    """``http://[user:password@]HOST[:PORT]`` that leads to it and to its ``token_hosts``; ``HTTPS_PROXY`` is not looked at."""


class Log(Section):
    level: Literal["debug", "info", "warning", "error"] = "info"
    """The least severe that is written, to standard error."""
    format: Literal["json", "text"] = "json"
    """One JSON object a line for programs, or text for people."""


class DriverSettings(Section):
    type: str = "estargz"
    """The format: one of ``ics drivers``."""
    config: dict[str, Any] = Field(default_factory=dict)
    """The driver's options, below."""


class Globs(Section):
    include: Annotated[tuple[str, ...], BeforeValidator(_as_list)] = ("*",)
    """One of these must fit."""
    exclude: Annotated[tuple[str, ...], BeforeValidator(_as_list)] = ()
    """None of these may fit."""

    def matches(self, name: str) -> bool:
        """Whether ``name`` is included and not excluded; ``*`` crosses slashes."""
        return self._pattern.match(name) is not None

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        excluded, included = ("|".join(map(translate, globs)) or "(?!)" for globs in (self.exclude, self.include))
        return re.compile(f"(?!{excluded})(?:{included})")


class Match(Section):
    """Which pushes a rule is for; globs, ``*`` crosses slashes."""

    repositories: Globs = Globs()
    """Over ``project/repository``."""
    tags: Globs = Globs()
    """Over the tag."""


class Rule(Section):
    """From a push to one conversion."""

    name: str = ""
    """Defaults to ``default``, or ``rule-N`` in a list."""
    match: Match = Match()
    oci: bool = True
    """Docker manifests become OCI ones, which the lazy formats' annotations need."""
    overwrite: bool = False
    """The converted image replaces the source tag."""
    target_suffix: str = ""
    """``nydus`` turns ``latest`` into ``latest_nydus``; a suffix beginning with ``-``, ``_`` or ``.`` is used as it is."""
    target_repository: str = ""
    """Another repository to push to: ``[registry/]path`` with ``{registry}``, ``{repository}``, ``{project}``, ``{name}``."""
    platform: Annotated[str, BeforeValidator(_as_commas)] = ""
    """Comma-separated ``os/architecture[/variant]``; empty means all."""
    driver: DriverSettings | None = None
    """Instead of the top-level one."""


class BrokerSettings(Section):
    url: SecretStr = Field(default=SecretStr("embedded:"), json_schema_extra={"default": "embedded:"})
    """``embedded:``, ``nats://``, ``tls://``, ``amqp://``, ``amqps://``, ``memory:``; a cluster's servers separated by commas."""
    url_file: Path | None = None
    """A file that holds the same."""
    data_dir: Path = Path("var/broker")
    """Where the embedded broker keeps its files."""
    prefix: str = Field(default="ics", pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")
    """First part of every queue's and stream's name."""
    ca: Path | None = None
    """PEM bundle to trust instead of the system's."""
    publish_timeout: float = Field(default=2.0, gt=0, le=60)
    """Seconds; well inside Harbor's 3 s."""
    delivery_limit: int = Field(default=10, ge=1, le=1000)
    """Deliveries without an outcome before a message counts as a killer of consumers."""
    events_max_age: float = Field(default=7 * 86400, gt=0)
    """Seconds of event history."""
    replicas: int = Field(default=1, ge=1, le=5)
    """Copies of each queue and stream in a cluster; at 1, RabbitMQ follows the server's own default."""


class Retry(Section):
    maximum_attempts: int = Field(default=6, ge=1, le=100)
    """The first one counts; after the last, a conversion goes to the dead letters."""
    initial_delay: float = Field(default=5, gt=0)
    """Seconds; doubles, jittered, up to ``maximum_delay``."""
    maximum_delay: float = Field(default=900, gt=0)
    """Seconds."""
    maximum_outage: float = Field(default=86400, ge=0)
    """Seconds after its push for which a registry that is down, or a machine out of disk, files or memory, costs no attempt."""


class Timeouts(Section):
    """Seconds."""

    conversion: float = Field(default=1500, gt=0)
    """One attempt in all; under RabbitMQ's ``consumer_timeout`` (1800 s by default)."""
    connect: float = Field(default=10, gt=0)
    """Until a registry has accepted the connection."""
    read: float = Field(default=60, gt=0)
    """Without a byte from the registry."""
    drain: float = Field(default=60, ge=0)
    """After SIGTERM, before what is still running is handed back."""


class Limits(Section):
    """What input may ask of a consumer."""

    memory: int = Field(default=1 << 30, ge=1 << 26)
    """Bytes of buffers that all conversions of a process share; layers wait when it is used up."""
    layer_size: int = Field(default=64 << 30, gt=0)
    """Bytes of one uncompressed layer."""
    layer_entries: int = Field(default=5_000_000, gt=0)
    """Of one layer's tar."""
    compression_ratio: int = Field(default=1100, gt=1)
    """Uncompressed : compressed, above the first 64 MiB."""
    manifest_layers: int = Field(default=512, gt=0)
    """Of one manifest."""
    index_manifests: int = Field(default=256, gt=0)
    """Of one index."""
    pax_record: int = Field(default=1 << 20, gt=0)
    """Bytes of one PAX or GNU long-name record."""
    webhook_body: int = Field(default=1 << 20, gt=0)
    """Bytes; larger ones are answered with 413."""
    work_dir: int = Field(default=20 << 30, gt=0)
    """Bytes of temporary files; low watermark 80 %."""


class Cache(Section):
    """Converted layers are recorded as small manifests in the registry itself."""

    enabled: bool = True
    """Look converted layers up, and record them."""
    repository: str = ""
    """Default: beside the target, ``{target repository}``'s project + ``/ics-cache``; placeholders as in ``target_repository``."""


class Console(Section):
    enabled: bool = True
    """Serve ``/console/`` and ``/api/``."""
    credential: SecretStr | None = None
    """``user:password`` that may read; without it the console and status API are open to whoever reaches them, read-only."""
    operator_credential: SecretStr | None = None
    """``user:password`` that may also replay, discard, cancel and backfill; without it nobody may over HTTP."""
    path_prefix: str = ""
    """What a reverse proxy puts before every path of the ingress: ``/ics``."""
    trace_url: str = Field(default="", pattern=r"^(|https?://.*\{trace_id\}.*)$")
    """Where a trace can be looked at, with ``{trace_id}``; the console links to it."""
    history: int = Field(default=100_000, ge=100, le=1_000_000)
    """Conversions that the status API and the console remember at most."""


class Telemetry(Section):
    """Everything else by the standard ``OTEL_*`` variables."""

    enabled: bool = True
    """Tracing needs ``OTEL_EXPORTER_OTLP_ENDPOINT`` (or ``..._TRACES_ENDPOINT``) too."""
    label_cap: int = Field(default=200, ge=1)
    """Distinct ref/tag label pairs before ``_other``."""


class Notification(Section):
    """One outgoing webhook: CloudEvents, signed."""

    url: SecretStr
    """``https://`` or ``http://``; a secret, since many carry a token."""
    secret: SecretStr | None = None
    """Signs the body: HMAC-SHA256 in a header."""
    events: tuple[Literal["succeeded", "failed", "skipped", "cancelled", "replayed"], ...] = (
        "succeeded",
        "failed",
        "cancelled",
        "replayed",
    )
    """Which outcomes are told."""
    proxy: SecretStr | None = None
    """``http://[user:password@]HOST[:PORT]`` that leads there."""


class HarborSettings(Section):
    """Harbor's REST API of one registry host, for a label on the source artifact, and for the backfill."""

    url: str
    """``https://harbor.example.com``."""
    username: str = ""
    """Of an account that may put labels on artifacts; empty asks without one."""
    password: SecretStr | None = None
    """Its password or a robot account's secret."""
    password_file: Path | None = None
    """A file that holds the same."""
    ca: Path | None = None
    """PEM bundle to trust instead of the system's."""
    proxy: SecretStr | None = None
    """``http://[user:password@]HOST[:PORT]`` that leads there."""
    label: str = ""
    """Name of a Harbor label to put on a source artifact that was converted; empty: none."""


class Settings(Section):
    """The whole of ``config.yml``."""

    hostname: str = "0.0.0.0"  # noqa: S104  the proposal's default: a service in a container listens on all addresses
    """Address that the servers listen on."""
    http: Http = Http()
    https: Https | None = None
    endpoint: str = "/conversion"
    """Path that Harbor's webhook posts to."""
    metric: Metric = Metric()
    auth_header: Annotated[tuple[SecretStr, ...], BeforeValidator(_as_list)] = ()
    """One or several (rotation) exact ``Authorization`` values; empty accepts requests without any."""
    auth_header_file: Path | None = None
    """One value a line."""
    maximum_concurrency: int = Field(default=5, ge=1, le=1000)
    """Conversions at once in one consumer; the broker's prefetch."""
    auths: dict[str, Auth] = Field(default_factory=dict)
    """Registry host[:port] → access. Also the allow-list: no other host is contacted."""
    endpoints: dict[str, str] = Field(default_factory=dict)
    """Harbor's external host[:port] → the host[:port] to contact instead."""
    log: Log = Log()
    rules: Annotated[tuple[Rule, ...], BeforeValidator(_as_list)] = (Rule(target_suffix="esgz"),)
    """One mapping or a list."""
    driver: DriverSettings = DriverSettings()
    work_dir: Path = Path("var/work")
    """A consumer's temporary files; claimed, measured and collected at start."""
    broker: BrokerSettings = BrokerSettings()
    retry: Retry = Retry()
    timeouts: Timeouts = Timeouts()
    limits: Limits = Limits()
    cache: Cache = Cache()
    console: Console = Console()
    telemetry: Telemetry = Telemetry()
    notifications: tuple[Notification, ...] = ()
    harbor: dict[str, HarborSettings] = Field(default_factory=dict)
    """Registry host[:port] → its Harbor API."""
    operators_to_ignore: tuple[str, ...] = ()
    """Names (Harbor robot accounts) whose pushes are our own."""

    def driver_of(self, rule: Rule) -> DriverSettings:
        """A rule's own, else the top-level one."""
        return rule.driver or self.driver
