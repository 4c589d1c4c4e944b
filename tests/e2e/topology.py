"""deploy/compose.yml's system on this machine: the same configuration files, with free ports of 127.0.0.1 for its addresses.

RabbitMQ, two ingresses behind nginx, two consumers, a registry and Prometheus, all Debian's; an OTLP receiver stands where the
collector is. What compose mounts, sets and asks for is read from the files of ``deploy/``, so that they are what is tested.
"""

from __future__ import annotations

import re
import urllib.request
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from drivers.catalogue import option_models
from shared.settings.load import load_settings
from shared.settings.model import Settings
from tests.servers.nginx import nginx
from tests.servers.otlp import OtlpReceiver, otlp_receiver
from tests.servers.ports import free_port
from tests.servers.processes import Service
from tests.servers.prometheus import PrometheusServer, prometheus
from tests.servers.rabbitmq import RabbitServer, rabbitmq
from tests.servers.registry import RegistryServer, docker_registry

DEPLOY = Path(__file__).parents[2] / "deploy"
QUICK = {"OTEL_BSP_SCHEDULE_DELAY": "200"}
"""What would otherwise be waited for."""


class Addresses:
    """``service:port`` of the compose network → a free port of 127.0.0.1; two consumers share one name there."""

    _NAMES = (
        "rabbitmq:5672", "rabbitmq:15672", "rabbitmq:15692", "registry:5000", "registry:5001", "otel-collector:4317",
        "ingress-1:8081", "ingress-2:8081", "consumer:9091", "nginx:8080",
    )  # fmt: skip

    def __init__(self) -> None:
        self._known = {name: [f"127.0.0.1:{free_port()}"] for name in self._NAMES}
        self._known["consumer:9091"].append(f"127.0.0.1:{free_port()}")

    def of(self, name: str) -> str:
        return self._known[name][0]

    def every(self, name: str) -> list[str]:
        return self._known[name]

    def port(self, name: str, number: int = 0) -> int:
        return int(self._known[name][number].rpartition(":")[2])

    def move(self, name: str, address: str) -> None:
        self._known[name] = [address]

    def fill(self, text: str) -> str:
        """Every name replaced by its (first) address."""
        for name, (first, *_) in self._known.items():
            text = re.sub(rf"(?<![\w.-]){re.escape(name)}(?!\d)", first, text)
        return text


@dataclass
class Topology:
    """Running. Consumers and Prometheus' rules are as shipped; see :func:`running_topology` for what is quicker."""

    folder: Path
    addresses: Addresses
    broker: RabbitServer
    registry: RegistryServer
    receiver: OtlpReceiver
    ingresses: tuple[Service, Service]
    consumers: tuple[Service, Service]
    prometheus: PrometheusServer
    settings: Settings
    """Of an ingress."""

    @property
    def url(self) -> str:
        """Of nginx, as Harbor and people see the service."""
        return f"http://{self.addresses.of('nginx:8080')}"

    @property
    def authorization(self) -> str:
        return self.settings.auth_header[0].get_secret_value()

    @property
    def operator(self) -> tuple[str, str]:
        assert self.settings.console.operator_credential is not None
        user, _, password = self.settings.console.operator_credential.get_secret_value().partition(":")
        return user, password

    def import_policies(self) -> None:
        """What the service ``rabbitmq-policies`` of compose does."""
        place = self.addresses.of("rabbitmq:15672")
        passwords = urllib.request.HTTPPasswordMgrWithPriorAuth()
        passwords.add_password(None, f"http://{place}", self.broker.user, self.broker.password, is_authenticated=True)
        opener = urllib.request.build_opener(urllib.request.HTTPBasicAuthHandler(passwords))
        body = (DEPLOY / "rabbitmq/definitions.json").read_bytes()
        headers = {"Content-Type": "application/json"}
        with opener.open(
            urllib.request.Request(f"http://{place}/api/definitions", data=body, headers=headers), timeout=30
        ) as answer:
            assert answer.status == 204


@asynccontextmanager
async def running_topology(folder: Path, more: Mapping[str, str]) -> AsyncIterator[Topology]:
    """Everything but the consumers, which are to be started.

    Changed against ``deploy/``: addresses; Prometheus scrapes every two seconds and evaluates twice a second, alerts do not wait
    (``for``), and the latency objective is 0.01 s instead of 300 s, so that small images miss it; and :data:`QUICK`.

    Args:
        folder: of this system alone.
        more: environment of ingresses and consumers.
    """
    folder.mkdir(parents=True)
    compose = yaml.safe_load((DEPLOY / "compose.yml").read_text())["services"]
    example = _example()
    addresses = Addresses()
    async with AsyncExitStack() as stack:
        receiver = stack.enter_context(otlp_receiver())
        addresses.move("otel-collector:4317", receiver.url.removeprefix("http://"))
        broker = stack.enter_context(
            rabbitmq(
                folder / "rabbitmq",
                user=example["RABBITMQ_USER"],
                password=example["RABBITMQ_PASSWORD"],
                configuration=(DEPLOY / "rabbitmq/rabbitmq.conf").read_text()
                + f"\nmanagement.tcp.port = {addresses.port('rabbitmq:15672')}\n"
                f"prometheus.tcp.port = {addresses.port('rabbitmq:15692')}\n",
                advanced=(DEPLOY / "rabbitmq/advanced.config").read_text(),
                plugins=re.findall(r"rabbitmq_\w+", (DEPLOY / "rabbitmq/enabled_plugins").read_text()),
            )
        )
        addresses.move("rabbitmq:5672", f"127.0.0.1:{broker.port}")
        registry = stack.enter_context(
            docker_registry(
                folder / "registry",
                port=addresses.port("registry:5000"),
                environment={
                    name: addresses.fill(value.replace("0.0.0.0", "registry"))
                    for name, value in compose["registry"]["environment"].items()
                },
            )
        )
        config = folder / "config.yml"
        config.write_text(addresses.fill((DEPLOY / "config.yml").read_text()))
        common = _environment(compose["ingress-1"], example, addresses) | QUICK | dict(more)
        services = {}
        for number, role in enumerate(("ingress", "ingress", "consumer", "consumer")):
            name = f"{role}-{number % 2 + 1}"
            port = addresses.port(f"{name}:8081") if role == "ingress" else addresses.port("consumer:9091", number % 2)
            own = {
                "ICS_HOSTNAME": "127.0.0.1",
                "ICS_HTTP__PORT" if role == "ingress" else "ICS_METRIC__PORT": str(port),
                "ICS_WORK_DIR": str(folder / f"work-{name}"),
            }
            services[name] = Service(
                role, config, common | own, f"http://127.0.0.1:{port}/health", folder / f"{name}.log"
            )
            stack.push_async_callback(services[name].stop)
        for name in ("ingress-1", "ingress-2"):
            await services[name].start()
        for name in ("ingress-1", "ingress-2"):
            await services[name].ready()
        variables = _environment(compose["nginx"], example, addresses) | {
            "ICS_LISTEN": addresses.of("nginx:8080"),
            "ICS_ACCESS_LOG": str(folder / "access.log"),
        }
        template = DEPLOY / "nginx/ics.conf.template"
        stack.enter_context(nginx(folder / "nginx", template, variables, addresses.port("nginx:8080")))
        server = stack.enter_context(prometheus(_prometheus(folder, addresses), folder / "prometheus"))
        yield Topology(
            folder=folder,
            addresses=addresses,
            broker=broker,
            registry=registry,
            receiver=receiver,
            ingresses=(services["ingress-1"], services["ingress-2"]),
            consumers=(services["consumer-1"], services["consumer-2"]),
            prometheus=server,
            settings=load_settings(config, environ=common, option_models=option_models()),
        )


def _example() -> dict[str, str]:
    lines = (DEPLOY / ".env.example").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def _environment(service: dict[str, Any], example: Mapping[str, str], addresses: Addresses) -> dict[str, str]:
    """As compose fills it in; ``ICS_CONFIG`` is given on the command line here."""
    found = {}
    for name, value in service["environment"].items():
        filled = re.sub(r"\$\{([A-Z_]+)(?::\?[^}]*)?\}", lambda match: example[match[1]], value)
        if name != "ICS_CONFIG":
            found[name] = addresses.fill(filled)
    return found


def _prometheus(folder: Path, addresses: Addresses) -> Path:
    config = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())
    config["global"] |= {"scrape_interval": "2s", "scrape_timeout": "2s", "evaluation_interval": "500ms"}
    config["rule_files"] = [str(folder / "rules.yml")]
    config["scrape_configs"] = [job for job in config["scrape_configs"] if job["job_name"] != "prometheus"]
    for job in config["scrape_configs"]:
        targets: list[str] = []
        for lookup in job.pop("dns_sd_configs"):
            for name in lookup["names"]:
                targets += addresses.every(f"{name}:{lookup['port']}")
        job["static_configs"] = [{"targets": targets}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    rules = yaml.safe_load((DEPLOY / "prometheus/rules/ics.yml").read_text())
    for group in rules["groups"]:
        for rule in group["rules"]:
            rule.pop("for", None)
            rule["expr"] = rule["expr"].replace('le="300.0"', 'le="0.01"')
    (folder / "rules.yml").write_text(yaml.safe_dump(rules))
    return folder / "prometheus.yml"
