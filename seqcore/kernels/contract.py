"""What a provider of kernels may offer for the arrays of one namespace, at three levels.

    gates       the elementwise part of one step: arrays in, arrays out
    stream      one whole step of a stream, without a tape
    recurrence  a cell over a whole sequence, and back through time

It may also say how products and loops are best done. A provider never imports a cell: it gets
the cell's name and options, and declines by returning None. What every provider declines, the
generic code does, which is the reference for all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeAlias

from seqcore.arrays import Array, Namespace, Params, Series, joined

Options: TypeAlias = tuple[tuple[str, object], ...]


class Gates(NamedTuple):
    """The elementwise part of a step, forward and backward; the cell's file says what they take."""

    forward: Callable[..., tuple[Array, ...]]
    backward: Callable[..., tuple[Array, ...]]


class Weights(NamedTuple):
    """The parameters of a cell, prepared for the forward pass: rows of sigmoids are halved."""

    W: Array  # (G, n_a, n_x + 1): [W_x b]
    W_h: Array  # (G, n_a, n_a)
    b_h: tuple[Array, ...]  # (gates apart, n_a, 1), where the cell has gates apart
    own: tuple[Array, ...]  # the cell's elementwise parameters, (rows, n_a, 1) each


# One step: from x `(n_x, m)` and the fields of the state, each with n_a m entries, to the fields
# of the state after it, in the shapes that they came in.
StreamStep: TypeAlias = Callable[..., tuple[Array, ...]]
# A step of a loop: from the carry and the inputs at one time to the next carry and the outputs.
LoopStep: TypeAlias = Callable[[Any, tuple[Any, ...]], tuple[Any, tuple[Array, ...]]]


@dataclass(frozen=True)
class Job:
    """A cell over a sequence: what a provider of whole recurrences is asked to run."""

    cell: str
    options: Options
    n_steps: int
    n_x: int
    n_a: int
    m: int
    dtype: Any
    reverse: bool
    masked: bool
    recompute: bool | int


class Recurrence(Protocol):
    """A whole recurrence with its BPTT, for one job.

    x is `(T, n_x, m)`, mask `(T, 1, m)` of bool or None, a state a tuple of `(n_a, m)` arrays.
    x and dy are 0 where the mask is False. There y must be 0, and the state must not change.
    """

    def prepare(self, params: Params, weights: Weights) -> Any:
        """Return what the other methods take as `ready`, such as packed weights."""

    def predict(
        self, ready: Any, x: Array, mask: Array | None, state: tuple[Array, ...]
    ) -> tuple[Array, tuple[Array, ...]]:
        """Return y `(T, n_a, m)` and the state after the last step."""

    def forward(
        self, ready: Any, x: Array, mask: Array | None, state: tuple[Array, ...]
    ) -> tuple[Array, tuple[Array, ...], Any]:
        """Return y, the state after the last step, and what `backward` needs, as arrays."""

    def backward(
        self,
        ready: Any,
        x: Array,
        mask: Array | None,
        saved: Any,
        dy: Array,
        dstate: tuple[Array, ...],
        wanted: frozenset[str],
    ) -> tuple[Array | None, Params, tuple[Array, ...]]:
        """Return dx (None unless "x" is wanted), the gradients wanted, and dL/d(state before)."""


class Columns(Protocol):
    """Gathers the outputs at each time as one array `(..., T, m)`."""

    def put(self, t: int, array: Array) -> None:
        """Take the output at time t."""

    def array(self) -> Array:
        """Return all outputs."""


class Parts(Protocol):
    """Gathers parts of a sequence, which come in any order, as one array `(T, ...)`."""

    def put(self, first: int, part: Series) -> None:
        """Take the part that begins at step `first`."""

    def array(self) -> Array:
        """Return the whole."""


class Provider:
    """A provider of kernels; each method declines, unless a subclass overrides it.

    All arrays that a method gets are the namespace's.
    """

    def inner(self) -> Namespace | None:
        """Return the namespace for the inside of a loop, where all arguments are arrays."""
        return None

    def scan(
        self, step: LoopStep, init: Any, xs: tuple[Any, ...], *, reverse: bool
    ) -> tuple[Any, tuple[Array, ...]] | None:
        """Run a loop over time: return the carry after it, and each output stacked."""
        return None

    def block_steps(self, n_steps: int, m: int) -> int | None:
        """Return how many steps share one product for W_x x and one for the gradients."""
        return None

    def columns(self, n_steps: int) -> Columns | None:
        """Return an object that gathers the outputs of a loop."""
        return None

    def parts(self, n_steps: int) -> Parts | None:
        """Return an object that gathers parts of a sequence, if possible without a second copy."""
        return None

    def rows(self, W: Array, m: int) -> Array | None:
        """Cut `W (rows, k)` into blocks `(blocks, rows / blocks, k)` to multiply `(k, m)`."""
        return None

    def joins(self, gates: int, n_a: int, n_x: int, m: int) -> bool | None:
        """Tell whether x is best multiplied at each step, in one product with h."""
        return None

    def gates(self, cell: str, options: Options) -> Gates | None:
        """Return the gates of a cell."""
        return None

    def stream(self, cell: str, options: Options, weights: Weights, m: int) -> StreamStep | None:
        """Return one step of a stream."""
        return None

    def recurrence(self, job: Job) -> Recurrence | None:
        """Return a whole recurrence."""
        return None

    def note_training(self) -> None:
        """Take note that a backward pass begins: more steps like it will follow."""


class Stacked:
    """Gathers outputs with the standard's `stack`: the generic `Columns`."""

    def __init__(self, xp: Namespace, n_steps: int) -> None:
        self._xp = xp
        self._arrays: list[Array] = [None] * n_steps

    def put(self, t: int, array: Array) -> None:
        """Take the output at time t."""
        self._arrays[t] = array

    def array(self) -> Array:
        """Return all outputs."""
        return self._xp.stack(self._arrays, axis=-2)


class Joined:
    """Gathers parts with the standard's `concat`: the generic `Parts`."""

    def __init__(self, xp: Namespace) -> None:
        self._xp = xp
        self._parts: dict[int, Array] = {}

    def put(self, first: int, part: Series) -> None:
        """Take the part that begins at step `first`."""
        self._parts[first] = joined(self._xp, [part], axis=0)  # T arrays would take more memory

    def array(self) -> Array:
        """Return the whole."""
        return joined(self._xp, [self._parts[first] for first in sorted(self._parts)], axis=0)


def stack_series(xp: Namespace, series: Series) -> Array:
    """Return a series as one array `(T, ...)`."""
    return xp.stack(series) if isinstance(series, tuple) else series
