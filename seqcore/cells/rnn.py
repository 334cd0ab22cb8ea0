"""The simple recurrent cell of Elman, with tanh or relu.

    (1) z = W_x x + b + W_h h'          h' is the state before the step
    (2) h = phi(z)                      phi is tanh or relu

Back, from dh = dL/dh after the step:

    (2') dz  = dh * phi'(z)             1 - h^2 for tanh, [h > 0] for relu
    (1') dh' = W_h^T dz
         dW_x = sum_t dz x^T,  dW_h = sum_t dz h'^T,  db = sum_t dz

Source: Elman, "Finding structure in time", Cognitive Science 14, 1990. BPTT: Werbos,
"Backpropagation through time: what it does and how to do it", Proc. IEEE 78, 1990.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

from seqcore import random
from seqcore.arrays import Array, Namespace, Params
from seqcore.cells import products

if TYPE_CHECKING:
    import numpy as np


class RNNState(NamedTuple):
    """The state of an RNN: `h (n_a, m)`; in `layers.RNN` with a leading axis of layers."""

    h: Array


class RNNSaved(NamedTuple):
    """What a step keeps for the way back: nothing beside the states."""


@dataclass(frozen=True)
class RNNCell:
    """h = phi(W_x x + b + W_h h')."""

    activation: Literal["tanh", "relu"] = "tanh"

    name: ClassVar[str] = "rnn"
    gates: ClassVar[int] = 1
    state_type: ClassVar[type[RNNState]] = RNNState
    saved_type: ClassVar[type[RNNSaved]] = RNNSaved

    def __post_init__(self) -> None:
        """Refuse an activation that has no derivative here."""
        if self.activation not in ("tanh", "relu"):
            raise ValueError(f"rnn: activation is {self.activation!r}, expected 'tanh' or 'relu'")

    @property
    def shapes(self) -> dict[str, tuple[int | str, ...]]:
        """The shape of each parameter, in sizes and letters."""
        return {"W_x": (1, "n_a", "n_x"), "W_h": (1, "n_a", "n_a"), "b": (1, "n_a", 1)}

    def init(self, n_x: int, n_a: int, *, like: Array, rng: np.random.Generator) -> Params:
        """Draw W_x Glorot uniform, W_h orthogonal; b is 0."""
        return random.recurrent(rng, n_x, n_a, biases=(0.0,), like=like)

    def prepare(self, xp: Namespace, params: Params) -> tuple[Array, Array, tuple[Array, ...]]:
        """Return W_x, b and `(W_h,)`."""
        return params["W_x"], params["b"], (params["W_h"],)

    def step(
        self, xp: Namespace, weights: tuple[Array, ...], z_x: Array, state: RNNState
    ) -> tuple[RNNState, RNNSaved]:
        """Take one step."""
        (W_h,) = weights
        z = xp.matmul(W_h, state.h)  # (1, n_a, m)
        z += z_x  # (1)
        h = xp.tanh(z) if self.activation == "tanh" else xp.where(z < 0, xp.zeros_like(z), z)  # (2)
        return RNNState(h[0, ...]), RNNSaved()

    def prepare_vjp(self, xp: Namespace, params: Params) -> tuple[Array, ...]:
        """Return `(W_h^T,)`."""
        return (products.transposed(xp, params["W_h"]),)

    def step_vjp(
        self,
        xp: Namespace,
        weights: tuple[Array, ...],
        before: RNNState,
        after: RNNState,
        saved: RNNSaved,
        dstate: RNNState,
    ) -> tuple[Array, RNNState]:
        """Go one step back."""
        (W_h_t,) = weights
        h = after.h
        slope = 1.0 - h * h if self.activation == "tanh" else xp.astype(h > 0, h.dtype)
        dz = xp.expand_dims(dstate.h * slope, axis=0)  # (2'), (1, n_a, m)
        return dz, RNNState(products.back(xp, W_h_t, dz))  # (1')

    def recurrent_grads(
        self, xp: Namespace, before: RNNState, saved: RNNSaved, dz: Array
    ) -> Params:
        """Return dW_h, summed over time."""
        return {"W_h": products.over_time(xp, dz, before.h)}
