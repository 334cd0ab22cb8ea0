"""Sides that take turns: one process each, right before fast, all in one run.

How times are compared here:

- Each side runs in a process of its own (`harness/worker.py`), with one library, whose number of
  threads is set before it is imported and whose cores are pinned: all sides of a comparison
  run on the same cores. A worker waits on its standard input between turns, so that it
  costs the others nothing.
- Every side is given the same inputs, and its results are compared with a reference before
  any time is taken. A side that is wrong raises `WrongSideError`.
- Then they take turns: A B C, A B C, ... A turn repeats the step for a given time, at least
  once, and gives seconds per step. What disturbs the machine meets all sides alike, and
  `ratio` can compare turns of the same round.

A benchmark script needs a function for each side, in a module of `sides/`, that takes
the inputs and a task (plain values) in the worker and returns `Work`:

    def numpy_sum(arrays, task):
        return duel.Work(lambda: arrays["x"].sum(), lambda total: {"total": total})

    sides = [duel.Side("numpy", "sides.sums:numpy_sum"), ...]
    with duel.workers(sides, {"axis": 0}, {"x": x}) as running:
        errors = duel.check(running, {"total": expected}, tolerance=1e-6)
        turns = duel.rounds(running, count=7, seconds=0.2)
    duel.ratio(turns, "numpy", "other")
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

Arrays = Mapping[str, Any]

# What NumPy's BLAS, MKL and OpenMP read when they are loaded.
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class Unavailable(Exception):
    """Raised by a side that cannot do a task; its message says why."""


class WrongSideError(Exception):
    """A side's result is not the reference's."""


class Work(NamedTuple):
    """What a side does in a turn.

    Attributes
    ----------
    run
        One step. It returns when the step is done.
    results
        Returns what `run` returned as named arrays, to be compared; none for nothing.
    notes
        What else is worth keeping with the times, as plain values.
    clock
        Returns the seconds of each of so many runs, where the wall clock is not the one to
        ask, as on a GPU. `Worker.times` asks it.
    """

    run: Callable[[], Any]
    results: Callable[[Any], Arrays]
    notes: Mapping[str, Any] = {}
    clock: Callable[[Callable[[], Any], int], list[float]] | None = None


@dataclass(frozen=True)
class Side:
    """One of those compared.

    Parameters
    ----------
    name
        In tables and pictures.
    build
        `"module:function"`, called in the worker as `function(arrays, task)`.
    threads
        Threads of its BLAS and OpenMP; None leaves the libraries' own choice.
    cores
        How many cores it is pinned to; None does not pin it.
    env
        Other environment variables.
    task
        What its function is told beyond the task that is common to all sides.
    """

    name: str
    build: str
    threads: int | None = 1
    cores: int | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    task: Mapping[str, Any] = field(default_factory=dict)


class Worker:
    """The process of one side, as its parent sees it."""

    def __init__(self, side: Side, task: Mapping[str, Any], inputs: Path) -> None:
        """Start the process and let it build its work."""
        self.side = side
        self.scratch = inputs.with_name(f"{side.name}.npz")
        env = {name: value for name, value in os.environ.items() if name not in THREADS}
        paths = [str(Path(__file__).parents[1]), env.get("PYTHONPATH", "")]
        env["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        if side.threads is not None:
            env |= dict.fromkeys(THREADS, str(side.threads))
        command = [sys.executable, "-P", "-m", "harness.worker", side.build]
        command += [json.dumps({**task, **side.task}), str(inputs)]
        with pinned(side.cores):  # a process starts on the cores of its parent
            self.process = subprocess.Popen(
                command,
                env=env | dict(side.env),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        self.hello = self._answer()

    @property
    def missing(self) -> str | None:
        """Why the side cannot do the task, or None if it can."""
        return self.hello.get("missing")

    def results(self) -> dict[str, np.ndarray[Any, Any]]:
        """Run one step and return its results."""
        self._ask({"do": "results", "path": str(self.scratch)})
        with np.load(self.scratch) as file:
            return dict(file)

    def turn(self, seconds: float) -> float:
        """Repeat the step for so many seconds, at least once; return seconds per step."""
        return float(self._ask({"do": "turn", "seconds": seconds})["seconds"])

    def build(self, task: Mapping[str, Any], inputs: Path) -> None:
        """Build other work in the same process; `hello` is then of that."""
        told = {**task, **self.side.task}
        self.hello = self._ask({"do": "build", "task": told, "path": str(inputs)})

    def times(self, count: int) -> list[float]:
        """Run so many steps and return the seconds of each, by the work's own clock."""
        return list(self._ask({"do": "times", "count": count})["seconds"])

    def close(self) -> None:
        """End the process, whatever it is doing."""
        self.process.kill()
        self.process.communicate()

    def _ask(self, question: Mapping[str, Any]) -> dict[str, Any]:
        print(json.dumps(question), file=self.process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.side.name}: its process ended; its error stands above")
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextmanager
def pinned(count: int | None) -> Iterator[None]:
    """Keep this process, and those it starts, on its last `count` cores; None on all.

    The last ones, since the first core of a machine often serves its interrupts. `taskset`
    chooses others. Systems without affinity (macOS, Windows) are left as they are.
    """
    if count is None or not hasattr(os, "sched_setaffinity"):
        yield
        return
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(allowed)[-count:])
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def workers(
    sides: Iterable[Side], task: Mapping[str, Any], arrays: Arrays
) -> Iterator[dict[str, Worker]]:
    """Start one process for each side that can do the task.

    Parameters
    ----------
    sides
        Those to be compared.
    task
        Plain values that every side's function is told.
    arrays
        The inputs that every side's function is given.

    Yields
    ------
    dict of str to Worker
        By the side's name, those that are able; why others are not is printed.
    """
    with ExitStack() as stack:
        inputs = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "inputs.npz"
        np.savez(inputs, **arrays)
        running: dict[str, Worker] = {}
        for side in sides:
            worker = Worker(side, task, inputs)
            stack.callback(worker.close)
            if worker.missing is None:
                running[side.name] = worker
            else:
                print(f"  {side.name} is left out: {worker.missing}", flush=True)
        yield running


def check(
    running: Mapping[str, Worker], expected: Arrays, *, tolerance: float
) -> dict[str, float | None]:
    """Compare the results of every side with a reference.

    Parameters
    ----------
    running
        From `workers`.
    expected
        The reference, by name.
    tolerance
        How large a difference may be, relative to the largest value of its array.

    Returns
    -------
    dict of str to float or None
        The largest relative difference of each side, None for one without results.

    Raises
    ------
    WrongSideError
        If a difference is larger, or names or shapes are not those of the reference.
    """
    return {
        name: largest_error(name, worker.results(), expected, tolerance)
        for name, worker in running.items()
    }


def largest_error(side: str, results: Arrays, expected: Arrays, tolerance: float) -> float | None:
    """Return the largest relative difference of one side's results, None without any."""
    if not results:
        return None
    if results.keys() != expected.keys():
        raise WrongSideError(f"{side}: gave {sorted(results)}, expected {sorted(expected)}")
    worst = 0.0
    for name, wanted in expected.items():
        got = results[name]
        if got.shape != wanted.shape:
            raise WrongSideError(f"{side}: {name} is {got.shape}, expected {wanted.shape}")
        error = float(np.abs(got - wanted).max() / np.abs(wanted).max())
        if not error <= tolerance:  # so that NaN is wrong too
            raise WrongSideError(f"{side}: {name} is off by {error:.1e}, allowed {tolerance:.0e}")
        worst = max(worst, error)
    return worst


def rounds(running: Mapping[str, Worker], *, count: int, seconds: float) -> dict[str, list[float]]:
    """Let the sides take turns, and return the seconds per step of every turn.

    Parameters
    ----------
    running
        From `workers`.
    count
        Turns of each side.
    seconds
        How long a turn lasts; a step that takes longer is taken once.
    """
    turns: dict[str, list[float]] = {name: [] for name in running}
    for _ in range(count):
        for name, worker in running.items():
            turns[name].append(worker.turn(seconds))
    return turns


def ratio(turns: Mapping[str, Sequence[float]], above: str, below: str) -> tuple[float, float]:
    """Return the time of one side over that of another.

    Returns
    -------
    of_minima, median
        The ratio of their shortest turns, and the median of the ratios of each round. The
        first is of an undisturbed machine; that both agree says that it was one.
    """
    pairs = zip(turns[above], turns[below], strict=True)
    return min(turns[above]) / min(turns[below]), statistics.median(a / b for a, b in pairs)
