"""What a layer may ask of a driver, and of a consumer."""

from __future__ import annotations

from drivers.catalogue import layer_limits
from drivers.limits import LayerLimits
from shared.settings.model import Limits


def test_a_driver_alone_has_the_limits_that_a_consumer_has_by_default() -> None:
    assert layer_limits(Limits()) == LayerLimits()
