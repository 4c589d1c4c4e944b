"""Nydus blob layers: the stream of chunks, chunk information, inline bootstrap and table of contents."""
