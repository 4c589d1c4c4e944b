"""How the tests are spread over workers: a file stays together, except that each real broker has a worker of its own."""

from __future__ import annotations

import hypothesis
import pytest

from tests.images.real_layers import RealLayers

# Three workers share two cores: how long an example takes says nothing.
hypothesis.settings.register_profile(
    "ics", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow], print_blob=True
)
hypothesis.settings.load_profile("ics")

_FIRST = ("tests/faults/", "tests/e2e/", "tests/integration/")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def rank(item: pytest.Item) -> int:
        path = item.nodeid
        return next((place for place, start in enumerate(_FIRST) if path.startswith(start)), len(_FIRST))

    # Long ones first, so that no worker ends alone. The sort is stable: the order within a file stays.
    items.sort(key=rank)
    for item in items:
        group = item.nodeid.partition("::")[0]
        callspec = getattr(item, "callspec", None)
        broker = None if callspec is None else callspec.params.get("kind", callspec.params.get("broker"))
        # No "]" in it: xdist would take it for a test's parameters, and not for a group.
        item.add_marker(pytest.mark.xdist_group(f"{group}-{broker}" if isinstance(broker, str) else group))


@pytest.fixture(scope="session")
def real_layers(tmp_path_factory: pytest.TempPathFactory) -> RealLayers:
    """Shared by the workers of one session: their temporary folders have one parent."""
    base = tmp_path_factory.getbasetemp()
    return RealLayers((base.parent if base.name.startswith("popen-") else base) / "real-layers")
