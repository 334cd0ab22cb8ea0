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
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from seqcore import random
from seqcore.arrays import Array, Namespace, Params
from seqcore.cells import products

if TYPE_CHECKING:
    import numpy as np


class RNNState(NamedTuple):
    """The state of an RNN: `h (n_a, m)`; in `layers.RNN` with a leading axis of layers."""

    h: Array


class RNNSaved(NamedTuple):
    """What a step keeps for the way back."""

    h: Array  # (n_a, m), before the step
    after: Array  # (n_a, m), after it


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

    def prepare(
        self, xp: Namespace, params: Params, m: int
    ) -> tuple[Array | None, tuple[Any, ...]]:
        """Return `[W_x b]` or None, and the product."""
        W = xp.concat((params["W_x"], params["b"]), axis=2)
        W, product = products.recurrent(xp, W, params["W_h"], m)
        return W, (product,)

    def step(
        self, xp: Namespace, weights: tuple[Any, ...], at: Array, state: RNNState
    ) -> tuple[RNNState, RNNSaved]:
        """Take one step."""
        (product,) = weights
        (h,) = state
        z = product(at, h)[0, ...]  # (1)
        after = xp.tanh(z) if self.activation == "tanh" else xp.where(z < 0, xp.zeros_like(z), z)
        return RNNState(after), RNNSaved(h, after)  # (2)

    def prepare_vjp(
        self, xp: Namespace, params: Params, m: int
    ) -> tuple[Array | None, tuple[Any, ...]]:
        """Return `W_x^T` or None, and the product."""
        W_x_t, product = products.recurrent_back(xp, params["W_x"], params["W_h"], m)
        return W_x_t, (product,)

    def step_vjp(
        self, xp: Namespace, weights: tuple[Any, ...], saved: RNNSaved, dstate: RNNState
    ) -> tuple[Array, Array | None, RNNState]:
        """Go one step back."""
        (product,) = weights
        h = saved.after
        dz = 1.0 - h * h if self.activation == "tanh" else xp.astype(h > 0, h.dtype)
        dz *= dstate.h  # (2')
        dx, dh = product(dz)  # (1')
        return xp.reshape(dz, (1, *h.shape)), dx, RNNState(dh)

    def outer(
        self, xp: Namespace, dz: Array, v: Array, n_x: int, saved: RNNSaved
    ) -> tuple[Array, ...]:
        """Return `[dW_x db dW_h]`."""
        return (products.outer(xp, dz, v),)

    def grads(self, xp: Namespace, outers: tuple[Array, ...], n_x: int) -> Params:
        """Return the gradient of every parameter."""
        return products.split(xp, outers[0], n_x, self.gates)
