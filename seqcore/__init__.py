"""seqcore: recurrent networks on whatever arrays you hold.

See https://data-apis.org/array-api/ for the standard that the arrays follow.
"""

from seqcore import functional
from seqcore.activations import log_softmax, relu, sigmoid, softmax, tanh
from seqcore.files import Checkpoint, load_checkpoint, load_model, save_checkpoint, save_model
from seqcore.gradients import GradientError, check_gradients
from seqcore.layers import GRU, LSTM, RNN, Dense, Dropout, Embedding, Last, Layer, Sequential
from seqcore.losses import cross_entropy, squared_error
from seqcore.masks import last, last_backward, sequence_mask
from seqcore.optimizers import (
    adam,
    adamw,
    clip_by_global_norm,
    constant,
    cosine,
    global_norm,
    sgd,
    warmup,
)
from seqcore.parallel import Sharded
from seqcore.process import blas_threads

__version__ = "0.1.0"

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "Checkpoint",
    "Dense",
    "Dropout",
    "Embedding",
    "GradientError",
    "Last",
    "Layer",
    "Sequential",
    "Sharded",
    "adam",
    "adamw",
    "blas_threads",
    "check_gradients",
    "clip_by_global_norm",
    "constant",
    "cosine",
    "cross_entropy",
    "functional",
    "global_norm",
    "last",
    "last_backward",
    "load_checkpoint",
    "load_model",
    "log_softmax",
    "relu",
    "save_checkpoint",
    "save_model",
    "sequence_mask",
    "sgd",
    "sigmoid",
    "softmax",
    "squared_error",
    "tanh",
    "warmup",
]
