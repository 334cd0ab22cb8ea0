"""The long short-term memory, with a forget gate and without peepholes.

    (1) z = W_x x + b + W_h h'                      (4, n_a, m), in the order i, f, o, c
    (2) i, f, o = sigmoid(z_i), sigmoid(z_f), sigmoid(z_o);  g = tanh(z_c)
    (3) c = f * c' + i * g                          c', h' are the state before the step
    (4) h = o * tanh(c)

Back, from dh, dc = dL/dh, dL/dc after the step:

    (4') do = dh * tanh(c);  dc += dh * o * (1 - tanh(c)^2)
    (3') df = dc * c';  di = dc * g;  dg = dc * i;  dc' = dc * f
    (2') dz = di i (1 - i), df f (1 - f), do o (1 - o), dg (1 - g^2)
    (1') dh' = W_h^T dz
         dW_x = sum_t dz x^T,  dW_h = sum_t dz h'^T,  db = sum_t dz

Since sigmoid(z) = tanh(z / 2) / 2 + 1 / 2, the rows of i, f and o are halved once a
sequence, and one tanh does all four gates without ever overflowing.

Source: Hochreiter & Schmidhuber, "Long short-term memory", Neural Computation 9, 1997;
forget gate: Gers, Schmidhuber & Cummins, "Learning to forget", Neural Computation 12, 2000.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from seqcore import arrays, random
from seqcore.arrays import Array, Namespace, Params
from seqcore.cells import products

if TYPE_CHECKING:
    import numpy as np


class LSTMState(NamedTuple):
    """The state of an LSTM: `h, c (n_a, m)`; in `layers.LSTM` with a leading axis of layers."""

    h: Array
    c: Array


class LSTMSaved(NamedTuple):
    """What a step keeps for the way back."""

    h: Array  # (n_a, m), before the step
    c: Array  # (n_a, m), before the step
    ifo: Array  # (3, n_a, m), the activated gates
    g: Array  # (n_a, m), the candidate
    tanh_c: Array  # (n_a, m)


def _halved(xp: Namespace, params: Params) -> tuple[Array, Array]:
    """Return `[W_x b]` and W_h with the rows of the three sigmoids halved."""
    half = arrays.like([[[0.5]], [[0.5]], [[0.5]], [[1.0]]], params["b"])
    W = xp.concat((params["W_x"], params["b"]), axis=2)
    W *= half
    return W, params["W_h"] * half


def lstm_gates(xp: Namespace, z: Array, c: Array) -> tuple[Array, Array, Array, Array, Array]:
    """Return h, c, ifo, g, tanh(c) after a step from z, which may be overwritten."""
    t = xp.tanh(z)
    ifo, g = 0.5 * t[:3, ...], t[3, ...]
    ifo += 0.5  # (2)
    c = ifo[1, ...] * c
    c += ifo[0, ...] * g  # (3)
    tanh_c = xp.tanh(c)
    return ifo[2, ...] * tanh_c, c, ifo, g, tanh_c  # (4)


def lstm_gates_vjp(xp: Namespace, saved: LSTMSaved, dh: Array, dc: Array) -> tuple[Array, Array]:
    """Return dz `(4, n_a, m)` and dL/d(c before) from dL/d(h, c after)."""
    _, c, ifo, g, tanh_c = saved
    i, f, o = ifo[0, ...], ifo[1, ...], ifo[2, ...]
    through_h = 1.0 - tanh_c * tanh_c
    through_h *= o
    through_h *= dh
    dc = dc + through_h  # (4')
    slope = 1.0 - ifo
    slope *= ifo
    dg = dc * i
    dg *= 1.0 - g * g
    # The slope first: that of a closed gate is 0, and dc * c' alone could overflow.
    di = slope[0, ...] * g
    di *= dc
    df = slope[1, ...] * c
    df *= dc
    do = slope[2, ...] * tanh_c
    do *= dh  # (3')
    return xp.stack((di, df, do, dg)), dc * f  # (2')


def _no_stream(*_: Array) -> Callable[..., tuple[Array, Array]] | None:
    return None


@dataclass(frozen=True)
class LSTMCell:
    """c = f * c' + i * g; h = o * tanh(c)."""

    name: ClassVar[str] = "lstm"
    gates: ClassVar[int] = 4
    state_type: ClassVar[type[LSTMState]] = LSTMState
    saved_type: ClassVar[type[LSTMSaved]] = LSTMSaved

    @property
    def shapes(self) -> dict[str, tuple[int | str, ...]]:
        """The shape of each parameter, in sizes and letters; gates in the order i, f, o, c."""
        return {"W_x": (4, "n_a", "n_x"), "W_h": (4, "n_a", "n_a"), "b": (4, "n_a", 1)}

    def init(self, n_x: int, n_a: int, *, like: Array, rng: np.random.Generator) -> Params:
        """Draw W_x Glorot uniform, W_h orthogonal; b is 0, for the forget gate 1.

        Source of the 1: Jozefowicz, Zaremba & Sutskever, "An empirical exploration of
        recurrent network architectures", ICML 2015.
        """
        return random.recurrent(rng, n_x, n_a, biases=(0.0, 1.0, 0.0, 0.0), like=like)

    def prepare(
        self, xp: Namespace, params: Params, m: int
    ) -> tuple[Array | None, tuple[Any, ...]]:
        """Return `[W_x b]` or None, and product and gates, the rows of the sigmoids halved."""
        W, product = products.recurrent(xp, *_halved(xp, params), m)
        return W, (product, arrays.kernel(xp, "lstm_gates", lstm_gates))

    def step(
        self, xp: Namespace, weights: tuple[Any, ...], at: Array, state: LSTMState
    ) -> tuple[LSTMState, LSTMSaved]:
        """Take one step."""
        product, gates = weights
        before_h, before_c = state
        z = product(at, before_h)  # (1), (4, n_a, m)
        h, c, ifo, g, tanh_c = gates(xp, z, before_c)
        return LSTMState(h, c), LSTMSaved(before_h, before_c, ifo, g, tanh_c)

    def stream(self, xp: Namespace, params: Params) -> Callable[..., tuple[Array, Array]] | None:
        """Return a faster step for a batch of 1, from x, h and c to h and c, if there is one."""
        fast = arrays.kernel(xp, "lstm_stream", _no_stream)
        step: Callable[..., tuple[Array, Array]] | None = fast(*_halved(xp, params))
        return step

    def prepare_vjp(
        self, xp: Namespace, params: Params, m: int
    ) -> tuple[Array | None, tuple[Any, ...]]:
        """Return `W_x^T` or None, and product and gates."""
        W_x_t, product = products.recurrent_back(xp, params["W_x"], params["W_h"], m)
        return W_x_t, (product, arrays.kernel(xp, "lstm_gates_vjp", lstm_gates_vjp))

    def step_vjp(
        self, xp: Namespace, weights: tuple[Any, ...], saved: LSTMSaved, dstate: LSTMState
    ) -> tuple[Array, Array | None, LSTMState]:
        """Go one step back."""
        product, gates = weights
        dz, dc = gates(xp, saved, dstate[0], dstate[1])
        dx, dh = product(dz)  # (1')
        return dz, dx, LSTMState(dh, dc)

    def outer(
        self, xp: Namespace, dz: Array, v: Array, n_x: int, saved: LSTMSaved
    ) -> tuple[Array, ...]:
        """Return `[dW_x db dW_h]`."""
        return (products.outer(xp, dz, v),)

    def grads(self, xp: Namespace, outers: tuple[Array, ...], n_x: int) -> Params:
        """Return the gradient of every parameter."""
        return products.split(xp, outers[0], n_x, self.gates)
