"""How a converter's output is known: by the mark that acceleration-service and ICS write into its manifest."""

from __future__ import annotations

ANNOTATION_DRIVER_NAME = "io.goharbor.artifact.v1alpha1.acceleration.driver.name"
