"""onnxruntime: streams of an ONNX LSTM whose state goes in and out."""

from __future__ import annotations

from typing import Any

import numpy as np
from harness.side import Array, Arrays, Task, Work
from harness.stream import State, stream

from sides import onnx


def stream_run(arrays: Arrays, _: Task) -> Work:
    """Return the work of `session.run` on NumPy arrays."""
    session, zero = _session(arrays)
    names = ["h_next", "c_next"]

    def step(x: Any, state: State) -> tuple[Any, State]:
        h, c = state or (zero, zero)
        state = session.run(names, {"x": x, "h": h, "c": c})
        return state[0], state

    return stream(step, _rows(arrays["x"]), lambda y: y[0].T)


def stream_bound(arrays: Arrays, _: Task) -> Work:
    """Return the same with inputs and outputs bound to memory once.

    Two states take turns: a step reads one and writes the other.
    """
    from onnxruntime import OrtValue

    session, zero = _session(arrays)
    xs = _rows(arrays["x"])
    # A value shares the memory of the array that it is made from.
    x_value = OrtValue.ortvalue_from_numpy(xs[0].copy())
    states = [[OrtValue.ortvalue_from_numpy(zero.copy()) for _ in range(2)] for _ in range(2)]
    bindings = []
    for before, after in (states, states[::-1]):
        binding = session.io_binding()
        binding.bind_ortvalue_input("x", x_value)
        for name, value in zip(("h", "c"), before, strict=True):
            binding.bind_ortvalue_input(name, value)
        for name, value in zip(("h_next", "c_next"), after, strict=True):
            binding.bind_ortvalue_output(name, value)
        bindings.append(binding)

    def step(x: Any, state: State) -> tuple[Any, State]:
        now = state or 0  # the number of the state that is read
        if state is None:
            for value in states[now]:
                value.update_inplace(zero)
        x_value.update_inplace(x)
        session.run_with_iobinding(bindings[now])
        return states[1 - now][0].numpy(), 1 - now

    return stream(step, xs, lambda y: y[0].T)


def _session(arrays: Arrays) -> tuple[Any, Array]:
    """Return a session with one thread, and a state of zeros."""
    from onnxruntime import InferenceSession, SessionOptions

    options = SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = InferenceSession(onnx.step(arrays), options, providers=["CPUExecutionProvider"])
    return session, np.zeros((1, 1, arrays["0.W_h"].shape[1]), np.float32)


def _rows(x: Array) -> list[Array]:
    """Return the x of each step as `(1, 1, n_x)`."""
    return [np.ascontiguousarray(now.T)[None] for now in x]
