"""Whatever the OpenAPI document allows is answered as it says, by a real ingress; what it forbids is refused, never a 500."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Any

import schemathesis
import yaml
from aiohttp import encode_basic_auth
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis.errors import Unsatisfiable
from schemathesis import APIOperation, Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.servers.ports import free_port
from tests.servers.processes import Service
from tests.waiting import PATIENCE

EXAMPLES = 20
WEBHOOK = "Bearer webhook"
ENDLESS = "/api/v1/status/events"
"""A stream."""
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


async def test_every_operation_answers_as_the_document_says(tmp_path: Path) -> None:
    port = free_port()
    document = {
        "hostname": "127.0.0.1",
        "http": {"port": port},
        "auth_header": WEBHOOK,
        "auths": {"127.0.0.1:9": {"insecure": True}},
        "console": {"operator_credential": "operator:word"},
        "broker": {"data_dir": str(tmp_path / "broker")},
    }
    config = tmp_path / "config.yml"
    config.write_text(yaml.safe_dump(document))
    base = f"http://127.0.0.1:{port}"
    service = Service("ingress", config, {}, f"{base}/health", tmp_path / "ingress.log")
    await service.start()
    try:
        await service.ready()
        asked = await asyncio.to_thread(ask_everything, base)
    finally:
        await service.stop()
    assert {"POST /conversion", "GET /health", "GET /metrics", "POST /api/v1/dead-letters/replay"} <= asked


def ask_everything(base: str) -> set[str]:
    """Sound and unsound requests to each operation; which ones there were."""
    asked = set()
    for found in schemathesis.openapi.from_url(f"{base}/openapi.json").get_all_operations():
        assert isinstance(found, Ok), found
        operation = found.ok()
        if operation.path == ENDLESS:
            continue
        asked.add(f"{operation.method.upper()} {operation.path}")
        authorization = WEBHOOK if operation.path == "/conversion" else encode_basic_auth("operator", "word")
        for mode in GenerationMode:
            ask(operation, mode, authorization)
    return asked


def ask(operation: APIOperation[Any, Any, Any, Any], mode: GenerationMode, authorization: str) -> None:
    @hypothesis_settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(operation.as_strategy(generation_mode=mode))
    def holds(case: Case[Any]) -> None:
        answer = case.call(headers={"Authorization": authorization}, timeout=PATIENCE)
        case.validate_response(answer, checks=CHECKS)

    # Nothing is unsound where nothing is sent.
    with suppress(*((Unsatisfiable,) if mode is GenerationMode.NEGATIVE else ())):
        holds()
