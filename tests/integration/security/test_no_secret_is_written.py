"""Secrets wherever a secret can be, through success and every failure of real processes; then all that was written is searched."""

from __future__ import annotations

import asyncio
import base64
import gzip
import io
import logging
import os
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import yaml
from aiohttp import ClientSession, ClientTimeout, encode_basic_auth
from typer.testing import CliRunner

from cli.main import app
from drivers.catalogue import option_models
from shared.oci.digest import Digest
from shared.oci.reference import parse_reference
from shared.registry.client import RegistryClient
from shared.settings.load import load_settings, render_settings
from tests.e2e.system import System, running_system
from tests.e2e.test_bad_input import push, tar
from tests.integration.security.canaries import USER, Canaries
from tests.integration.security.telltales import (
    Telltale,
    echo,
    misleading_registry,
    misnaming_registry,
    registry,
    token_registry,
)
from tests.servers.otlp import OtlpReceiver, otlp_receiver
from tests.servers.ports import free_port
from tests.servers.processes import Service
from tests.servers.rabbitmq import rabbitmq
from tests.servers.registry import RegistryServer, docker_registry
from tests.servers.scripted import scripted_server
from tests.waiting import PATIENCE

NOWHERE = str(Digest.of(b"never pushed"))
OPERATOR, READER = "operator", "reader"


@dataclass
class Scene:
    """The service, everything around it, and what was written so far, by where it was found."""

    folder: Path
    canaries: Canaries
    receiver: OtlpReceiver
    peers: dict[str, Telltale] = field(default_factory=dict)
    hosts: dict[str, str] = field(default_factory=dict)
    written: dict[str, str] = field(default_factory=dict)

    def note(self, where: str, text: object) -> None:
        self.written[where] = self.written.get(where, "") + "\n" + str(text)

    async def peer(self, stack: AsyncExitStack, name: str, telltale: Telltale) -> str:
        self.peers[name] = telltale
        self.hosts[name] = await stack.enter_async_context(scripted_server(telltale.handle))
        return self.hosts[name]


@contextmanager
def own_logs() -> Iterator[io.StringIO]:
    """Everything that this process logs, from debug on; pytest, which would print it all after a failure, gets nothing."""
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    text = io.StringIO()
    root.handlers[:] = [logging.StreamHandler(text)]
    root.setLevel(logging.DEBUG)
    try:
        yield text
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


async def test_no_secret_is_written_anywhere(tmp_path: Path) -> None:
    canaries = Canaries()
    with otlp_receiver() as receiver, own_logs() as logs:
        scene = Scene(tmp_path, canaries, receiver)
        async with AsyncExitStack() as stack:
            system, everything = await started(scene, stack)
            await conversions(scene, system)
            await what_the_api_shows(scene, system, everything)
            await what_the_command_line_shows(scene, system)
            await what_is_in_the_broker(scene, system)
            what_python_shows(scene, system)
            await secrets_arrived(scene)
        for log in ("ingress.log", "consumer.log"):
            scene.note(log, (tmp_path / "system" / log).read_text())
        scene.note("up.log", (tmp_path / "up.log").read_text())
        scene.note("traces", receiver.exports())
        scene.note("logs of the command line", logs.getvalue())
        for path in (tmp_path / "system" / "work").rglob("*"):
            if path.is_file():
                scene.note(f"work directory {path.name}", path.read_bytes().decode("latin-1"))
    everything_was_reached(scene)
    assert canaries.found(scene.written) == []


async def started(scene: Scene, stack: AsyncExitStack) -> tuple[System, str]:
    """A system of ingress and consumer that log JSON and trace by gRPC; and ``ics up`` with text logs, whose collector refuses."""
    plant, basic = scene.canaries.plant, scene.canaries.basic
    folder = scene.folder
    for name, telltale in {
        "refusing": registry(403),
        "failing": registry(500),
        "misnaming": misnaming_registry(),
        "misleading": misleading_registry(),
        "token": token_registry(plant("token")),
        "realm": token_registry("", realm_status=500),
        "hook": echo(200),
        "deaf hook": echo(403),
        "harbor": echo(403),
        "collector": echo(400),
    }.items():
        await scene.peer(stack, name, telltale)
    broker = await asyncio.to_thread(
        stack.enter_context, rabbitmq(folder / "rabbitmq", password=plant("broker", plain=True))
    )
    second: RegistryServer = stack.enter_context(
        docker_registry(folder / "second", credential=(USER, plant("docker-config")))
    )
    scene.hosts["second"] = second.host
    scene.hosts["unreachable"] = f"127.0.0.1:{free_port()}"
    files = {
        "auth_file": basic("auth-file"),
        "auth_header_file": f"Bearer {plant('auth-header-file')}\n",
        "harbor_password": plant("harbor-password-file"),
    }
    for name, text in files.items():
        (folder / name).write_text(text)
    docker = folder / "docker"
    docker.mkdir()
    logins = {second.host: {"auth": basic("docker-config")}, scene.hosts["realm"]: {"auth": basic("docker-realm")}}
    (docker / "config.json").write_text(orjson.dumps({"auths": logins}).decode())
    hook, deaf = scene.hosts["hook"], scene.hosts["deaf hook"]
    configuration = {
        "auth_header": ["Bearer end-to-end", f"Bearer {plant('auth-header')}"],
        "auth_header_file": str(folder / "auth_header_file"),
        "broker": {"url": broker.url},
        "retry": {"maximum_attempts": 2, "initial_delay": 0.1, "maximum_outage": 0},
        "timeouts": {"read": 10, "connect": 5},
        "console": {
            "credential": f"{READER}:{plant('console')}",
            "operator_credential": f"{OPERATOR}:{plant('operator')}",
        },
        "notifications": [
            {
                "url": f"http://u:{plant('hook-user', plain=True)}@{hook}/{plant('hook-path', plain=True)}",
                "secret": plant("hook-secret"),
                "events": ["succeeded", "failed", "skipped", "replayed"],
            },
            {
                "url": f"http://u:{plant('deaf-user', plain=True)}@{deaf}/x?token={plant('deaf-query', plain=True)}",
                "secret": "whsec_" + base64.b64encode(plant("deaf-secret").encode()).decode(),
                "events": ["succeeded", "failed", "skipped", "replayed"],
            },
        ],
        "harbor": {
            second.host: {
                "url": f"http://{scene.hosts['harbor']}",
                "username": USER,
                "password_file": str(folder / "harbor_password"),
                "label": "converted",
            },
            "harbor.example.com": {
                "url": "https://harbor.example.com",
                "username": USER,
                "password": plant("harbor"),
            },
        },
    }
    auths = {
        scene.hosts["refusing"]: {"insecure": True, "auth": basic("refusing")},
        scene.hosts["failing"]: {"insecure": True, "auth_file": str(folder / "auth_file")},
        scene.hosts["misnaming"]: {"insecure": True, "auth": basic("misnaming", plain=True)},
        scene.hosts["misleading"]: {"insecure": True, "auth": basic("misleading", plain=True)},
        scene.hosts["token"]: {"insecure": True, "auth": basic("token-user")},
        scene.hosts["realm"]: {"insecure": True},
        scene.hosts["unreachable"]: {"insecure": True, "auth": basic("unreachable")},
        second.host: {"insecure": True},
    }
    environment = {
        **scene.receiver.environment,
        "OTEL_BSP_SCHEDULE_DELAY": "200",
        "OTEL_EXPORTER_OTLP_HEADERS": f"x-api-key={plant('otlp-header', plain=True)}",
        "DOCKER_CONFIG": str(docker),
    }
    system = await stack.enter_async_context(
        running_system(
            folder / "system",
            "embedded",
            configuration,
            environment,
            credential=(USER, plant("registry")),
            auths=auths,
        )
    )
    http = free_port()
    collector = f"http://u:{plant('collector-user', plain=True)}@{scene.hosts['collector']}"
    second_environment = {
        **environment,
        "ICS_LOG__FORMAT": "text",
        "ICS_HTTP__PORT": str(http),
        "ICS_METRIC__PORT": str(free_port()),
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector,
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_EXPORTER_OTLP_HEADERS": f"x-api-key={plant('collector-header', plain=True)}",
    }
    base = f"http://127.0.0.1:{http}"
    everything = Service(
        "up", folder / "system" / "config.yml", second_environment, f"{base}/health", folder / "up.log"
    )
    await everything.start()
    stack.push_async_callback(everything.stop)
    await everything.ready()
    return system, base


async def conversions(scene: Scene, system: System) -> None:
    """Success in two registries, every failure, malformed webhooks, a replay."""
    plant = scene.canaries.plant
    hostile = {
        "Authorization": f"Bearer {plant('auth-header')}",
        "Cookie": f"session={plant('cookie', plain=True)}",
        "X-Api-Key": plant("api-key", plain=True),
        "tracestate": f"x={plant('tracestate', plain=True)}",
    }

    async def outcome(reference: str, digest: str) -> Any:
        status, answer = await system.webhook(reference, digest, hostile)
        scene.note("webhook answers", answer)
        assert status == 202, answer
        return await system.outcome(answer["conversions"][0]["id"])

    good, _ = await push(system, "good", gzip.compress(tar(), mtime=0))
    assert (await outcome(f"{system.host}/bad/good:1", good)).kind == "succeeded"
    await push_to_second(scene, system)
    manifest = await system.client.resolve(parse_reference(f"{system.host}/bad/good:1"))
    assert manifest is not None
    assert (await outcome(f"{scene.hosts['second']}/bad/good:1", str(manifest.digest))).kind == "succeeded"
    corrupt, _ = await push(system, "corrupt", b"no layer")
    found = {"corrupt": (await outcome(f"{system.host}/bad/corrupt:1", corrupt)).data.failure.code}
    manifest_digest = str(Digest.of(b'{"schemaVersion": 2}'))
    for name in ("refusing", "failing", "misleading", "token", "realm", "unreachable", "misnaming"):
        digest = manifest_digest if name == "misnaming" else NOWHERE
        event = await outcome(f"{scene.hosts[name]}/bad/app:1", digest)
        assert event.kind == "failed", event
        found[name] = event.data.failure.code
    assert found == {
        "corrupt": "corrupt_layer",
        "refusing": "denied",
        "failing": "registry_unavailable",
        "misleading": "host_not_allowed",
        "token": "denied",
        "realm": "registry_unavailable",
        "unreachable": "registry_unavailable",
        "misnaming": "unsupported_media_type",
    }
    await strange_webhooks(scene, system)


async def push_to_second(scene: Scene, system: System) -> None:
    """The same image, put there with the test's own credential."""
    host = scene.hosts["second"]
    document = yaml.safe_load((scene.folder / "system" / "config.yml").read_text())
    document["auths"][host]["auth"] = scene.canaries.basic("docker-config")
    own = scene.folder / "own.yml"
    own.write_text(yaml.safe_dump(document))
    settings = load_settings(own, environ={}, option_models=option_models())
    async with RegistryClient.from_settings(settings) as client:
        source, target = parse_reference(f"{system.host}/bad/good:1"), parse_reference(f"{host}/bad/good:1")
        manifest = await client.manifest(source)
        for blob in (manifest.config, *manifest.layers):  # type: ignore[union-attr]  # an image's manifest: it was pushed so
            async with client.open_blob(source, blob) as pieces, client.upload(target) as writer:
                async for piece in pieces:
                    await writer.write(piece)
                await writer.commit(blob.media_type)
        await client.put_manifest(target, manifest)


async def strange_webhooks(scene: Scene, system: System) -> None:
    """What a sender should never have put into a body, and senders that nobody knows."""
    plant = scene.canaries.plant
    secret = plant("webhook", plain=True)
    resource = {"digest": NOWHERE, "tag": "1", "resource_url": f"{USER}:{secret}@{system.host}/bad/app:1"}
    repository = {"repo_full_name": "bad/app", "name": "app", "namespace": "bad"}
    event = {"resources": [resource], "repository": repository, "auth_header": secret, "Authorization": secret}
    bodies: dict[str, bytes] = {
        "user information in a reference": orjson.dumps({"type": "PUSH_ARTIFACT", "event_data": event}),
        "a URL as a reference": orjson.dumps(
            {
                "type": "PUSH_ARTIFACT",
                "event_data": {**event, "resources": [{**resource, "resource_url": f"https://u:{secret}@h/a:1"}]},
            }
        ),
        "a secret as the kind": orjson.dumps({"type": secret, "event_data": event}),
        "a secret as the digest": orjson.dumps(
            {"type": "PUSH_ARTIFACT", "event_data": {**event, "resources": [{**resource, "digest": secret}]}}
        ),
        "distribution": orjson.dumps(
            {
                "events": [
                    {
                        "id": "1",
                        "action": "push",
                        "target": {
                            "mediaType": "application/vnd.oci.image.manifest.v1+json",
                            "url": f"http://u:{secret}@h/v2/",
                            "repository": "a",
                            "digest": NOWHERE,
                        },
                    }
                ]
            }
        ),
        "CloudEvents": orjson.dumps({"specversion": secret, "type": secret, "data": secret}),
        "no JSON": f'{{"Authorization": "Basic {secret}", '.encode(),
    }
    for case, body in bodies.items():
        status, answer = await system.post(body)
        assert status in {200, 400}, (case, answer)
        scene.note(f"answer to {case}", answer)
    wrong = plant("wrong-header", plain=True)
    status, answer = await system.post(bodies["no JSON"], {"Authorization": f"Bearer {wrong}"})
    assert status == 401
    scene.note("answer to a wrong header", answer)


async def what_the_api_shows(scene: Scene, system: System, everything: str) -> None:
    """Every page and document that a reader may see, as reader, as operator, and as nobody; a replay through the API."""
    plant = scene.canaries.plant
    operator = encode_basic_auth(OPERATOR, plant("operator"), "utf-8")
    reader = encode_basic_auth(READER, plant("console"), "utf-8")
    own = system.endpoint.removesuffix("/conversion")
    metrics = f"http://127.0.0.1:{system.settings.metric.port}/metrics"
    async with ClientSession(timeout=ClientTimeout(total=PATIENCE)) as session:

        async def get(url: str, authorization: str, expected: int = 200) -> str:
            async with session.get(url, headers={"Authorization": authorization} if authorization else {}) as answer:
                text = await answer.text()
                assert answer.status == expected, (url, text)
                scene.note(f"GET {url.partition('/')[2]}", f"{answer.headers}\n{text}")
                return text

        for base in (own, everything):
            letters = orjson.loads(await get(f"{base}/api/v1/dead-letters", reader))["items"]
            assert len(letters) == 8
            known: list[dict[str, Any]] = []
            async with asyncio.timeout(PATIENCE):  # the read model follows the events
                while sum(each["status"] == "failed" for each in known) < len(letters):
                    known = orjson.loads(await get(f"{base}/api/v1/status/conversions", reader))["items"]
            paths = ["/openapi.json", "/console/", "/console/conversions", "/console/queue", "/console/dead-letters"]
            paths += ["/api/v1/status", "/api/v1/status/queue", "/api/v1/status/consumers", "/api/v1/conversions"]
            paths += [f"/api/v1/status/conversions/{each['id']}" for each in known]
            paths += [f"/console/conversions/{each['id']}" for each in known]
            paths += [f"/api/v1/dead-letters/{each['id']}" for each in letters]
            paths += [f"/console/dead-letters/{each['id']}" for each in letters]
            paths += ["/api/v1/dead-letters/export", "/metrics", "/health"]
            for path in paths:
                await get(base + path, operator, 204 if path == "/health" else 200)
            for path in ("/console/", "/api/v1/status", "/api/v1/dead-letters"):
                await get(base + path, "", 401)
                await get(base + path, encode_basic_auth(READER, plant("wrong-password", plain=True)), 401)
        await get(metrics, "")
        letter = letters[0]["id"]
        acting = {"Authorization": operator}
        async with session.post(f"{own}/api/v1/dead-letters/{letter}/replay", headers=acting) as answer:
            done = await answer.json()
            assert done["done"] == 1, done
            scene.note("answer to a replay", done)
        async with asyncio.timeout(PATIENCE):
            while ((found := await system.broker.stats()).dead or 0) < len(letters):  # it dies again
                scene.note("queue", found)
                await asyncio.sleep(0.2)
        async with session.post(f"{own}/api/v1/dead-letters/replay", headers=acting, data="x") as answer:
            scene.note("answer to a form", await answer.text())


async def what_the_command_line_shows(scene: Scene, system: System) -> None:
    """Commands that work, commands that fail, and configurations that are wrong in every secret."""
    plant = scene.canaries.plant
    config = scene.folder / "system" / "config.yml"
    docker = {"DOCKER_CONFIG": str(scene.folder / "docker")}

    async def ics(*arguments: str, expected: int = 0, path: Path = config, env: Mapping[str, str] | None = None) -> str:
        # Away from this loop: a command has its own.
        result = await asyncio.to_thread(
            CliRunner().invoke, app, [*arguments, "--config", str(path)], env={**docker, **(env or {})}
        )
        told = result.output + "".join(traceback.format_exception(result.exception) if result.exception else ())
        scene.note(f"ics {' '.join(arguments[:2])}", told)
        assert result.exit_code == expected, (arguments, told)
        return result.output

    shown = await ics("config", "show")
    assert "auth_file" in shown
    await ics("config", "check")
    exported = scene.folder / "letters.jsonl"
    await ics("dead-letters", "export", "--to", str(exported))
    scene.note("exported dead letters", exported.read_text())
    listed = orjson.loads(await ics("dead-letters", "list", "-o", "json"))
    await ics("dead-letters", "list")
    for letter in listed:
        await ics("dead-letters", "show", letter["id"])
    await ics("dead-letters", "replay", "--all", "--dry-run")
    for name, code in {"refusing": 1, "failing": 3, "misleading": 1, "token": 1, "realm": 3, "unreachable": 3}.items():
        await ics("convert", f"{scene.hosts[name]}/bad/app:1", expected=code)
    await ics("backfill", scene.hosts["refusing"], "--dry-run", expected=1)
    wrong = plant("wrong-broker", plain=True)
    port = free_port()
    for number, url in enumerate((f"amqp://guest:{wrong}@127.0.0.1:{port}/", f"nats://u:{wrong}@127.0.0.1:{port}")):
        other = scene.folder / f"broker-{number}.yml"
        other.write_text(yaml.safe_dump({**yaml.safe_load(config.read_text()), "broker": {"url": url}}))
        await ics("dead-letters", "list", expected=3, path=other)
    refused = system.settings.broker.url.get_secret_value().replace(plant("broker"), wrong)
    denied = scene.folder / "denied.yml"
    denied.write_text(yaml.safe_dump({**yaml.safe_load(config.read_text()), "broker": {"url": refused}}))
    await ics("dead-letters", "list", expected=1, path=denied)
    await process("consumer", denied, scene)
    for number, document in enumerate(wrong_configurations(plant("mistake", plain=True))):
        mistaken = scene.folder / f"mistaken-{number}.yml"
        mistaken.write_text(document if isinstance(document, str) else yaml.safe_dump(document))
        await ics("config", "check", expected=1, path=mistaken)
    await ics("config", "check", expected=1, env={"ICS_AUTHS": plant("environment"), "ICS_AUTH_HEADER": "\n"})
    setup = ("harbor", "setup", "--harbor", f"http://{scene.hosts['harbor']}", "--project", "bad")
    result = await asyncio.to_thread(
        CliRunner().invoke,
        app,
        [*setup, "--webhook-url", "https://ics.example.com/conversion"],
        env={"HARBOR_PASSWORD": plant("harbor-setup")},
    )
    assert result.exit_code == 1
    scene.note("ics harbor setup", result.output)


def wrong_configurations(secret: str) -> list[dict[str, Any] | str]:
    """Each puts a secret where it is refused, or beside what is."""
    return [
        {"auths": {"h.example.com": {"auth": secret}}},
        {"auths": {"h.example.com": {"auth": {"password": secret}}}},
        {"auths": {"h.example.com": {"password": secret}}},
        {"auths": {f"https://u:{secret}@h.example.com/": {}}},
        {"endpoints": {"h.example.com": f"u:{secret}@h"}},
        {"auth_header": [f"Bearer {secret}\n"]},
        {"auth_header": {"value": secret}},
        {"broker": {"url": f"mysql://u:{secret}@h/"}},
        {"broker": {"url": [secret]}},
        {"console": {"credential": secret}},
        {"console": {"trace_url": f"https://u:{secret}@h/"}},
        {"notifications": [{"url": [secret]}]},
        {"notifications": [{"url": f"not a url {secret}"}]},
        {"notifications": [{"url": "https://h/", "secret": f"whsec_{secret}"}]},
        {"harbor": {"h.example.com": {"url": f"https://u:{secret}@h.example.com"}}},
        {"harbor": {"h.example.com": {"url": "https://h", "password": [secret]}}},
        f"auth_header: 'Bearer {secret}\nhttp: [",
        f"- {secret}",
    ]


async def process(role: str, config: Path, scene: Scene) -> None:
    """A process that cannot start says so, and ends."""
    made = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "cli.main", role, "--config", str(config)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, "ICS_METRIC__PORT": str(free_port()), "ICS_HTTP__PORT": str(free_port())},
    )
    async with asyncio.timeout(PATIENCE):
        output, _ = await made.communicate()
    assert made.returncode not in {0, None}
    scene.note(f"output of ics {role}", output.decode())


async def what_is_in_the_broker(scene: Scene, system: System) -> None:
    async for event in system.broker.events.read(follow=False):
        scene.note("events", event.model_dump_json())
    async for letter in system.broker.dead_letters.list():
        scene.note("dead letters", letter.model_dump_json())
    scene.note("broker", repr(system.broker))


def what_python_shows(scene: Scene, system: System) -> None:
    settings = system.settings
    scene.note("repr of the settings", repr(settings))
    scene.note("settings as text", str(settings))
    scene.note("settings dumped", f"{settings.model_dump()} {settings.model_dump_json()} {render_settings(settings)}")
    scene.note("client", repr(vars(system.client)) + repr(vars(system.client._transport)))
    scene.note("accesses", repr(vars(system.client._transport.access)))


async def secrets_arrived(scene: Scene) -> None:
    """Where each belongs: else the search would prove nothing."""
    async with asyncio.timeout(PATIENCE):
        for name in ("hook", "deaf hook", "harbor", "collector"):
            while not any(scene.peers[name].seen):
                await asyncio.sleep(0.1)
        key = scene.canaries.plant("otlp-header")
        while ("x-api-key", key) not in scene.receiver.sent_headers():
            await asyncio.sleep(0.1)


def everything_was_reached(scene: Scene) -> None:
    """Each telltale was told its secret, and what it said was written: without the secret."""
    basic = scene.canaries.basic
    sent = {
        "refusing": basic("refusing"),
        "failing": basic("auth-file"),
        "misnaming": basic("misnaming"),
        "misleading": basic("misleading"),
        "realm": basic("docker-realm"),
        "harbor": basic("harbor-password-file"),
    }
    for name, value in sent.items():
        assert f"Basic {value}" in scene.peers[name].seen, name
    assert f"Bearer {scene.canaries.plant('token')}" in scene.peers["token"].seen
    letters = [orjson.loads(line) for line in scene.written["dead letters"].splitlines() if line]
    messages = " ".join(letter["failure"]["message"] for letter in letters)
    assert messages.count("you sent") >= 4, messages
    assert "collector" in scene.written["up.log"] or "Failed to export" in scene.written["up.log"]
    for name in ("hook", "deaf hook", "harbor", "collector"):
        scene.note(f"what {name} was sent", "\n".join(scene.peers[name].bodies))
    for where in ("ingress.log", "consumer.log", "up.log", "traces", "events", "ics config"):
        assert any(each.startswith(where) and text.strip() for each, text in scene.written.items()), where
