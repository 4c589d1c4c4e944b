"""How NATS says that a stream or a consumer is not there."""

from __future__ import annotations

import nats.errors
import nats.js.errors

_NOT_FOUND = {10059, 10014}
"""JetStream's err_code: no such stream, no such consumer. A missing message has another."""


def missing(error: BaseException) -> bool:
    """Whether somebody may have deleted what the operation was for. Nobody listens on its subject then; nor does while a cluster
    elects a leader, or a server that starts has not loaded its streams.
    """
    if isinstance(error, nats.js.errors.APIError):
        return error.err_code in _NOT_FOUND
    return isinstance(error, nats.errors.NoRespondersError | nats.js.errors.NoStreamResponseError)
