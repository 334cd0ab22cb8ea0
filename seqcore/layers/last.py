"""y at the last step of each example that counts.

    (1) e[j] = 1 + the last t of example j that counts, or 0 if none does
    (2) y[:, j] = x[e[j] - 1, :, j], or the state before where e[j] = 0
    (3) state = y
    (3') d = dL/dy + dL/dstate
    (2') dx[t, :, j] = d[:, j] where t = e[j] - 1, else 0
         dL/d(state before)[:, j] = d[:, j] where e[j] = 0, else 0

The state makes windows of a sequence add up: it is y of all windows so far. Before the first one
it is 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from seqcore import arrays, checks, masks
from seqcore.arrays import Array, Params, Static
from seqcore.layers.contract import STATE, State, check_kind
from seqcore.layers.hooks import Step, Wanted
from seqcore.layers.parameterless import Parameterless
from seqcore.random import Draw

if TYPE_CHECKING:
    pass


class LastState(NamedTuple):
    """The state of `Last`: y at the last step that counted so far, `(n, m)`."""

    y: Array


class Kept(NamedTuple):
    """What the backward pass needs."""

    n_steps: Static[int]
    end: Array | None  # (m,) of integers; None where every step counts
    y: Array  # for its library, device and dtype


@dataclass(frozen=True)
class Last(Parameterless):
    """Take y of the layer below at the last step of each example that counts.

    Behind it there is no time: x is `(T, n, m)` and y `(n, m)`, so a `Dense` gives one output
    for each example, and lengths and masks go no further.

    Notes
    -----
    There are no parameters. The state is y itself, so that a sequence can be read in windows: an
    example without a step in this window has y of an earlier one, and at first 0. The state that
    is returned shares its memory with y.

    Below it may be a bidirectional layer; its half that reads backwards has seen only one step
    at an example's last one.

    Examples
    --------
    >>> import numpy as np, seqcore as sc
    >>> x = np.ones((5, 3, 2), dtype=np.float32)           # T, n_x, m
    >>> model = sc.Sequential(sc.LSTM(4), sc.Last(), sc.Dense(6))
    >>> params = model.init(3, like=x, rng=0)
    >>> y, state, tape = model.forward(params, x, lengths=[5, 2])
    >>> y.shape
    (6, 2)
    >>> y_short, _ = model.predict(params, x[:2, :, 1:])   # the second example by itself
    >>> bool(np.allclose(y[:, 1:], y_short))
    True
    """

    @property
    def name(self) -> str:
        """The name that its parameters and errors begin with."""
        return "last"

    @property
    def keeps_time(self) -> bool:
        """Whether y has the time axis of x."""
        return False

    def reads_windows(self) -> bool:
        """Tell whether a sequence can be read in windows, with the state carried on."""
        return True

    def check_x(self, shape: tuple[int, ...], n_in: int | None) -> None:
        """Require `(T, n, m)`."""
        sizes = {} if n_in is None else {"n": n_in}
        checks.series(self.name, "x", shape, ("T", "n", "m"), sizes)

    def y_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of y from that of x."""
        return shape[1:]

    def check_state(self, what: str, state: State, like: Array, m: int) -> None:
        """Require a tuple `(y,)` with y `(n, m)`; `run` knows n."""
        if state is None:
            return
        check_kind(self.name, what, state, LastState)
        named = {f"{what}.y": state[0]}
        checks.floats(self.name, {"x": like, **named})
        checks.shape(self.name, f"{what}.y", state[0], ("n", "m"), {"m": m})

    def run(
        self, params: Params, x: Array, state: State, steps: Array | None, draw: Draw | None
    ) -> tuple[Array, State, Kept]:
        """Return y, the state after, and what the backward pass needs."""
        xp = arrays.namespace(x)
        end = None if steps is None else masks.ends(xp, steps)  # (1)
        y = masks.at_end(xp, end, x, self._of(STATE, state, x))  # (2)
        return y, LastState(y), Kept(Static(x.shape[0]), end, y)  # (3)

    def infer(
        self, params: Params, x: Array, state: State, steps: Array | None
    ) -> tuple[Array, State]:
        """Return y and the state after."""
        y, after, _ = self.run(params, x, state, steps, None)
        return y, after

    def run_back(
        self, params: Params, kept: Kept, dy: Array, dstate: State, wanted: Wanted
    ) -> tuple[Array, Params, State]:
        """Return dx, no gradients of parameters, and dL/d(state before)."""
        xp = arrays.namespace(dy)
        dend = self._of("dstate", dstate, dy)
        d = dy if dend is None else dy + dend  # (3')
        dx = masks.spread(xp, kept.end, d, kept.n_steps.value)  # (2')
        none = xp.zeros_like(d)
        return dx, {}, LastState(none if kept.end is None else xp.where(kept.end > 0, none, d))

    def _of(self, what: str, state: State, like: Array) -> Array | None:
        """Return y of a state, which must have the features and the batch of `like`."""
        if state is None:
            return None
        (y,) = state
        n, m = like.shape[-2:]
        checks.shape(self.name, f"{what}.y", y, ("n", "m"), {"n": n, "m": m})
        return y

    def example(self, params: Params, kept: Kept) -> Array:
        """Return an array of the library, device and dtype of y."""
        return kept.y

    def step(self, params: Params, m: int) -> Step:
        """Return a step: x and y are `(n, m)`, and y is x."""

        def take(x: Array, state: State = None) -> tuple[Array, State]:
            if x.ndim != 2 or x.shape[1] != m:
                raise ValueError(f"{self.name}: x has shape {tuple(x.shape)}, expected (n, {m})")
            if state is not None:
                self.check_state(STATE, state, x, m)
                self._of(STATE, state, x)
            return x, LastState(x)

        return take
