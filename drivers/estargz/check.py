"""What ``ics check`` has to know of eStargz."""

from __future__ import annotations

from typing import Final

from drivers.estargz.layout import RESERVED_NAMES
from drivers.estargz.reader import validate
from drivers.stargz.check import CheckedFormat
from drivers.stargz.layout import ANNOTATION_TOC_DIGEST
from drivers.stargz.reader import ReadRange, Toc
from shared.oci import media_types
from shared.oci.descriptor import Descriptor


def is_estargz(layer: Descriptor) -> bool:
    """Layers of zstd:chunked name their table's digest too."""
    return ANNOTATION_TOC_DIGEST in layer.annotations and layer.media_type != media_types.OCI_LAYER_ZSTD


async def _validate(read: ReadRange, layer: Descriptor) -> tuple[Toc, str]:
    return await validate(read, layer.size, layer.annotations[ANNOTATION_TOC_DIGEST])


ESTARGZ: Final = CheckedFormat("estargz", "eStargz", is_estargz, _validate, RESERVED_NAMES)
