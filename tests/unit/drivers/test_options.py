"""Options reach a driver as any driver's."""

from __future__ import annotations

import pytest

from drivers.api import Driver, DriverOptions
from drivers.catalogue import create_drivers
from shared.errors import PermanentError
from shared.settings.model import Limits


@pytest.mark.parametrize("driver", create_drivers(Limits()).values(), ids=lambda driver: driver.type)
def test_those_of_another_driver_are_refused(driver: Driver) -> None:
    with pytest.raises(PermanentError, match="DriverOptions are not") as caught:
        driver.fingerprint(DriverOptions())
    assert caught.value.code == "invalid_options"
