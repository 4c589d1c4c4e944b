"""Images on disk as stores beside registries: OCI layouts (``oci:``) and docker archives (``docker-archive:``)."""
