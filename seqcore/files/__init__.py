"""Files: written whole or not at all, and checkpoints."""

from seqcore.files.atomic import lock, write_atomically
from seqcore.files.checkpoint import Checkpoint, load_checkpoint, save_checkpoint

__all__ = ["Checkpoint", "load_checkpoint", "lock", "save_checkpoint", "write_atomically"]
