"""Memory that is freed: what glibc's malloc keeps for the next step of a training.

Whoever sets SEQCORE_MALLOC=0 in the environment keeps seqcore from touching malloc. So does a
limit that is set in glibc's own variables. Other C libraries are left alone.
"""

from __future__ import annotations

import ctypes
import logging
import os
from contextlib import suppress
from functools import cache

_log = logging.getLogger(__name__)

# From malloc.h.
_OPTIONS = {"M_TRIM_THRESHOLD": -1, "M_MMAP_THRESHOLD": -3, "M_ARENA_MAX": -8}
_MOST_MMAP_THRESHOLD = 2**25  # the largest value that glibc accepts
_KEPT = 2**29  # bytes
# The variables that set the same options, or others that work together with them.
_LIMITS = (
    *("GLIBC_TUNABLES", "MALLOC_ARENA_MAX", "MALLOC_ARENA_TEST", "MALLOC_MMAP_MAX_"),
    *("MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_", "MALLOC_TRIM_THRESHOLD_"),
)


@cache
def keep_freed_memory() -> None:
    """Tell glibc, once, to keep up to 512 MiB of freed memory for the next step.

    A training step allocates again what the last one freed. If the memory goes back to the
    system in between, each page of 4 KiB costs a page fault of about a microsecond: together a
    third of the step. Without this, glibc keeps at most 64 MiB.

    The first training step on NumPy calls this. Predictions don't: glibc keeps enough for them.

    Raises
    ------
    ValueError
        If SEQCORE_MALLOC is neither 0 nor 1.

    Notes
    -----
    Source: mallopt(3), M_TRIM_THRESHOLD and M_MMAP_THRESHOLD.
    """
    _tell_malloc(M_MMAP_THRESHOLD=_MOST_MMAP_THRESHOLD, M_TRIM_THRESHOLD=_KEPT)


@cache
def share_memory_among_threads() -> None:
    """Tell glibc, once, to use one arena for all threads that start from now on.

    By default each thread has its own arenas of 64 MiB, which go back to the system as soon as
    they are free. That costs two threads that train a tenth of their time.

    The first training step of shards on threads, on NumPy, calls this.

    Raises
    ------
    ValueError
        If SEQCORE_MALLOC is neither 0 nor 1.

    Notes
    -----
    Source: mallopt(3), M_ARENA_MAX.
    """
    _tell_malloc(M_ARENA_MAX=1)


def _tell_malloc(**options: int) -> None:
    if not _may_touch_malloc():
        return
    with suppress(OSError, AttributeError, TypeError):  # no such library, no such function
        libc = ctypes.CDLL(None)
        if hasattr(libc, "gnu_get_libc_version"):
            for option, value in options.items():
                libc.mallopt(_OPTIONS[option], value)
                _log.debug("mallopt(%s, %d); SEQCORE_MALLOC=0 stops this", option, value)


def _may_touch_malloc() -> bool:
    switch = os.environ.get("SEQCORE_MALLOC", "").strip()
    if switch not in ("", "0", "1"):
        raise ValueError(f"SEQCORE_MALLOC: {switch!r} is unknown, expected 0 or 1")
    why = "SEQCORE_MALLOC" if switch == "0" else next((n for n in _LIMITS if n in os.environ), None)
    if why is not None:
        _log.debug("malloc is left as it is: %s is set", why)
    return why is None
