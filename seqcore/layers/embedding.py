"""A learned vector for each token.

    (1) y[t] = W[x[t]]
    (1') dW = sum_t onehot(x[t]) dy[t]^T

The standard has no scatter-add; a product with the one-hot tokens does the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from seqcore import arrays, checks, kernels, masks, random
from seqcore.arrays import Array, Namespace, Params, Shapes
from seqcore.cells.columns import columns, outer
from seqcore.layers.contract import STATE, State, check_like, check_no_state
from seqcore.layers.door import BuiltIn
from seqcore.layers.hooks import Step, Wanted
from seqcore.random import Draw

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Embedding(BuiltIn):
    """A learned vector for each token of a vocabulary.

    Parameters
    ----------
    n_out
        Number of features of a vector.

    Notes
    -----
    `init(n_in)` takes the size of the vocabulary. x is `(T, m)` of integers in
    `0 <= token < n_in`; at steps that do not count the tokens may be anything. Tokens that JAX
    traces, or that are lazy, cannot be read: the y of one that is not in the table is NaN. Integers
    have no gradient, so dx is None. Parameter: `W (n_in, n_out)`.
    """

    n_out: int

    def __post_init__(self) -> None:
        """Refuse sizes below 1."""
        checks.count(self.name, n_out=self.n_out)
        checks.plain(self)

    @property
    def name(self) -> str:
        """The name that its parameters and errors begin with."""
        return "embedding"

    @property
    def ndim(self) -> int:
        """Axes of x where it has a time axis."""
        return 2

    def shapes(self) -> Shapes:
        """The shape of each parameter, in sizes and letters."""
        return {"W": ("n_in", self.n_out)}

    def init(self, n_in: int, *, like: Array, rng: np.random.Generator | int) -> Params:
        """Draw `W (n_in, n_out)` from N(0, 1 / n_out), so that a vector's length is about 1."""
        n_in = check_like(self.name, like, n_in)
        scale = self.n_out**-0.5
        return {"W": random.normal(random.generator(rng), (n_in, self.n_out), scale, like)}

    def check_kinds(self, params: Mapping[str, Array], x: Array) -> None:
        """Require floats and tokens."""
        checks.floating(self.name, params)
        checks.integral(self.name, "x", x)

    def check_shapes(self, params: Params, n_in: int | None) -> int | None:
        """Require the declared shape; `n_in` says nothing about the vocabulary."""
        return super().check_shapes(params, None)

    def check_x(self, shape: tuple[int, ...], n_in: int | None) -> None:
        """Require `(T, m)`."""
        checks.series(self.name, "x", shape, ("T", "m"), {})

    def y_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of y from that of x."""
        return (shape[0], self.n_out, shape[1])

    def check_state(self, what: str, state: State, like: Array, m: int) -> None:
        """Require no state."""
        check_no_state(self.name, what, state)

    def run(
        self, params: Params, x: Array, state: State, steps: Array | None, draw: Draw | None
    ) -> tuple[Array, State, Array]:
        """Look up the vectors of the tokens."""
        y, after = self.infer(params, x, state, steps)
        return y, after, x

    def infer(
        self, params: Params, x: Array, state: State, steps: Array | None
    ) -> tuple[Array, State]:
        """Look up the vectors of the tokens."""
        W = params["W"]
        xp = arrays.namespace(W)
        # Here, where tokens that do not count are 0; before, they may be anything.
        checks.indices(self.name, "x", x, W.shape[0], "token")
        rows = arrays.default_integers(xp, xp.reshape(x, (-1,)))  # PyTorch takes no others
        y = _looked_up(xp, W, rows)  # (T m, n_out)
        y = xp.matrix_transpose(xp.reshape(y, (*x.shape, self.n_out)))
        return masks.blank(xp, steps, y), ()

    def run_back(
        self,
        params: Params,
        kept: Array,
        dy: Array,
        dstate: State,
        wanted: Wanted,
    ) -> tuple[None, Params, State]:
        """Return None, as integers have no gradient, and dW."""
        if "W" not in wanted:
            return None, {}, ()
        xp = arrays.namespace(dy)
        n_in = params["W"].shape[0]
        hot = arrays.one_hot(xp, xp.reshape(kept, (-1,)), n_in, dy.dtype, axis=0)
        return None, {"W": outer(xp, hot, columns(xp, dy))}, ()

    def step(self, params: Params, m: int) -> Step:
        """Return a step: x `(m,)`, y `(n_out, m)`."""
        W = params["W"]
        xp = kernels.of(arrays.namespace(W)).inner

        def take(x: Array, state: State = None) -> tuple[Array, State]:
            if x.shape != (m,):
                raise ValueError(f"{self.name}: x has shape {tuple(x.shape)}, expected {(m,)}")
            if state is not None:
                check_no_state(self.name, STATE, state)
            checks.indices(self.name, "x", x, W.shape[0], "token")
            return xp.matrix_transpose(_looked_up(xp, W, arrays.default_integers(xp, x))), ()

        return take


def _looked_up(xp: Namespace, W: Array, rows: Array) -> Array:
    """Return rows of a table; one that could not be checked and is not in it is NaN."""
    y = xp.take(W, rows, axis=0)
    if arrays.is_readable(rows):
        return y
    known = (rows >= 0) & (rows < W.shape[0])
    return y + arrays.nan_unless(known, W.dtype)[:, None]
