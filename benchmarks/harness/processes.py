"""Worker processes, one for each side, as the process that starts them sees them.

Each worker loads one library. Its number of threads is set before the library is imported, and
all sides of a comparison are pinned to the same cores. Between turns a worker waits on its
standard input, so that it does not slow down the others.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from harness.side import Array, Arrays, Side, Task

# NumPy's BLAS, MKL and OpenMP read these when they are loaded.
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
BENCHMARKS = Path(__file__).resolve().parents[1]


class Worker:
    """The process of one side.

    Attributes
    ----------
    side
        The side that runs in it.
    hello
        The answer to the last build: notes, versions and thread pools, or why it failed.
    """

    def __init__(self, side: Side, task: Task, inputs: Path) -> None:
        """Start the process and let it build its work."""
        self.side = side
        self.scratch = inputs.with_name(f"{side.name}.npz")
        env = {name: value for name, value in os.environ.items() if name not in THREADS}
        if side.threads is not None:
            env |= dict.fromkeys(THREADS, str(side.threads))
        env["PYTHONPATH"] = on_path(BENCHMARKS)
        # -P keeps the working directory off the path, as it is for the scripts.
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
        """Why the side cannot do the task, None if it can."""
        return self.hello.get("missing")

    def results(self) -> dict[str, Array]:
        """Run one step and return its results."""
        self._ask({"do": "results", "path": str(self.scratch)})
        with np.load(self.scratch) as file:
            return dict(file)

    def turn(self, seconds: float) -> float:
        """Repeat the step for the given time, at least once; return seconds per step."""
        return float(self._ask({"do": "turn", "seconds": seconds})["seconds"])

    def build(self, task: Task, inputs: Path) -> None:
        """Build new work in the same process, and renew `hello`."""
        told = {**task, **self.side.task}
        self.hello = self._ask({"do": "build", "task": told, "path": str(inputs)})

    def times(self, count: int) -> list[float]:
        """Run `count` steps and return the seconds of each, by the clock of the work."""
        return list(self._ask({"do": "times", "count": count})["seconds"])

    def close(self) -> None:
        """Kill the process."""
        self.process.kill()
        self.process.communicate()

    def _ask(self, question: Mapping[str, Any]) -> dict[str, Any]:
        print(json.dumps(question), file=self.process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        line = self.process.stdout.readline() if self.process.stdout else ""
        if not line:
            raise RuntimeError(f"{self.side.name}: its process ended; its error stands above")
        answer: dict[str, Any] = json.loads(line)
        return answer


def on_path(folder: Path) -> str:
    """Return PYTHONPATH with a folder in front."""
    return os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))


@contextmanager
def pinned(count: int | None) -> Iterator[None]:
    """Keep this process, and those it starts, on its last `count` cores; None keeps all.

    The last cores, because the first core of a machine often serves its interrupts; `taskset`
    chooses others. Systems without affinity (macOS, Windows) do not pin.
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


@contextmanager
def workers(sides: Iterable[Side], task: Task, arrays: Arrays) -> Iterator[dict[str, Worker]]:
    """Start one process for each side that can do the task.

    Parameters
    ----------
    sides
        The sides to be compared.
    task
        Plain values that all sides are told.
    arrays
        The inputs that all sides are given.

    Yields
    ------
    dict of str to Worker
        The workers that can do the task, by the name of their side. For the others it prints
        the reason.
    """
    with ExitStack() as stack:
        inputs = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "inputs.npz"
        np.savez(inputs, allow_pickle=False, **arrays)
        running: dict[str, Worker] = {}
        for side in sides:
            worker = Worker(side, task, inputs)
            stack.callback(worker.close)
            if worker.missing is None:
                running[side.name] = worker
            else:
                print(f"  {side.name} is left out: {worker.missing}", flush=True)
        yield running
