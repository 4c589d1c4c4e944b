"""The development registry: a small OCI distribution 1.1 registry for ``make demo`` and for injecting faults in tests.

Not a product: no garbage collection, no replication, one process.
"""

from cli.devregistry.faults import Fault, FaultPlan
from cli.devregistry.server import DevRegistry, serve_registry

__all__ = ["DevRegistry", "Fault", "FaultPlan", "serve_registry"]
