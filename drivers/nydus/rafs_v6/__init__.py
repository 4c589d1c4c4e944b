"""RAFS v6 bootstraps: the file system metadata of Nydus, a subset of EROFS."""
