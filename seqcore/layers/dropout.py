"""Dropout, in the form that scales during training.

    (1) y = x * factor,   factor = 1 / (1 - rate) where an entry is kept, else 0
    (1') dx = dy * factor

Source: Srivastava et al., "Dropout: a simple way to prevent neural networks from overfitting",
JMLR 15, 2014.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from seqcore import arrays, checks, random
from seqcore.arrays import Array, Params
from seqcore.layers.contract import STATE, State, check_no_state
from seqcore.layers.hooks import Step, Wanted
from seqcore.layers.parameterless import Parameterless
from seqcore.random import Draw

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class Dropout(Parameterless):
    """Drop each entry with probability `rate`, and scale what is kept by 1 / (1 - rate).

    Parameters
    ----------
    rate
        `0 <= rate < 1`; rounded to a multiple of 2^-16.
    seed
        The seed of the masks, `0 <= seed < 2^64`.

    Notes
    -----
    The masks are the same on every array library. They depend on the seed, on the draw, on the
    layer's place in its model, so that no two layers share a mask, and on an example's number
    in the batch. `forward` drops and needs a draw; `predict` and `bind` drop nothing.

    Examples
    --------
    >>> import numpy as np, seqcore as sc
    >>> x = np.ones((1, 3, 4))
    >>> y, _, tape = sc.Dropout(0.5).forward({}, x, draw=0)
    >>> sorted(set(y.ravel().tolist()))
    [0.0, 2.0]
    >>> y, _ = sc.Dropout(0.5).predict({}, x)
    >>> bool((y == x).all())
    True
    """

    rate: float
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse a rate or a seed out of range."""
        checks.number(self.name, "rate", self.rate)
        checks.concrete(self.name, seed=self.seed)
        checks.plain(self)
        if not 0 <= self.rate < 1:
            raise ValueError(f"dropout: rate is {self.rate}, expected 0 <= rate < 1")
        if round(self.rate * 2**16) == 2**16:
            raise ValueError(f"dropout: rate is {self.rate}, which rounds to 1, expected less")
        if not checks.is_whole(self.seed):
            raise TypeError(f"dropout: seed is {self.seed!r:.60}, expected a whole number")
        if not 0 <= self.seed < 2**64:
            raise ValueError(f"dropout: seed is {self.seed}, expected 0 <= seed < 2^64")

    @property
    def name(self) -> str:
        """The name that its parameters and errors begin with."""
        return "dropout"

    @property
    def drops(self) -> bool:
        """Whether `forward` needs a draw."""
        return self.rate > 0

    @property
    def _scale(self) -> float:
        """1 / (1 - rate), for the rounded rate."""
        return 2**16 / (2**16 - round(self.rate * 2**16))

    def check_x(self, shape: tuple[int, ...], n_in: int | None) -> None:
        """Take any shape; where the features are known, they are the axis before the last."""
        if not shape:
            raise ValueError(f"{self.name}: x has shape (), expected a batch in its last axis")
        if n_in is not None:
            axes = ("n_in", "m") if len(shape) == 2 else ("T", "n_in", "m")
            checks.series(self.name, "x", shape, axes, {"n_in": n_in})

    def y_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of y from that of x."""
        return shape

    def check_state(self, what: str, state: State, like: Array, m: int) -> None:
        """Require no state."""
        check_no_state(self.name, what, state)

    def run(
        self, params: Params, x: Array, state: State, steps: Array | None, draw: Draw | None
    ) -> tuple[Array, State, tuple[Array, tuple[Array, ...]]]:
        """Return x without what is dropped; keep an array like y, and the factor if any."""
        if draw is None or not self.drops:
            return x, (), (x, ())
        keep = random.keep_mask(x.shape, self.rate, seed=self.seed, draw=draw, like=x)
        # A product is ten times as fast as `where`, whose branches no processor can predict.
        factor = arrays.namespace(x).astype(keep, x.dtype) * self._scale
        return x * factor, (), (factor, (factor,))

    def infer(
        self, params: Params, x: Array, state: State, steps: Array | None
    ) -> tuple[Array, State]:
        """Return x."""
        return x, ()

    def run_back(
        self,
        params: Params,
        kept: tuple[Array, tuple[Array, ...]],
        dy: Array,
        dstate: State,
        wanted: Wanted,
    ) -> tuple[Array, Params, State]:
        """Drop the same entries of dy."""
        _, factors = kept
        for factor in factors:
            dy = dy * factor
        return dy, {}, ()

    def example(self, params: Params, kept: tuple[Array, tuple[Array, ...]]) -> Array:
        """Return an array of the library, device and dtype of y."""
        return kept[0]

    def step(self, params: Params, m: int) -> Step:
        """Return a step that drops nothing: x and y are `(n, m)`."""

        def take(x: Array, state: State = None) -> tuple[Array, State]:
            if x.ndim < 2 or x.shape[-1] != m:
                raise ValueError(f"{self.name}: x has shape {tuple(x.shape)}, expected (n, {m})")
            if state is not None:
                check_no_state(self.name, STATE, state)
            return x, ()

        return take
