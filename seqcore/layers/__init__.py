"""Layers: Embedding, Dense, Dropout, Last, the recurrent ones, and Sequential, which chains them.

`contract.py` says what every layer does, a user's own included.
"""

from seqcore.layers.contract import Bound, Layer, State, Tape
from seqcore.layers.dense import Dense
from seqcore.layers.dropout import Dropout
from seqcore.layers.embedding import Embedding
from seqcore.layers.gru import GRU
from seqcore.layers.last import Last, LastState
from seqcore.layers.lstm import LSTM
from seqcore.layers.recurrent import Recurrent
from seqcore.layers.rnn import RNN
from seqcore.layers.sequential import Sequential

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "Bound",
    "Dense",
    "Dropout",
    "Embedding",
    "Last",
    "LastState",
    "Layer",
    "Recurrent",
    "Sequential",
    "State",
    "Tape",
]
