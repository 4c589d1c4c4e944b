"""What is told of a broker that cannot be reached: where it was looked for, and why; never the credentials."""

from __future__ import annotations

import pytest
from pydantic import SecretStr

from shared.broker.open import open_broker
from shared.errors import TransientError
from shared.settings.model import BrokerSettings, Settings
from tests.servers.ports import free_port


@pytest.mark.parametrize("scheme", ["amqp", "nats"])
async def test_a_broker_that_is_away_is_named_without_its_password(scheme: str) -> None:
    where = f"127.0.0.1:{free_port()}"
    url = SecretStr(f"{scheme}://robot:s3cret@{where}")
    with pytest.raises(TransientError) as raised:
        async with open_broker(Settings(broker=BrokerSettings(url=url, publish_timeout=0.2))) as broker:
            await broker.check_health()
    assert where in raised.value.message
    assert "s3cret" not in raised.value.message
