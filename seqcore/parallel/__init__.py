"""Parallel computation: shards of a batch on threads."""

from seqcore.parallel.sharded import Sharded

__all__ = ["Sharded"]
