"""PyTorch: training steps by torch.nn and autograd, on a GPU with cuDNN, and streams.

Its arrays are `(T, m, n)`, its parameters those of seqcore with the gates in another order.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from harness.side import Array, Arrays, Task, UnavailableError, Work
from harness.stream import State, stream

from sides import gpu

MODULES = {"lstm": "LSTM", "gru": "GRU", "rnn": "RNN"}
# The order of an LSTM's gates is i, f, c, o; of a GRU's r, z, n, where z is u of seqcore.
ORDER = {"lstm": [0, 1, 3, 2], "gru": [0, 1, 2], "rnn": [0]}
NAMES = {"weight_ih": "W_x", "weight_hh": "W_h", "bias_ih": "b"}

_until_exit = ExitStack()


def step(arrays: Arrays, task: Task) -> Work:
    """Return the work of a step, on the CPU or on a GPU."""
    try:
        import torch
    except ImportError as error:
        raise UnavailableError(f"PyTorch is not installed ({error})") from error
    facts, clock = gpu.torch(torch, tf32=task["tf32"]) if task["gpu"] else ({}, None)
    if task.get("threads"):
        torch.set_num_threads(task["threads"])
    device = "cuda:0" if task["gpu"] else "cpu"
    trains = task["do"] == "training"

    def place(name: str) -> Any:
        series = np.tile(arrays[name], (task["repeat"], 1, 1)).transpose(0, 2, 1)
        return torch.tensor(np.ascontiguousarray(series), device=device)

    cell, layers = task["cell"], range(task["layers"])
    n_a, n_x = arrays["0.W_x"].shape[1:]
    module = getattr(torch.nn, MODULES[cell])(n_x, n_a, num_layers=len(layers))
    values = {
        f"{name}_l{layer}": value
        for layer in layers
        for name, value in parameters(arrays, cell, layer).items()
    }
    module.load_state_dict({name: torch.tensor(value) for name, value in values.items()})
    module.to(device).train(trains)
    # cuDNN wants the parameters in one piece; `to` copies them one by one.
    module.flatten_parameters()
    x, dy = place("x"), place("dy")
    x.requires_grad_(trains)

    def infer() -> Any:
        with torch.inference_mode():
            return module(x)[0]

    def train() -> Any:
        x.grad = None
        module.zero_grad(set_to_none=True)
        y, _ = module(x)
        y.backward(dy)
        return y

    def results(y: Any) -> Arrays:
        named = {"y": y, "dx": x.grad} if trains else {"y": y}
        found = {
            name: value.detach().cpu().numpy().transpose(0, 2, 1) for name, value in named.items()
        }
        for layer in layers if trains else ():
            found |= gradients(module, cell, layer)
        return found

    return Work(train if trains else infer, results, facts, clock)


def parameters(arrays: Arrays, cell: str, layer: int = 0) -> dict[str, Array]:
    """Return the parameters of a layer with the names, without suffix, and shapes of torch.nn."""
    found = {name: arrays[f"{layer}.{own}"][ORDER[cell]] for name, own in NAMES.items()}
    found["bias_hh"] = np.zeros_like(found["bias_ih"])
    if cell == "gru":
        found["bias_hh"][-1:] = arrays[f"{layer}.b_h"]
    rows = found["bias_ih"].size
    return {
        name: value.reshape(rows) if name.startswith("bias") else value.reshape(rows, -1)
        for name, value in found.items()
    }


def gradients(module: Any, cell: str, layer: int) -> dict[str, Array]:
    """Return the gradients of a layer of torch.nn with the names and shapes of seqcore."""
    back = np.argsort(ORDER[cell])

    def gradient(name: str) -> Array:
        own = module.get_parameter(f"{name}_l{layer}").grad.cpu().numpy()
        width = 1 if own.ndim == 1 else own.shape[1]
        found: Array = own.reshape(len(back), -1, width)[back]
        return found

    grads = {f"{layer}.{own}": gradient(name) for name, own in NAMES.items()}
    if cell == "gru":
        grads[f"{layer}.b_h"] = gradient("bias_hh")[-1:]
    return grads


def stream_cell(arrays: Arrays, _: Task) -> Work:
    """Return the work of torch.nn.LSTMCell."""
    cell, xs = _for_stream(arrays, "LSTMCell", "")

    def step(x: Any, state: State) -> tuple[Any, State]:
        state = cell(x, state)
        return state[0], state

    return stream(step, xs, lambda y: y.numpy().T)


def stream_layer(arrays: Arrays, _: Task) -> Work:
    """Return the work of torch.nn.LSTM on sequences of one step."""
    layer, xs = _for_stream(arrays, "LSTM", "_l0")
    return stream(layer, [x[None] for x in xs], lambda y: y[0].numpy().T)


def _for_stream(arrays: Arrays, kind: str, suffix: str) -> tuple[Any, list[Any]]:
    """Return a module of torch.nn in inference mode, and the x `(1, n_x)` of each step."""
    import torch

    torch.set_num_threads(1)
    _until_exit.enter_context(torch.inference_mode())
    module = getattr(torch.nn, kind)(*arrays["0.W_x"].shape[:0:-1])
    values = parameters(arrays, "lstm").items()
    module.load_state_dict({name + suffix: torch.tensor(value) for name, value in values})
    return module, [torch.tensor(x.T) for x in arrays["x"]]


def save(path: Path, lstm: Arrays, head: Arrays) -> None:
    """Write the state dict of a model with an LSTM `lstm` and a Linear `head`."""
    import torch

    state = {f"lstm.{name}_l0": value for name, value in parameters(lstm, "lstm").items()}
    state |= {"head.weight": head["W"], "head.bias": head["b"][:, 0]}
    torch.save({name: torch.tensor(value) for name, value in state.items()}, path)
