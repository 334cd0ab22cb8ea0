"""The process of one side; `harness.duel.Worker` starts it and speaks to it.

    python -m harness.worker MODULE:FUNCTION TASK INPUTS

It builds its work once, then answers questions, one JSON a line, until its input ends:

    {"do": "results", "path": P}     runs a step, saves its results as P
    {"do": "turn", "seconds": S}     repeats the step for S seconds
    {"do": "times", "count": N}      runs N steps, each timed by itself
    {"do": "build", "task": T, "path": P}    builds anew, with inputs P
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

from harness import duel

LIBRARIES = ("numpy", "seqcore", "cupy", "jax", "jaxlib", "torch", "onnx", "onnxruntime")


def main() -> None:
    """Build, then answer."""
    place, task, inputs = sys.argv[1:]
    # What a library prints must not get among the answers: it goes where errors go.
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
            work = None  # what it held is free for the next one
            work, answer = build(place, question["task"], question["path"])
            block = 0
        elif work is None:
            raise RuntimeError("there is no work to be done, see the answer to build")
        elif question["do"] == "results":
            np.savez(question["path"], **work.results(work.run()))
        elif question["do"] == "times":
            answer["seconds"] = (work.clock or wall_clock)(work.run, question["count"])
        else:
            block = block or calibrate(work.run, question["seconds"])
            answer["seconds"] = turn(work.run, block, question["seconds"])
        print(json.dumps(answer), file=answers)


def build(place: str, task: dict[str, Any], inputs: str) -> tuple[duel.Work | None, dict[str, Any]]:
    """Return the work of a side and what to say of it; None where it cannot do the task."""
    module, _, function = place.partition(":")
    with np.load(inputs) as file:
        arrays = dict(file)
    try:
        work = getattr(importlib.import_module(module), function)(arrays, task)
    except duel.Unavailable as why:
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
    """Return the seconds of each of so many runs."""
    seconds = []
    for _ in range(count):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return seconds


def calibrate(run: Callable[[], Any], seconds: float) -> int:
    """Return how many steps fill a tenth of a turn, so that clocks cost short steps nothing."""
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
