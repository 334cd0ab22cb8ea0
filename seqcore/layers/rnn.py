"""Simple recurrent layers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from seqcore.cells import Cell, RNNCell
from seqcore.layers.recurrent import Recurrent


@dataclass(frozen=True)
class RNN(Recurrent):
    """Stacked simple recurrent layers (RNN).

    Parameters
    ----------
    n_a, layers, bidirectional, recompute
        As in `Recurrent`: hidden units, how many layers are stacked, whether they read in both
        directions, and whether the backward pass recomputes steps to save memory.
    activation
        "tanh" or "relu".

    Notes
    -----
    Parameters of layer l: `"l.W_x" (1, n_a, n_x)`, `"l.W_h" (1, n_a, n_a)`, `"l.b"
    (1, n_a, 1)`; in the other direction `"l.reverse.W_x"` and so on. Equations and sources are in
    `seqcore.cells.rnn`.
    """

    activation: Literal["tanh", "relu"] = field(default="tanh", kw_only=True)

    @property
    def name(self) -> str:
        """The name that its parameters and errors begin with."""
        return "rnn"

    def cell(self) -> Cell:
        """Return the cell."""
        return RNNCell(self.activation)
