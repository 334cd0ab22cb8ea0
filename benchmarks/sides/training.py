"""The sides of a training step: each takes the same arrays and returns its `duel.Work`.

Arrays are converted to what a library wants before time is taken, as one who uses that
library has them: PyTorch's x is `(T, m, n_x)`. A task says `cell` (lstm, gru, rnn), and
`threads` where the library asks for more than environment variables.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from harness import duel

Arrays = dict[str, np.ndarray[Any, Any]]
Task = dict[str, Any]

# Names in seqcore and in torch.nn.
LAYERS = {"lstm": "LSTM", "gru": "GRU", "rnn": "RNN"}
# PyTorch's order of an LSTM's gates is i, f, c, o; of a GRU's r, z, n, where z is our u.
TORCH_ORDER = {"lstm": [0, 1, 3, 2], "gru": [0, 1, 2], "rnn": [0]}


def textbook(arrays: Arrays, task: Task) -> duel.Work:
    """Plain NumPy loops (`textbook.py`)."""
    from sides.textbook import Step

    step = Step(task["cell"], arrays)
    return duel.Work(step.run, step.results)


def products(arrays: Arrays, task: Task) -> duel.Work:
    """The matrix products alone (`products.py`), which have checked themselves.

    The task says `trial`, the seconds for which each form is tried.
    """
    from sides.products import Step

    step = Step(task["cell"], arrays, task["trial"])
    return duel.Work(step.run, lambda _: {}, step.notes())


def seqcore(arrays: Arrays, task: Task) -> duel.Work:
    """Our layer on NumPy arrays."""
    return _seqcore_on_numpy(_layer(arrays, task), arrays)


def seqcore_shards(arrays: Arrays, task: Task) -> duel.Work:
    """Our layer on NumPy arrays, the batch divided among threads."""
    import seqcore as sc

    if not hasattr(sc, "Sharded"):
        raise duel.Unavailable("this seqcore has no Sharded")
    m, shards = arrays["x"].shape[2], task["threads"]
    if m < shards:
        raise duel.Unavailable(f"a batch of {m} cannot be divided by {shards}")
    return _seqcore_on_numpy(sc.Sharded(_layer(arrays, task), shards), arrays)


def seqcore_jax(arrays: Arrays, task: Task) -> duel.Work:
    """Our layer on JAX arrays, forward and backward compiled as one function."""
    import jax

    layer = _layer(arrays, task)

    @jax.jit
    def step(params: Any, x: Any, dy: Any) -> tuple[Any, Any, Any]:
        y, _, tape = layer.forward(params, x)
        dx, grads, _ = layer.backward(params, tape, dy)
        return y, dx, grads

    params, x, dy = jax.device_put(_divide(arrays))
    return duel.Work(lambda: jax.block_until_ready(step(params, x, dy)), _gather)


def torch(arrays: Arrays, task: Task) -> duel.Work:
    """torch.nn's layer and autograd."""
    import torch

    if task.get("threads"):
        torch.set_num_threads(task["threads"])
    order = TORCH_ORDER[task["cell"]]
    W_x, W_h, b = (arrays[f"0.{name}"][order] for name in ("W_x", "W_h", "b"))
    b_h = np.zeros_like(b)
    if "0.b_h" in arrays:
        b_h[-1:] = arrays["0.b_h"]
    n_a, n_x = W_x.shape[1:]
    layer = getattr(torch.nn, LAYERS[task["cell"]])(n_x, n_a)
    values = {"weight_ih_l0": W_x, "weight_hh_l0": W_h, "bias_ih_l0": b, "bias_hh_l0": b_h}
    layer.load_state_dict(
        {
            name: torch.tensor(value.reshape(layer.get_parameter(name).shape))
            for name, value in values.items()
        }
    )
    x, dy = (
        torch.tensor(np.ascontiguousarray(arrays[name].transpose(0, 2, 1))) for name in ("x", "dy")
    )
    x.requires_grad_()

    def run() -> Any:
        x.grad = None
        layer.zero_grad(set_to_none=True)
        y, _ = layer(x)
        y.backward(dy)
        return y

    def results(y: Any) -> Arrays:
        back = np.argsort(order)
        grads = {
            name: layer.get_parameter(name).grad.numpy().reshape(value.shape)[back]
            for name, value in values.items()
        }
        return {
            "y": y.detach().numpy().transpose(0, 2, 1),
            "dx": x.grad.numpy().transpose(0, 2, 1),
            "0.W_x": grads["weight_ih_l0"],
            "0.W_h": grads["weight_hh_l0"],
            "0.b": grads["bias_ih_l0"],
            **({"0.b_h": grads["bias_hh_l0"][-1:]} if "0.b_h" in arrays else {}),
        }

    return duel.Work(run, results)


def _layer(arrays: Arrays, task: Task) -> Any:
    import seqcore as sc

    return getattr(sc, LAYERS[task["cell"]])(arrays["0.W_h"].shape[1])


def _seqcore_on_numpy(layer: Any, arrays: Arrays) -> duel.Work:
    params, x, dy = _divide(arrays)

    def run() -> tuple[Any, Any, Any]:
        y, _, tape = layer.forward(params, x)
        dx, grads, _ = layer.backward(params, tape, dy)
        return y, dx, grads

    return duel.Work(run, _gather)


def _divide(arrays: Arrays) -> tuple[Arrays, Any, Any]:
    """Return parameters, x and dy."""
    params = {name: value for name, value in arrays.items() if name not in ("x", "dy")}
    return params, arrays["x"], arrays["dy"]


def _gather(ran: tuple[Any, Any, Any]) -> Arrays:
    """Return named arrays of the host from y, dx and gradients."""
    y, dx, grads = ran
    named = {"y": y, "dx": dx, **grads}
    return {name: np.asarray(value) for name, value in named.items()}
