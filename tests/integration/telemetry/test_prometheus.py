"""The shipped rules and dashboards, evaluated by a real Prometheus over what a real ``Metrics`` exposes."""

from __future__ import annotations

import json
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from shared.telemetry.metrics import Metrics
from tests.servers.prometheus import PrometheusServer, prometheus
from tests.waiting import PATIENCE

DEPLOY = Path(__file__).parents[3] / "deploy"
RULES = DEPLOY / "prometheus" / "rules" / "ics.yml"
DASHBOARDS = sorted((DEPLOY / "grafana" / "dashboards").glob("*.json"))
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
_PROMQL = {
    "sum",
    "by",
    "max",
    "max_over_time",
    "min",
    "rate",
    "increase",
    "count",
    "histogram_quantile",
    "topk",
    "or",
    "and",
    "on",
    "vector",
    "offset",
}
_LABELS = {"le", "ref", "stage", "code", "state", "outcome", "operation", "registry", "reason", "direction", "origin"}
_KEYWORDS = _PROMQL | _LABELS | {"resource", "job", "instance", "m"}
_FOREIGN = {"up", "rabbitmq_alarms_free_disk_space_watermark", "rabbitmq_alarms_memory_used_watermark"}
"""Prometheus' own, and RabbitMQ's."""


def panel_queries() -> list[tuple[str, str]]:
    return [
        (f"{path.stem}: {panel['title']}", target["expr"])
        for path in DASHBOARDS
        for panel in json.loads(path.read_text())["panels"]
        for target in panel["targets"]
    ]


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def work(ingress: Metrics, consumer: Metrics) -> None:
    """One round of everything that the service counts."""
    for seconds in (0.4, 12.0, 95.0, 420.0):
        consumer.conversion_started("h/library/redis", "7")
        consumer.queue_time(seconds / 4, TRACE)
        consumer.conversion_finished("h/library/redis", "7", "succeeded", seconds, TRACE)
    consumer.conversion_started("h/library/redis", "8")
    consumer.conversion_finished("h/library/redis", "8", "failed", 1, TRACE)
    for stage in ("resolve", "pull", "convert", "push", "manifest", "tag"):
        consumer.stage(stage, 1.5, TRACE)
    consumer.sizes(100, 95)
    consumer.layers(converted=3, reused=2)
    consumer.cache(hit=True)
    consumer.cache(hit=False)
    with consumer.claim("held"):
        consumer.claim_given_up("patience")
    consumer.concurrency(5)
    consumer.buffers(10, 100)
    consumer.retried("registry_timeout")
    consumer.dead_lettered("denied", TRACE)
    consumer.skipped("up to date")
    consumer.request("pull_blob", "h", 200, 0.1)
    consumer.retry("pull_blob", "h", "registry_timeout", 1)
    consumer.transferred("pull_blob", "h", 100, 100)
    consumer.registry_up("h", up=True)
    consumer.registry_circuit("h", "closed")
    consumer.notification("delivered")
    consumer.event_dropped()
    ingress.webhook("h/library/redis", "7", 0.02, "accepted", TRACE)
    ingress.queue({"ready": 4, "in_flight": 1, "retrying": 0, "dead": 2}, 1, 12.5)
    ingress.dead_letters({"denied": 2})
    ingress.dead_letter_operation("replayed")
    ingress.broker_up(up=True)
    ingress.history(17)
    ingress.event_dropped()


@pytest.fixture(scope="module")
def exporters() -> Iterator[dict[str, int]]:
    """An ingress and a consumer that go on working while Prometheus scrapes them."""
    metrics = {"ics-ingress": Metrics(), "ics-consumer": Metrics()}
    servers = {name: ThreadingHTTPServer(("127.0.0.1", 0), _handler(each)) for name, each in metrics.items()}
    stop = threading.Event()

    def go_on() -> None:
        while not stop.wait(0.2):
            work(metrics["ics-ingress"], metrics["ics-consumer"])

    threads = [threading.Thread(target=go_on)]
    threads += [threading.Thread(target=server.serve_forever) for server in servers.values()]
    for thread in threads:
        thread.start()
    yield {name: server.server_port for name, server in servers.items()}
    stop.set()
    for server in servers.values():
        server.shutdown()
        server.server_close()
    for thread in threads:
        thread.join()


def _handler(metrics: Metrics) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body, content_type = metrics.render(self.headers.get("Accept", ""))
            self.send_response(200)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base class's name
            """Quiet."""

    return Handler


@pytest.fixture(scope="module")
def server(exporters: dict[str, int], tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrometheusServer]:
    folder = tmp_path_factory.mktemp("prometheus")
    jobs = [
        {"job_name": name, "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]} for name, port in exporters.items()
    ]
    config = {
        "global": {"scrape_interval": "500ms", "scrape_timeout": "500ms", "evaluation_interval": "500ms"},
        "rule_files": [str(RULES)],
        "scrape_configs": jobs,
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    with prometheus(folder / "prometheus.yml", folder / "data") as running:
        assert becomes(lambda: bool(running.query("ics:conversion_slow_ratio:rate6h")))
        yield running


def test_the_alerts_fire_when_they_should_and_only_then() -> None:
    """Every alert of the rules is named in promtool's tests, which hold both ways."""
    tests = DEPLOY / "prometheus" / "tests" / "ics.test.yml"
    done = subprocess.run(("/usr/bin/promtool", "test", "rules", tests), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    text = tests.read_text()
    for rule in rules():
        if "alert" in rule:
            assert len(re.findall(rf"\b{rule['alert']}\b", text)) >= 2, rule["alert"]


def test_operations_says_what_to_do_at_every_alert_and_what_every_metric_is() -> None:
    text = (DEPLOY.parent / "docs" / "operations.md").read_text()
    headings = set(re.findall(r"^### (\w+)$", text, re.MULTILINE))
    assert headings == {rule["alert"] for rule in rules() if "alert" in rule}
    told = set(re.findall(r"`([a-z_]+)`", text))
    ours = [family for family in Metrics(process_metrics=False).registry.collect() if family.name != "python_info"]
    names = {f"{each.name}_total" if each.type == "counter" else each.name for each in ours}
    assert names - told == set()


def test_prometheus_takes_the_shipped_configuration_and_rules(tmp_path: Path) -> None:
    text = (DEPLOY / "prometheus" / "prometheus.yml").read_text()
    assert "/etc/prometheus/rules/*.yml" in text
    local = tmp_path / "prometheus.yml"
    local.write_text(text.replace("/etc/prometheus/rules", str(RULES.parent)))
    done = subprocess.run(("/usr/bin/promtool", "check", "config", local), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_name_in_a_query_is_a_metric_that_exists() -> None:
    known = {rule["record"] for rule in rules() if "record" in rule} | _FOREIGN
    for family in Metrics().registry.collect():
        known |= {
            family.name,
            f"{family.name}_total",
            *(f"{family.name}_{end}" for end in ("bucket", "sum", "count", "info")),
        }
    queries = panel_queries() + [(rule.get("alert") or rule["record"], rule["expr"]) for rule in rules()]
    for where, expression in queries:
        bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\"[^\"]*\"|'[^']*'", " ", expression)
        for name in re.findall(r"(?<![\w$.])[a-z][a-z0-9_:]*", bare):
            assert name in known or name in _KEYWORDS, f"{where}: {name}"


def test_every_panel_shows_data(server: PrometheusServer) -> None:
    """Once two scrapes have seen each series: there is no rate before."""
    assert becomes(lambda: panels_without_data(server) == []), panels_without_data(server)


def becomes(true: Callable[[], bool]) -> bool:
    """Whether it is true in time: what Prometheus shows follows what it scrapes."""
    deadline = time.monotonic() + PATIENCE
    while not (done := true()) and time.monotonic() < deadline:
        time.sleep(0.5)
    return done


def panels_without_data(server: PrometheusServer) -> list[str]:
    empty = []
    for where, expression in panel_queries():
        filled = expression.replace("$__rate_interval", "1m").replace("$ref", ".*")
        if not [sample for sample in server.query(filled) if sample["value"][1] != "NaN"]:
            empty.append(f"{where}: {filled}")
    return empty


def test_every_rule_evaluates(server: PrometheusServer) -> None:
    """Each on a schedule of its own: an alert follows its series by up to a few evaluations."""
    found: list[dict[str, Any]] = []

    def evaluated() -> bool:
        found[:] = [rule for group in server.get("/api/v1/rules")["groups"] for rule in group["rules"]]
        raised = {rule["name"] for rule in found if rule.get("state") in {"pending", "firing"}}
        return "IcsEventsDropped" in raised and all(rule["health"] != "unknown" for rule in found)

    assert becomes(evaluated), found
    assert len(found) == len(rules())
    assert {rule["name"]: rule.get("lastError", "") for rule in found if rule["health"] == "err"} == {}


def test_exemplars_lead_to_traces(server: PrometheusServer) -> None:
    found: set[str] = set()

    def told() -> bool:
        now = time.time()
        path = f"/api/v1/query_exemplars?query=ics_conversion_seconds_bucket&start={now - 60}&end={now}"
        found.update(e["labels"]["trace_id"] for series in server.get(path) for e in series["exemplars"])
        return bool(found)

    assert becomes(told)
    assert found == {TRACE}


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_dashboards_use_the_provisioned_data_source_and_do_not_overlap(path: Path) -> None:
    board = json.loads(path.read_text())
    sources = yaml.safe_load((DEPLOY / "grafana" / "provisioning" / "datasources" / "ics.yml").read_text())[
        "datasources"
    ]
    uids = {source["uid"] for source in sources}
    assert board["uid"] == path.stem
    cells: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        assert {panel["datasource"]["uid"], *(t["datasource"]["uid"] for t in panel["targets"])} <= uids
        place = panel["gridPos"]
        own = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert place["x"] + place["w"] <= 24
        assert not own & cells, panel["title"]
        cells |= own
