"""The process of one side; `harness.processes.Worker` starts it.

    python -m harness.worker MODULE:FUNCTION TASK INPUTS

It builds its work, then answers questions until its input ends, each one line of JSON:

    {"do": "results", "path": P}             run one step and save its results as P
    {"do": "turn", "seconds": S}             repeat the step for S seconds
    {"do": "times", "count": N}              run N steps and time each
    {"do": "build", "task": T, "path": P}    build new work from the inputs P
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from threadpoolctl import threadpool_info

from harness.side import Task, UnavailableError, Work

LIBRARIES = ("numpy", "seqcore", "cupy", "jax", "jaxlib", "torch", "onnx", "onnxruntime")


def main() -> None:
    """Build, then answer."""
    place, task, inputs = sys.argv[1:]
    # Whatever a library prints goes to stderr, so that it does not mix with the answers.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    work, hello = build(place, json.loads(task), inputs)
    print(json.dumps(hello), file=answers)
    if work is None:
        return
    block = 0
    for line in sys.stdin:
        question = json.loads(line)
        answer: dict[str, Any] = {}
        if question["do"] == "build":
            work = None  # frees its memory for the next one
            work, answer = build(place, question["task"], question["path"])
            block = 0
        elif work is None:
            raise RuntimeError("worker: the last build failed, so there is no work to run")
        elif question["do"] == "results":
            np.savez(question["path"], allow_pickle=False, **work.results(work.run()))
        elif question["do"] == "times":
            answer["seconds"] = (work.clock or wall_clock)(work.run, question["count"])
        else:
            block = block or calibrate(work.run, question["seconds"])
            answer["seconds"] = turn(work.run, block, question["seconds"])
        print(json.dumps(answer), file=answers)


def build(place: str, task: Task, inputs: str) -> tuple[Work | None, dict[str, Any]]:
    """Return the work of a side and what to report of it; no work if it cannot do the task."""
    module, _, function = place.partition(":")
    with np.load(inputs) as file:
        arrays = dict(file)
    try:
        work = getattr(importlib.import_module(module), function)(arrays, task)
    except UnavailableError as why:
        return None, {"missing": str(why)}
    return work, {"notes": dict(work.notes), **versions()}


def versions() -> dict[str, Any]:
    """Return the versions of the libraries that this process has loaded, and their BLAS."""
    return {
        "versions": {
            name: sys.modules[name].__version__ for name in LIBRARIES if name in sys.modules
        },
        "threadpools": [
            {key: pool.get(key) for key in ("internal_api", "version", "architecture")}
            for pool in threadpool_info()
        ],
    }


def wall_clock(run: Callable[[], Any], count: int) -> list[float]:
    """Return the seconds of each of `count` runs."""
    seconds = []
    for _ in range(count):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return seconds


def calibrate(run: Callable[[], Any], seconds: float) -> int:
    """Return how many steps fill a tenth of a turn, so that reading the clock costs nothing."""
    block = 1
    while block * turn(run, block, 0.0) < seconds / 10:
        block *= 2
    return block


def turn(run: Callable[[], Any], block: int, seconds: float) -> float:
    """Run blocks of steps until the time is up, at least one; return seconds per step."""
    steps = 0
    start = time.perf_counter()
    while True:
        for _ in range(block):
            run()
        steps += block
        taken = time.perf_counter() - start
        if taken >= seconds:
            return taken / steps


if __name__ == "__main__":
    main()
