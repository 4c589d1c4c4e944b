"""The Kubernetes manifests are valid, restricted, and agree with the configuration they ship."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from drivers.catalogue import option_models
from shared.settings.load import load_settings

KUBERNETES = Path(__file__).parents[3] / "deploy/kubernetes"
CUSTOM = ("keda.sh/", "kustomize.config.k8s.io/")


def documents(name: str) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all((KUBERNETES / name).read_text()) if document]


ALL = [(path.name, document) for path in sorted(KUBERNETES.glob("*.yaml")) for document in documents(path.name)]
DEPLOYMENTS = [document for _, document in ALL if document["kind"] == "Deployment"]


@pytest.mark.parametrize(
    ("name", "document"), ALL, ids=lambda value: value if isinstance(value, str) else value["kind"]
)
def test_each_object_is_valid(name: str, document: dict[str, Any]) -> None:
    if document["apiVersion"].startswith(CUSTOM):
        assert name in {"autoscaling.yaml", "kustomization.yaml"}
    else:
        kubernetes_validate.validate(document, "1.31", strict=True)


def test_the_kustomization_names_every_file_but_the_example() -> None:
    (kustomization,) = documents("kustomization.yaml")
    present = {path.name for path in KUBERNETES.glob("*.yaml")} - {"kustomization.yaml", "secret.example.yaml"}
    assert set(kustomization["resources"]) == present
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
