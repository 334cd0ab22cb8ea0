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
# RNNSaved, LSTMSaved or GRUSaved: a named tuple of what a step keeps for the way back.
Saved: TypeAlias = Any


class Cell(Protocol):
    """The contract of a cell. Within a step z is `(G, n_a, m)`, each state `(n_a, m)`."""

    name: ClassVar[str]
    gates: ClassVar[int]
    state_type: ClassVar[type[Any]]
    saved_type: ClassVar[type[Any]]

    @property
    def shapes(self) -> dict[str, tuple[int | str, ...]]:
        """The shape of each parameter, in sizes and letters."""

    def init(self, n_x: int, n_a: int, *, like: Array, rng: np.random.Generator) -> Params:
        """Draw parameters for `n_x` features and `n_a` units."""

    def prepare(self, xp: Namespace, params: Params) -> tuple[Array, Array, tuple[Array, ...]]:
        """Return `W_x`, `b` and what `step` takes, as the forward loop wants them."""

    def step(
        self, xp: Namespace, weights: tuple[Array, ...], z_x: Array, state: State
    ) -> tuple[State, Saved]:
        """Take one step: return the state after it and what its vjp needs."""

    def prepare_vjp(self, xp: Namespace, params: Params) -> tuple[Array, ...]:
        """Return what `step_vjp` takes, as the backward loop wants it."""

    def step_vjp(
        self,
        xp: Namespace,
        weights: tuple[Array, ...],
        before: State,
        after: State,
        saved: Saved,
        dstate: State,
    ) -> tuple[Array, State]:
        """Go one step back: from dL/d(after) return dL/dz and dL/d(before).

        z is that of the cell's first equation, before `prepare` halves a row.
        """

    def recurrent_grads(self, xp: Namespace, before: State, saved: Saved, dz: Array) -> Params:
        """Return the gradients of the parameters inside the loop, summed over time.

        All arguments have a leading T: states `(T, n_a, m)`, dz `(T, G, n_a, m)`.
        """
