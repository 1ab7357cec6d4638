"""A small-file store: HTTP in front, memcached-protocol servers or an embedded store behind."""

__version__ = "2.0.0"
