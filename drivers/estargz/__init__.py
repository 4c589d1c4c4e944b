"""eStargz: layers of independent gzip members behind a table of contents, pulled lazily by stargz-snapshotter and Podman."""

from drivers.estargz.driver import EstargzDriver
from drivers.estargz.options import EstargzOptions

__all__ = ["EstargzDriver", "EstargzOptions"]
