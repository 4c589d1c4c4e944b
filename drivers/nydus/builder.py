"""The seam between the native builder and an external ``nydus-image``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from drivers.api import Content
from drivers.nydus.bootstrap_layer import BootstrapLayer
from drivers.nydus.layer_source import Layer
from drivers.nydus.parameters import Parameters
from shared.oci.descriptor import Descriptor


class Builder(Protocol):
    """Both ways give images of the same shape."""

    async def version(self) -> str | None:
        """The external builder's version; None for the native one.

        Raises:
            TransientError: it does not run (code ``builder_unavailable``).
        """
        ...

    async def convert_layer(
        self, layer: Descriptor, content: Content, parameters: Parameters
    ) -> tuple[Descriptor, Layer]:
        """Push a layer's Nydus blob; the descriptor has its media type and annotations.

        Raises:
            CorruptLayerError, LimitExceededError, UnsupportedError: the layer cannot be converted.
        """
        ...

    async def merge(self, layers: Sequence[Layer], parameters: Parameters) -> BootstrapLayer:
        """The image's last layer from all layers, lowest first; its bootstrap has been validated."""
        ...
