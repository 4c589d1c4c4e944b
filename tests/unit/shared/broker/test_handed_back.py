"""What is handed back unseen is as it was, with what its broker has counted."""

from __future__ import annotations

from shared.broker.wire import Queued, decode, encode, handed_back
from tests.unit.consumer.support import request


def test_deliveries_that_ended_without_an_outcome_are_not_forgotten() -> None:
    message = encode(Queued(request=request(), headers={"traceparent": "x"}, crashes=2, begun=True))
    assert handed_back(message, 0) == message
    again = handed_back(message, 3)
    assert again.body == message.body
    found = decode(again)
    assert (found.crashes, found.begun, found.headers) == (5, True, {"traceparent": "x"})
    assert found.published_at == decode(message).published_at
