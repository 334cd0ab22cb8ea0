"""A batch in parts: shards of it on threads."""

from seqcore.parallel.sharded import Sharded

__all__ = ["Sharded"]
