"""What a side is: its process, the work that it does there, and its inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, Any]
Arrays = Mapping[str, Array]
Task = Mapping[str, Any]
Clock = Callable[[Callable[[], Any], int], list[float]]


class UnavailableError(Exception):
    """Raised by a side that cannot do a task; the message says why."""


class Work(NamedTuple):
    """What a side does in a turn.

    Attributes
    ----------
    run
        Runs one step, and returns when the step is done.
    results
        Takes what `run` returned and returns named arrays, which are compared with the
        reference. An empty dict is not compared.
    notes
        Plain values that are kept with the times.
    clock
        Takes `run` and a number of runs, and returns the seconds of each run. None is the wall
        clock; a GPU has a clock of its own. Only `Worker.times` uses it.
    """

    run: Callable[[], Any]
    results: Callable[[Any], Arrays]
    notes: Mapping[str, Any] = {}
    clock: Clock | None = None


@dataclass(frozen=True)
class Side:
    """One of the programs that are compared.

    Parameters
    ----------
    name
        Its name in tables and pictures.
    build
        `"module:function"`; the worker calls it as `function(arrays, task)`.
    threads
        Threads of BLAS and OpenMP. None leaves the choice to the libraries.
    cores
        How many cores the process is pinned to. None does not pin it.
    env
        More environment variables of the process.
    task
        What the function is told beyond the task that all sides share.
    """

    name: str
    build: str
    threads: int | None = 1
    cores: int | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    task: Mapping[str, Any] = field(default_factory=dict)
