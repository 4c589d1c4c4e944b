"""Whatever a dead letter may say is explained."""

from __future__ import annotations

import ast
from pathlib import Path

from shared.explanations import _BY_CODE, explain
from shared.registry import errors


def raised_codes() -> set[str]:
    """Every literal ``code=`` of the source that reaches a dead letter."""
    root = Path(__file__).parents[3]
    trees = [
        ast.parse(path.read_text())
        for room in ("shared", "drivers", "consumer")
        for path in (root / room).rglob("*.py")
    ]
    keywords = (
        node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.keyword) and node.arg == "code"
    )
    return {
        node.value.value
        for node in keywords
        if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    }


OF_REGISTRIES = {
    *errors._PERMANENT_BY_STATUS.values(),
    *errors._BY_REGISTRY_CODE.values(),
    *errors._NOT_FOUND_BY_OPERATION.values(),
    *("rate_limited", "policy_violation", "registry_timeout", "registry_unavailable"),
    *("manifest_too_large", "precondition_failed", "quota_exceeded"),
}
NEVER_OF_A_CONVERSION = {
    *("address_unavailable", "broker_mismatch", "broker_missing", "broker_refused", "broker_unavailable"),
    *("cannot_read", "invalid_broker_url", "invalid_driver", "peer_refused", "peer_unavailable"),
    *("not_nydus", "source_differs"),  # of a check
}


def test_every_code_of_a_dead_letter_is_explained_and_no_other() -> None:
    codes = raised_codes() | OF_REGISTRIES
    assert set(_BY_CODE) == codes - NEVER_OF_A_CONVERSION
    assert explain("never heard of").next_step
