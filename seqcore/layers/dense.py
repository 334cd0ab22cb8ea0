"""The same affine map at each time.

(1) y[t] = W x[t] + b
(1') dx[t] = W^T dy[t],  dW = sum_t dy[t] x[t]^T,  db = sum_t dy[t]
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from seqcore import arrays, checks, masks, random
from seqcore.arrays import Array, Params, Shapes
from seqcore.cells.columns import columns, in_time, outer
from seqcore.layers.contract import STATE, State, X, check_like, check_no_state
from seqcore.layers.door import BuiltIn
from seqcore.layers.hooks import Step, Wanted
from seqcore.random import Draw

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Dense(BuiltIn):
    """y = W x + b at each time.

    Parameters
    ----------
    n_out
        Number of output features.

    Notes
    -----
    x is `(T, n_in, m)`, or `(n_in, m)` without time. Parameters: `W (n_out, n_in)`,
    `b (n_out, 1)`.
    """

    n_out: int

    def __post_init__(self) -> None:
        """Refuse sizes below 1."""
        checks.count(self.name, n_out=self.n_out)
        checks.plain(self)

    @property
    def name(self) -> str:
        """The name that its parameters and errors begin with."""
        return "dense"

    def shapes(self) -> Shapes:
        """The shape of each parameter, in sizes and letters."""
        return {"W": (self.n_out, "n_in"), "b": (self.n_out, 1)}

    def init(self, n_in: int, *, like: Array, rng: np.random.Generator | int) -> Params:
        """Draw W Glorot uniform; b is 0."""
        n_in = check_like(self.name, like, n_in)
        rng = random.generator(rng)
        return {
            "W": random.glorot_uniform(rng, (self.n_out, n_in), n_in, self.n_out, like),
            "b": arrays.like([[0.0]] * self.n_out, like),
        }

    def check_x(self, shape: tuple[int, ...], n_in: int | None) -> None:
        """Require `(T, n_in, m)` or `(n_in, m)`."""
        axes = ("n_in", "m") if len(shape) == 2 else ("T", "n_in", "m")
        checks.series(self.name, "x", shape, axes, {} if n_in is None else {"n_in": n_in})

    def y_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of y from that of x."""
        return (*shape[:-2], self.n_out, shape[-1])

    def check_state(self, what: str, state: State, like: Array, m: int) -> None:
        """Require no state."""
        check_no_state(self.name, what, state)

    def run(
        self, params: Params, x: Array, state: State, steps: Array | None, draw: Draw | None
    ) -> tuple[Array, State, Array]:
        """Return y, no state, and x."""
        y, after = self.infer(params, x, state, steps)
        return y, after, x

    def infer(
        self, params: Params, x: Array, state: State, steps: Array | None
    ) -> tuple[Array, State]:
        """Return y and no state."""
        xp = arrays.namespace(x)
        y = params["W"] @ (x if x.ndim == 2 else columns(xp, x))  # (n_out, T m)
        y += params["b"]
        if x.ndim == 2:
            return y, ()
        return masks.blank(xp, steps, in_time(xp, y, x.shape[0], x.shape[2])), ()

    def run_back(
        self, params: Params, kept: Array, dy: Array, dstate: State, wanted: Wanted
    ) -> tuple[Array | None, Params, State]:
        """Return dx in the shape of x, dW and db."""
        x = kept
        xp = arrays.namespace(x)
        grads: Params = {}
        dy, flat_x = [v if x.ndim == 2 else columns(xp, v) for v in (dy, x)]
        if "W" in wanted:
            grads["W"] = outer(xp, dy, flat_x)
        if "b" in wanted:
            grads["b"] = xp.sum(dy, axis=1, keepdims=True)
        dx = None
        if X in wanted:
            dx = xp.matrix_transpose(params["W"]) @ dy  # (n_in, T m)
            dx = dx if x.ndim == 2 else in_time(xp, dx, x.shape[0], x.shape[2])
        return dx, grads, ()

    def step(self, params: Params, m: int) -> Step:
        """Return a step: x `(n_in, m)`, y `(n_out, m)`."""
        W, b = params["W"], params["b"]
        shape = (W.shape[1], m)

        def take(x: Array, state: State = None) -> tuple[Array, State]:
            if x.shape != shape:
                raise ValueError(f"{self.name}: x has shape {tuple(x.shape)}, expected {shape}")
            if state is not None:
                check_no_state(self.name, STATE, state)
            y = W @ x
            y += b
            return y, ()

        return take
