"""Files: written whole or not at all; checkpoints, and models as files."""

from seqcore.files.atomic import lock, write_atomically
from seqcore.files.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from seqcore.files.model import load_model, save_model

__all__ = [
    "Checkpoint",
    "load_checkpoint",
    "load_model",
    "lock",
    "save_checkpoint",
    "save_model",
    "write_atomically",
]
