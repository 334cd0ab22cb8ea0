"""A training step as textbooks and course notebooks write it, in plain NumPy.

Each step concatenates [a_prev; x_t], takes one matrix product for each gate with its own
`W (n_a, n_a + n_x)` and keeps a cache; the backward pass adds to dW at each step. This is what
one writes from the equations, neither tuned nor slowed down. In float64 it is the reference
for all sides.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from harness.side import Array, Arrays, Task, Work

# The letters of the gates in the order of seqcore. Parameters are named after them: Wi, bi, ...
GATES = {"lstm": "ifoc", "gru": "run", "rnn": "a"}


def sigmoid(z: Array) -> Array:
    """Return the logistic function of z."""
    return 1 / (1 + np.exp(-z))


def lstm_forward(x: Array, p: Arrays) -> tuple[Array, list[Any]]:
    """Run an LSTM over `x (T, n_x, m)`; return `a (T, n_a, m)` and the caches."""
    n_steps, _, m = x.shape
    n_a = p["bi"].shape[0]
    a = np.empty((n_steps, n_a, m), x.dtype)
    a_prev = np.zeros((n_a, m), x.dtype)
    c_prev = np.zeros((n_a, m), x.dtype)
    caches = []
    for t in range(n_steps):
        concat = np.concatenate((a_prev, x[t]))
        it = sigmoid(p["Wi"] @ concat + p["bi"])
        ft = sigmoid(p["Wf"] @ concat + p["bf"])
        ot = sigmoid(p["Wo"] @ concat + p["bo"])
        cct = np.tanh(p["Wc"] @ concat + p["bc"])
        c_next = ft * c_prev + it * cct
        a_next = ot * np.tanh(c_next)
        caches.append((a_prev, c_prev, c_next, it, ft, ot, cct))
        a[t] = a_next
        a_prev, c_prev = a_next, c_next
    return a, caches


def lstm_backward(da: Array, x: Array, caches: list[Any], p: Arrays) -> dict[str, Array]:
    """Return dx and the gradients of all weights of `lstm_forward`."""
    n_a = p["bi"].shape[0]
    grads = {f"d{name}": np.zeros_like(value) for name, value in p.items()}
    dx = np.empty_like(x)
    da_next = np.zeros_like(da[0])
    dc_next = np.zeros_like(da[0])
    for t in reversed(range(len(x))):
        a_prev, c_prev, c_next, it, ft, ot, cct = caches[t]
        dat = da[t] + da_next
        tanh_c = np.tanh(c_next)
        dc = dc_next + dat * ot * (1 - tanh_c**2)
        dot = dat * tanh_c * ot * (1 - ot)
        dit = dc * cct * it * (1 - it)
        dft = dc * c_prev * ft * (1 - ft)
        dcct = dc * it * (1 - cct**2)
        concat = np.concatenate((a_prev, x[t]))
        for gate, dz in (("i", dit), ("f", dft), ("o", dot), ("c", dcct)):
            grads[f"dW{gate}"] += dz @ concat.T
            grads[f"db{gate}"] += dz.sum(axis=1, keepdims=True)
        back = p["Wi"].T @ dit + p["Wf"].T @ dft + p["Wo"].T @ dot + p["Wc"].T @ dcct
        da_next, dx[t] = back[:n_a], back[n_a:]
        dc_next = dc * ft
    return {"dx": dx, **grads}


def gru_forward(x: Array, p: Arrays) -> tuple[Array, list[Any]]:
    """Run a GRU, with the reset gate after the product, over `x (T, n_x, m)`."""
    n_steps, _, m = x.shape
    n_a = p["br"].shape[0]
    a = np.empty((n_steps, n_a, m), x.dtype)
    a_prev = np.zeros((n_a, m), x.dtype)
    caches = []
    for t in range(n_steps):
        concat = np.concatenate((a_prev, x[t]))
        rt = sigmoid(p["Wr"] @ concat + p["br"])
        ut = sigmoid(p["Wu"] @ concat + p["bu"])
        qt = p["Wn"][:, :n_a] @ a_prev + p["bq"]
        nt = np.tanh(p["Wn"][:, n_a:] @ x[t] + p["bn"] + rt * qt)
        a_next = ut * a_prev + (1 - ut) * nt
        caches.append((a_prev, rt, ut, qt, nt))
        a[t] = a_next
        a_prev = a_next
    return a, caches


def gru_backward(da: Array, x: Array, caches: list[Any], p: Arrays) -> dict[str, Array]:
    """Return dx and the gradients of all weights of `gru_forward`."""
    n_a = p["br"].shape[0]
    grads = {f"d{name}": np.zeros_like(value) for name, value in p.items()}
    dx = np.empty_like(x)
    da_next = np.zeros_like(da[0])
    for t in reversed(range(len(x))):
        a_prev, rt, ut, qt, nt = caches[t]
        dat = da[t] + da_next
        dut = dat * (a_prev - nt) * ut * (1 - ut)
        dnt = dat * (1 - ut) * (1 - nt**2)
        drt = dnt * qt * rt * (1 - rt)
        dqt = dnt * rt
        concat = np.concatenate((a_prev, x[t]))
        for gate, dz in (("r", drt), ("u", dut)):
            grads[f"dW{gate}"] += dz @ concat.T
            grads[f"db{gate}"] += dz.sum(axis=1, keepdims=True)
        grads["dWn"][:, :n_a] += dqt @ a_prev.T
        grads["dWn"][:, n_a:] += dnt @ x[t].T
        grads["dbn"] += dnt.sum(axis=1, keepdims=True)
        grads["dbq"] += dqt.sum(axis=1, keepdims=True)
        back = p["Wr"].T @ drt + p["Wu"].T @ dut
        da_next = back[:n_a] + p["Wn"][:, :n_a].T @ dqt + dat * ut
        dx[t] = back[n_a:] + p["Wn"][:, n_a:].T @ dnt
    return {"dx": dx, **grads}


def rnn_forward(x: Array, p: Arrays) -> tuple[Array, list[Any]]:
    """Run a simple recurrent network with tanh over `x (T, n_x, m)`."""
    n_steps, _, m = x.shape
    n_a = p["ba"].shape[0]
    a = np.empty((n_steps, n_a, m), x.dtype)
    a_prev = np.zeros((n_a, m), x.dtype)
    caches = []
    for t in range(n_steps):
        a_next = np.tanh(p["Wa"] @ np.concatenate((a_prev, x[t])) + p["ba"])
        caches.append((a_prev, a_next))
        a[t] = a_next
        a_prev = a_next
    return a, caches


def rnn_backward(da: Array, x: Array, caches: list[Any], p: Arrays) -> dict[str, Array]:
    """Return dx and the gradients of all weights of `rnn_forward`."""
    n_a = p["ba"].shape[0]
    grads = {f"d{name}": np.zeros_like(value) for name, value in p.items()}
    dx = np.empty_like(x)
    da_next = np.zeros_like(da[0])
    for t in reversed(range(len(x))):
        a_prev, a_next = caches[t]
        dz = (da[t] + da_next) * (1 - a_next**2)
        grads["dWa"] += dz @ np.concatenate((a_prev, x[t])).T
        grads["dba"] += dz.sum(axis=1, keepdims=True)
        back = p["Wa"].T @ dz
        da_next, dx[t] = back[:n_a], back[n_a:]
    return {"dx": dx, **grads}


Forward = Callable[[Array, Arrays], tuple[Array, list[Any]]]
Backward = Callable[[Array, Array, list[Any], Arrays], dict[str, Array]]
CELLS: dict[str, tuple[Forward, Backward]] = {
    "lstm": (lstm_forward, lstm_backward),
    "gru": (gru_forward, gru_backward),
    "rnn": (rnn_forward, rnn_backward),
}


class Step:
    """One training step of stacked layers; the parameters are packed before it is timed."""

    def __init__(self, cell: str, arrays: Arrays, layers: int = 1) -> None:
        """Join W_h and W_x of each gate, as textbooks do."""
        self.gates = GATES[cell]
        self.forward, self.backward = CELLS[cell]
        self.x, self.dy = arrays["x"], arrays["dy"]
        self.parameters = [self._packed(arrays, layer) for layer in range(layers)]

    def run(self) -> tuple[Array, list[dict[str, Array]]]:
        """Return y and the gradients of each layer."""
        a, tapes = self.x, []
        for p in self.parameters:
            x = a
            a, caches = self.forward(x, p)
            tapes.append((x, caches, p))
        da, grads = self.dy, []
        for tape in reversed(tapes):
            grads.append(self.backward(da, *tape))
            da = grads[-1]["dx"]
        return a, grads[::-1]

    def results(self, ran: tuple[Array, list[dict[str, Array]]]) -> dict[str, Array]:
        """Return what `run` returned in the layout of seqcore."""
        y, grads = ran
        results = {"y": y, "dx": grads[0]["dx"]}
        n_a = self.dy.shape[1]
        for layer, own in enumerate(grads):
            W = np.stack([own[f"dW{gate}"] for gate in self.gates])
            results[f"{layer}.W_x"], results[f"{layer}.W_h"] = W[:, :, n_a:], W[:, :, :n_a]
            results[f"{layer}.b"] = np.stack([own[f"db{gate}"] for gate in self.gates])
            if "dbq" in own:
                results[f"{layer}.b_h"] = own["dbq"][None]
        return results

    def _packed(self, arrays: Arrays, layer: int) -> dict[str, Array]:
        packed: dict[str, Array] = {}
        for number, gate in enumerate(self.gates):
            both = (arrays[f"{layer}.W_h"][number], arrays[f"{layer}.W_x"][number])
            packed[f"W{gate}"] = np.concatenate(both, axis=1)
            packed[f"b{gate}"] = arrays[f"{layer}.b"][number]
        if f"{layer}.b_h" in arrays:
            packed["bq"] = arrays[f"{layer}.b_h"][0]
        return packed


def step(arrays: Arrays, task: Task) -> Work:
    """Return the work of a training step."""
    step = Step(task["cell"], arrays, task["layers"])
    return Work(step.run, step.results)


def reference(cell: str, arrays: Arrays, layers: int = 1) -> dict[str, Array]:
    """Return y, dx and all gradients in float64."""
    double = {name: array.astype(np.float64) for name, array in arrays.items()}
    step = Step(cell, double, layers)
    return step.results(step.run())
