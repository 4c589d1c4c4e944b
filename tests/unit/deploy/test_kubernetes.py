"""The Kubernetes manifests are valid, restricted, and agree with the configuration they ship."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from drivers.catalogue import option_models
from ingress.server import GRACE
from shared.broker.jetstream.topology import Names
from shared.settings.load import load_settings
from shared.settings.model import Settings, Timeouts

KUBERNETES = Path(__file__).parents[3] / "deploy/kubernetes"
CUSTOM = ("keda.sh/", "kustomize.config.k8s.io/", "monitoring.coreos.com/")
"""Their schemas are their operators' own."""
RULES = KUBERNETES.parent / "prometheus/rules/ics.yml"
MONITORING = "components/prometheus-operator"


def documents(name: str) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all((KUBERNETES / name).read_text()) if document]


ALL = [
    (str(path.relative_to(KUBERNETES)), document)
    for path in sorted(KUBERNETES.rglob("*.yaml"))
    for document in documents(str(path.relative_to(KUBERNETES)))
]
DEPLOYMENTS = [document for _, document in ALL if document["kind"] == "Deployment"]


@pytest.mark.parametrize(
    ("name", "document"), ALL, ids=lambda value: value if isinstance(value, str) else value["kind"]
)
def test_each_object_is_valid(name: str, document: dict[str, Any]) -> None:
    if document["apiVersion"].startswith(CUSTOM):
        assert name == "autoscaling.yaml" or name.endswith("kustomization.yaml") or name.startswith(MONITORING)
    else:
        kubernetes_validate.validate(document, "1.31", strict=True)


def test_the_kustomization_names_every_file_but_the_example() -> None:
    (kustomization,) = documents("kustomization.yaml")
    present = {path.name for path in KUBERNETES.glob("*.yaml")} - {"kustomization.yaml", "secret.example.yaml"}
    assert set(kustomization["resources"]) == present
    offered = re.findall(r"^#   - (components/\S+)$", (KUBERNETES / "kustomization.yaml").read_text(), re.MULTILINE)
    assert set(offered) == {f"components/{path.name}" for path in (KUBERNETES / "components").iterdir()}
    for component in offered:
        (inside,) = documents(f"{component}/kustomization.yaml")
        files = {path.name for path in (KUBERNETES / component).glob("*.yaml")} - {"kustomization.yaml"}
        assert set(inside.get("resources", [])) == files
    for generator in kustomization["configMapGenerator"]:
        assert all((KUBERNETES / file).is_file() for file in generator["files"])


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda document: document["metadata"]["name"])
def test_pods_meet_the_restricted_standard(deployment: dict[str, Any]) -> None:
    pod = deployment["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    for container in pod["containers"]:
        context = container["securityContext"]
        assert context["readOnlyRootFilesystem"] is True
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert container["resources"]["limits"]["memory"]


def test_the_autoscaler_watches_the_queues_that_exist_and_scales_what_exists() -> None:
    (scaled,) = [document for document in documents("autoscaling.yaml") if document["kind"] == "ScaledObject"]
    assert scaled["spec"]["scaleTargetRef"]["name"] in {document["metadata"]["name"] for document in DEPLOYMENTS}
    queues = {trigger["metadata"]["queueName"] for trigger in scaled["spec"]["triggers"]}
    assert queues == {"ics.conversions", "ics.conversions.backfill"}


def test_with_nats_the_autoscaler_watches_the_consumers_that_there_are() -> None:
    (component,) = documents("components/nats/kustomization.yaml")
    (operations,) = [
        yaml.safe_load(each["patch"])
        for each in component["patches"]
        if each.get("target", {}).get("kind") == "ScaledObject"
    ]
    names = Names(Settings().broker.prefix)
    watched = {(each["metadata"]["stream"], each["metadata"]["consumer"]) for each in operations[0]["value"]}
    assert watched == {(names.work, "live"), (names.work, "backfill")}


def test_pods_get_the_time_that_they_need_to_end() -> None:
    for deployment in DEPLOYMENTS:
        pod = deployment["spec"]["template"]["spec"]
        pause = 5  # preStop
        needed = {"ics-consumer": Timeouts().drain, "ics-ingress": pause + GRACE}[deployment["metadata"]["name"]]
        assert pod["terminationGracePeriodSeconds"] > needed


def test_the_prometheus_operator_gets_the_same_rules_and_finds_every_process() -> None:
    text = (KUBERNETES / MONITORING / "prometheus-rule.yaml").read_text()
    assert text.partition("spec:\n")[2] == re.sub(r"^(.)", r"  \1", RULES.read_text(), flags=re.MULTILINE)
    monitors = documents(f"{MONITORING}/pod-monitors.yaml")
    assert {each["metadata"]["name"] for each in monitors} == {each["metadata"]["name"] for each in DEPLOYMENTS}
    for monitor in monitors:
        (deployment,) = [each for each in DEPLOYMENTS if each["metadata"]["name"] == monitor["metadata"]["name"]]
        template = deployment["spec"]["template"]
        assert monitor["spec"]["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
        (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
        assert endpoint["port"] in {port["name"] for each in template["spec"]["containers"] for port in each["ports"]}
        assert endpoint["relabelings"] == [{"targetLabel": "job", "replacement": monitor["metadata"]["name"]}]


def test_selectors_match_their_pods() -> None:
    pods = [document["spec"]["template"]["metadata"]["labels"] for document in DEPLOYMENTS]
    for _, document in ALL:
        if document["kind"] in {"PodDisruptionBudget", "Service", "Deployment"}:
            selector = document["spec"]["selector"]
            wanted = selector.get("matchLabels", selector)
            assert any(wanted.items() <= labels.items() for labels in pods), document["metadata"]["name"]


def test_the_shipped_configuration_is_understood(tmp_path: Path) -> None:
    (secret,) = documents("secret.example.yaml")
    for name, value in secret["stringData"].items():
        (tmp_path / name).write_text(value)
    config = tmp_path / "config.yml"
    config.write_text((KUBERNETES / "config.yml").read_text().replace("/run/secrets/ics", str(tmp_path)))
    environ = {
        variable["name"]: variable["value"].replace("/run/secrets/ics", str(tmp_path))
        for deployment in DEPLOYMENTS
        for container in deployment["spec"]["template"]["spec"]["containers"]
        for variable in container["env"]
    }
    settings = load_settings(config, environ=environ, option_models=option_models())
    assert settings.console.credential is not None, "whoever reaches the port could read"
    assert settings.console.operator_credential is not None
    assert settings.broker.url.get_secret_value().startswith("amqp://")
    (mounted,) = {
        mount["mountPath"]
        for document in DEPLOYMENTS
        for container in document["spec"]["template"]["spec"]["containers"]
        for mount in container["volumeMounts"]
        if mount["name"] == "secrets"
    }
    assert mounted == "/run/secrets/ics"
