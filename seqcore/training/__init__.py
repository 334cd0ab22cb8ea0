"""Training: a step, the loop around it, and the folder that a run is kept in."""

from seqcore.training.loop import (
    NotFiniteError,
    OutOfMemoryError,
    Stopped,
    fit,
    in_words,
    ran_out_of_memory,
)
from seqcore.training.step import Loss, Progress, Step, Window

__all__ = [
    "Loss",
    "NotFiniteError",
    "OutOfMemoryError",
    "Progress",
    "Step",
    "Stopped",
    "Window",
    "fit",
    "in_words",
    "ran_out_of_memory",
]
