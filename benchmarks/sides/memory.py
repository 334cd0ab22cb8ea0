"""The sides of growth.py: training steps that say what memory they took.

Peaks are those of `tracemalloc`, to which NumPy tells the bytes of every array: all that a
step has at one time beyond its inputs, exact to the byte and the same at each run. The
resident memory of the process, which the system counts, lies beside it: it also holds Python,
NumPy and the inputs, and what the allocator has not given back. A step under `tracemalloc` is
slow, so that none that is timed is under it.
"""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from harness import duel

Array = np.ndarray[Any, Any]
Arrays = dict[str, Array]
Task = dict[str, Any]


def step(arrays: Arrays, task: Task) -> duel.Work:
    """A training step of an LSTM, with `recompute` as the task says.

    Results are bytes, as 0-d arrays: `peak` beyond the inputs, `tape`, `resident` of the whole
    process; and where the task says `gradients`, all that the step returns.
    """
    import seqcore as sc

    params = {name: value for name, value in arrays.items() if name.startswith("0.")}
    x, dy = arrays["x"], arrays["dy"]
    layer = sc.LSTM(params["0.W_h"].shape[1], recompute=task["recompute"])

    def run() -> Arrays:
        y, _, tape = layer.forward(params, x)
        dx, grads, dstate = layer.backward(params, tape, dy)
        return {"y": y, "dx": dx, **grads, **dstate._asdict()}

    def results(ran: Arrays) -> Arrays:
        resident = largest_resident()  # of the step that has just been taken
        kept = ran if task.get("gradients") else {}
        bytes_ = {"resident": resident, "tape": tape_bytes(layer.forward(params, x)[2], x)}
        tracemalloc.start()
        run()
        bytes_["peak"] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return {**kept, **{name: np.asarray(count) for name, count in bytes_.items()}}

    return duel.Work(run, results)


def tape_bytes(tape: Any, x: Array) -> int:
    """Return the bytes of all memory that a tape keeps, without those of x.

    An array that is a view keeps the whole one that it looks into; each counts once.
    """
    owners = {id(owner): owner for owner in map(owner_of, leaves(tape))}
    owners.pop(id(owner_of(x)), None)
    return sum(owner.nbytes for owner in owners.values())


def leaves(tree: Any) -> Iterator[Array]:
    """Yield the arrays in tuples of tuples; None is none."""
    if isinstance(tree, np.ndarray):
        yield tree
    elif tree is not None:
        for branch in tree:
            yield from leaves(branch)


def owner_of(array: Array) -> Array:
    """Return the array whose memory this one looks into, itself if it is no view."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


def truncated(arrays: Arrays, task: Task) -> duel.Work:
    """Truncated BPTT: windows of one endless sequence, drawn as they come.

    The model has to say what x was some steps ago: as many as `before (steps, 1, 1)` has, the
    x before the first window. Each window is a step of Adam. The task says `steps` in all,
    those in a `window`, and after how many to look (`looks`). Results are for each look `loss`,
    the mean since the look before, and bytes of the process: `resident`, and `largest` so far.
    """
    import seqcore as sc

    model = sc.Sequential(sc.LSTM(16), sc.Dense(1))
    opt = sc.adam(learning_rate=3e-3)
    window, looks = task["window"], task["looks"]

    def run() -> Arrays:
        rng = np.random.default_rng(0)
        draw = rng.standard_normal
        last = arrays["before"]
        params = model.init(1, like=last, rng=0)
        opt_state, state = opt.init(params), None
        seen: dict[str, list[float]] = {"loss": [], "resident": [], "largest": []}
        total, count = 0.0, 0
        for done in range(window, task["steps"] + 1, window):
            x = draw((window, 1, 1), np.float32)
            delayed = np.concatenate((last, x))
            targets, last = delayed[:window], delayed[window:]
            y, state, tape = model.forward(params, x, state)
            loss, dy = sc.squared_error(y, targets)
            _, grads, _ = model.backward(params, tape, dy)
            params, opt_state = opt.update(params, grads, opt_state)
            total, count = total + float(loss), count + 1
            if done in looks:
                seen["loss"].append(total / count)
                seen["resident"].append(resident())
                seen["largest"].append(largest_resident())
                total, count = 0.0, 0
        return {name: np.asarray(values) for name, values in seen.items()}

    return duel.Work(run, lambda seen: seen)


def resident() -> int:
    """Return the bytes of this process that are in memory; of Linux, elsewhere the largest."""
    return _status("VmRSS") or largest_resident()


def largest_resident() -> int:
    """Return the largest number of bytes of this process that were ever in memory."""
    import resource  # of POSIX

    # What `getrusage` says counts the process that started this one too.
    unit = 1 if sys.platform == "darwin" else 1024
    return _status("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _status(name: str) -> int | None:
    """Return a number of bytes that Linux keeps of this process, None elsewhere."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    (found,) = [line for line in lines if line.startswith(f"{name}:")]
    return int(found.split()[1]) * 1024
