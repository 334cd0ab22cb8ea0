"""The long short-term memory with peepholes: its gates also see the cell state.

    (1) z = W_x x + b + W_h h'                      (4, n_a, m), in the order i, f, o, c
    (2) i = sigmoid(z_i + p_i * c'),  f = sigmoid(z_f + p_f * c');  g = tanh(z_c)
    (3) c = f * c' + i * g                          c', h' are the state before the step
    (4) o = sigmoid(z_o + p_o * c);  h = o * tanh(c)

p holds p_i, p_f and p_o, `(3, n_a, 1)`: each unit sees its own cell state only.

Backward, from dh, dc = dL/dh, dL/dc after the step:

    (4') do = dh * tanh(c);  dz_o = do o (1 - o);  dc += dh * o * (1 - tanh(c)^2) + dz_o * p_o
    (3') df = dc * c';  di = dc * g;  dg = dc * i
    (2') dz_i = di i (1 - i);  dz_f = df f (1 - f);  dz_c = dg (1 - g^2)
         dc' = dc * f + dz_i * p_i + dz_f * p_f
    (1') dh' = W_h^T dz;  dW_x, dW_h, db as in the LSTM without peepholes
         dp_i = sum_t dz_i * c',  dp_f = sum_t dz_f * c',  dp_o = sum_t dz_o * c

Source: Gers & Schmidhuber, "Recurrent nets that time and count", IJCNN 2000, equations 1 to 6.
The gradient there is truncated; this one is whole, as in Graves & Schmidhuber, "Framewise
phoneme classification with bidirectional LSTM", Neural Networks 18, 2005, appendix A.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from seqcore.arrays import Array, Namespace
from seqcore.cells.contract import BackwardMaps, ForwardMaps, Gate, sigmoid_of_halved
from seqcore.cells.lstm import LSTMCell, LSTMState
from seqcore.kernels import Gates, Options


class PeepholeLSTMSaved(NamedTuple):
    """What a step keeps for the backward pass."""

    h: Array  # (n_a, m), before the step
    c: Array  # (n_a, m), before the step
    after: Array  # (n_a, m), c after the step
    ifo: Array  # (3, n_a, m), the activated gates
    g: Array  # (n_a, m), the candidate
    tanh_c: Array  # (n_a, m)


def peephole_lstm_gates(xp: Namespace, z: Array, p: Array, c: Array) -> tuple[Array, ...]:
    """Return h, c, ifo, g, tanh(c) after a step."""
    both = sigmoid_of_halved(xp, z[:2, ...] + p[:2, ...] * c)
    g = xp.tanh(z[3, ...])  # (2)
    c = both[1, ...] * c
    c += both[0, ...] * g  # (3)
    o = sigmoid_of_halved(xp, z[2, ...] + p[2, ...] * c)
    tanh_c = xp.tanh(c)
    ifo = xp.concat((both, xp.expand_dims(o, axis=0)))
    return o * tanh_c, c, ifo, g, tanh_c  # (4)


def peephole_lstm_gates_vjp(
    xp: Namespace, saved: PeepholeLSTMSaved, p: Array, dh: Array, dc: Array
) -> tuple[Array, ...]:
    """Return dz `(4, n_a, m)`, dL/d(c before), and dp of this step `(3, n_a, m)`."""
    _, c, after, ifo, g, tanh_c = saved
    i, f, o = ifo[0, ...], ifo[1, ...], ifo[2, ...]
    # Multiply by the slope first: it is 0 at a closed gate, and dc * c' alone could overflow.
    slope = 1.0 - ifo
    slope *= ifo
    dz_o = slope[2, ...] * tanh_c
    dz_o *= dh
    through_h = 1.0 - tanh_c * tanh_c
    through_h *= o
    through_h *= dh
    dc = dc + through_h
    dc += dz_o * p[2, ...]  # (4')
    dz_i = slope[0, ...] * g
    dz_i *= dc
    dz_f = slope[1, ...] * c
    dz_f *= dc
    dg = dc * i
    dg *= 1.0 - g * g  # (3')
    before = dc * f
    before += dz_i * p[0, ...]
    before += dz_f * p[1, ...]  # (2')
    dz = xp.stack((dz_i, dz_f, dz_o, dg))
    return dz, before, xp.stack((dz_i * c, dz_f * c, dz_o * after))


@dataclass(frozen=True)
class PeepholeLSTMCell:
    """c = f * c' + i * g; h = o * tanh(c), with gates that see c."""

    name: ClassVar[str] = "peephole_lstm"
    state_type: ClassVar[type[LSTMState]] = LSTMState
    saved_type: ClassVar[type[PeepholeLSTMSaved]] = PeepholeLSTMSaved
    gates: ClassVar[tuple[Gate, ...]] = LSTMCell.gates
    takes: ClassVar[tuple[str, ...]] = ("h",)
    own: ClassVar[dict[str, tuple[str, ...]]] = {"p": ("i", "f", "o")}
    elementwise: ClassVar[Gates] = Gates(peephole_lstm_gates, peephole_lstm_gates_vjp)

    @property
    def options(self) -> Options:
        """There are none."""
        return ()

    def step(
        self, xp: Namespace, maps: ForwardMaps, at: Array, state: LSTMState
    ) -> tuple[LSTMState, PeepholeLSTMSaved]:
        """Take one step."""
        before_h, before_c = state
        z = maps.products[0](at, before_h)  # (1)
        h, c, ifo, g, tanh_c = maps.gates.forward(xp, z, maps.own[0], before_c)
        return LSTMState(h, c), PeepholeLSTMSaved(before_h, before_c, c, ifo, g, tanh_c)

    def step_vjp(
        self, xp: Namespace, maps: BackwardMaps, saved: PeepholeLSTMSaved, dstate: LSTMState
    ) -> tuple[Array, LSTMState, tuple[Array, ...]]:
        """Go one step back."""
        dz, dc, dp = maps.gates.backward(xp, saved, maps.own[0], dstate[0], dstate[1])
        dh = maps.products[0](dz)  # (1')
        return dz, LSTMState(dh, dc), (xp.sum(dp, axis=-1, keepdims=True),)
