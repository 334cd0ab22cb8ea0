"""Optimizers, clipping by the global norm, and learning-rate schedules."""

from seqcore.optimizers.adam import Adam, AdamState, adam, adamw
from seqcore.optimizers.clipping import clip_by_global_norm, global_norm
from seqcore.optimizers.contract import Optimizer, Schedule
from seqcore.optimizers.schedules import Constant, Cosine, Warmup, constant, cosine, warmup
from seqcore.optimizers.sgd import SGD, SGDState, sgd

__all__ = [
    "SGD",
    "Adam",
    "AdamState",
    "Constant",
    "Cosine",
    "Optimizer",
    "SGDState",
    "Schedule",
    "Warmup",
    "adam",
    "adamw",
    "clip_by_global_norm",
    "constant",
    "cosine",
    "global_norm",
    "sgd",
    "warmup",
]
