"""The long short-term memory, with a forget gate and without peepholes.

    (1) z = W_x x + b + W_h h'                      (4, n_a, m), in the order i, f, o, c
    (2) i, f, o = sigmoid(z_i), sigmoid(z_f), sigmoid(z_o);  g = tanh(z_c)
    (3) c = f * c' + i * g                          c', h' are the state before the step
    (4) h = o * tanh(c)

Backward, from dh, dc = dL/dh, dL/dc after the step:

    (4') do = dh * tanh(c);  dc += dh * o * (1 - tanh(c)^2)
    (3') df = dc * c';  di = dc * g;  dg = dc * i;  dc' = dc * f
    (2') dz = di i (1 - i), df f (1 - f), do o (1 - o), dg (1 - g^2)
    (1') dh' = W_h^T dz
         dW_x = sum_t dz x^T,  dW_h = sum_t dz h'^T,  db = sum_t dz

Since sigmoid(z) = tanh(z / 2) / 2 + 1 / 2, the rows of i, f and o are halved once per
sequence, and one tanh computes all four gates without overflow.

Source: Hochreiter & Schmidhuber, "Long short-term memory", Neural Computation 9, 1997;
forget gate: Gers, Schmidhuber & Cummins, "Learning to forget", Neural Computation 12, 2000;
its initial bias of 1: Jozefowicz, Zaremba & Sutskever, "An empirical exploration of recurrent
network architectures", ICML 2015.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from seqcore.arrays import Array, Namespace
from seqcore.cells.contract import BackwardMaps, ForwardMaps, Gate
from seqcore.kernels import Gates, Options


class LSTMState(NamedTuple):
    """The state of an LSTM: `h, c (n_a, m)`; in a layer with a leading axis of layers."""

    h: Array
    c: Array


class LSTMSaved(NamedTuple):
    """What a step keeps for the backward pass."""

    h: Array  # (n_a, m), before the step
    c: Array  # (n_a, m), before the step
    ifo: Array  # (3, n_a, m), the activated gates
    g: Array  # (n_a, m), the candidate
    tanh_c: Array  # (n_a, m)


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
    # Multiply by the slope first: it is 0 at a closed gate, and dc * c' alone could overflow.
    di = slope[0, ...] * g
    di *= dc
    df = slope[1, ...] * c
    df *= dc
    do = slope[2, ...] * tanh_c
    do *= dh  # (3')
    return xp.stack((di, df, do, dg)), dc * f  # (2')


@dataclass(frozen=True)
class LSTMCell:
    """c = f * c' + i * g; h = o * tanh(c)."""

    name: ClassVar[str] = "lstm"
    state_type: ClassVar[type[LSTMState]] = LSTMState
    saved_type: ClassVar[type[LSTMSaved]] = LSTMSaved
    gates: ClassVar[tuple[Gate, ...]] = (
        Gate("i", sigmoid=True),
        Gate("f", sigmoid=True, bias=1.0),
        Gate("o", sigmoid=True),
        Gate("c"),
    )
    takes: ClassVar[tuple[str, ...]] = ("h",)
    own: ClassVar[dict[str, tuple[str, ...]]] = {}
    elementwise: ClassVar[Gates] = Gates(lstm_gates, lstm_gates_vjp)

    @property
    def options(self) -> Options:
        """There are none."""
        return ()

    def step(
        self, xp: Namespace, maps: ForwardMaps, at: Array, state: LSTMState
    ) -> tuple[LSTMState, LSTMSaved]:
        """Take one step."""
        before_h, before_c = state
        z = maps.products[0](at, before_h)  # (1)
        h, c, ifo, g, tanh_c = maps.gates.forward(xp, z, before_c)
        return LSTMState(h, c), LSTMSaved(before_h, before_c, ifo, g, tanh_c)

    def step_vjp(
        self, xp: Namespace, maps: BackwardMaps, saved: LSTMSaved, dstate: LSTMState
    ) -> tuple[Array, LSTMState, tuple[Array, ...]]:
        """Go one step back."""
        dz, dc = maps.gates.backward(xp, saved, dstate[0], dstate[1])
        dh = maps.products[0](dz)  # (1')
        return dz, LSTMState(dh, dc), ()
