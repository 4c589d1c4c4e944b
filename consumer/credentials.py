"""Are we let in? Asked once, at start: a password that is wrong should be known before the first image is pushed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from shared.errors import IcsError, TransientError
from shared.registry.client import RegistryClient

_log = logging.getLogger(__name__)


async def prove_credentials(client: RegistryClient, registries: Iterable[str]) -> None:
    """Say in the log which of ``registries`` refuse what we show them; conversions go on, since others may be let in."""
    await asyncio.gather(*(_prove(client, registry) for registry in registries))


async def _prove(client: RegistryClient, registry: str) -> None:
    try:
        proof = await client.check_credentials(registry)
    except TransientError as error:
        _log.warning("whether %s takes its credentials is not known: %s", registry, error.message)
    except IcsError as error:
        _log.error("%s cannot be used as it is under `auths`: %s", registry, error.message)
    else:
        _log.info("%s: %s", registry, "credentials accepted" if proof == "accepted" else "no credentials shown")
