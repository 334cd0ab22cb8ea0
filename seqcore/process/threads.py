"""How many threads this process may take."""

from __future__ import annotations

import os
import re

# As the OpenMP API has it: positive numbers, one for each level of nested threads.
_LIST = re.compile(r"\s*\+?\d+\s*(,\s*\+?\d+\s*)*", re.ASCII)


def processors() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def default_threads() -> int:
    """Return how many threads to take where the caller names no number.

    One for each processor, but at most what OMP_NUM_THREADS says: a number, or a list such as
    `4,2`, of which the first counts. What is not a list of positive numbers is ignored. The
    variable is read at each call.

    Source: OpenMP API 5.2, section 21.1.2 (OMP_NUM_THREADS).
    """
    value = os.environ.get("OMP_NUM_THREADS", "")
    # Nine digits tell what is more than all processors; Python refuses to read very long numbers.
    digits = [level.strip().lstrip("+0")[:9] for level in value.split(",")]
    levels = [int(level or 0) for level in digits] if _LIST.fullmatch(value) else []
    return min(processors(), levels[0]) if levels and min(levels) > 0 else processors()
