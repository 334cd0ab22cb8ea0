"""The simple recurrent cell of Elman, with tanh or relu.

    (1) z = W_x x + b + W_h h'          h' is the state before the step
    (2) h = phi(z)                      phi is tanh or relu

Backward, from dh = dL/dh after the step:

    (2') dz  = dh * phi'(z)             1 - h^2 for tanh, [h > 0] for relu
    (1') dh' = W_h^T dz
         dW_x = sum_t dz x^T,  dW_h = sum_t dz h'^T,  db = sum_t dz

Source: Elman, "Finding structure in time", Cognitive Science 14, 1990. BPTT: Werbos,
"Backpropagation through time: what it does and how to do it", Proc. IEEE 78, 1990.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

from seqcore.arrays import Array, Namespace
from seqcore.cells.contract import BackwardMaps, ForwardMaps, Gate
from seqcore.kernels import Gates, Options


class RNNState(NamedTuple):
    """The state of an RNN: `h (n_a, m)`; in a layer with a leading axis of layers."""

    h: Array


class RNNSaved(NamedTuple):
    """What a step keeps for the backward pass."""

    h: Array  # (n_a, m), before the step
    after: Array  # (n_a, m), after it


def rnn_gates(xp: Namespace, z: Array, activation: str) -> tuple[Array, ...]:
    """Return h after a step."""
    return (xp.tanh(z) if activation == "tanh" else xp.where(z < 0, xp.zeros_like(z), z),)  # (2)


def rnn_gates_vjp(xp: Namespace, saved: RNNSaved, dh: Array, activation: str) -> tuple[Array, ...]:
    """Return dz."""
    h = saved.after
    dz = 1.0 - h * h if activation == "tanh" else xp.astype(h > 0, h.dtype)
    dz *= dh  # (2')
    return (dz,)


@dataclass(frozen=True)
class RNNCell:
    """h = phi(W_x x + b + W_h h')."""

    activation: Literal["tanh", "relu"] = "tanh"

    name: ClassVar[str] = "rnn"
    state_type: ClassVar[type[RNNState]] = RNNState
    saved_type: ClassVar[type[RNNSaved]] = RNNSaved
    gates: ClassVar[tuple[Gate, ...]] = (Gate("h"),)
    takes: ClassVar[tuple[str, ...]] = ("h",)
    own: ClassVar[dict[str, tuple[str, ...]]] = {}
    elementwise: ClassVar[Gates] = Gates(rnn_gates, rnn_gates_vjp)

    def __post_init__(self) -> None:
        """Refuse an activation that has no derivative here."""
        if self.activation not in ("tanh", "relu"):
            raise ValueError(
                f"rnn: activation is {self.activation!r:.60}, expected 'tanh' or 'relu'"
            )

    @property
    def options(self) -> Options:
        """The activation."""
        return (("activation", self.activation),)

    def step(
        self, xp: Namespace, maps: ForwardMaps, at: Array, state: RNNState
    ) -> tuple[RNNState, RNNSaved]:
        """Take one step."""
        (h,) = state
        z = maps.products[0](at, h)  # (1)
        (after,) = maps.gates.forward(xp, z[0, ...], self.activation)
        return RNNState(after), RNNSaved(h, after)

    def step_vjp(
        self, xp: Namespace, maps: BackwardMaps, saved: RNNSaved, dstate: RNNState
    ) -> tuple[Array, RNNState, tuple[Array, ...]]:
        """Go one step back."""
        (dz,) = maps.gates.backward(xp, saved, dstate[0], self.activation)
        dh = maps.products[0](dz)  # (1')
        return xp.expand_dims(dz, axis=0), RNNState(dh), ()
