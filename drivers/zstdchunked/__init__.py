"""zstd:chunked: layers of independent zstd frames before a table of contents, pulled lazily by stargz-snapshotter.

Of the format's two flavours this is stargz-snapshotter's. The table stands in a skippable frame, outside the tar: the tar's bytes
stay as they are, and with them the diff IDs and the image's config.
"""

from drivers.zstdchunked.driver import ZstdChunkedDriver
from drivers.zstdchunked.options import ZstdChunkedOptions

__all__ = ["ZstdChunkedDriver", "ZstdChunkedOptions"]
