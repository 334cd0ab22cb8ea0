"""A training step as textbooks and course notebooks write it, in plain NumPy.

At each step a concatenation [a_prev; x_t], one matrix product for each gate with its own
`W (n_a, n_a + n_x)`, a cache; on the way back `dW += ...` at each step. This is what one
writes from the equations, neither tuned nor slowed down. In float64 it is the reference
that all sides are held to.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Arrays = dict[str, Array]

# The letters of the gates in seqcore's order, which are the names here: Wi, bi, Wf, ...
GATES = {"lstm": "ifoc", "gru": "run", "rnn": "a"}


def sigmoid(z: Array) -> Array:
    """The logistic function."""
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


def lstm_backward(da: Array, x: Array, caches: list[Any], p: Arrays) -> Arrays:
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
    """Run a GRU, its reset gate after the product, over `x (T, n_x, m)`."""
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


def gru_backward(da: Array, x: Array, caches: list[Any], p: Arrays) -> Arrays:
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


def rnn_backward(da: Array, x: Array, caches: list[Any], p: Arrays) -> Arrays:
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
Backward = Callable[[Array, Array, list[Any], Arrays], Arrays]
CELLS: dict[str, tuple[Forward, Backward]] = {
    "lstm": (lstm_forward, lstm_backward),
    "gru": (gru_forward, gru_backward),
    "rnn": (rnn_forward, rnn_backward),
}


class Step:
    """One training step on arrays in seqcore's layout, packed once before time is taken."""

    def __init__(self, cell: str, arrays: Arrays) -> None:
        """Join W_h and W_x of each gate, as textbooks have them."""
        self.gates = GATES[cell]
        self.forward, self.backward = CELLS[cell]
        self.x, self.dy = arrays["x"], arrays["dy"]
        self.parameters: Arrays = {}
        for number, gate in enumerate(self.gates):
            both = (arrays["0.W_h"][number], arrays["0.W_x"][number])
            self.parameters[f"W{gate}"] = np.concatenate(both, axis=1)
            self.parameters[f"b{gate}"] = arrays["0.b"][number]
        if "0.b_h" in arrays:
            self.parameters["bq"] = arrays["0.b_h"][0]

    def run(self) -> Arrays:
        """Go forward and back."""
        a, caches = self.forward(self.x, self.parameters)
        return {"y": a, **self.backward(self.dy, self.x, caches, self.parameters)}

    def results(self, ran: Arrays) -> Arrays:
        """Return what `run` returned in seqcore's layout."""
        n_a = self.dy.shape[1]
        W = np.stack([ran[f"dW{gate}"] for gate in self.gates])
        results = {
            "y": ran["y"],
            "dx": ran["dx"],
            "0.W_x": W[:, :, n_a:],
            "0.W_h": W[:, :, :n_a],
            "0.b": np.stack([ran[f"db{gate}"] for gate in self.gates]),
        }
        return results | ({"0.b_h": ran["dbq"][None]} if "dbq" in ran else {})
