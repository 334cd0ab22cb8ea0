"""The sides of a stream: one step at a time, the state carried on.

Each takes x `(T, n_x, 1)` and the parameters of `problem.draw`. A run is one step, from the
state that the run before has left, to its output; the x of the runs go round. Inputs are of
the library's own kind before time is taken, and outputs stay of that kind. Results are the
outputs of the first T steps, taken anew.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from itertools import cycle
from typing import Any

import numpy as np
from harness import duel

from sides.training import TORCH_ORDER

Arrays = dict[str, np.ndarray[Any, Any]]
Task = dict[str, Any]
State = Any

_UNTIL_THE_END = ExitStack()  # of this process


def seqcore_bound(arrays: Arrays) -> duel.Work:
    """Our layer bound to its parameters, which are checked once."""
    layer, params = _seqcore(arrays)
    return _work(layer.bind(params), list(arrays["x"]), lambda y: y)


def seqcore_forward(arrays: Arrays) -> duel.Work:
    """Our layer's forward on sequences of one step, with all its checks at each."""
    layer, params = _seqcore(arrays)

    def step(x: Any, state: State) -> tuple[Any, State]:
        y, state, _ = layer.forward(params, x, state)
        return y, state

    return _work(step, [x[None] for x in arrays["x"]], lambda y: y[0])


def torch_cell(arrays: Arrays) -> duel.Work:
    """torch.nn.LSTMCell."""
    cell, xs = _torch(arrays, "LSTMCell", "")

    def step(x: Any, state: State) -> tuple[Any, State]:
        state = cell(x, state)
        return state[0], state

    return _work(step, xs, lambda y: y.numpy().T)


def torch_layer(arrays: Arrays) -> duel.Work:
    """torch.nn.LSTM on sequences of one step."""
    layer, xs = _torch(arrays, "LSTM", "_l0")
    return _work(layer, [x[None] for x in xs], lambda y: y[0].numpy().T)


def onnxruntime(arrays: Arrays) -> duel.Work:
    """An ONNX LSTM, by `session.run` on NumPy arrays."""
    session, zero = _onnxruntime(arrays)
    names = ["h_next", "c_next"]

    def step(x: Any, state: State) -> tuple[Any, State]:
        h, c = state or (zero, zero)
        state = session.run(names, {"x": x, "h": h, "c": c})
        return state[0], state

    return _work(step, _rows(arrays["x"]), lambda y: y[0].T)


def onnxruntime_bound(arrays: Arrays) -> duel.Work:
    """The same with inputs and outputs bound to memory once: two states that take turns."""
    from onnxruntime import OrtValue

    session, zero = _onnxruntime(arrays)
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
        now = state or 0  # which of the two is the state before
        if state is None:
            for value in states[now]:
                value.update_inplace(zero)
        x_value.update_inplace(x)
        session.run_with_iobinding(bindings[now])
        return states[1 - now][0].numpy(), 1 - now

    return _work(step, xs, lambda y: y[0].T)


BUILDERS = {
    "seqcore-bound": seqcore_bound,
    "seqcore-forward": seqcore_forward,
    "torch-cell": torch_cell,
    "torch": torch_layer,
    "onnxruntime": onnxruntime,
    "onnxruntime-bound": onnxruntime_bound,
}


def build(arrays: Arrays, task: Task) -> duel.Work:
    """Return the work of the side that the task names."""
    return BUILDERS[task["side"]](arrays)


def _work(
    step: Callable[[Any, State], tuple[Any, State]],
    xs: Sequence[Any],
    to_ours: Callable[[Any], Any],
) -> duel.Work:
    """Return the work of a step function; `to_ours` makes outputs `(n_a, 1)` on the host."""
    coming = cycle(xs)
    state: State = None

    def run() -> Any:
        nonlocal state
        y, state = step(next(coming), state)
        return y

    def results(_: Any) -> Arrays:
        carried, ys = None, []
        for x in xs:
            y, carried = step(x, carried)
            ys.append(np.array(to_ours(y)))
        return {"y": np.stack(ys)}

    return duel.Work(run, results)


def _seqcore(arrays: Arrays) -> tuple[Any, Arrays]:
    import seqcore as sc

    params = {name: value for name, value in arrays.items() if name.startswith("0.")}
    return sc.LSTM(arrays["0.W_h"].shape[1]), params


def _torch(arrays: Arrays, kind: str, suffix: str) -> tuple[Any, list[Any]]:
    """Return torch.nn's module of that kind, and the x of each step, `(1, n_x)`."""
    import torch

    torch.set_num_threads(1)
    _UNTIL_THE_END.enter_context(torch.inference_mode())
    W_x, W_h, b = (arrays[f"0.{name}"][TORCH_ORDER["lstm"]] for name in ("W_x", "W_h", "b"))
    module = getattr(torch.nn, kind)(*W_x.shape[:0:-1])
    values = {"weight_ih": W_x, "weight_hh": W_h, "bias_ih": b, "bias_hh": np.zeros_like(b)}
    module.load_state_dict(
        {
            name + suffix: torch.tensor(value.reshape(module.get_parameter(name + suffix).shape))
            for name, value in values.items()
        }
    )
    return module, [torch.tensor(x.T) for x in arrays["x"]]


def _onnxruntime(arrays: Arrays) -> tuple[Any, Any]:
    """Return a session with one thread, and a state of zeros."""
    from onnxruntime import InferenceSession, SessionOptions

    from sides import onnx as onnx_lstm

    options = SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    model = onnx_lstm.step(arrays)
    session = InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return session, np.zeros((1, 1, arrays["0.W_h"].shape[1]), np.float32)


def _rows(x: Any) -> list[Any]:
    """Return the x of each step as `(1, 1, n_x)`."""
    return [np.ascontiguousarray(now.T)[None] for now in x]
