from __future__ import annotations

import pytest

from tests.integration.nydus.real_images import RealLayers


@pytest.fixture(scope="session")
def real_layers(tmp_path_factory: pytest.TempPathFactory) -> RealLayers:
    """Shared by the workers of one session: their temporary folders have one parent."""
    base = tmp_path_factory.getbasetemp()
    return RealLayers((base.parent if base.name.startswith("popen-") else base) / "real-layers")
