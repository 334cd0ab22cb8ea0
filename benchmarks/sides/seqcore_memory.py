"""Layers of seqcore that report the memory they take."""

from __future__ import annotations

from typing import Any

import numpy as np
from harness import memory, problem
from harness.side import Array, Arrays, Task, Work

import seqcore as sc


def step(arrays: Arrays, task: Task) -> Work:
    """Return the work of a training step of an LSTM, with `recompute` as the task says.

    Results are numbers of bytes: `peak` of a step beyond its inputs, `tape`, and the largest
    `resident` memory of the process; and, if the task has `gradients`, all that a step returns.
    """
    params, x, dy = problem.parameters(arrays), arrays["x"], arrays["dy"]
    layer = sc.LSTM(params["0.W_h"].shape[1], recompute=task["recompute"])

    def run() -> dict[str, Any]:
        y, _, tape = layer.forward(params, x)
        dx, grads, dstate = layer.backward(params, tape, dy)
        return {"y": y, "dx": dx, **grads, **dstate._asdict()}

    def results(ran: dict[str, Any]) -> Arrays:
        resident = memory.largest_resident()  # before the steps below
        tape = layer.forward(params, x)[2]
        counts = {
            "peak": memory.peak(run),
            "tape": memory.kept_bytes(tape, without=[x, *params.values()]),
            "resident": resident,
        }
        found = {name: np.asarray(count) for name, count in counts.items()}
        return {**ran, **found} if task.get("gradients") else found

    return Work(run, results)


def truncated(arrays: Arrays, task: Task) -> Work:
    """Return the work of truncated BPTT over one long sequence, drawn window by window.

    The model has to say what x was some steps ago: as many as `before (steps, 1, 1)` has, the
    x before the first window. Each window is one step of Adam.

    The task gives the number of `steps`, the steps of a `window`, and the steps after which to
    look (`looks`). Results have one value for each look: `loss`, the mean since the look before,
    and the bytes of the process, `resident` then and `largest` so far.
    """
    model = sc.Sequential(sc.LSTM(16), sc.Dense(1))
    opt = sc.adam(learning_rate=3e-3)
    window, looks = task["window"], task["looks"]

    def run() -> dict[str, Array]:
        rng = np.random.default_rng(0)
        last = arrays["before"]
        params = model.init(1, like=last, rng=0)
        opt_state, state = opt.init(params), None
        seen: dict[str, list[float]] = {"loss": [], "resident": [], "largest": []}
        total, count = 0.0, 0
        for done in range(window, task["steps"] + 1, window):
            x = rng.standard_normal((window, 1, 1), np.float32)
            delayed = np.concatenate((last, x))
            targets, last = delayed[:window], delayed[window:]
            y, state, tape = model.forward(params, x, state)
            loss, dy = sc.squared_error(y, targets)
            _, grads, _ = model.backward(params, tape, dy)
            params, opt_state = opt.update(params, grads, opt_state)
            total, count = total + float(loss), count + 1
            if done in looks:
                seen["loss"].append(total / count)
                seen["resident"].append(memory.resident())
                seen["largest"].append(memory.largest_resident())
                total, count = 0.0, 0
        return {name: np.asarray(values) for name, values in seen.items()}

    return Work(run, lambda seen: seen)
