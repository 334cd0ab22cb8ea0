"""Every setting of the process that can be read back, for programs of test_settings.py.

A program starts with `from settings import report, settings`, takes `before = settings()`, does
its work and ends with `report(before)`.
"""

from __future__ import annotations

import atexit
import builtins
import ctypes
import decimal
import faulthandler
import gc
import json
import locale
import logging
import multiprocessing
import os
import random
import re
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

_OPENBLAS = ("scipy_openblas_get_num_threads64_", "openblas_get_num_threads")
_load = ctypes.CDLL
_told: list[tuple[int, ...]] = []  # what the C library is told about malloc


class _Spy:
    """The C library, whose `mallopt` tells what it is given and does nothing."""

    def __init__(self, libc: ctypes.CDLL) -> None:
        self._libc = libc

    def __getattr__(self, name: str) -> Any:
        if name == "mallopt":
            return lambda *given: _told.append(given)
        return getattr(self._libc, name)


def _spying(name: str | None, *arguments: Any, **options: Any) -> Any:
    found = _load(name, *arguments, **options)
    return _Spy(found) if name is None else found


def _of_linux(name: str) -> str:
    path = Path("/proc/self", name)
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _blas() -> Iterator[tuple[str, int]]:
    """Yield each OpenBLAS and its threads; the import of threadpoolctl would be a change."""
    for path in sorted(set(re.findall(r" (/.*/lib\w*openblas.*\.so.*)", _of_linux("maps")))):
        found = [getattr(_load(path), name, None) for name in _OPENBLAS]
        yield from ((path, get()) for get in found if get is not None)


def _streams() -> Iterator[tuple[Any, ...]]:
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        where = os.fstat(stream.fileno()).st_ino
        yield stream.encoding, stream.errors, stream.line_buffering, stream.fileno(), where


def _of_posix() -> Iterator[Any]:
    if os.name == "posix":
        import resource

        yield from (os.nice(0), signal.getitimer(signal.ITIMER_REAL))
        kinds = sorted(name for name in dir(resource) if name.startswith("RLIMIT_"))
        yield from (resource.getrlimit(getattr(resource, kind)) for kind in kinds)
    if hasattr(os, "sched_getaffinity"):
        yield sorted(os.sched_getaffinity(0))


def _of_array_libraries() -> dict[str, list[str]]:
    """Return the settings of the array libraries that are imported."""
    found = {}
    if jax := sys.modules.get("jax"):
        found["jax"] = [*map(str, sorted(jax.config.values.items()))]
    if torch := sys.modules.get("torch"):
        names: tuple[str, ...] = (
            "get_default_dtype",
            "get_default_device",
            "get_num_threads",
            "is_grad_enabled",
        )
        names += ("get_num_interop_threads", "get_float32_matmul_precision")
        names += ("is_inference_mode_enabled", "are_deterministic_algorithms_enabled")
        found["torch"] = [f"{name}: {getattr(torch, name)()}" for name in names]
    if dask := sys.modules.get("dask"):
        found["dask"] = [*map(str, sorted(dask.config.config.items()))]
    if strict := sys.modules.get("array_api_strict"):
        found["array_api_strict"] = [str(strict.get_array_api_strict_flags())]
    return found


def settings() -> dict[str, Any]:
    """Return the settings by kind."""
    root, ours = logging.getLogger(), logging.getLogger("seqcore")
    found = {
        "environment": dict(os.environ),
        "folder": str(Path.cwd()),
        "umask": re.findall("Umask:.*", _of_linux("status")),
        "BLAS": list(_blas()),
        "POSIX": list(_of_posix()),
        "signals": {str(s): str(signal.getsignal(s)) for s in signal.valid_signals()},
        "faulthandler": faulthandler.is_enabled(),
        "threads": sorted(thread.name for thread in threading.enumerate()),
        "processes": [
            len(multiprocessing.active_children()),
            multiprocessing.get_start_method(allow_none=True),
        ],
        "exit handlers": atexit._ncallbacks(),
        "locale": locale.setlocale(locale.LC_ALL),
        "decimal": str(decimal.getcontext()),
        "random numbers": [str(random.getstate()), str(np.random.get_state())],
        "NumPy": [np.geterr(), str(np.geterrcall()), str(np.get_printoptions())],
        "array libraries": _of_array_libraries(),
        "warnings": [warnings.showwarning.__module__, *map(str, warnings.filters)],
        "logging": [
            *(root.level, str(root.handlers), ours.level, str(ours.handlers)),
            *(logging.root.manager.disable, logging.raiseExceptions),
        ],
        "hooks": [
            *(str(sys.excepthook), str(sys.displayhook), str(sys.unraisablehook)),
            *(str(sys.breakpointhook), str(threading.excepthook), str(sys.gettrace())),
            *(str(sys.getprofile()), str(sys.meta_path), str(sys.path_hooks)),
        ],
        "path": list(sys.path),
        "limits": [
            *(sys.getrecursionlimit(), sys.getswitchinterval(), sys.get_int_max_str_digits()),
        ],
        "collector": [gc.isenabled(), gc.get_threshold(), str(gc.callbacks), gc.get_freeze_count()],
        "built-in names": sorted(vars(builtins)),
        "streams": list(_streams()),
    }
    plain: dict[str, Any] = json.loads(json.dumps(found, default=str))
    return plain


def report(before: dict[str, Any]) -> None:
    """Write what has changed since `before`, and what malloc was told, to standard error."""
    after = settings()
    changed = {kind: (before[kind], after[kind]) for kind in before if before[kind] != after[kind]}
    json.dump({"changed": changed, "malloc": _told}, sys.stderr)


ctypes.CDLL = _spying  # type: ignore[assignment, misc]
settings()  # what it needs itself is loaded then
