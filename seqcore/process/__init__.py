"""Settings of the whole process: threads of BLAS, memory that is freed, processors.

Nothing here runs at import. A function that changes such a setting says so in its docstring.
"""

from seqcore.process.blas import blas_threads, one_blas_thread, openblas_architectures
from seqcore.process.memory import keep_freed_memory, share_memory_among_threads
from seqcore.process.threads import default_threads, processors

__all__ = [
    "blas_threads",
    "default_threads",
    "keep_freed_memory",
    "one_blas_thread",
    "openblas_architectures",
    "processors",
    "share_memory_among_threads",
]
