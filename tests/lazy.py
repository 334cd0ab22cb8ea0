"""Dask arrays under test: which code may compute them, and a faster way to do it.

A test reads many arrays of one graph, and each `compute` would build, order and run the
whole graph again. Here the value of each task is kept until the test ends.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
from dask import local
from dask._task_spec import convert_legacy_graph

TESTS = Path(__file__).parent
PACKAGE = TESTS.parent / "seqcore"

_values: dict[Any, Any] = {}  # by key of a task
_layers: set[str] = set()  # of which all tasks have a value


def forget() -> None:
    """Forget the values, between two tests."""
    _values.clear()
    _layers.clear()


def host_copy(array: Any) -> np.ndarray:
    """Compute an array for a test."""
    graph = array.__dask_graph__()
    tasks: dict[Any, Any] = {}
    names, todo = set(), [array.name]
    while todo:
        name = todo.pop()
        if name not in _layers and name not in names:
            names.add(name)
            tasks.update(graph.layers[name])
            todo += graph.dependencies[name]
    tasks = convert_legacy_graph(tasks, all_keys={*tasks, *_values})
    for first in tasks:
        stack = [first]
        while stack:
            key = stack[-1]
            missing = [other for other in tasks[key].dependencies if other not in _values]
            if key not in _values and missing:
                stack += missing
                continue
            stack.pop()
            if key not in _values:
                task = tasks[key]
                _values[key] = task({other: _values[other] for other in task.dependencies})
    _layers.update(names)

    def results(keys: Any) -> Any:
        return [results(key) for key in keys] if isinstance(keys, list) else _values[keys]

    finish, arguments = array.__dask_postcompute__()
    return np.array(finish(results(array.__dask_keys__()), *arguments))


def persist(named: dict[str, Any]) -> dict[str, Any]:
    """Compute arrays into arrays without a past, each in one chunk.

    `dask.persist` would keep their chunks, one a gate, and a step of training would have
    ten times as many tasks.
    """
    asarray: Any = da.asarray
    return {name: asarray(host_copy(array)) for name, array in named.items()}


def watch() -> None:
    """Have Dask raise an error where the library computes anything."""
    dask.config.set(scheduler=_for_tests_only)


def _for_tests_only(graph: Any, keys: Any, **options: Any) -> Any:
    """Compute what a test, or `arrays.to_host`, asks for; a Dask scheduler.

    The innermost function of tests/ or seqcore/ on the stack is the one that asks.
    """
    frame: Any = sys._getframe(1)
    while frame is not None:
        path, function = Path(frame.f_code.co_filename), frame.f_code.co_name
        if path.parent == TESTS:
            break
        if path.is_relative_to(PACKAGE):
            if function == "to_host":
                break
            raise AssertionError(f"{path.name}:{frame.f_lineno}: {function} computes a Dask array")
        frame = frame.f_back
    return local.get_sync(graph, keys, **options)
