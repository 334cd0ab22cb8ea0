"""Settings of the whole process: threads of BLAS, freed memory, processors.

Nothing here runs at import. A function that changes such a setting says so in its docstring.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache, lru_cache

from threadpoolctl import ThreadpoolController

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # from malloc.h
_MOST_MMAP_THRESHOLD = 2**25  # the largest value that glibc accepts
_KEPT = 2**29  # bytes


@lru_cache(maxsize=1)
def _blas(_modules: int) -> ThreadpoolController:
    # Finding the loaded BLAS libraries takes milliseconds, so it is done only once for each number
    # of modules: another BLAS comes with an import, as that of PyTorch does.
    return ThreadpoolController().select(user_api="blas")


@contextmanager
def blas_threads(limit: int) -> Iterator[None]:
    """Limit the threads of every loaded BLAS to `limit` inside the block.

    The matrix products of a recurrent step are small. Two BLAS threads gain little on a quiet
    machine, and on a busy one they can be a hundred times slower, because at every step each
    spins until the other is done.

    Parameters
    ----------
    limit
        Threads of each BLAS, at least 1. The limit holds for the whole process. If several
        Python threads are in such a block at once, the limit of the first one holds until it
        leaves its block.

    Raises
    ------
    ValueError
        If limit is less than 1.

    Examples
    --------
    >>> import numpy as np, seqcore as sc
    >>> with sc.blas_threads(1):
    ...     float((np.ones((2, 3)) @ np.ones((3, 2))).sum())
    12.0
    """
    if limit < 1:
        raise ValueError(f"blas_threads: limit is {limit}, expected at least 1")
    with _blas(len(sys.modules)).limit(limits=limit):
        yield


@cache
def openblas_architectures() -> frozenset[str]:
    """Return the processors that the loaded OpenBLAS libraries chose their kernels for."""
    # A separate controller: `blas_threads` must still find a BLAS that is loaded later.
    found = ThreadpoolController().select(internal_api="openblas").info()
    return frozenset(str(entry.get("architecture")) for entry in found)


def processors() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def keep_freed_memory() -> None:
    """Tell glibc to keep up to 512 MiB of freed memory for the next step.

    A training step allocates again what the last one freed. If the memory goes back to the
    system in between, each page of 4 KiB costs a page fault of about a microsecond: together a
    third of the step. Without this, glibc keeps at most 64 MiB. A limit set in the environment
    (MALLOC_TRIM_THRESHOLD_, MALLOC_ARENA_MAX or GLIBC_TUNABLES) is respected.

    Source: mallopt(3), M_TRIM_THRESHOLD and M_MMAP_THRESHOLD.
    """
    _tell_malloc({_M_MMAP_THRESHOLD: _MOST_MMAP_THRESHOLD, _M_TRIM_THRESHOLD: _KEPT})


def share_memory_among_threads() -> None:
    """Tell glibc to use one arena for all threads that start from now on.

    By default each thread has its own arenas of 64 MiB, which go back to the system as soon as
    they are free. That costs two threads a tenth of their time.

    Source: mallopt(3), M_ARENA_MAX.
    """
    _tell_malloc({_M_ARENA_MAX: 1})


def _tell_malloc(options: dict[int, int]) -> None:
    if {"MALLOC_TRIM_THRESHOLD_", "MALLOC_ARENA_MAX", "GLIBC_TUNABLES"} & os.environ.keys():
        return
    with suppress(OSError, AttributeError, TypeError):  # no such library, no such function
        libc = ctypes.CDLL(None)
        if hasattr(libc, "gnu_get_libc_version"):
            for option, value in options.items():
                libc.mallopt(option, value)
