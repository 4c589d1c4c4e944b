"""The development registry: a small OCI distribution 1.1 registry that ``ics demo`` brings along.

Not a product: no authentication, no garbage collection, no replication, one process.
"""

from cli.devregistry.server import DevRegistry, serve_registry

__all__ = ["DevRegistry", "serve_registry"]
