"""What ``ics check`` has to know of zstd:chunked."""

from __future__ import annotations

import hashlib
from typing import Final

from drivers.stargz.check import CheckedFormat
from drivers.stargz.layout import ANNOTATION_TOC_DIGEST
from drivers.stargz.reader import ReadRange, Toc
from drivers.zstdchunked.layout import (
    ANNOTATION_MANIFEST_CHECKSUM,
    ANNOTATION_MANIFEST_POSITION,
    FOOTER_SIZE,
    TablePosition,
    parse_footer,
)
from drivers.zstdchunked.reader import validate
from shared.errors import CorruptLayerError
from shared.oci import media_types
from shared.oci.descriptor import Descriptor


def is_zstdchunked(layer: Descriptor) -> bool:
    """Of stargz-snapshotter's flavour: the other has annotations of other names, and none of these."""
    return ANNOTATION_TOC_DIGEST in layer.annotations and layer.media_type == media_types.OCI_LAYER_ZSTD


async def _validate(read: ReadRange, layer: Descriptor) -> tuple[Toc, str]:
    """The table by both of its digests, the footer by the annotation that repeats it."""
    toc, diff_id = await validate(read, layer.size, layer.annotations[ANNOTATION_TOC_DIGEST])
    footer = parse_footer(await read(layer.size - FOOTER_SIZE, FOOTER_SIZE))
    table = await read(footer.offset, footer.size)
    found = TablePosition(footer.offset, footer.size, toc.size)
    if footer != found:
        raise CorruptLayerError(f"the footer says that the table has {footer.text_size} bytes; it has {toc.size}")
    told = {
        ANNOTATION_MANIFEST_POSITION: str(found),
        ANNOTATION_MANIFEST_CHECKSUM: f"sha256:{hashlib.sha256(table).hexdigest()}",
    }
    for key, expected in told.items():
        if layer.annotations.get(key) != expected:
            raise CorruptLayerError(f"the annotation {key} is {layer.annotations.get(key)}, it must be {expected}")
    return toc, diff_id


ZSTDCHUNKED: Final = CheckedFormat("zstdchunked", "zstd:chunked", is_zstdchunked, _validate, keeps_config=True)
