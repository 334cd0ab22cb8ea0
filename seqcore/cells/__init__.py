"""The cells: the equations of one time step, and their vector-Jacobian products.

A cell is a frozen dataclass of options. `sequence.py` runs any cell over time. The input
product `z_x = W_x x + b` is taken for all steps at once before the loop, the gradients of
the weights for all steps at once after it; only what needs the previous step is inside.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeAlias

from seqcore.arrays import Array, Namespace, Params
from seqcore.cells.gru import GRUCell, GRUState
from seqcore.cells.lstm import LSTMCell, LSTMState
from seqcore.cells.rnn import RNNCell, RNNState

if TYPE_CHECKING:
    import numpy as np

__all__ = [
    "Cell",
    "GRUCell",
    "GRUState",
    "LSTMCell",
    "LSTMState",
    "RNNCell",
    "RNNState",
    "Saved",
    "State",
]

# RNNState, LSTMState or GRUState: a named tuple whose first field is h.
State: TypeAlias = Any
# RNNSaved, LSTMSaved or GRUSaved: a named tuple of what a step keeps for the way back. Its
# first field is h, the hidden state before the step.
Saved: TypeAlias = Any


class Cell(Protocol):
    """The contract of a cell. Within a step z is `(G, n_a, m)`, each state `(n_a, m)`.

    `dz` has as many gates as the cell needs for its gradients, those that `prepare_vjp`
    multiplies with `W_x^T` first. "As columns" is `(rows, T m)`, see `products.py`.
    """

    name: ClassVar[str]
    gates: ClassVar[int]
    state_type: ClassVar[type[Any]]
    saved_type: ClassVar[type[Any]]

    @property
    def shapes(self) -> dict[str, tuple[int | str, ...]]:
        """The shape of each parameter, in sizes and letters."""

    def init(self, n_x: int, n_a: int, *, like: Array, rng: np.random.Generator) -> Params:
        """Draw parameters for `n_x` features and `n_a` units."""

    def prepare(
        self, xp: Namespace, params: Params, m: int
    ) -> tuple[Array | None, tuple[Any, ...]]:
        """Return what comes before the loop, and what `step` takes at each step.

        The first is `W = [W_x b] (G n_a, n_x + 1)`: the loop then hands `W [x; 1]` to the step,
        `(G, n_a, m)`. Or it is None, and the step takes `[x; 1]`.
        """

    def step(
        self, xp: Namespace, weights: tuple[Any, ...], at: Array, state: State
    ) -> tuple[State, Saved]:
        """Take one step: return the state after it and what its vjp needs."""

    def prepare_vjp(
        self, xp: Namespace, params: Params, m: int
    ) -> tuple[Array | None, tuple[Any, ...]]:
        """Return what comes after the loop, and what `step_vjp` takes at each step.

        The first is `W_x^T (n_x, G n_a)`; or None, and `step_vjp` returns dx.
        """

    def step_vjp(
        self, xp: Namespace, weights: tuple[Any, ...], saved: Saved, dstate: State
    ) -> tuple[Array, Array | None, State]:
        """Go one step back: from dL/d(state after) return dL/dz, dx or None, dL/d(state before).

        z is that of the cell's first equation, before `prepare` halves a row.
        """

    def outer(
        self, xp: Namespace, dz: Array, v: Array, n_x: int, saved: Saved
    ) -> tuple[Array, ...]:
        """Return the sums over time from which `grads` takes the gradients.

        From dz and `v = [x; 1; h']` as columns, and a series of each saved array.
        """

    def grads(self, xp: Namespace, outers: tuple[Array, ...], n_x: int) -> Params:
        """Return the gradient of every parameter."""
