"""The cells: the equations of one time step, and their vector-Jacobian products.

A cell is a frozen dataclass of options, in one file of equations; `contract.py` says what it
must define. A new cell is registered by a line in `CELLS`.
"""

from __future__ import annotations

from typing import Any

from seqcore.cells.contract import (
    BackwardMaps,
    Cell,
    Ended,
    ForwardMaps,
    Gate,
    Saved,
    State,
    ended,
    shapes,
)
from seqcore.cells.gru import GRUCell, GRUState
from seqcore.cells.gru_reset_before import GRUResetBeforeCell
from seqcore.cells.lstm import LSTMCell, LSTMState
from seqcore.cells.lstm_peephole import PeepholeLSTMCell
from seqcore.cells.rnn import RNNCell, RNNState

__all__ = [
    "CELLS",
    "STATES",
    "BackwardMaps",
    "Cell",
    "Ended",
    "ForwardMaps",
    "GRUCell",
    "GRUResetBeforeCell",
    "GRUState",
    "Gate",
    "LSTMCell",
    "LSTMState",
    "PeepholeLSTMCell",
    "RNNCell",
    "RNNState",
    "Saved",
    "State",
    "ended",
    "shapes",
]

CELLS: tuple[type[Cell], ...] = (
    RNNCell,
    LSTMCell,
    PeepholeLSTMCell,
    GRUCell,
    GRUResetBeforeCell,
)
# The state types by name, for files.
STATES: dict[str, type[Any]] = {
    kind.__name__: kind for cell in CELLS for kind in (cell.state_type, ended(cell.state_type))
}
