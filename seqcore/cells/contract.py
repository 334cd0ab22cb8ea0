"""The contract of a cell: its gates, its equations, their vector-Jacobian products.

A cell's file says what is computed. `linear.py` computes the matrix products, from the gates
that the cell declares. In a step, each of the cell's products gives

    z = W_x x + b + W_h v              the rows of its gates, (gates, n_a, m)

where v is the hidden state before the step, or for a later product what the cell computed
from the gates of the earlier ones.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, Protocol, TypeAlias

from seqcore.arrays import Array, Namespace, Shapes
from seqcore.kernels import Gates, Options

# A named tuple of `(n_a, m)` arrays, whose first field is h; in a layer with a leading axis.
State: TypeAlias = Any
# A named tuple of what a step keeps for the backward pass, whose first field is h before the step.
Saved: TypeAlias = Any


class Gate(NamedTuple):
    """One gate: a row of blocks in W_x, W_h and b."""

    name: str
    sigmoid: bool = False  # sigmoid(z) = tanh(z / 2) / 2 + 1 / 2, from rows that are halved
    bias: float = 0.0  # initial value
    product: int = 0  # which of the cell's products it belongs to
    # The cell gets its two parts separately: W_x x + b, and W_h v + b_h with its own bias.
    apart: bool = False


class ForwardMaps(NamedTuple):
    """What a step takes: its products, elementwise parameters and gates.

    `products[k](at, v)` returns z for the gates of product k; with gates apart it returns
    `z, W_x x + b, W_h v + b_h`, the latter two for the gates apart. Rows of sigmoids are halved.
    `at` is what the sequence gives the step of x, in a form that only `linear.py` reads.
    """

    products: tuple[Callable[[Array, Array], Any], ...]
    own: tuple[Array, ...]
    gates: Gates


class BackwardMaps(NamedTuple):
    """What a backward step takes.

    `products[k](dz)` returns dL/dv of product k. dz has the rows of its gates; with gates apart,
    dz of `W_x x + b` of the gates apart comes first and dz of `W_h v + b_h` last.
    """

    products: tuple[Callable[[Array], Array], ...]
    own: tuple[Array, ...]  # as they are, not halved
    gates: Gates


def sigmoid_of_halved(xp: Namespace, z: Array) -> Array:
    """Return sigmoid(2 z), of rows that are halved, without ever overflowing."""
    s = 0.5 * xp.tanh(z)  # a new array: PyTorch's autograd keeps that of tanh
    s += 0.5
    return s


class Cell(Protocol):
    """A cell: a frozen dataclass of options. Within a step every state is `(n_a, m)`."""

    name: ClassVar[str]
    state_type: ClassVar[type[Any]]
    saved_type: ClassVar[type[Any]]
    # In the order of the parameters; those of one product together, those apart last.
    gates: ClassVar[tuple[Gate, ...]]
    # The field of `saved_type` that each product takes as v; the first is h.
    takes: ClassVar[tuple[str, ...]]
    # Elementwise parameters `(rows, n_a, 1)`, and the gate that each row belongs to.
    own: ClassVar[dict[str, tuple[str, ...]]]
    elementwise: ClassVar[Gates]

    @property
    def options(self) -> Options:
        """Its options by name, for kernels."""

    def step(
        self, xp: Namespace, maps: ForwardMaps, at: Array, state: State
    ) -> tuple[State, Saved]:
        """Take one step: return the state after it and what its vjp needs."""

    def step_vjp(
        self, xp: Namespace, maps: BackwardMaps, saved: Saved, dstate: State
    ) -> tuple[Array, State, tuple[Array, ...]]:
        """Go one step back from dL/d(state after).

        Returns
        -------
        dz, dstate, own_grads
            dL/dz of all gates (with gates apart as `BackwardMaps` has them), dL/d(state before),
            and the gradient of each elementwise parameter, summed over the batch.
        """


def shapes(cell: Cell) -> Shapes:
    """Return the shape of each parameter, in sizes and letters.

    `W_x (G, n_a, n_x)`, `W_h (G, n_a, n_a)` and `b (G, n_a, 1)`; with gates apart
    `b_h (gates apart, n_a, 1)`; then the elementwise parameters.
    """
    count = len(cell.gates)
    apart = sum(gate.apart for gate in cell.gates)
    found: Shapes = {
        "W_x": (count, "n_a", "n_x"),
        "W_h": (count, "n_a", "n_a"),
        "b": (count, "n_a", 1),
    }
    if apart:
        found["b_h"] = (apart, "n_a", 1)
    return found | {name: (len(rows), "n_a", 1) for name, rows in cell.own.items()}


class Ended:
    """Marks the state at the end of a whole sequence, read in both directions."""

    __slots__ = ()


_ENDED: dict[type[Any], type[Any]] = {}


def ended(state_type: type[Any]) -> type[Any]:
    """Return the type of states that no sequence can continue from.

    A layer that reads in both directions has read its whole sequence. It returns such a state,
    so that it is not taken for the start of the next window.
    """
    if state_type not in _ENDED:

        def reduce(self: Any) -> tuple[Any, ...]:
            return _unpickled, (state_type, tuple(self))

        _ENDED[state_type] = type(
            f"{state_type.__name__}Ended",
            (Ended, state_type),
            {"__slots__": (), "__doc__": ended.__doc__, "__reduce__": reduce},
        )
    return _ENDED[state_type]


def _unpickled(state_type: type[Any], values: tuple[Any, ...]) -> Any:
    return ended(state_type)._make(values)
