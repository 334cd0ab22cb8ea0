"""Gated recurrent units, with the reset gate after or before the product."""

from __future__ import annotations

from dataclasses import dataclass, field

from seqcore import checks
from seqcore.cells import Cell, GRUCell, GRUResetBeforeCell
from seqcore.layers.recurrent import Recurrent


@dataclass(frozen=True)
class GRU(Recurrent):
    """Stacked layers of gated recurrent units (GRU).

    Parameters
    ----------
    n_a, layers, bidirectional, recompute
        As in `Recurrent`: hidden units, how many layers are stacked, whether they read in both
        directions, and whether the backward pass recomputes steps to save memory.
    reset_after
        Whether the reset gate comes after the recurrent product: True as in cuDNN, PyTorch and
        Keras, False as in the first paper.

    Notes
    -----
    Parameters of layer l: `"l.W_x" (3, n_a, n_x)`, `"l.W_h" (3, n_a, n_a)`, `"l.b"
    (3, n_a, 1)`, gates in the order r, u, n, and with `reset_after` `"l.b_h" (1, n_a, 1)`;
    in the other direction `"l.reverse.W_x"` and so on. Equations and sources are in
    `seqcore.cells.gru` and `seqcore.cells.gru_reset_before`.
    """

    reset_after: bool = field(default=True, kw_only=True)

    @property
    def name(self) -> str:
        """The name that its parameters and errors begin with."""
        return "gru"

    def __post_init__(self) -> None:
        """Refuse what `Recurrent` refuses, and a reset_after that is not True or False."""
        super().__post_init__()
        checks.flag(self.name, reset_after=self.reset_after)

    def cell(self) -> Cell:
        """Return the cell."""
        return GRUCell() if self.reset_after else GRUResetBeforeCell()
