"""Gzip members made of the matches that a layer's own compressor found: most of deflate's work, done already.

:class:`~drivers.reencoding.gzip_stream.GzipMatches` inflates a gzip stream and keeps its matches;
:class:`~drivers.reencoding.members.MemberEncoder` makes members of what it gave. The loops are C
(:mod:`drivers.reencoding.native`).
"""
