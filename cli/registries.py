"""Registries that a command line names: which names are one, and with what they are contacted."""

from __future__ import annotations

from collections.abc import Callable

from shared.registry.access import normal_host
from shared.registry.docker_config import DockerConfig
from shared.settings.model import Auth, Settings


def knows(settings: Settings) -> Callable[[str], bool]:
    """Whether a name is a registry's by ``auths``, ``endpoints`` or Docker's configuration.

    The latter is read when it is asked for a name that the former two lack, and raises PermanentError: ``invalid_docker_config``.
    """
    ours = {normal_host(name) for name in (*settings.auths, *settings.endpoints)}
    return lambda name: normal_host(name) in ours or normal_host(name) in DockerConfig.of_environment().registries()


def allowing(settings: Settings, *hosts: str, insecure: bool) -> Settings:
    """Registries that a person names on the command line may be contacted, with what ``auths`` or Docker's config know of them."""
    auths = dict(settings.auths)
    for host in hosts:
        known = _auth(settings, normal_host(host))
        auths[host] = known.model_copy(update={"insecure": True}) if insecure else known
    return settings.model_copy(update={"auths": auths})


def _auth(settings: Settings, host: str) -> Auth:
    """What ``auths`` has for the registry, however it is spelled there, or for the endpoint that it is reached at."""
    auths = {normal_host(name): auth for name, auth in settings.auths.items()}
    endpoints = {normal_host(name): normal_host(endpoint) for name, endpoint in settings.endpoints.items()}
    return auths.get(host) or auths.get(endpoints.get(host, "")) or Auth()
