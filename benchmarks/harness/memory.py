"""The memory of this process, and of what it keeps.

A peak is the largest sum of all arrays and objects at one time, by `tracemalloc`, to which NumPy
reports every array: exact to the byte, and the same in each run. Resident memory is counted by
the system; it also holds Python, NumPy, the inputs, and what the allocator has not given back.
"""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.side import Array


def peak(run: Callable[[], Any]) -> int:
    """Return the largest number of bytes that `run` has at one time. It runs slowly here."""
    tracemalloc.start()
    try:
        run()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def kept_bytes(tree: Any, without: Iterable[Array]) -> int:
    """Return the bytes of all memory that a tree of arrays keeps alive.

    A view keeps the whole array that it looks into. Each array counts once, and the arrays
    in `without` do not count.
    """
    owners = {id(owner): owner for owner in map(_owner, _leaves(tree))}
    for array in without:
        owners.pop(id(_owner(array)), None)
    return sum(owner.nbytes for owner in owners.values())


def resident() -> int:
    """Return the resident bytes of this process; where this is not Linux, the largest so far."""
    return _status("VmRSS") or largest_resident()


def largest_resident() -> int:
    """Return the largest number of resident bytes of this process so far."""
    import resource  # POSIX

    # getrusage counts the process that started this one too.
    unit = 1 if sys.platform == "darwin" else 1024
    return _status("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _status(name: str) -> int | None:
    """Return a number of bytes that Linux reports of this process, None on other systems."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    (found,) = [line for line in lines if line.startswith(f"{name}:")]
    return int(found.split()[1]) * 1024


def _leaves(tree: Any) -> Iterator[Array]:
    """Yield the arrays in tuples, lists, mappings and dataclasses."""
    branches: Iterable[Any] = ()
    if isinstance(tree, np.ndarray):
        yield tree
    elif isinstance(tree, Mapping):
        branches = tree.values()
    elif isinstance(tree, tuple | list):
        branches = tree
    elif is_dataclass(tree):
        branches = [getattr(tree, field.name) for field in fields(tree)]
    for branch in branches:
        yield from _leaves(branch)


def _owner(array: Array) -> Array:
    """Return the array that owns the memory of this one."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array
