"""The processes that are measured: ``python -m benchmarks.child TASK JSON`` prints what it measured as one line of JSON."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from typing import Any

TASKS = {
    "estargz": "layer_conversion",
    "zstdchunked": "layer_conversion",
    "nydus": "nydus_layer",
    "nydus_reference": "nydus_layer",
    "images": "image_stages",
    "pull": "image_stages",
    "convert": "image_stages",
    "push": "image_stages",
    "load": "webhook_load",
    "raw": "raw_publish",
    "history": "status_history",
    "dead_letters_fill": "dead_letter_uses",
    "dead_letters_use": "dead_letter_uses",
}
"""Task → the module that has a function of that name; only that one is imported."""


def main() -> None:
    task, arguments = sys.argv[1], json.loads(sys.argv[2])
    module = importlib.import_module(f"benchmarks.{TASKS[task]}")
    run: Callable[[dict[str, Any]], dict[str, Any]] = getattr(module, task)
    print(json.dumps(run(arguments)))


if __name__ == "__main__":
    main()
