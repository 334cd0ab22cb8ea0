"""Layers of seqcore: training steps, also divided into shards and on a GPU, and streams."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from harness import problem
from harness.side import Arrays, Task, UnavailableError, Work
from harness.stream import State, stream

import seqcore as sc
from sides import gpu

LAYERS = {"lstm": sc.LSTM, "gru": sc.GRU, "rnn": sc.RNN}


def step(arrays: Arrays, task: Task) -> Work:
    """Return the work of a step on NumPy arrays, or on CuPy arrays on a GPU."""
    return _work(layer_of(arrays, task), arrays, task)


def shards(arrays: Arrays, task: Task) -> Work:
    """Return the work of a step whose batch is divided among `threads` threads."""
    m, threads = arrays["x"].shape[2], task["threads"]
    if m < threads:
        raise UnavailableError(f"a batch of {m} cannot be divided among {threads} threads")
    return _work(sc.Sharded(layer_of(arrays, task), threads), arrays, task)


def stream_bound(arrays: Arrays, _: Task) -> Work:
    """Return the work of a layer that is bound to its parameters, which are checked once."""
    bound = _lstm(arrays).bind(problem.parameters(arrays))
    return stream(bound, list(arrays["x"]), lambda y: y)


def stream_forward(arrays: Arrays, _: Task) -> Work:
    """Return the work of `forward` on sequences of one step, with all checks at each step."""
    layer, params = _lstm(arrays), problem.parameters(arrays)

    def step(x: Any, state: State) -> tuple[Any, State]:
        y, state, _ = layer.forward(params, x, state)
        return y, state

    return stream(step, [x[None] for x in arrays["x"]], lambda y: y[0])


def layer_of(arrays: Arrays, task: Task) -> sc.Layer:
    """Return the layer that a task names."""
    layer: sc.Layer = LAYERS[task["cell"]](arrays["0.W_h"].shape[1], layers=task["layers"])
    return layer


def step_of(layer: sc.Layer, do: str) -> Callable[[Any, Any, Any], tuple[Any, ...]]:
    """Return a function of parameters, x and dy: (y, dx, gradients), or (y,) of inference."""

    def infer(params: Any, x: Any, _: Any) -> tuple[Any, ...]:
        return (layer.predict(params, x)[0],)

    def train(params: Any, x: Any, dy: Any) -> tuple[Any, ...]:
        y, _, tape = layer.forward(params, x)
        dx, grads, _ = layer.backward(params, tape, dy)
        return y, dx, grads

    return train if do == "training" else infer


def inputs(arrays: Arrays, task: Task, place: Callable[[Any], Any]) -> tuple[Any, Any, Any]:
    """Return parameters, x and dy as arrays of a library, repeated in time as the task says."""
    params = {name: place(value) for name, value in problem.parameters(arrays).items()}
    x, dy = (place(np.tile(arrays[name], (task["repeat"], 1, 1))) for name in ("x", "dy"))
    return params, x, dy


def named(ran: tuple[Any, ...], to_host: Callable[[Any], Any]) -> Arrays:
    """Return what a step returned as named NumPy arrays."""
    arrays = {"y": ran[0]}
    if len(ran) > 1:
        arrays |= {"dx": ran[1], **ran[2]}
    return {name: to_host(value) for name, value in arrays.items()}


def _work(layer: sc.Layer, arrays: Arrays, task: Task) -> Work:
    place = gpu.cupy() if task["gpu"] else gpu.HOST
    step = step_of(layer, task["do"])
    given = inputs(arrays, task, place.xp.asarray)
    return Work(
        lambda: step(*given), lambda ran: named(ran, place.to_host), place.facts, place.clock
    )


def _lstm(arrays: Arrays) -> sc.LSTM:
    return sc.LSTM(arrays["0.W_h"].shape[1])
