"""Long short-term memories, with and without peepholes."""

from __future__ import annotations

from dataclasses import dataclass, field

from seqcore import checks
from seqcore.cells import Cell, LSTMCell, PeepholeLSTMCell
from seqcore.layers.recurrent import Recurrent


@dataclass(frozen=True)
class LSTM(Recurrent):
    """Stacked layers of long short-term memory (LSTM).

    Parameters
    ----------
    n_a, layers, bidirectional, recompute
        As in `Recurrent`: hidden units, how many layers are stacked, whether they read in both
        directions, and whether the backward pass recomputes steps to save memory.
    peephole
        Let the gates see the cell state, each unit its own.

    Notes
    -----
    Parameters of layer l: `"l.W_x" (4, n_a, n_x)`, `"l.W_h" (4, n_a, n_a)`, `"l.b"
    (4, n_a, 1)`, gates in the order i, f, o, c, and with `peephole` `"l.p" (3, n_a, 1)` of i, f
    and o; in the other direction `"l.reverse.W_x"` and so on. Equations and sources are in
    `seqcore.cells.lstm` and `seqcore.cells.lstm_peephole`.

    Examples
    --------
    >>> import numpy as np, seqcore as sc
    >>> x = np.ones((5, 3, 2), dtype=np.float32)           # T, n_x, m
    >>> layer = sc.LSTM(4, layers=2)
    >>> params = layer.init(3, like=x, rng=0)
    >>> y, state, tape = layer.forward(params, x)
    >>> y.shape, state.h.shape, state.c.shape
    ((5, 4, 2), (2, 4, 2), (2, 4, 2))
    >>> dx, grads, dstate = layer.backward(params, tape, np.ones_like(y))
    >>> dx.shape, grads["1.W_h"].shape
    ((5, 3, 2), (4, 4, 4))
    """

    peephole: bool = field(default=False, kw_only=True)

    @property
    def name(self) -> str:
        """The name that its parameters and errors begin with."""
        return "lstm"

    def __post_init__(self) -> None:
        """Refuse what `Recurrent` refuses, and a peephole that is not True or False."""
        super().__post_init__()
        checks.flag(self.name, peephole=self.peephole)

    def cell(self) -> Cell:
        """Return the cell."""
        return PeepholeLSTMCell() if self.peephole else LSTMCell()
