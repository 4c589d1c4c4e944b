"""The development registry as tests need it: one that wants credentials, goes wrong as it is told, and remembers requests."""

from cli.devregistry import serve_registry
from tests.servers.devregistry.faults import Fault, FaultPlan
from tests.servers.devregistry.registry import FaultyRegistry

__all__ = ["Fault", "FaultPlan", "FaultyRegistry", "serve_registry"]
